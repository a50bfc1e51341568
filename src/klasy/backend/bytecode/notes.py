"""Notes of accesses to members, which tie the instruction to the one behind it; see match/plan.py.

As marks they are kept in a preallocated hash map. One that was taken is made void before it is deleted, for a deletion
may be refused where it comes upon another one in the same part of the map.
"""

from __future__ import annotations

from klasy.backend.artifact import MAP_NOTES, NOTE_FAILED, NOTE_JOINPOINT, NOTE_KEY_SIZE, NOTE_WORDS, MapSpec
from klasy.backend.bytecode.liveness import Effects
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R10,
    add,
    call,
    jump_if,
    load,
    load_map,
    mov,
    store,
    store_imm,
)
from klasy.bpf.uapi import BPF_ANY
from klasy.compiler import irnote
from klasy.compiler.ir import Value, Var
from klasy.plain import TYPE_CHECKING
from klasy.record import COUNTER_UNMARKED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.backend.bytecode.code import Local
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.compiler.ir import NoteOp, Op, Operand
    from klasy.match.plan import Plan

# Scratch, offsets from r10: the key, and below it the value.
_STACK = -16
_NUMBER = -8


def note_map(plan: Plan, entries: int) -> MapSpec:
    """The map of an aspect's notes."""
    return MapSpec(MAP_NOTES, "hash", NOTE_KEY_SIZE, _value_size(plan), entries)


def _value_size(plan: Plan) -> int:
    return NOTE_WORDS + 8 * max(len(note.members.wants) for probe in plan.probes for note in probe.notes)


class NoteCode:
    """The code of one program for notes."""

    def __init__(self, plan: Plan, ops: Iterable[Op], counters: Counters) -> None:
        self.counters = counters
        self._size = _value_size(plan)
        self._words: dict[int, dict[int, Var]] = {}  # of each note those that are asked for
        for op in ops:
            if isinstance(op, irnote.Noted):
                self._words.setdefault(op.number, {})[op.word] = Var(f"note{op.number}.{op.word}")

    @property
    def words(self) -> set[Local]:
        """The locals that hold what was taken."""
        return {local for words in self._words.values() for local in words.values()}

    def effects(self, op: NoteOp) -> Effects:
        """What an operation does to locals and registers."""
        match op:
            case irnote.KeepNote():
                values = tuple([operand for operand in op.operands() if isinstance(operand, Value)])
                late = (op.joinpoint,) if isinstance(op.joinpoint, Value) else ()
                return Effects(reads=values, late=late, calls=True)
            case irnote.TakeNote():
                reads = (op.stack,) if isinstance(op.stack, Value) else ()
                late = (op.joinpoint,) if isinstance(op.joinpoint, Value) else ()
                words = tuple(self._words.get(op.number, {}).values())
                return Effects(reads=reads, late=late, early=words, results=(op.dst,), calls=True)
        assert isinstance(op, irnote.Noted)
        return Effects(reads=(self._words[op.number][op.word],), results=(op.dst,))

    def scratch(self, op: NoteOp) -> int:
        """Bytes of scratch that an operation takes."""
        if isinstance(op, irnote.KeepNote):
            return -_STACK + self._size
        return -_STACK if isinstance(op, irnote.TakeNote) else 0

    def emit(self, e: Emitter, op: NoteOp) -> None:
        """Emit an operation."""
        match op:
            case irnote.KeepNote():
                self._keep(e, op)
            case irnote.TakeNote():
                self._take(e, op)
            case irnote.Noted():
                register = e.result(op.dst)
                e.into(register, self._words[op.number][op.word])
                e.keep(op.dst, register)

    @staticmethod
    def _key(e: Emitter, stack: Operand, number: int) -> None:
        e.asm.emit(store(R10, _STACK, e.register(stack, R1)), store_imm(R10, _NUMBER, number))

    @staticmethod
    def _token(e: Emitter, joinpoint: Operand) -> None:
        """r1 = what stands for a join point in a note."""
        e.into(R1, joinpoint)
        e.asm.emit(add(R1, 1))

    def _keep(self, e: Emitter, op: irnote.KeepNote) -> None:
        value = _STACK - self._size
        self._key(e, op.stack, op.number)
        for place in range(NOTE_WORDS, self._size, 8):
            number = (place - NOTE_WORDS) // 8
            if number < len(op.words):
                e.asm.emit(store(R10, value + place, e.register(op.words[number], R1)))
            else:  # another note has more words
                e.asm.emit(store_imm(R10, value + place, 0))
        e.asm.emit(store(R10, value + NOTE_FAILED, e.register(op.failed, R1), 4))
        self._token(e, op.joinpoint)
        e.asm.emit(store(R10, value + NOTE_JOINPOINT, R1, 4))
        kept = e.asm.fresh_label("kept")

        def lost() -> None:
            self.counters.bump(e, op.joinpoint, COUNTER_UNMARKED)
            e.go(kept)

        e.stack_address(R2, _STACK)
        e.stack_address(R3, value)
        e.asm.emit(load_map(R1, MAP_NOTES), mov(R4, BPF_ANY), call("map_update_elem"))
        e.asm.emit(jump_if(R0, "!=", 0, e.out_of_line(lost, op.span)))
        e.asm.label(kept)

    def _take(self, e: Emitter, op: irnote.TakeNote) -> None:
        none = e.asm.fresh_label("none")
        self._key(e, op.stack, op.number)
        e.lookup(MAP_NOTES, _STACK)
        e.asm.emit(jump_if(R0, "==", 0, none))
        self._token(e, op.joinpoint)
        e.asm.emit(load(R2, R0, NOTE_JOINPOINT, 4), jump_if(R2, "!=", R1, none))
        for place, local in self._words.get(op.number, {}).items():
            if place == irnote.FAILED:
                e.asm.emit(load(R1, R0, NOTE_FAILED, 4))
            else:
                e.asm.emit(load(R1, R0, NOTE_WORDS + 8 * place))
            e.keep(local, R1)
        e.asm.emit(store_imm(R0, NOTE_JOINPOINT, 0, 4))
        e.stack_address(R2, _STACK)
        e.asm.emit(load_map(R1, MAP_NOTES), call("map_delete_elem"))
        e.truth(op.dst, 1, none)
