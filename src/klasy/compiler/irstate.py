"""The operations of the IR on an aspect's state: read, write, change, delete an element of a state's map.

Each holds its key as :class:`~klasy.compiler.ir.Part` s, at their offsets from the key's start: StoreField, CommField,
CopyField and StringField, of which a fault (it is zeros then) sets the bits ``mask`` of the variable ``faults``, and
StackKey; all other bytes are zero. A state without a key has no parts. What :mod:`klasy.state` calls words are
addressed by their number.

An element that is not there reads as zeros, and comes to be when it is written or changed. Where it cannot (the map is
full, or locked on this CPU) nothing happens but that this is counted.
"""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.ir import Op, Operand, Part, Value, Var
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import ClassVar

    from klasy.state import State

# What a step does to a word. ``max``: unsigned.
STEPS = ("add", "and", "or", "xor", "max")


@dataclass(eq=False)
class StateOp(Op):
    """Base. ``key`` is in the order of offsets. ``faults`` None: nobody asks whether the key could be read."""

    state: State
    key: tuple[Part, ...]
    faults: Var | None
    mask: int

    def operands(self) -> tuple[Operand, ...]:
        """Those of the key, then the others."""
        keys = (getattr(p, f) for p in self.key for f in p.operand_fields)
        return (*keys, *super().operands())

    def substitute(self, known: dict[Value, Operand]) -> None:
        """As :meth:`Op.substitute`, in the key too."""
        super().substitute(known)
        parts: list[Part | Step] = [*self.key, *self._more()]
        for part in parts:
            ir.substitute_in(part, known)

    def _more(self) -> tuple[Step, ...]:
        return ()


@dataclass(eq=False)
class ReadState(StateOp):
    """``dst`` = the word ``word``."""

    dst: Value
    word: int
    mnemonic = "read_state"
    pure = True


@dataclass(eq=False)
class WriteState(StateOp):
    """The only word of a value = ``value``."""

    value: Operand
    mnemonic = "write_state"
    operand_fields = ("value",)


@dataclass(eq=False)
class Step:
    """``word`` = ``word op value``, in one step that no other CPU can come between. A word beyond the last: nothing."""

    op: str
    word: Operand
    value: Operand
    operand_fields: ClassVar[tuple[str, ...]] = ("word", "value")


@dataclass(eq=False)
class ChangeState(StateOp):
    """All ``steps`` on one element. ``dst``: what the word of the first step was before; 0 if nothing happened."""

    steps: tuple[Step, ...]
    dst: Value | None = None
    mnemonic = "change_state"

    def operands(self) -> tuple[Operand, ...]:
        """Those of the key, then the steps'."""
        return (*super().operands(), *(getattr(s, f) for s in self.steps for f in s.operand_fields))

    def _more(self) -> tuple[Step, ...]:
        return self.steps


@dataclass(eq=False)
class DeleteState(StateOp):
    """The element is no more; without a key, all its words are 0."""

    mnemonic = "delete_state"


@dataclass(eq=False)
class CountState(StateOp):
    """Count one in word ``what`` of the state's losses (LOST_FAULT ..). Has no key, and no faults."""

    what: int
    mnemonic = "count_state"


def faults(op: StateOp) -> list[str]:
    """What is wrong with an operation; see :mod:`klasy.compiler.ircheck`."""
    found = []
    end = 0
    for part in op.key:
        size = ir.COMM_SIZE if isinstance(part, ir.CommField) else getattr(part, "size", 0)
        if (
            not isinstance(part, ir.StoreField | ir.CopyField | ir.StringField | ir.CommField | ir.StackKey)
            or size <= 0
        ):
            found.append(f"no part of a key at {part.offset}")
        if part.offset < end or part.offset + size > op.state.key_size:
            found.append(f"the part of the key at {part.offset} does not fit")
        end = part.offset + size
    if not (0 < op.mask <= ir.MASK64 if op.faults is not None else op.mask == 0):
        found.append(f"no mask of faults {op.mask:#x}")
    if bool(op.key) != bool(op.state.key_size) and not isinstance(op, CountState):
        found.append("a key is missing, or there should be none")
    words = [step.word for step in op.steps] if isinstance(op, ChangeState) else []
    words += [op.word] if isinstance(op, ReadState) else []
    found += [f"there is no word {w}" for w in words if isinstance(w, int) and not 0 <= w < op.state.words]
    if isinstance(op, ChangeState):
        found += [f"no step {step.op}" for step in op.steps if step.op not in STEPS]
    return found


def takes_user_stack(ops: Iterable[Op]) -> bool:
    """Whether one of some operations takes a stack of a process, for a record or as a key."""
    return any(
        isinstance(part, ir.StackField | ir.StackKey) and part.user
        for op in ops
        for part in (op.parts if isinstance(op, ir.Emit) else op.key if isinstance(op, StateOp) else ())
    )
