"""An aspect's state: looking up an element by its key, making it, changing its words. See klasy/state.py.

Words are changed in one step (``lock``-ed instructions), so that no CPU and no program that comes in between loses
what another did. The one exception is a per-CPU state that a single program changes: the kernel never nests a program
in itself on one CPU (see :mod:`klasy.backend.bytecode.counters`).

A missing element is made of zeros, if nobody else has just made it, and then changed like any other. All hashes are
preallocated: making an element fails only where there is no room, or where the bucket's lock is held on this CPU by
what the program interrupted; both are counted. A value is assigned in place only where nothing ever deletes elements,
for an element that is deleted may at once be another key's.

On the stack, below the 8 bytes that are the key of ``state_lost``: a value to write, then the state's key.
"""

from __future__ import annotations

from klasy.backend.artifact import MapSpec
from klasy.backend.bytecode.emitter import fits_immediate
from klasy.backend.bytecode.records import first_frame, set_bits
from klasy.backend.bytecode.strings import LOOKED_UP
from klasy.bpf import uapi as u
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R10,
    add,
    atomic,
    atomic_add,
    atomic_cmpxchg,
    call,
    jump_if,
    load,
    load_map,
    load_map_value,
    lsh,
    mov,
    or_,
    store,
    store_imm,
)
from klasy.compiler import ir, irstate
from klasy.plain import TYPE_CHECKING
from klasy.record import STACK_FRAMES, USER_FRAMES_SIZE
from klasy.state import (
    LOST_BUSY,
    LOST_FULL,
    LOST_STACK,
    LOST_WORDS,
    MAP_LOST,
    MAP_ZEROS,
    STACK_FIRST,
    STACK_KEY,
    STACK_KINDS,
    STACK_MORE,
    WORD,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.bytecode.origin import Origin
    from klasy.bpf.insn import Reg
    from klasy.compiler.irstate import StateOp, Step
    from klasy.state import State

_LOST_KEY = -8
_VALUE = -16
_FIXED = 16  # bytes of scratch above the key
_TRIES = 8  # to set an extreme while others do: each that fails has seen it grow
_ENOENT, _E2BIG, _ENOMEM = -2, -7, -12


class StateCode:
    """Writes the code of operations on state, for all programs of an aspect."""

    def __init__(self, programs: Sequence[ir.Program], deleted: Collection[str] = ()) -> None:
        """``deleted``: the states of which advice in C deletes elements."""
        writers: dict[str, set[int]] = {}
        self.deleted: set[str] = set(deleted)
        for program in programs:
            for op in program.ops():
                if isinstance(op, irstate.ChangeState):
                    writers.setdefault(op.state.name, set()).add(program.probe)
                elif isinstance(op, irstate.DeleteState):
                    self.deleted.add(op.state.name)
        self.alone = {name for name, probes in writers.items() if len(probes) == 1}

    @staticmethod
    def scratch(op: StateOp) -> int:
        """Bytes of scratch that an operation takes."""
        users = any(isinstance(part, ir.StringField) and part.user for part in op.key)
        return _FIXED + _key_bytes(op.state) + (LOOKED_UP if users else 0)

    def emit(self, e: Emitter, op: StateOp, used: Collection[ir.Value], origin: Origin) -> None:
        """Emit an operation. ``used``: the values that anything reads."""
        _Writer(e, op, self, used, origin).emit()


def state_maps(states: Sequence[State], keys: int) -> list[MapSpec]:
    """The maps of an aspect's states, each with room for as many keys."""
    specs = [
        MapSpec(
            s.map_name,
            s.map_type,
            s.key_size or 4,
            WORD * s.words,
            keys if s.key_size else 1,
        )
        for s in states
    ]
    largest = max((WORD * s.words for s in states if s.key_size), default=0)
    if largest:
        specs.append(MapSpec(MAP_ZEROS, "array", 4, largest, 1))
    kinds = dict.fromkeys(field.kind for state in states for field in state.keys if field.kind in STACK_KINDS)
    for kind in kinds:
        size, flags = (USER_FRAMES_SIZE, u.BPF_F_STACK_BUILD_ID) if kind == "ustack" else (WORD * STACK_FRAMES, 0)
        for name, room in zip(STACK_KINDS[kind], (2 * keys, max(keys // 2, 1)), strict=True):
            specs.append(MapSpec(name, "stack_trace", 4, size, room, flags))
    return [*specs, MapSpec(MAP_LOST, "percpu_array", 4, WORD * LOST_WORDS, len(states))]


def _key_bytes(state: State) -> int:
    return (max(state.key_size, 4) + 7) & ~7


class _Writer:
    """One operation."""

    def __init__(
        self,
        e: Emitter,
        op: StateOp,
        code: StateCode,
        used: Collection[ir.Value],
        origin: Origin,
    ) -> None:
        self.e = e
        self.origin = origin
        self.op = op
        self.state = op.state
        self.key = -_FIXED - _key_bytes(op.state)
        self.plain = op.state.per_cpu and op.state.name in code.alone
        self.deletes = op.state.name in code.deleted
        self.fetches = isinstance(op, irstate.ChangeState) and op.dst is not None and op.dst in used
        self.done = e.asm.fresh_label("state")

    def emit(self) -> None:
        e, op = self.e, self.op
        if isinstance(op, irstate.CountState):
            self._bump(op.what)
            return
        if self.state.key_size:
            self._key()
        match op:
            case irstate.ReadState():
                self._read(op)
            case irstate.WriteState():
                self._write(op)
            case irstate.ChangeState():
                self._change(op)
            case irstate.DeleteState():
                self._delete()
            case _:
                raise AssertionError(f"no code for {op!r}")
        e.asm.label(self.done)
        if isinstance(op, irstate.ChangeState) and self.fetches:
            assert op.dst is not None
            e.keep(op.dst, R2)

    # --- the key

    def _key(self) -> None:
        """The key on the stack: zeros first where its parts leave anything out."""
        e = self.e
        end = 0
        for part in self.op.key:
            exact = isinstance(part, ir.StoreField) and part.offset == end
            if not exact:
                break
            end = part.offset + part.size  # type: ignore[attr-defined]
        if end != self.state.key_size:
            for at in range(0, _key_bytes(self.state), 8):
                e.asm.emit(store_imm(R10, self.key + at, 0))
        for part in self.op.key:
            at = self.key + part.offset
            match part:
                case ir.StoreField():
                    self._store(R10, at, part.size, part.value)
                case ir.CommField():
                    e.stack_address(R1, at)
                    e.asm.emit(mov(R2, ir.COMM_SIZE), call("get_current_comm"))
                case ir.StringField():
                    self._copy(part, at, "s<")
                case ir.CopyField():
                    self._copy(part, at, "!=")
                case ir.StackKey():
                    self._stack(part, at)
                case _:
                    raise AssertionError(f"no code for {part!r}")

    def _copy(self, part: ir.StringField | ir.CopyField, at: int, failed: str) -> None:
        e = self.e
        e.into(R3, part.address)
        if part.at:
            e.asm.emit(add(R3, part.at))
        if isinstance(part, ir.StringField) and part.user and e.names:
            from klasy.backend.bytecode import syscalls

            syscalls.read_string(e, part.size, lambda: e.stack_address(R1, at), at=self.key - LOOKED_UP)
        else:
            e.asm.emit(mov(R2, part.size))
            e.stack_address(R1, at)
            e.read_memory(user=part.user, string=isinstance(part, ir.StringField))
        faults = self.op.faults
        if faults is None:
            return
        back = e.asm.fresh_label("key")

        def fault() -> None:
            e.into(R2, faults)
            set_bits(e, R2, self.op.mask)
            e.keep(faults, R2)

        e.asm.emit(jump_if(R0, failed, 0, self._rarely(fault, back)))
        e.asm.label(back)

    def _stack(self, part: ir.StackKey, at: int) -> None:
        """Have the kernel keep the stack; in the second map where in the first another one has its place."""
        e = self.e
        skip, first = (0, 0) if part.user else first_frame(self.origin.probe)
        kept, more = e.asm.fresh_label("kept"), e.asm.fresh_label("more")

        def keep(map_name: str, failed: str) -> None:
            e.into(R1, self.origin.ctx)
            e.asm.emit(load_map(R2, map_name), mov(R3, u.BPF_F_USER_STACK if part.user else skip), call("get_stackid"))
            e.asm.emit(jump_if(R0, "s<", 0, failed))

        first_map, second_map = STACK_KINDS["ustack" if part.user else "stack"]

        def again() -> None:
            keep(second_map, more)
            e.asm.emit(or_(R0, STACK_MORE))
            e.go(kept)
            e.asm.label(more)
            self._bump(LOST_STACK)
            if isinstance(self.op, irstate.ReadState):
                e.asm.emit(mov(R0, 0))
                e.keep(self.op.dst, R0)
            elif self.fetches:
                e.asm.emit(mov(R2, 0))
            e.go(self.done)

        keep(first_map, e.out_of_line(again, self.op.span))
        e.asm.label(kept)
        if first:
            e.asm.emit(or_(R0, first << STACK_FIRST))
        e.asm.emit(store(R10, at, R0, 4))
        self._store(R10, at + 4, 4, part.place)
        if part.user:
            from klasy.backend.bytecode import callers

            callers.write(e, self.origin.probe, self.origin.ctx, lambda to: e.stack_address(to, at + STACK_KEY))

    def _store(self, base: Reg, offset: int, size: int, value: ir.Operand) -> None:
        if isinstance(value, int):
            low = value & (1 << 8 * size) - 1
            low -= 1 << 64 if low >> 63 else 0
            if fits_immediate(low) or size < 8:
                self.e.asm.emit(store_imm(base, offset, low, size))
                return
        self.e.asm.emit(store(base, offset, self.e.register(value, R1), size))

    # --- elements

    def _find(self, missing: str) -> None:
        """r0 = the element; to ``missing`` where there is none."""
        e, state = self.e, self.state
        if not state.key_size and not state.per_cpu:
            e.asm.emit(load_map_value(R0, state.map_name, 0))
            return
        if not state.key_size:
            e.asm.emit(store_imm(R10, self.key, 0, 4))
        e.lookup(state.map_name, self.key)
        e.asm.emit(jump_if(R0, "==", 0, missing))

    def _make(self, back: str) -> None:
        """Out of line: make the element, and go ``back`` with it in r0; where that fails, count it."""
        e = self.e
        if not self.state.key_size:  # a per-CPU array always has it
            e.go(self.done)
            return
        e.asm.emit(load_map_value(R3, MAP_ZEROS, 0), mov(R4, u.BPF_NOEXIST))
        self._update()
        e.asm.emit(store(R10, _VALUE, R0))
        e.lookup(self.state.map_name, self.key)
        e.asm.emit(jump_if(R0, "!=", 0, back), load(R0, R10, _VALUE))
        self._lost()

    def _update(self) -> None:
        """Call bpf_map_update_elem: r3 and r4 are set."""
        self.e.stack_address(R2, self.key)
        self.e.asm.emit(load_map(R1, self.state.map_name), call("map_update_elem"))

    def _lost(self) -> None:
        """Count what the error in r0 says, and end. A helper's result may be an int: its upper half means nothing."""
        e = self.e
        full, end = e.asm.fresh_label("full"), e.asm.fresh_label("lost")
        for error in (_E2BIG, _ENOMEM):
            e.asm.emit(jump_if(R0, "==", error, full, width=32))
        self._bump(LOST_BUSY)
        e.go(end)
        e.asm.label(full)
        self._bump(LOST_FULL)
        e.asm.label(end)
        if self.fetches:
            e.asm.emit(mov(R2, 0))
        e.go(self.done)

    def _bump(self, what: int) -> None:
        e = self.e
        e.asm.emit(store_imm(R10, _LOST_KEY, self.state.index, 4))
        e.lookup(MAP_LOST, _LOST_KEY)
        counted = e.asm.fresh_label("counted")
        e.asm.emit(jump_if(R0, "==", 0, counted), mov(R1, 1), atomic_add(R0, WORD * what, R1))
        e.asm.label(counted)

    def _rarely(self, code: Callable[[], None], back: str) -> str:
        def run() -> None:
            code()
            self.e.go(back)

        return self.e.out_of_line(run, self.op.span)

    # --- reading, writing, deleting

    def _read(self, op: irstate.ReadState) -> None:
        e = self.e
        none = e.asm.fresh_label("none")
        self._find(none)
        e.asm.emit(load(R0, R0, WORD * op.word))
        e.asm.label(none)  # r0 is 0 there
        e.keep(op.dst, R0)

    def _write(self, op: irstate.WriteState) -> None:
        if self.state.key_size and self.deletes:
            self._write_anew(op)
            return
        self._find(self._rarely(lambda: self._write_anew(op), self.done))
        self._store(R0, 0, WORD, op.value)

    def _write_anew(self, op: irstate.WriteState) -> None:
        """Make the element, or put another in its place."""
        e = self.e
        self._store(R10, _VALUE, WORD, op.value)
        e.stack_address(R3, _VALUE)
        e.asm.emit(mov(R4, u.BPF_ANY))
        self._update()
        e.asm.emit(jump_if(R0, "!=", 0, e.out_of_line(self._lost, op.span), width=32))

    def _delete(self) -> None:
        e, state = self.e, self.state
        if not state.key_size:
            self._find(self.done)
            for word in range(state.words):
                e.asm.emit(store_imm(R0, WORD * word, 0))
            return
        e.stack_address(R2, self.key)
        e.asm.emit(load_map(R1, state.map_name), call("map_delete_elem"))
        refused = e.out_of_line(self._not_deleted, self.op.span)
        e.asm.emit(jump_if(R0, "!=", 0, refused, width=32))

    def _not_deleted(self) -> None:
        """Out of line: that there is no such element is well."""
        self.e.asm.emit(jump_if(R0, "==", _ENOENT, self.done, width=32))
        self._bump(LOST_BUSY)
        self.e.go(self.done)

    # --- changing

    def _change(self, op: irstate.ChangeState) -> None:
        e = self.e
        found = e.asm.fresh_label("found")

        def make() -> None:
            self._make(found)

        self._find(e.out_of_line(make, op.span))
        e.asm.label(found)
        for number, step in enumerate(op.steps):
            self._step(step, self.fetches and number == 0)

    def _step(self, step: Step, fetch: bool) -> None:
        """One step on the element in r0, which it leaves there unless it is the last. Old value in r2 for ``fetch``."""
        e = self.e
        offset = 0
        if isinstance(step.word, int):
            offset = WORD * step.word
        else:
            e.into(R1, step.word)
            e.asm.emit(jump_if(R1, ">=", self.state.words, self.done), lsh(R1, 3), add(R0, R1))
        e.into(R2, step.value)
        if step.op == "max":
            self._raise(offset)
        elif self.plain and step.op == "add" and not fetch:
            e.asm.emit(load(R1, R0, offset), add(R1, R2), store(R0, offset, R1))
        else:
            e.asm.emit(atomic(step.op, R0, offset, R2, fetch=fetch))

    def _raise(self, offset: int) -> None:
        """Make the word at r0 + ``offset`` at least r2, unsigned."""
        e = self.e
        if self.plain:
            e.asm.emit(load(R1, R0, offset), jump_if(R1, ">=", R2, self.done), store(R0, offset, R2))
            return
        e.asm.emit(mov(R3, R0), load(R0, R3, offset))
        for _ in range(_TRIES):
            e.asm.emit(jump_if(R0, ">=", R2, self.done), mov(R4, R0), atomic_cmpxchg(R3, offset, R2))
            e.asm.emit(jump_if(R0, "==", R4, self.done))

        def lost() -> None:
            self._bump(LOST_BUSY)
            e.go(self.done)

        e.go(e.out_of_line(lost, self.op.span))
