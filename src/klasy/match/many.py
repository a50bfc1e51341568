"""Executions of thousands of functions: matched and planned at once as far as they are alike.

What comes out is what matching and planning one by one gives, which is done with all that is not alike.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.match.execution import BODY
from klasy.match.late import Late
from klasy.match.matched import Match
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Locator, MarkRole, MarkUse
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.match.signature import ALTERED
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.kernel.model import Function
    from klasy.lang.ast import Advice
    from klasy.match.conjunct import Conjunct
    from klasy.match.execution import ExecutionPlanner
    from klasy.match.matched import AdviceMatch, Outcome
    from klasy.match.matcher import AdviceMatcher
    from klasy.match.signature import Found, Resolved

_FOR_ALL = frozenset({"blacklist", "notrace"})  # codes of what closes a function to trampolines as it does to kprobes


def match_executions(
    matcher: AdviceMatcher, conjunct: Conjunct, functions: Mapping[int, Function], result: AdviceMatch
) -> None:
    """Match the executions of functions, those a conjunct may select.

    Whether the advice runs, and with what, follows from what its designators found of a function (prototype, named
    parameters), from where it lies, and from whether the compiler altered it: those of which all that is the same
    have one outcome.
    """
    looked_at, execution, executions = matcher.executed, JoinPointKind.EXECUTION, result.executions
    describe = _description(matcher)
    known: dict[object, tuple[Outcome | None, bool]] = {}
    for address, function in functions.items():
        if address in looked_at:
            continue
        looked_at.add(address)
        key = describe(address, function)
        if key not in known:
            known[key] = matcher.execution(function)
        outcome, altered = known[key]
        if outcome is not None:
            executions.append(Match(Shadow(execution, function, address), outcome))
        elif altered:
            matcher.note_unbound(Shadow(execution, function, address))


def _description(matcher: AdviceMatcher) -> Callable[[int, Function], tuple[object, ...]]:
    """What tells, for a function and its address, all that the designators of an advice ask of its execution."""
    leaves = enumerate(matcher.form.leaves)
    gets = [_getter(matcher.resolved[i]) for i, leaf in leaves if isinstance(leaf, ast.Execution)]
    asked, prototype = matcher.binder.asked, matcher.signatures.prototype
    arguments, where, bits = bool(matcher.args), bool(matcher.where), matcher.bits

    def describe(address: int, function: Function) -> tuple[object, ...]:
        parts: list[object] = [function.clone in ALTERED]
        for get in gets:
            found = get(address)
            parts += asked(found) if found is not None else (None,)
        if arguments:
            proto = prototype(function)
            parts.append(proto.key if proto is not None else None)
        if where:
            parts.append(bits(function))
        return tuple(parts)

    return describe


def _getter(resolved: Resolved) -> Callable[[int], Found | None]:
    """What a designator found at an address, quickly: of all functions these have been made by now."""
    found = resolved.found
    if isinstance(found, Late):
        found.all()
        return lambda address: dict.get(found, address)
    return found.get


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
