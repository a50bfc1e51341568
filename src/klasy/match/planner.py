"""The plan of a weave: what each matched join point is reached by.

The choice follows from the matched shadows, what the kernel refuses, and the options; ``why`` says it in words. What
no probe reaches is kept, with the kernel's reason, and told as a warning, or as an error where nothing is left.
"""

from __future__ import annotations

from klasy.kernel.model import Refusal
from klasy.match.calls import CallPlanner
from klasy.match.execution import ExecutionPlanner, runs_under_lock
from klasy.match.plan import Plan, Unreached
from klasy.match.probes import ProbeSet
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from klasy.diag import DiagnosticBag
    from klasy.lang.ast import Advice
    from klasy.match.matched import Matched
    from klasy.match.options import PlanOptions
    from klasy.match.plan import SyscallPlan
    from klasy.match.shadow import Shadow

MANY_POINTS = 2_000


def make_plan(matched: Matched, options: PlanOptions, bag: DiagnosticBag) -> Plan:
    """The plan for what an aspect matched. Errors go to the bag: the plan is then not to be used."""
    return Planner(matched, options, bag).plan()


class Planner:
    """What the planners of the kinds of join points share."""

    def __init__(self, matched: Matched, options: PlanOptions, bag: DiagnosticBag) -> None:
        self.matched = matched
        self.kernel = matched.kernel
        self.options = options
        self.bag = bag
        self.probes = ProbeSet()
        self.syscalls: SyscallPlan | None = None
        self._unreached: list[Unreached] = list(matched.unreached)
        self.executions = ExecutionPlanner(self)

    def plan(self) -> Plan:
        """Plan everything."""
        self.executions.plan()
        CallPlanner(self).plan()
        if any(match.accesses for match in self.matched.advice):
            from klasy.match.accesses import plan_accesses

            plan_accesses(self)
        if any(match.members for match in self.matched.advice):
            from klasy.match.memberplan import plan_members

            plan_members(self)
        if any(match.inlined for match in self.matched.advice):
            from klasy.match.inlined import plan_inlined

            plan_inlined(self)
        if any(match.events for match in self.matched.advice):
            from klasy.match.events import plan_events

            plan_events(self)
        if any(match.places for match in self.matched.advice):
            from klasy.match.places import plan_places

            plan_places(self)
        if self.matched.flows is not None:
            from klasy.match.cflow import check_reached

            self._unreached = check_reached(self.matched, self._unreached, self.bag)
        joinpoints, probes = self.probes.build()
        if any(p.watch or any(runs_under_lock(point.function) for point in p.points) for p in probes):
            from klasy.match.nesting import refuse_nesting

            refuse_nesting(self.matched.aspect, probes, self.kernel, self.bag)
        if self._unreached:
            from klasy.match import lint

            lint.report_unreached(self.matched, joinpoints, self._unreached, self.bag)
        self._warn_of_many(sum(len(probe.points) for probe in probes))
        unreached = sorted(self._unreached, key=lambda each: (each.advice, each.shadow.address))
        untyped = {
            address for match in self.matched.advice for address in match.untyped - {at for at, _ in match.members}
        }
        diagnostics, flows = tuple(self.bag.items), self.matched.flows
        facts = self.syscalls
        plan = Plan(self.matched.aspect, joinpoints, probes, tuple(unreached), diagnostics, len(untyped))
        return replace(plan, flows=flows, syscalls=facts) if flows is not None or facts is not None else plan

    def unreached(self, advice: Advice, shadow: Shadow, refusal: Refusal) -> None:
        """Note a shadow that no probe reaches."""
        self._unreached.append(Unreached(advice.index, shadow, refusal.code, refusal.reason))

    def _warn_of_many(self, points: int) -> None:
        """An aspect that slows much of the kernel."""
        if points > MANY_POINTS:
            self.bag.warning(
                "too-many-shadows",
                f"this aspect puts probes at {points} places: weaving takes long, and the kernel gets slower",
                self.matched.aspect.name_span,
                hints=["fewer members, or within(..), narrow it"]
                if any(m.members for m in self.matched.advice)
                else [],
            )
