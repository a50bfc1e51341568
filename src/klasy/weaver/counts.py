"""Hits, lost and missed, apart, for each join point.

    hits      the advice ran (its pointcut held, run-time part included)
    lost      a log of it found no room in the ring buffer
    unmarked  control reached the join point, but what ties its two ends together could not be kept
    missed    a probe of it was reached while the CPU was in another probe, so no program ran

The first three are counted by the programs, in a per-CPU map. What was missed only the kernel knows, and it counts by
probe point or by program; which join points a point serves, the registry entry says (:mod:`klasy.weaver.attribution`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klasy.plain import dataclass
from klasy.record import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
