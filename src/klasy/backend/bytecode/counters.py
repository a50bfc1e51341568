"""Counting: hits, lost records and marks that could not be kept, by join point, in the map ``counters``; and where it
is asked for, runs by probe, in the map ``runs``.

Either is an array of one value with a row for each CPU, which the program reaches by its CPU's number: on hot ways that
is a good deal cheaper than to look up the value of a per-CPU array, which before 6.10 takes two calls. No program
leaves its CPU while it runs.

A counter is read, incremented and written back in three plain instructions. That loses no count: a word of a join
point on one CPU is written by one program only (else :class:`Counters` makes the addition atomic), and the kernel
never runs a program nested in itself on one CPU. For fentry and fexit the trampoline sees to it (``prog->active``,
since 5.12; a task that is preempted in the program makes it refuse others on that CPU: the kernel counts those as
recursion misses), for kprobes ``bpf_prog_active``. An atomic addition costs some 20 cycles more.
"""

from __future__ import annotations

from klasy.backend.artifact import MAP_COUNTERS, MAP_RUNS, Rows, counter_rows
from klasy.bpf.insn import R0, R1, R2, R10, add, atomic_add, call, jump_if, load, load_map_value, lsh, mov, mul, store
from klasy.match.plan import MarkUse
from klasy.plain import TYPE_CHECKING
from klasy.record import COUNTER_UNMARKED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.compiler.ir import Operand
    from klasy.match.plan import Plan, Probe

_HELD = -8  # the stack's word for what must outlive the call
RUNS_SCRATCH = 8  # bytes


class Counters:
    """How a plan's join points are counted."""

    def __init__(self, plan: Plan, cpus: int) -> None:
        """``cpus``: as Options.cpus."""
        self._counters = counter_rows(cpus, len(plan.joinpoints))
        self._runs = Rows(cpus, len(plan.probes), 8)
        self._running = _shared(probe.joinpoints for probe in plan.probes)
        self._marking = _shared(_marked_by(plan, probe) for probe in plan.probes)

    def bump(self, e: Emitter, joinpoint: Operand, counter: int, *, shared: bool = False) -> None:
        """Add 1 to a counter of a join point. A call for the registers; takes 8 bytes of scratch.

        ``shared``: other programs do so too.
        """
        done = e.asm.fresh_label("counted")
        if isinstance(joinpoint, int):
            _own_row(e, MAP_COUNTERS, self._counters, joinpoint, done)
        else:
            e.asm.emit(store(R10, _HELD, e.register(joinpoint, R0)))
            _own_row(e, MAP_COUNTERS, self._counters, 0, done)
            e.asm.emit(load(R1, R10, _HELD), jump_if(R1, ">=", self._counters.entries, done))
            e.asm.emit(mul(R1, self._counters.width), add(R0, R1))
        several = self._marking if counter == COUNTER_UNMARKED else self._running
        if shared or (joinpoint in several if isinstance(joinpoint, int) else several):
            e.asm.emit(mov(R1, 1), atomic_add(R0, counter, R1))
        else:
            e.asm.emit(load(R1, R0, counter), add(R1, 1), store(R0, counter, R1))
        e.asm.label(done)

    def count_run(self, e: Emitter, probe: int) -> None:
        """Add 1 to the runs of a probe's program, as its first act: r1, the context, stays. Takes RUNS_SCRATCH."""
        done = e.asm.fresh_label("run")
        e.asm.emit(store(R10, _HELD, R1))
        _own_row(e, MAP_RUNS, self._runs, probe, done)
        e.asm.emit(load(R1, R0, 0), add(R1, 1), store(R0, 0, R1))
        e.asm.label(done)
        e.asm.emit(load(R1, R10, _HELD))


def _own_row(e: Emitter, map_name: str, rows: Rows, entry: int, otherwise: str) -> None:
    """r0 = the address of an entry in this CPU's row. For the verifier: a CPU without a row goes to ``otherwise``."""
    power = rows.row.bit_length() - 1
    to_row = lsh(R0, power) if rows.row == 1 << power else mul(R0, rows.row)
    e.asm.emit(call("get_smp_processor_id"), jump_if(R0, ">=", rows.cpus, otherwise), to_row)
    e.asm.emit(load_map_value(R2, map_name, entry * rows.width), add(R0, R2))


def _marked_by(plan: Plan, probe: Probe) -> set[int]:
    """Join points for which a probe's program writes marks."""
    return {joinpoint for ids in waiting_for(plan, probe).values() for joinpoint in ids}


def waiting_for(plan: Plan, probe: Probe) -> dict[int, tuple[int, ...]]:
    """For each of the addresses where a probe writes marks: the join points that will not run without the mark."""
    if probe.mark is not MarkUse.WRITE:
        return {}
    readers = [p for p in plan.probes if p.mark in {MarkUse.READ, MarkUse.TAKE} and p.role is probe.role]
    waiting: dict[int, tuple[int, ...]] = {}
    for point in probe.points:
        found = {
            arm.by_address[point.address]: None for p in readers for arm in p.arms if point.address in arm.by_address
        }
        waiting[point.address] = tuple(found)
    return waiting


def _shared(sets: Iterable[set[int]]) -> set[int]:
    """What is in more than one of the sets."""
    seen: set[int] = set()
    shared: set[int] = set()
    for ids in sets:
        shared |= seen & ids
        seen |= ids
    return shared
