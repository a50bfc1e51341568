"""How often a probe's program has run: told by the hits of its join points, or to be counted by itself.

That number less the kernel's own of the probe's hits is what the program was refused, where the kernel does not count
that (:mod:`klasy.weaver.counts`).
"""

from __future__ import annotations

from klasy.match.mechanism import Mechanism
from klasy.match.plan import Locator, MarkUse
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.match.plan import Plan, Probe


def must_count(plan: Plan, probe: Probe) -> bool:
    """Whether only a counter of its own tells how often the program of a kernel probe event has run.

    Of one that takes notes it is not asked: whoever missed it has missed the probe at the access, too.
    """
    if probe.takes_notes:
        return False
    return probe.mechanism in (Mechanism.KPROBE, Mechanism.KRETPROBE) and None in whole(plan, probe)


def whole(plan: Plan, probe: Probe) -> list[list[int] | None]:
    """For each point, the join points whose hits add up to the runs of the program there; None where none do.

    They do where an advice runs at every hit, without a condition of its own, and whoever runs.
    """
    if probe.condition is not None or plan.filter:
        return [None] * len(probe.points)
    unconditional = [arm for arm in probe.arms if arm.guard is None]
    if not unconditional:
        return [None] * len(probe.points)
    if probe.locator is Locator.ADDRESS:
        at = [[arm.by_address.get(point.address) for arm in unconditional] for point in probe.points]
        return [next(([i] for i in ids if i is not None), None) for ids in at]
    for arm in unconditional:
        if probe.locator is Locator.FIXED:
            return [sorted(arm.by_address.values())]
        if probe.locator is not Locator.DISPATCH or arm.otherwise is None:
            continue
        if _marked(plan, probe) <= set(arm.by_address):
            return [sorted({*arm.joinpoints})]
    return [None] * len(probe.points)


def _marked(plan: Plan, probe: Probe) -> set[int]:
    """Where the marks are written that the probe may find."""
    if probe.mark is MarkUse.NONE:
        return set()
    writers = (p for p in plan.probes if p.mark is MarkUse.WRITE and p.role == probe.role)
    return {point.address for writer in writers for point in writer.points}
