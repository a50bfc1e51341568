"""Pointcuts against a kernel: the join point shadows they select, and the plan of how to reach them. Emits no bytes."""

from __future__ import annotations

from klasy.match.options import Features, PlanOptions
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import Aspect
    from klasy.match.plan import Plan

__all__ = ["Features", "PlanOptions", "plan_aspect"]


def plan_aspect(aspect: Aspect, kernel: Kernel, options: PlanOptions | None = None) -> Plan:
    """Match an aspect and plan its weave. Raises InputError with all that is wrong; warnings are in the plan."""
    from klasy.diag import DiagnosticBag  # here: who weaves a plan that was made before needs nothing of all this
    from klasy.match.matcher import match_aspect
    from klasy.match.planner import make_plan

    bag = DiagnosticBag()
    matched = match_aspect(aspect, kernel, bag)
    bag.raise_if_errors()
    plan = make_plan(matched, options or PlanOptions(), bag)
    bag.raise_if_errors()
    return plan
