"""Executions of thousands of functions: matched and planned at once as far as they are alike.

What comes out is what matching and planning one by one gives, which is done with all that is not alike.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.match.execution import BODY
from klasy.match.matched import Match
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Locator, MarkRole, MarkUse
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.match.signature import ALTERED
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.kernel.model import Function
    from klasy.lang.ast import Advice
    from klasy.match.conjunct import Conjunct
    from klasy.match.execution import ExecutionPlanner
    from klasy.match.matched import AdviceMatch, Outcome
    from klasy.match.matcher import AdviceMatcher

_FOR_ALL = frozenset({"blacklist", "notrace"})  # codes of what closes a function to trampolines as it does to kprobes


def match_executions(
    matcher: AdviceMatcher, conjunct: Conjunct, functions: Mapping[int, Function], result: AdviceMatch
) -> bool:
    """Match the executions of functions; whether that was done: only one designator may ask something of them.

    Then whether the advice runs, and with what, follows from what the signature found: functions of which it found
    the same (prototype, named parameters) and which are altered by the compiler alike have one outcome.
    """
    asking = [literal for literal in conjunct.literals if not isinstance(matcher.form.leaves[literal.leaf], ast.If)]
    alone = len(matcher.conjuncts) == len(asking) == len(conjunct.executions) == 1
    if not alone or matcher.flows is not None or matcher.advice.returning is not None:
        return False
    leaf = conjunct.executions[0]
    found, execution, executions = matcher.resolved[leaf].found, JoinPointKind.EXECUTION, result.executions
    known: dict[object, tuple[Outcome | None, bool]] = {}
    for address, function in functions.items():
        _, prototype, named = found[address]
        key = id(named), prototype.key if prototype is not None else None, function.clone in ALTERED
        if key not in known:
            known[key] = matcher.outcome(False, function, ()), matcher.cannot_bind(function)
        outcome, altered = known[key]
        shadow = Shadow(execution, function, address)
        if outcome is not None:
            executions.append(Match(shadow, outcome))
        elif altered:
            matcher.note_unbound(shadow)
    return True


def plan_befores(
    executions: ExecutionPlanner, todo: list[tuple[Advice, Match]], writers: set[int]
) -> list[tuple[Advice, Match]]:
    """Plan before advice by kprobes where the entry takes one; those that are left to be planned one by one."""
    functions = {match.shadow.address: match.shadow.function for _, match in todo}
    refusals = executions.kernel.entry_refusals([f for f in functions.values() if f is not None])
    executions.know_entries(refusals)
    bodies, flows = executions.bodies, executions.flow_places
    mechanism = Mechanism.KPROBE_MULTI if executions.multi else Mechanism.KPROBE
    kinds = [
        Kind(mechanism, Context.ENTRY, Locator.ADDRESS, mark, MarkRole.ENTRY) for mark in (MarkUse.NONE, MarkUse.WRITE)
    ]
    alike: dict[tuple[int, int, int], tuple[Kind, Advice, list[Match], list[int]]] = {}
    rest = []
    for one in todo:
        advice, match = one
        address = match.shadow.address
        refusal = refusals[address]
        if refusal is not None and refusal.code in _FOR_ALL and address not in flows:
            executions.planner.unreached(advice, match.shadow, refusal)
            continue
        if refusal is not None or address in flows:
            rest.append(one)
            continue
        body = bodies.get(address)
        kind = BODY if body is not None else kinds[address in writers]
        key = id(kind), advice.index, id(match.outcome)
        if key not in alike:
            alike[key] = kind, advice, [], []
        _, _, matches, places = alike[key]
        matches.append(match)
        places.append(address if body is None else body)
    for kind, advice, matches, places in alike.values():
        why = executions.why_body() if kind is BODY else executions.why_kprobe("fentry", None)
        executions.planner.probes.executions(kind, advice, matches, places, why)
    return rest
