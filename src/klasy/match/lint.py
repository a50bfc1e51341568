"""What is suspicious or wrong about what a pointcut matches, and how it is said. Each finding has a name."""

from __future__ import annotations

from klasy.kernel.model import CallKind, Clone, Way
from klasy.lang import ast
from klasy.match.near import near
from klasy.match.pointcut import KERNEL_PROPER, MOST_SHADOWS
from klasy.match.shadow import JoinPointKind
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import CallSite, Function
    from klasy.match.conjunct import Conjunct
    from klasy.match.matched import AdviceMatch, Matched
    from klasy.match.matcher import AdviceMatcher
    from klasy.match.plan import JoinPoint, Unreached
    from klasy.source import Span

_SHOWN = 5
_MOST_LOOKED_UP = 50


def report_kinds(matcher: AdviceMatcher, conjunct: Conjunct) -> None:
    """An alternative that selects no kind of join point, or two at once."""
    kinds = {"a call": conjunct.calls, "an execution": conjunct.executions, "an access to data": conjunct.accesses}
    kinds |= {"an event": conjunct.events, "a system call": conjunct.syscalls, "an instruction": conjunct.places}
    selected = {kind: leaves[0] for kind, leaves in kinds.items() if leaves}
    if selected:
        matcher.bag.error(
            "matches-nothing",
            f"no join point is both {' and '.join(selected)}",
            _span_of(matcher, list(selected.values())),
            hints=["for both write '||'; for calls made in the body of a function: call(f) && within(g)"],
        )
        return
    literals = conjunct.literals
    if conjunct.args and not selected:
        span = matcher.leaf_span(conjunct.args[0])
        hints = ["say of what, as in: execution(tcp_*) && args(struct sock *sk, ..)"]
        matcher.bag.error(
            "no-join-point-kind", "'args' keeps calls and executions, and there is neither", span, hints=hints
        )
        return
    kinds_of = ast.Call | ast.Execution | ast.Event | ast.Syscall
    span = _span_of(matcher, [literal.leaf for literal in literals])
    negated = next(
        (
            matcher.form.leaves[literal.leaf]
            for literal in literals
            if not literal.positive and isinstance(matcher.form.leaves[literal.leaf], kinds_of)
        ),
        None,
    )
    if negated is not None:
        message = "this selects every join point there is but some: it needs a kind of them that is not negated"
        example = "execution(tcp_*) && !execution(tcp_ack)"
    else:
        message = "this keeps some of the join points that call or execution select, but there is neither"
        example = "call(kfree) && within(tcp_*)"
    matcher.bag.error("no-join-point-kind", message, span, hints=[f"say of what, as in: {example}"])


def report_unbound(matcher: AdviceMatcher, name: str, param: ast.Param) -> None:
    """A parameter that an access to data does not bind."""
    message = f"nothing in the pointcut binds '{name}'"
    if name in matcher.binder.elsewhere:
        message = f"'{name}' is what a control flow keeps: that can be bound at calls and executions, not at accesses"
    matcher.bag.error("unbound-parameter", message, param.span)


def report_too_many(count: int, advice: ast.Advice, bag: DiagnosticBag) -> None:
    """An advice with more join points than can sensibly be woven."""
    bag.error(
        "too-many-shadows",
        f"this matches {count} places; more than {MOST_SHADOWS} are not woven",
        advice.pointcut.span,
        hints=["narrow it: a longer name, the types of parameters, within(..) or withinmodule(..)"],
    )


def report_too_many_callees(count: int, span: Span, bag: DiagnosticBag) -> None:
    """A call of almost anything, from anywhere."""
    bag.error(
        "too-many-shadows",
        f"this matches the calls of {count} functions; more than {MOST_SHADOWS} places are not woven",
        span,
        hints=["narrow it: a longer name, the types of parameters, within(..) or withinmodule(..)"],
    )


def report_only_indirect(matcher: AdviceMatcher, result: AdviceMatch) -> None:
    """Calls of a function that nothing calls directly."""
    names = _listed([function.name for function in result.callees.values()])
    where = "" if result.unknown else " there"
    matcher.bag.warning(
        "only-indirect",
        f"no direct call of {names} was found{where}: what is seen are indirect calls",
        matcher.advice.pointcut.span,
    )


# --- pointcuts, and arms of them, that match nothing


def report_dead_arms(matcher: AdviceMatcher) -> None:
    """Designators of which no alternative that holds them matches anything."""
    alive: set[int] = set()
    for conjunct in matcher.conjuncts:
        if conjunct.hits or not conjunct.usable:
            alive.update(literal.leaf for literal in conjunct.literals)
    reported: set[int] = set()
    for conjunct in matcher.conjuncts:
        dead = {literal.leaf for literal in conjunct.literals} - alive
        if dead - reported:
            reported |= dead
            _report_empty(matcher, conjunct)


def _report_empty(matcher: AdviceMatcher, conjunct: Conjunct) -> None:
    if conjunct.report is not None:
        conjunct.report()
        return
    leaves = [literal.leaf for literal in conjunct.literals]
    span = _span_of(matcher, leaves)
    kinds = [*(conjunct.calls or conjunct.executions), *conjunct.args]
    dropped = next((matcher.binder.dropped[leaf] for leaf in kinds if leaf in matcher.binder.dropped), None)
    misfit = next((found for leaf in conjunct.args if (found := matcher.args[leaf].misfit) is not None), None)
    if misfit is not None and dropped is None:
        _report(
            matcher, misfit.span, "no function that is named here has such arguments", [f"for one, {misfit.message}"]
        )
    elif dropped is not None:
        _report(matcher, span, "no function fits the types that the advice declares", [f"for one, {dropped}"])
    elif conjunct.places:
        _report(matcher, span, "nothing is left of these instructions: all of them are excluded", [])
    elif conjunct.executions:
        _report_no_execution(matcher, conjunct, span)
    else:
        _report_no_call(matcher, conjunct, span)


def _report_no_execution(matcher: AdviceMatcher, conjunct: Conjunct, span: Span) -> None:
    functions = matcher.named(conjunct.executions)
    names = _listed([function.name for function in functions.values()])
    if not functions:
        pieces = [f for leaf in conjunct.executions for f in matcher.resolved[leaf].lies_in.values()]
        if pieces and all(f.clone is Clone.COLD for f in pieces):
            message = f"of that function only {_listed([f.name for f in pieces])} is left: a piece without an entry"
        else:
            message = "no function matches all of these at once"
        _report(matcher, span, message, [])
    elif conjunct.asks_where:
        hints = [f"{f.name} lies in {f.module or KERNEL_PROPER}" for f in list(functions.values())[:_SHOWN]]
        its = "that function, its source file and its module" if conjunct.files else "that function and its module"
        _report(
            matcher,
            span,
            f"{names} {_lie(len(functions))} elsewhere: the body of a function lies in {its}",
            hints if conjunct.modules else [],
        )
    else:
        _report(matcher, span, f"nothing is left of {names}: all of it is excluded", [])


def _report_no_call(matcher: AdviceMatcher, conjunct: Conjunct, span: Span) -> None:
    callees = matcher.named(conjunct.calls)
    if not callees:
        _report(matcher, span, "no function matches all of these at once", [])
        return
    names = _listed([function.name for function in callees.values()])
    everywhere = matcher.sites.callers(callees)
    hints = [_called_from(everywhere)] if everywhere else [f"no direct call of {names} was found anywhere"]
    if not conjunct.asks_where:
        _report(matcher, span, f"nothing is left of the calls of {names}: all of them are excluded", hints)
        return
    area = matcher.area(conjunct, False)
    place = "there"
    if area is not None:
        bases = list(dict.fromkeys(function.base for function in area.values()))
        place = f"in {_listed(bases)}" if bases else "in both"
        hints += _calls_made(matcher, area, callees)
    else:
        place = f"in {' and '.join(dict.fromkeys(matcher.module_globs(conjunct)))}" if conjunct.modules else "there"
    _report(matcher, span, f"{names} {'is' if len(callees) == 1 else 'are'} not called {place}", hints)


def _called_from(sites: Sequence[CallSite]) -> str:
    counts: dict[str, int] = {}
    for site in sites:
        counts[str(site.caller)] = counts.get(str(site.caller), 0) + 1
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    shown = ", ".join(ranked[:_SHOWN]) + (", .." if len(ranked) > _SHOWN else "")
    if len(sites) == 1:
        return f"it is called in 1 place, in {shown}"
    return f"it is called in {len(sites)} places: in {shown}"


def _calls_made(matcher: AdviceMatcher, area: dict[int, Function], callees: dict[int, Function]) -> Iterable[str]:
    """What the functions of a ``within`` do call: the near misses first."""
    if sum(function.size for function in area.values()) > 0x10000:
        return
    made = matcher.sites.calls_in(area)
    direct = {site.callee.base for site in made if site.callee is not None}
    close = [name for callee in callees.values() for name in near(callee.base, direct)]
    if close:
        yield f"called there is {_listed(list(dict.fromkeys(close)))}"
    elif direct:
        yield f"called there are {_listed(sorted(direct))}"
    indirect = sum(site.kind is CallKind.INDIRECT for site in made)
    if indirect:
        yield (
            f"{indirect} indirect call{'s are' if indirect != 1 else ' is'} made there too; a call pointcut without "
            "'within' sees those that reach it"
        )
    if not made:
        yield "no call at all is made there"
    for callee in callees.values():
        if callee.clone is Clone.PART:
            yield f"{callee.name} is the rest of {callee.base}, whose beginning was inlined: such calls cannot be seen"
    known = [function for callee in callees.values() for function in matcher.kernel.inlined(callee.base)]
    copies = sum([len(function.copies) for function in known])
    if copies:
        yield f"it was inlined in {copies} place{'s' * (copies > 1)}, elsewhere"
    else:
        inlined = "a call that the compiler inlined is none any more"
        yield f"{inlined}: where there were some, only debug information could tell"


def _report(matcher: AdviceMatcher, span: Span, message: str, hints: Iterable[str]) -> None:
    matcher.bag.error("matches-nothing", message, span, hints=list(hints))


# --- join points that no probe reaches


def report_unreached(
    matched: Matched, joinpoints: Sequence[JoinPoint], unreached: Sequence[Unreached], bag: DiagnosticBag
) -> None:
    """A warning for each advice that misses some of its join points, an error for one that has none left."""
    reached = {joinpoint.advice for joinpoint in joinpoints}
    for match in matched.advice:
        missed = [each for each in unreached if each.advice == match.advice.index]
        if not missed:
            continue
        span = match.advice.pointcut.span
        reasons: dict[str, list[Unreached]] = {}
        for each in missed:
            reasons.setdefault(each.reason, []).append(each)
        if match.advice.index not in reached:
            message = "nothing of this can be woven"
            named = len(missed) == 1 and missed[0].shadow.kind is JoinPointKind.EXECUTION
            if len(reasons) == 1:
                message += f": {missed[0].reason}"
            hints = [] if named and len(reasons) == 1 else _reasons(reasons)
            bag.error("cannot-be-probed", message, span, hints=[*hints, *_remedies(matched, missed)])
            continue
        missed = [each for each in missed if each.code != "does-not-return"]
        if missed:
            count = f"{len(missed)} of the matched places" if len(missed) > 1 else "one of the matched places"
            hints = _reasons({reason: some for reason, some in reasons.items() if some[0].code != "does-not-return"})
            bag.warning("unreached", f"{count} cannot be woven into", span, hints=hints)


def _reasons(reasons: dict[str, list[Unreached]]) -> list[str]:
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1]))
    shown = [f"{_listed([_place_of(each) for each in some])}: {reason}" for reason, some in ranked[:_SHOWN]]
    if len(ranked) > _SHOWN:
        shown.append(f"and {sum(len(some) for _, some in ranked[_SHOWN:])} places for other reasons")
    return shown


def _place_of(each: Unreached) -> str:
    shadow = each.shadow
    if shadow.function is None:
        return f"indirect calls of {shadow.callee}" if shadow.callee else "indirect calls"
    if not shadow.offset and shadow.callee is None:
        return str(shadow.function)
    place = f"{shadow.function}+{shadow.offset:#x}"
    return f"{place} ({shadow.callee})" if each.code == "altered-abi" else place


def _remedies(matched: Matched, missed: Sequence[Unreached]) -> list[str]:
    """What else could be woven in place of what cannot."""
    functions = {e.shadow.function.address: e.shadow.function for e in missed if e.shadow.function is not None}
    if missed[0].code == "altered-abi":
        return ["without parameters (and returning) the advice can be woven"]
    if missed[0].code == "cannot-deny":
        from klasy.match.around import HINT

        return [HINT]
    if missed[0].code == "inlined":
        return []
    if missed[0].code == "noreturn":
        return ["what is before it can be woven: before()"]
    if missed[0].shadow.kind is JoinPointKind.EXECUTION:
        if len(functions) <= _MOST_LOOKED_UP:
            sites = matched.sites.callers(functions)
            if sites:
                places = f"{len(sites)} places" if len(sites) > 1 else "1 place"
                called = dict.fromkeys(site.callee.base for site in sites if site.callee is not None)
                calls = " || ".join(f"call({base})" for base in list(called)[:2])
                return [f"its callers can be woven into instead: {calls} matches {places}"]
        return []
    callees = {e.shadow.callee.address: e.shadow.callee for e in missed if e.shadow.callee is not None}
    bases = {callee.base for callee in callees.values()}
    if len(bases) == 1 and all(matched.kernel.refusal(a, f, Way.FENTRY) is None for a, f in callees.items()):
        return [f"the body of the callee can be woven into instead: execution({bases.pop()})"]
    return []


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _lie(count: int) -> str:
    return "lies" if count == 1 else "lie"


def _span_of(matcher: AdviceMatcher, leaves: Sequence[int]) -> Span:
    """From the first to the last of some designators, if they stand together; else the first."""
    spans = [matcher.leaf_span(leaf) for leaf in leaves]
    whole = matcher.advice.pointcut.span
    first = spans[0]
    for span in spans[1:]:
        if span.file is not first.file or not (whole.start <= span.start and span.end <= whole.end):
            return spans[0]
        first = first.to(span)
    return first
