"""What the IR's operations on state mean; see :mod:`klasy.compiler.ireval`."""

from __future__ import annotations

from klasy.compiler import ir, irstate
from klasy.compiler.semantics import binary
from klasy.plain import TYPE_CHECKING, dataclass, field
from klasy.state import LOST_FULL, LOST_WORDS

if TYPE_CHECKING:
    from typing import Protocol

    from klasy.compiler.ir import Operand, Var
    from klasy.compiler.ireval import World
    from klasy.compiler.irstate import StateOp
    from klasy.state import State

    class Machine(Protocol):
        """What runs the operation: the interpreter of the IR."""

        world: World

        def of(self, operand: Operand) -> int:
            """An operand's value."""

        def read(self, address: int, size: int, user: bool = False) -> bytes | None:
            """Memory, of the kernel or of the process."""

        def string(self, address: int, limit: int, user: bool = False) -> bytes | None:
            """A string."""

        def set_fault(self, faults: Var | None, mask: int) -> None:
            """Remember that memory could not be read."""


@dataclass()
class Store:
    """The elements of each state by its name, and its losses. ``room``: how many keys a state can have."""

    room: int = 4096
    elements: dict[str, dict[bytes, list[int]]] = field(default_factory=dict)
    lost: dict[str, list[int]] = field(default_factory=dict)

    def of(self, state: State) -> dict[bytes, list[int]]:
        """The elements of a state. Without a key there is one, from the beginning."""
        known = self.elements.setdefault(state.name, {})
        if not state.key_size:
            known.setdefault(b"", [0] * state.words)
        return known

    def count(self, state: State, what: int) -> None:
        """Count a loss."""
        self.lost.setdefault(state.name, [0] * LOST_WORDS)[what] += 1


def run(store: Store, op: StateOp, machine: Machine) -> int:
    """Run one operation; its result, 0 where it has none."""
    value = machine.of
    state = op.state
    if isinstance(op, irstate.CountState):
        store.count(state, op.what)
        return 0
    key = _key(op, machine)
    elements = store.of(state)
    row = elements.get(key)
    match op:
        case irstate.ReadState():
            return row[op.word] if row else 0
        case irstate.DeleteState():
            if state.key_size:
                elements.pop(key, None)
            else:
                elements[key] = [0] * state.words
            return 0
    if row is None:
        if len(elements) >= store.room:
            store.count(state, LOST_FULL)
            return 0
        row = elements[key] = [0] * state.words
    if isinstance(op, irstate.WriteState):
        row[0] = value(op.value)
        return 0
    assert isinstance(op, irstate.ChangeState), op
    words = [value(step.word) for step in op.steps]
    old = row[words[0]] if words[0] < state.words else 0
    for word, step in zip(words, op.steps, strict=True):
        if word < state.words:
            number = value(step.value)
            row[word] = max(row[word], number) if step.op == "max" else binary(step.op, 64, row[word], number)
    return old


def _key(op: StateOp, machine: Machine) -> bytes:
    key = bytearray(op.state.key_size)
    for part in op.key:
        match part:
            case ir.StoreField():
                content = (machine.of(part.value) & (1 << 8 * part.size) - 1).to_bytes(part.size, "little")
            case ir.CopyField():
                data = machine.read(machine.of(part.address) + part.at, part.size, part.user)
                if data is None:
                    machine.set_fault(op.faults, op.mask)
                content = data or b""
            case ir.StringField():
                text = machine.string(machine.of(part.address) + part.at, part.size - 1, part.user)
                if text is None:
                    machine.set_fault(op.faults, op.mask)
                content = text or b""
            case ir.StackKey():
                content = bytes(4) + machine.of(part.place).to_bytes(4, "little")
            case _:
                content = machine.world.comm[: ir.COMM_SIZE - 1]
        key[part.offset : part.offset + len(content)] = content
    return bytes(key)
