"""The maps of an aspect that do not depend on one program."""

from __future__ import annotations

from klasy.backend.artifact import (
    CONTROL_SIZE,
    MAP_CALLS,
    MAP_CONTROL,
    MAP_COUNTERS,
    MAP_EVENTS,
    MAP_LIMITS,
    MAP_MARKS,
    MAP_NOTES,
    MAP_NUMBERS,
    MAP_RUNS,
    MAP_UNKNOWN,
    MARK_KEY_SIZE,
    MARK_SIZE,
    MapSpec,
    Rows,
    counter_rows,
)
from klasy.bpf.uapi import BPF_F_MMAPABLE
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from klasy.match.filter import Filter
    from klasy.match.plan import Plan


@dataclass(frozen=True, slots=True)
class Budget:
    """How much time an aspect may take: ``percent`` of all CPUs together, in each second; ``cpus`` is their number."""

    percent: float
    cpus: int

    @property
    def window(self) -> int:
        """Nanoseconds of all CPUs together in a second."""
        return int(self.percent * 10_000_000 * self.cpus)

    @property
    def part(self) -> int:
        """Nanoseconds that a CPU hands over at a time; see backend/bytecode/budget.py."""
        return max(1, self.window // self.cpus // 16)


@dataclass(frozen=True, slots=True)
class Options:
    """How large an aspect's maps are, and what is counted.

    ``ring_bytes`` is a power of two and a multiple of the page size. ``marks`` is how many calls can be under way at
    once whose return is waited for, ``notes`` how many accesses to members. ``keys`` is how many keys each state can
    have. ``count_runs``: programs count their runs where nothing else tells them: for kernels that do not count what a
    kprobe's program is refused. ``filter``: whose hits count. ``budget``: how much time it may take. ``cpus``: the
    number that those of all CPUs are below, of the kernel that is built for (klasy.weaver.build sees to that): on
    others nothing would be counted.
    """

    ring_bytes: int = 1 << 20
    marks: int = 16384
    notes: int = 4096
    unknown: int = 1024
    keys: int = 4096
    count_runs: bool = False
    filter: Filter | None = None
    budget: Budget | None = None
    cpus: int = 64


def shared_maps(plan: Plan, used: frozenset[str], options: Options, limits: int = 0) -> list[MapSpec]:
    """Those that every aspect has, and of the others those in ``used``. ``limits``: buckets."""
    specs = [
        MapSpec(MAP_EVENTS, "ringbuf", 0, 0, options.ring_bytes),
        _rows(MAP_COUNTERS, counter_rows(options.cpus, len(plan.joinpoints))),
        MapSpec(MAP_CONTROL, "array", 4, CONTROL_SIZE, 1),
    ]
    if MAP_MARKS in used:
        specs.append(MapSpec(MAP_MARKS, "hash", MARK_KEY_SIZE, MARK_SIZE, options.marks))
    if MAP_NOTES in used:
        from klasy.backend.bytecode.notes import note_map

        specs.append(note_map(plan, options.notes))
    if MAP_RUNS in used:
        specs.append(_rows(MAP_RUNS, Rows(options.cpus, len(plan.probes), 8)))
    if MAP_LIMITS in used:
        specs.append(MapSpec(MAP_LIMITS, "array", 4, 8 * limits, 1))
    if MAP_UNKNOWN in used:
        specs.append(MapSpec(MAP_UNKNOWN, "hash", 8, 8, options.unknown))
    if MAP_CALLS in used or MAP_NUMBERS in used:
        from klasy.backend.bytecode.syscalls import call_maps

        specs += call_maps(plan, options.marks, used)
    if plan.flows is not None:
        from klasy.backend.bytecode.flows import flow_maps

        specs += flow_maps(plan.flows, options.marks)
    if any(probe.watch is not None for probe in plan.probes):
        from klasy.backend.bytecode.watch import watch_maps

        specs += watch_maps(plan)
    if any(probe.watch is not None and probe.watch.per_object for probe in plan.probes):
        from klasy.backend.bytecode.objects import object_maps

        specs += object_maps(plan)
    return specs


def _rows(name: str, rows: Rows) -> MapSpec:
    """A map of rows. What can be mapped begins at a page, so that cache lines are where the rows have them."""
    return MapSpec(name, "array", 4, rows.size, 1, BPF_F_MMAPABLE)
