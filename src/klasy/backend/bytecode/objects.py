"""Watching objects: advice asks for it, and a program behind the debug registers that the helper arms sees accesses.

The memory they share is that of :mod:`klasy.objects`. Its elements are looked up one by one, not addressed from a base:
so the verifier finds every slot to be the same, and goes through the rest of the program once.
"""

from __future__ import annotations

from klasy import objects as layout
from klasy.backend.artifact import MapSpec
from klasy.backend.bytecode.emitter import OUT
from klasy.backend.bytecode.watch import Watching
from klasy.bpf import uapi
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R10,
    add,
    atomic_add,
    atomic_cmpxchg,
    atomic_fetch_add,
    atomic_xchg,
    call,
    jump_if,
    load,
    load_imm,
    load_map,
    mov,
    store,
    store_imm,
)
from klasy.compiler import ir
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.objects import MAP_BELL, MAP_OBJECTS, SLOTS, WORD
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import ClassVar

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.match.plan import Plan

# struct bpf_perf_event_data: the registers, u64 sample_period, u64 addr: the breakpoint's own address.
_ADDRESS_IN_CONTEXT = 176

_SLOT = {name: WORD * number for name, number in layout.SLOT.items()}
_HELPER = {name: WORD * number for name, number in layout.HELPER.items()}
_MEMBER = {name: WORD * number for name, number in layout.MEMBER.items()}

# Scratch of a watch or unwatch, offsets from r10.
_KEY, _ADDRESS, _FOUND, _JOINPOINT, _VALUE = -8, -16, -24, -32, -40
SCRATCH = 40


def object_maps(plan: Plan) -> list[MapSpec]:
    """The maps through which advice and the helper talk."""
    members = sum(probe.watch is not None and probe.watch.per_object for probe in plan.probes)
    return [
        MapSpec(MAP_OBJECTS, "array", 4, layout.ROW_BYTES, layout.elements(members), uapi.BPF_F_MMAPABLE),
        MapSpec(MAP_BELL, "ringbuf", 0, 0, layout.BELL_BYTES),
    ]


def emit(e: Emitter, op: ir.WatchObject | ir.UnwatchObject) -> None:
    """Emit either. Operands are read first."""
    e.asm.emit(store(R10, _ADDRESS, e.register(op.address, R1)))
    if isinstance(op, ir.UnwatchObject):
        _unwatch(e, op)
        return
    e.asm.emit(store(R10, _JOINPOINT, e.register(op.joinpoint, R1)))
    _watch(e, op)


def _element(e: Emitter, number: int, key: int = _KEY) -> None:
    """r0 = an element of the map, or 0, which the verifier wants to be asked about."""
    e.asm.emit(store_imm(R10, key, number, 4))
    e.lookup(MAP_OBJECTS, key)


def _count(e: Emitter, member: int, what: str) -> None:
    behind = e.asm.fresh_label("counted")
    _element(e, layout.FIRST_MEMBER + member)
    e.asm.emit(jump_if(R0, "==", 0, behind), mov(R1, 1), atomic_add(R0, _MEMBER[what], R1))
    e.asm.label(behind)


def _ring(e: Emitter) -> None:
    """Wake the helper. A bell without room is counted, and no loss: the helper has not heard the rings before."""
    heard = e.asm.fresh_label("heard")
    e.stack_address(R2, _KEY)
    e.asm.emit(store_imm(R10, _KEY, 0), load_map(R1, MAP_BELL), mov(R3, 8), mov(R4, uapi.BPF_RB_FORCE_WAKEUP))
    e.asm.emit(call("ringbuf_output"), jump_if(R0, "==", 0, heard))
    _element(e, 0)
    e.asm.emit(jump_if(R0, "==", 0, heard), mov(R1, 1), atomic_add(R0, _HELPER["silent"], R1))
    e.asm.label(heard)


def _find(e: Emitter, member: int, found: str) -> None:
    """Go to ``found``, with r0 the slot, where the address on the stack is watched as that member."""
    for number in range(SLOTS):
        other = e.asm.fresh_label("other")
        _element(e, layout.FIRST_SLOT + number)
        e.asm.emit(jump_if(R0, "==", 0, other), load(R1, R0, _SLOT["state"]))
        e.asm.emit(jump_if(R1, "!=", layout.WANTED, other), load(R1, R0, _SLOT["address"]), load(R2, R10, _ADDRESS))
        e.asm.emit(jump_if(R1, "!=", R2, other), load(R1, R0, _SLOT["member"]), jump_if(R1, "==", member, found))
        e.asm.label(other)


def _watch(e: Emitter, op: ir.WatchObject) -> None:
    names = ("again", "claimed", "no_slot", "bad_address", "watched")
    again, claimed, no_slot, bad, done = (e.asm.fresh_label(name) for name in names)
    _count(e, op.member, "requests")
    e.asm.emit(load(R1, R10, _ADDRESS), jump_if(R1, "s>=", 0, bad))
    _find(e, op.member, again)
    for number in range(SLOTS):
        other = e.asm.fresh_label("other")
        _element(e, layout.FIRST_SLOT + number)
        e.asm.emit(jump_if(R0, "==", 0, other), mov(R3, R0), mov(R0, layout.FREE), mov(R1, layout.FILLING))
        e.asm.emit(atomic_cmpxchg(R3, _SLOT["state"], R1), jump_if(R0, "==", layout.FREE, claimed))
        e.asm.label(other)
    e.asm.label(no_slot)
    _count(e, op.member, "no_slot")
    e.go(done)
    e.asm.label(again)
    _count(e, op.member, "again")
    e.go(done)
    e.asm.label(bad)
    _count(e, op.member, "bad_address")
    e.go(done)
    e.asm.label(claimed)
    _fill(e, op)
    _ring(e)
    e.asm.label(done)


def _fill(e: Emitter, op: ir.WatchObject) -> None:
    """Fill the slot in r3, and have it wanted with the last store."""
    asm = e.asm
    asm.emit(store(R10, _FOUND, R3), load(R1, R10, _ADDRESS), store(R3, _SLOT["address"], R1))
    asm.emit(load(R1, R10, _JOINPOINT), store(R3, _SLOT["joinpoint"], R1))
    for name in ("seen", "runs", "last", "has_last", "outcome", "armed", "armed_at"):
        asm.emit(store_imm(R3, _SLOT[name], 0))
    asm.emit(store_imm(R3, _SLOT["member"], op.member), load_imm(R1, op.hits), store(R3, _SLOT["most"], R1))
    asm.emit(store_imm(R10, _VALUE, 0))
    e.stack_address(R1, _VALUE)
    asm.emit(mov(R2, op.size), load(R3, R10, _ADDRESS), call("probe_read_kernel"))
    asm.emit(load(R3, R10, _FOUND), load(R1, R10, _VALUE), store(R3, _SLOT["first"], R1))
    asm.emit(call("get_smp_processor_id"), load(R3, R10, _FOUND), store(R3, _SLOT["cpu"], R0))
    asm.emit(call("ktime_get_ns"), load(R3, R10, _FOUND), store(R3, _SLOT["requested"], R0))
    if op.duration:
        asm.emit(load_imm(R1, op.duration), add(R1, R0), store(R3, _SLOT["until"], R1))
    else:
        asm.emit(store_imm(R3, _SLOT["until"], 0))
    asm.emit(store_imm(R3, _SLOT["state"], layout.WANTED))


def _unwatch(e: Emitter, op: ir.UnwatchObject) -> None:
    found, done = e.asm.fresh_label("found"), e.asm.fresh_label("unwatched")
    _find(e, op.member, found)
    e.go(done)
    e.asm.label(found)
    _end(e, layout.BY_UNWATCH, done)
    _ring(e)
    e.asm.label(done)


def _end(e: Emitter, outcome: int, late: str) -> None:
    """End the watching of the slot in r0; to ``late`` where another was faster."""
    e.asm.emit(mov(R3, R0), mov(R0, layout.WANTED), mov(R1, layout.ENDED), atomic_cmpxchg(R3, _SLOT["state"], R1))
    e.asm.emit(jump_if(R0, "!=", layout.WANTED, late), store_imm(R3, _SLOT["outcome"], outcome))


# Scratch of the prologue of a program at accesses.
_IP, _NEW, _OLD, _FAILED, _KIND, _NUMBER, _WHERE, _HELD = -8, -16, -24, -32, -40, -48, -56, -64


class WatchingObjects(Watching):
    """What the program behind the registers of all objects of one member does of its own."""

    places: ClassVar[dict[str, int]] = {
        "ip": _IP,
        "new": _NEW,
        "old": _OLD,
        "failed": _FAILED,
        "kind": _KIND,
        "address": _WHERE,
    }
    own_scratch = -_HELD

    def prologue(self, e: Emitter) -> None:
        """Find the object by where the register points; nothing more unless it is watched."""
        ctx = e.register(self.ctx, R1)
        e.asm.emit(load(R2, ctx, _ADDRESS_IN_CONTEXT), store(R10, _WHERE, R2))
        e.asm.emit(load(R1, ctx, PT_REGS["ip"]), store(R10, _IP, R1))
        self._find_slot(e)
        self._read_object(e)
        e.out_unless_active()
        self.let_through(e)
        self._count_down(e)
        if "kind" in self.found:
            self.find_kind(e)
        self.hand_over(e)

    def _find_slot(self, e: Emitter) -> None:
        found = e.asm.fresh_label("object")
        for number in range(SLOTS):
            other = e.asm.fresh_label("other")
            _element(e, layout.FIRST_SLOT + number, _NUMBER)
            e.asm.emit(jump_if(R0, "==", 0, other), load(R1, R0, _SLOT["armed"]), jump_if(R1, "==", 0, other))
            e.asm.emit(load(R1, R0, _SLOT["member"]), jump_if(R1, "!=", self.watch.slot, other))
            e.asm.emit(load(R1, R0, _SLOT["address"]), load(R2, R10, _WHERE), jump_if(R1, "==", R2, found))
            e.asm.label(other)
        e.go(OUT)
        e.asm.label(found)
        timeless = e.asm.fresh_label("timeless")
        e.asm.emit(store(R10, _HELD, R0), mov(R1, 1), atomic_add(R0, _SLOT["runs"], R1))
        e.asm.emit(load(R1, R0, _SLOT["state"]), jump_if(R1, "!=", layout.WANTED, OUT))
        e.asm.emit(load(R1, R0, _SLOT["until"]), jump_if(R1, "==", 0, timeless), call("ktime_get_ns"))
        e.asm.emit(load(R2, R10, _HELD), load(R1, R2, _SLOT["until"]), jump_if(R0, ">", R1, OUT))
        e.asm.label(timeless)

    def _read_object(self, e: Emitter) -> None:
        """The member as it is, and as it was: at the access before, or, at the first, when all was armed."""
        failed, seen, done = (e.asm.fresh_label(name) for name in ("failed", "seen", "observed"))
        e.asm.emit(store_imm(R10, _NEW, 0), store_imm(R10, _FAILED, 0))
        e.stack_address(R1, _NEW)
        e.asm.emit(mov(R2, self.watch.data.size), load(R3, R10, _WHERE), call("probe_read_kernel"))
        e.asm.emit(load(R3, R10, _HELD), jump_if(R0, "!=", 0, failed))
        e.asm.emit(load(R1, R10, _NEW), load(R2, R3, _SLOT["has_last"]), atomic_xchg(R3, _SLOT["last"], R1))
        e.asm.emit(store_imm(R3, _SLOT["has_last"], 1), jump_if(R2, "!=", 0, seen), load(R1, R3, _SLOT["first"]))
        e.asm.label(seen)
        e.asm.emit(store(R10, _OLD, R1))
        e.go(done)
        e.asm.label(failed)
        e.asm.emit(store_imm(R10, _FAILED, 1), store_imm(R10, _NEW, 0))
        e.asm.emit(load(R1, R3, _SLOT["last"]), store(R10, _OLD, R1))
        e.asm.label(done)

    def _count_down(self, e: Emitter) -> None:
        """Count the access; the last one of a bounded number ends the watching."""
        on = e.asm.fresh_label("on")
        e.asm.emit(load(R3, R10, _HELD), mov(R2, 1), atomic_fetch_add(R3, _SLOT["seen"], R2))
        e.asm.emit(load(R1, R3, _SLOT["most"]), jump_if(R1, "==", 0, on), jump_if(R2, ">=", R1, OUT), add(R2, 1))
        e.asm.emit(jump_if(R2, "<", R1, on), mov(R0, R3))
        _end(e, layout.BY_HITS, on)
        e.stack_address(R2, _NUMBER)
        e.asm.emit(store_imm(R10, _NUMBER, 0), load_map(R1, MAP_BELL), mov(R3, 8), mov(R4, uapi.BPF_RB_FORCE_WAKEUP))
        e.asm.emit(call("ringbuf_output"))
        e.asm.label(on)
