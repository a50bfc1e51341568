"""Hits, lost and missed, apart, for each join point.

    hits      the advice ran (its pointcut held, run-time part included)
    lost      a log of it found no room in the ring buffer
    unmarked  control reached the join point, but what ties its two ends together could not be kept
    missed    a probe of it was reached while the CPU was in another probe, so no program ran

The first three are counted by the programs, on each CPU apart. What was missed only the kernel knows, and it counts by
probe point or by program; which join points a point serves, the registry entry says (:mod:`klasy.weaver.attribution`).

A kprobe is missed in two ways. Either the CPU is in another kprobe's handler: the kernel counts that at each point
(nmissed). Or the handler runs, but a BPF program of that kind, or a map's update by bpf(2), is under way on the CPU:
the program is refused. From 6.7 on the program counts that (recursion_misses). Before, it shows only as a difference:
between the kernel's hits at the point and ours, where an advice runs without a condition; else between the kernel's
hits at all points of the probe and the runs that its program counts (the map ``runs``). The kernel's are read first,
and counted from a base read just after the switching on, so that the difference is never too large.
"""

from __future__ import annotations

from klasy.backend.artifact import counter_rows
from klasy.plain import TYPE_CHECKING, dataclass, field
from klasy.record import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from klasy.backend.artifact import Rows
    from klasy.weaver.tracefs import SiteCount


# Of match.plan.Mechanism, which need not be imported: where only the program can tell what was missed.
_BY_PROGRAM = frozenset(("kprobe.multi", "kretprobe.multi", "trace event"))


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted at one join point.

    ``partly``: this kernel does not count all that may be missed here, so it may have been more. ``shared``: the probe
    that missed hits serves other join points too (one probe at a callee's entry for all its callers), so the missed
    hits may have been theirs. ``part`` is what falls to this join point if each miss is spread over all it may have
    been of: these add up (:func:`missed_in_all`), ``missed`` does not. ``undecided`` are those of the hits of which it
    is not known that they were accesses of the join point's kind (data join points only). ``left_out``: hits in which
    sample or limit ended the advice. ``cut``: loops that their bound ended. ``denied``: hits
    at which around advice refused.
    """

    hits: int
    lost: int
    unmarked: int
    missed: int
    partly: bool = False
    shared: bool = False
    part: float = field(default=0.0, compare=False)
    undecided: int = 0
    left_out: int = 0
    cut: int = 0
    denied: int = 0


def missed_in_all(counts: Iterable[Count]) -> int:
    """What was missed at all join points together, each miss counted once."""
    return round(sum(count.part for count in counts))


def sum_counters(words: Sequence[int], joinpoints: int) -> list[tuple[int, ...]]:
    """What the programs counted of each join point, in the order of record.COUNTERS. ``words``: of MAP_COUNTERS."""
    totals = sum_rows(words, counter_rows(1, joinpoints))
    width = COUNTERS.size // 8
    return [tuple(totals[at : at + width]) for at in range(0, joinpoints * width, width)]


def sum_rows(words: Sequence[int], rows: Rows) -> list[int]:
    """The words of all CPUs' rows, added up. ``rows``: of any number of CPUs."""
    row = rows.row // 8
    return list(map(sum, zip(*(words[at : at + row] for at in range(0, len(words), row)), strict=True)))


def combine(
    own: Sequence[tuple[int, ...]],
    document: Mapping[str, Any],
    profile: Mapping[int, Sequence[SiteCount]],
    base: Mapping[int, Sequence[int]],
    refused: Mapping[int, int],
    *,
    runs: Mapping[int, int] | None = None,
) -> list[Count]:
    """The counts of each join point: the programs' own, and what was missed.

    ``document`` is the registry entry. ``profile`` has the kernel's counts for each point of each kernel probe event
    and ``base`` its hits when the aspect was switched on, both by the event's number; ``refused`` the hits that
    programs counted as refused, and ``runs`` how often those that count it have run, by the probe's index.
    """
    runs = runs or {}
    tally = _Tally([0] * len(own), [False] * len(own), [False] * len(own), [0.0] * len(own))
    for index, probe in enumerate(document["probes"]):
        if probe.get("takes_notes"):
            continue  # what was missed there was missed at the access already
        points: list[list[int]] = probe["joinpoints"]
        by_program = refused.get(index, 0)
        by_point = [0] * len(points)
        unseen: list[list[int]] = []  # what the points serve where the hits of no join point tell the runs
        event = probe["event"]
        if event is not None:
            sites = profile.get(event, ())
            tally.add(points, [site.misses for site in sites])
            passed = [site.hits - before for site, before in zip(sites, base.get(event, ()), strict=False)]
            for at, (hits, whole) in enumerate(zip(passed, probe["whole"], strict=False)):
                if whole is not None:
                    by_point[at] = max(0, hits - sum(own[i][0] for i in whole))
            if not document["counts_refused"]:
                unseen = [ids for ids, whole in zip(points, probe["whole"], strict=True) if whole is None]
                if index not in runs or event not in base:
                    tally.leave_open(unseen if event in base else points)
        elif probe.get("mechanism") in _BY_PROGRAM and not document["counts_refused"]:
            tally.leave_open(points)
        if unseen and index in runs and event in base:
            tally.add(points, by_point)
            rest = max(0, sum(passed) - runs[index] - sum(by_point))
            tally.add([sorted({i for ids in unseen for i in ids})], [rest])
        elif sum(by_point) > by_program:
            tally.add(points, by_point)
        else:
            tally.add([sorted({i for ids in points for i in ids})], [by_program])
    columns = zip(own, tally.missed, tally.partly, tally.shared, tally.part, strict=True)
    found = []
    for (hits, lost, unmarked, *more), missed, partly, shared, part in columns:
        left_out, cut, denied = more or (0, 0, 0)
        found.append(Count(hits, lost, unmarked, missed, partly, shared, part, 0, left_out, cut, denied))
    return found


@dataclass(slots=True)
class _Tally:
    """Misses of each join point so far."""

    missed: list[int]
    partly: list[bool]
    shared: list[bool]
    part: list[float]

    def add(self, points: Sequence[Sequence[int]], counts: Iterable[int]) -> None:
        """What was missed at points, each of which serves some join points."""
        for ids, count in zip(points, counts, strict=False):
            for i in ids if count else ():
                self.missed[i] += count
                self.shared[i] = self.shared[i] or len(ids) > 1
                self.part[i] += count / len(ids)

    def leave_open(self, points: Iterable[Sequence[int]]) -> None:
        """More may have been missed at points."""
        for ids in points:
            for i in ids:
                self.partly[i] = True
