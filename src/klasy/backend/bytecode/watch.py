"""The program behind a debug register: what it finds out of an access before any advice runs.

The processor traps behind the instruction, so the data holds what was written; what it held before is what the access
before left, in the map ``last``. The program keeps that up to date, and counts its runs, from its attaching on, also
while the aspect is switched off: then nothing else happens. Before its first run ``last`` is empty and ``first`` holds
what the data was when the register had been armed.

What the instruction did is looked up by the address behind it, in the map ``kinds``. Of instructions that are not
there it is not known: the program says then whether the value changed, and runs the advice. Who reads log and counts
disassembles the instruction and leaves out what it was not (:mod:`klasy.log.access`).

The kernel never runs one program of this type nested in another on one CPU (``bpf_prog_active``), and while it runs
the processor's breakpoints are off: reading the data here is no access.
"""

from __future__ import annotations

from klasy.backend.artifact import (
    MAP_ACCESSES,
    MAP_FIRST,
    MAP_KINDS,
    MAP_LAST,
    MAP_TRAPS,
    MapSpec,
)
from klasy.backend.bytecode.emitter import OUT
from klasy.backend.bytecode.liveness import Effects
from klasy.bpf import uapi
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R10,
    add,
    atomic_xchg,
    call,
    jump_if,
    load,
    load_imm,
    load_map_value,
    mov,
    store,
    store_imm,
)
from klasy.compiler import ir
from klasy.compiler.ir import Var
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.match.datum import Datum
from klasy.match.plan import CHANGED, WRITES
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import ClassVar

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.bytecode.origin import Origin
    from klasy.match.filter import Filter
    from klasy.match.plan import Plan, Probe

# Scratch of the prologue, offsets from r10.
_IP, _NEW, _OLD, _FAILED, _KIND, _KEY = -8, -16, -24, -32, -40, -48
_PLACES = {"ip": _IP, "new": _NEW, "old": _OLD, "failed": _FAILED, "kind": _KIND}
# Of the account by instruction: a key of 16 bytes and a value.
_ACCOUNT_KEY, _ACCOUNT_VALUE = -16, -24

LAST_ENTRY = 16  # u64 the value, u64 whether there is one
_MORE_KINDS = 4096  # instructions that are met later
_MOST_ACCESSES = 8192


class Watching:
    """What one WATCH program does of its own."""

    places: ClassVar[dict[str, int]] = _PLACES  # where the prologue leaves what it has found, from r10
    own_scratch = -_KEY

    def __init__(self, probe: Probe, origin: Origin, ops: Collection[ir.Op], wanted: Filter | None = None) -> None:
        """``wanted``: whose accesses advice runs at; what the data was is kept up to date at all of them."""
        assert probe.watch is not None
        self.filter = wanted
        self.watch = probe.watch
        self.ctx = origin.ctx
        used = {op.what for op in ops if isinstance(op, ir.Observe)}
        if any(isinstance(op, ir.CountHit) for op in ops):
            used |= {"ip", "kind"}
        self.found = {what: Var(what) for what in ir.OBSERVED if what in used}

    @property
    def _is_scalar(self) -> bool:
        return self.watch.data.type.is_scalar

    # --- what registers must expect

    def prologue_effects(self) -> Effects:
        """Of the prologue."""
        return Effects(late=(self.ctx,), results=tuple(self.found.values()), calls=True)

    def account_reads(self) -> tuple[Var, ...]:
        """What the account of a hit needs."""
        return (self.found["ip"], self.found["kind"])

    @property
    def scratch(self) -> int:
        """Bytes; the filter's are the last."""
        return self.own_scratch + (16 if self.filter else 0)

    # --- code

    def prologue(self, e: Emitter) -> None:
        """Emit it; the context is in its place."""
        e.asm.emit(load(R1, e.register(self.ctx, R1), PT_REGS["ip"]), store(R10, _IP, R1))
        self._count_run(e)
        if self._is_scalar:
            self._read(e)
        e.out_unless_active()
        self.let_through(e)
        if "kind" in self.found:
            self.find_kind(e)
        self.hand_over(e)

    def let_through(self, e: Emitter) -> None:
        """Leave the program unless advice is to run at accesses of the current task."""
        if self.filter:
            from klasy.backend.bytecode.filters import emit_filter

            emit_filter(e, self.filter, scratch=-self.scratch, keep_r1=False)

    def hand_over(self, e: Emitter) -> None:
        """Put what was found to its places."""
        for what, local in self.found.items():
            register = e.result(local)
            e.asm.emit(load(register, R10, self.places[what]))
            e.keep(local, register)

    def _count_run(self, e: Emitter) -> None:
        """One CPU runs the program once at a time: no need for an atomic addition."""
        e.asm.emit(store_imm(R10, _KEY, self.watch.slot, 4))
        e.lookup(MAP_TRAPS, _KEY)
        e.asm.emit(jump_if(R0, "==", 0, OUT), load(R1, R0, 0), add(R1, 1), store(R0, 0, R1))

    def _read(self, e: Emitter) -> None:
        """The data as it is, and as it was."""
        data = self.watch.data
        assert isinstance(data, Datum)
        failed, seen, done = (e.asm.fresh_label(name) for name in ("failed", "seen", "observed"))
        e.asm.emit(store_imm(R10, _NEW, 0), store_imm(R10, _FAILED, 0))
        e.stack_address(R1, _NEW)
        e.asm.emit(mov(R2, data.size), load_imm(R3, data.address), call("probe_read_kernel"))
        e.asm.emit(load_map_value(R3, MAP_LAST, LAST_ENTRY * self.watch.datum), jump_if(R0, "!=", 0, failed))
        e.asm.emit(load(R1, R10, _NEW), load(R2, R3, 8), atomic_xchg(R3, 0, R1), store_imm(R3, 8, 1))
        e.asm.emit(jump_if(R2, "!=", 0, seen))
        e.asm.emit(load_map_value(R1, MAP_FIRST, 8 * self.watch.datum), load(R1, R1, 0))
        e.asm.label(seen)
        e.asm.emit(store(R10, _OLD, R1))
        e.go(done)
        e.asm.label(failed)
        e.asm.emit(store_imm(R10, _FAILED, 1), store_imm(R10, _NEW, 0), load(R1, R3, 0), store(R10, _OLD, R1))
        e.asm.label(done)

    def find_kind(self, e: Emitter) -> None:
        """What the instruction does, as far as it is known."""
        if self.watch.writes_only:
            e.asm.emit(store_imm(R10, _KIND, WRITES))
            return
        known, done = e.asm.fresh_label("known"), e.asm.fresh_label("kind")
        e.asm.emit(store_imm(R10, _KIND, 0))
        e.lookup(MAP_KINDS, _IP)
        e.asm.emit(jump_if(R0, "!=", 0, known))
        if self._is_scalar:
            e.asm.emit(load(R1, R10, _NEW), load(R2, R10, _OLD), jump_if(R1, "==", R2, done))
            e.asm.emit(store_imm(R10, _KIND, CHANGED))
        e.go(done)
        e.asm.label(known)
        e.asm.emit(load(R1, R0, 0), store(R10, _KIND, R1))
        e.asm.label(done)

    def observe(self, e: Emitter, op: ir.Observe) -> None:
        """Emit an Observe."""
        register = e.result(op.dst)
        e.into(register, self.found[op.what])
        e.keep(op.dst, register)

    def account(self, e: Emitter, joinpoint: int) -> None:
        """Count a hit of a join point under the instruction, with what was known of it. All CPUs share that."""
        e.asm.emit(store(R10, _ACCOUNT_KEY, e.register(self.found["ip"], R0)))
        e.asm.emit(store_imm(R10, _ACCOUNT_KEY + 8, joinpoint, 4))
        e.asm.emit(store(R10, _ACCOUNT_KEY + 12, e.register(self.found["kind"], R0), 4))
        e.count(MAP_ACCESSES, _ACCOUNT_KEY, _ACCOUNT_VALUE)


def watching_of(probe: Probe, origin: Origin, ops: Collection[ir.Op], wanted: Filter | None = None) -> Watching:
    """What the program of a probe that watches data does."""
    if probe.watch is not None and probe.watch.per_object:
        from klasy.backend.bytecode.objects import WatchingObjects

        return WatchingObjects(probe, origin, ops, wanted)
    return Watching(probe, origin, ops, wanted)


def watch_maps(plan: Plan) -> list[MapSpec]:
    """The maps that the WATCH programs of a plan share."""
    everything = [probe.watch for probe in plan.probes if probe.watch is not None]
    if not everything:
        return []
    watches = [watch for watch in everything if not watch.per_object]
    kinds = {ip: kind for watch in watches for ip, kind in watch.kinds.items()}
    rows = tuple((ip.to_bytes(8, "little"), kind.to_bytes(8, "little")) for ip, kind in sorted(kinds.items()))
    own = []
    if watches:
        data = 1 + max(watch.datum for watch in watches)
        own = [
            MapSpec(MAP_TRAPS, "percpu_array", 4, 8, len(watches)),
            MapSpec(MAP_LAST, "array", 4, LAST_ENTRY * data, 1),
            MapSpec(MAP_FIRST, "array", 4, 8 * data, 1, uapi.BPF_F_RDONLY_PROG),
        ]
    return [
        *own,
        MapSpec(MAP_KINDS, "hash", 8, 8, len(rows) + _MORE_KINDS, uapi.BPF_F_RDONLY_PROG, rows),
        MapSpec(MAP_ACCESSES, "hash", 16, 8, _MOST_ACCESSES),
    ]
