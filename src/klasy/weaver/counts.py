"""Hits, lost and missed, apart, for each join point.

    hits      the advice ran (its pointcut held, run-time part included)
    lost      a log of it found no room in the ring buffer
    unmarked  control reached the join point, but what ties its two ends together could not be kept
    missed    a probe of it was reached while the CPU was in another probe, so no program ran

The first three are counted by the programs, in a per-CPU map. What was missed only the kernel knows, and it counts by
probe point or by program; which join points a point serves says :func:`served`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klasy.match.plan import Locator, MarkUse
from klasy.plain import dataclass
from klasy.record import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from klasy.match.plan import JoinPoint, Plan, Point, Probe
    from klasy.weaver.tracefs import SiteCount


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted at one join point.

    ``missed`` is None where this kernel cannot tell. ``shared``: the probe that missed hits serves other join points
    too (one probe at a callee's entry for all its callers), so the missed hits may have been theirs.
    """

    hits: int
    lost: int
    unmarked: int
    missed: int | None
    shared: bool = False


def sum_counters(values: Iterable[Sequence[bytes]]) -> list[tuple[int, int, int]]:
    """Hits, lost and unmarked of each join point, from the values of all CPUs of each."""
    totals = []
    for each_cpu in values:
        hits = lost = unmarked = 0
        for value in each_cpu:
            h, ls, un = COUNTERS.unpack(value[: COUNTERS.size])
            hits, lost, unmarked = hits + h, lost + ls, unmarked + un
        totals.append((hits, lost, unmarked))
    return totals


def served(plan: Plan, probe: Probe) -> list[list[int]]:
    """The ids of the join points that miss a hit when a point of the probe does, for each of its points."""
    ids = _arm_ids(probe)
    if probe.mark is MarkUse.WRITE:
        readers = (p for p in plan.probes if p.mark in (MarkUse.READ, MarkUse.TAKE) and p.role == probe.role)
        for reader in readers:
            ids |= {i for i in _arm_ids(reader) if any(_lies_at(plan.joinpoints[i], p) for p in probe.points)}
    result = []
    for point in probe.points:
        here = sorted(i for i in ids if _lies_at(plan.joinpoints[i], point))
        result.append(here or sorted(ids))
    return result


def _arm_ids(probe: Probe) -> set[int]:
    ids: set[int] = set()
    for arm in probe.arms:
        ids.update(arm.by_address.values(), arm.by_return_address.values())
        if arm.otherwise is not None:
            ids.add(arm.otherwise)
    return ids


def _lies_at(joinpoint: JoinPoint, point: Point) -> bool:
    """Whether a probe at the point is one of those that see the join point."""
    shadow = joinpoint.shadow
    if point.address in (shadow.address, shadow.callee.address if shadow.callee else None):
        return True
    return shadow.site is not None and shadow.site.return_address == point.address


def unguarded(probe: Probe) -> list[list[int] | None]:
    """For each point, the join points whose hits add up to the runs of the program there; None where none do.

    They do where an advice runs at every hit, without a condition of its own.
    """
    result: list[list[int] | None] = []
    for point in probe.points:
        whole: list[int] | None = None
        for arm in probe.arms:
            if arm.guard is not None or probe.condition is not None:
                continue
            if probe.locator is Locator.FIXED:
                whole = sorted(arm.by_address.values())
            elif probe.locator is Locator.ADDRESS and point.address in arm.by_address:
                whole = [arm.by_address[point.address]]
            elif probe.locator is Locator.DISPATCH and probe.mark is MarkUse.NONE and arm.otherwise is not None:
                whole = sorted({*arm.by_return_address.values(), arm.otherwise})
        result.append(whole)
    return result


def combine(
    own: Sequence[tuple[int, int, int]],
    probes: Sequence[Mapping[str, Any]],
    profile: Mapping[int, Sequence[SiteCount]],
    refused: Mapping[int, int],
) -> list[Count]:
    """The counts of each join point: the programs' own, and what was missed.

    ``probes`` are those of the registry entry. ``profile`` has the kernel's counts for each point of each kernel probe
    event, ``refused`` the hits that were refused to the program of a probe, by the probe's index.
    """
    missed = [0] * len(own)
    shared = [False] * len(own)
    for index, probe in enumerate(probes):
        points: list[list[int]] = probe["joinpoints"]
        by_point = [site.misses for site in profile.get(probe["event"], ())] if probe["event"] is not None else []
        for ids, count in zip(points, by_point, strict=False):
            for i in ids if count else ():
                missed[i] += count
                shared[i] = shared[i] or len(ids) > 1
        count = refused.get(index, 0)
        everyone = sorted({i for ids in points for i in ids}) if count else ()
        for i in everyone:
            missed[i] += count
            shared[i] = shared[i] or len(everyone) > 1
    return [Count(*numbers, missed[i], shared[i]) for i, numbers in enumerate(own)]
