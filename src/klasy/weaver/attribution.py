"""Which join points a probe's points serve: whom a missed hit concerns. For the registry entry, from the plan alone."""

from __future__ import annotations

from klasy.match.mechanism import Context
from klasy.match.plan import MarkUse
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.match.plan import JoinPoint, Plan, Probe


def served(plan: Plan, probe: Probe) -> list[list[int]]:
    """The ids of the join points that miss a hit when a point of the probe does, for each of its points."""
    if probe.context in (Context.MEMBER, Context.ACCESSED):
        return [sorted({ids[p.address] for ids in probe.places if p.address in ids}) for p in probe.points]
    ids = probe.joinpoints
    body = probe.context is Context.BODY  # its points lie a little behind the join points
    places = [point.function.address if body else point.address for point in probe.points]
    at: dict[int, set[int]] = {address: set() for address in places}
    _sort_in((plan.joinpoints[i] for i in ids), at)
    if probe.mark is MarkUse.WRITE:
        # A mark that is not written is a hit less for whoever would have read it.
        readers = (p for p in plan.probes if p.mark in (MarkUse.READ, MarkUse.TAKE) and p.role == probe.role)
        _sort_in((plan.joinpoints[i] for reader in readers for i in reader.joinpoints), at)
    everyone = sorted(ids)
    return [sorted(at[address]) or everyone for address in places]


def _sort_in(joinpoints: Iterable[JoinPoint], at: dict[int, set[int]]) -> None:
    """Put join points under those addresses at which a probe sees them: their own, behind the call, the callee's."""
    for joinpoint in joinpoints:
        shadow = joinpoint.shadow
        if shadow.address in at:
            at[shadow.address].add(joinpoint.id)
        if shadow.callee is not None and shadow.callee.address in at:
            at[shadow.callee.address].add(joinpoint.id)
        if shadow.site is not None and shadow.site.return_address in at:
            at[shadow.site.return_address].add(joinpoint.id)
