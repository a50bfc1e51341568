"""``execution(f)`` and ``call(f)`` where ``f`` was inlined: its copies, as debug information tells, each by a kprobe.

A copy is where ``f`` runs, and where it would be called: an execution to the one, a call to the other.

The compiler keeps no calling convention there: a parameter is where debug information says that it is at that very
instruction, and a copy of which it does not say is not reached. Nothing is seen of a copy's end.
"""

from __future__ import annotations

from klasy.btf.btf import Btf
from klasy.btf.types import Enum, Func, FuncProto, Fwd, Int, Param, Ptr, Struct, Type, Typedef, Union
from klasy.btf.write import write
from klasy.kernel.model import Clone, Function, Refusal, Way
from klasy.lang import ast
from klasy.match.glob import is_glob, matches
from klasy.match.matched import Match, Outcome
from klasy.match.plan import Argument, Binding, Located, Unreached
from klasy.match.prototype import Checker, Prototype, says_types
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.match.signature import Found
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.kernel.inlined import Copy, Inlined
    from klasy.kernel.model import Kernel
    from klasy.match.conjunct import Conjunct
    from klasy.match.matched import AdviceMatch
    from klasy.match.matcher import AdviceMatcher
    from klasy.match.planner import Planner

_CLASSES: dict[str, tuple[type[Type], ...]] = {
    "struct": (Struct,),
    "union": (Union,),
    "enum": (Enum,),
    "": (Typedef, Int),
}
_NO_END = {
    ast.AdviceKind.AFTER: "an inlined copy ends where nothing tells: only 'before' can run there",
    ast.AdviceKind.AROUND: "an inlined copy cannot be decided about: there is no call that could be refused",
}


def match_inlined(matcher: AdviceMatcher, conjunct: Conjunct, leaves: list[int], result: AdviceMatch) -> None:
    """Match the inlined copies of the function that a conjunct's ``execution``, or ``call``, designators name."""
    signatures = {leaf: matcher.signature(leaf) for leaf in leaves}
    exact = [signature.name for signature in signatures.values() if not is_glob(signature.name)]
    if not exact or matcher.advice.keeps or not all(matches(s.name, exact[0]) for s in signatures.values()):
        return
    known = matcher.kernel.inlined(exact[0])
    mismatch = None
    before = conjunct.hits
    for function in known:
        prototype = prototype_of(matcher.kernel, function)
        pseudo = Function(function.name, 0, 0, None, function.name, Clone.NONE, 1, prototype.func, prototype.btf)
        founds = []
        for signature in signatures.values():
            checker = Checker(signature)
            named = checker.named(prototype) if says_types(signature) else {}
            if named is None:
                mismatch = checker.type_errors or checker.explain(function.name, prototype)
                break
            founds.append(Found(pseudo, prototype, named))
        else:
            bindings = matcher.binder.bind_found(leaves, founds, pseudo)
            if bindings is not None:
                _match_copies(matcher, conjunct, result, (pseudo, bindings, function.copies))
    if known and conjunct.hits == before and not any(matcher.resolved[leaf].found for leaf in leaves):
        conjunct.usable = False
        if isinstance(mismatch, dict):
            for error in mismatch.values():
                error.report(matcher.bag)
        elif mismatch is not None:
            matcher.bag.error(
                mismatch.code,
                mismatch.message,
                mismatch.span,
                hints=[
                    f"its prototype is '{prototype_of(matcher.kernel, known[0]).text}', and it was inlined everywhere"
                ],
            )
        elif len(matcher.bag.errors) == 0 and not matcher.unreached:
            span = matcher.leaf_span(leaves[0])
            hints = ["withinfile(..) and within(..) ask for the function that a copy is part of"]
            matcher.bag.error("matches-nothing", f"no inlined copy of {exact[0]} lies there", span, hints=hints)


def _match_copies(
    matcher: AdviceMatcher,
    conjunct: Conjunct,
    result: AdviceMatch,
    found: tuple[Function, Sequence[Binding], Sequence[Copy]],
) -> None:
    function, bindings, copies = found
    guard = matcher.guard(conjunct)
    known = {match.shadow.address for match in result.inlined}
    for copy in copies:
        around = matcher.kernel.function_at(copy.address)
        if around is None or copy.address in known or not _lies(matcher, conjunct, around, function.name):
            continue  # text that was freed when the kernel had booted, for one
        conjunct.hits += 1
        kind = JoinPointKind.EXECUTION if conjunct.executions else JoinPointKind.CALL
        shadow = Shadow(kind, around, copy.address, function)
        reason = _NO_END.get(matcher.advice.kind, "")
        if conjunct.args:
            reason = "'args' is not asked of inlined copies: bind in the signature"
        here: list[Binding] = []
        for binding in bindings:
            place = copy.places[binding.source.index] if isinstance(binding.source, Argument) else "it has no result"
            if isinstance(place, str):
                reason = reason or f"'{binding.name}' has no location at this inlined copy's beginning: {place}"
            else:
                here.append(replace(binding, source=Located(*place)))
        if reason:
            matcher.unreached.append(Unreached(matcher.advice.index, shadow, "inlined", reason))
            continue
        bound = tuple(here)
        if matcher.flows is not None:
            bound = matcher.flows.bind(bound, conjunct.literals, matcher.form, matcher.advice)
        result.inlined.append(Match(shadow, matcher.shared(Outcome(bound, guard))))


def _lies(matcher: AdviceMatcher, conjunct: Conjunct, around: Function, name: str) -> bool:
    """Whether what else a conjunct asks, before run time, holds of a copy in a function."""
    bits = matcher.bits(around)
    same = ast.Execution if conjunct.executions else ast.Call
    for literal in conjunct.literals:
        leaf = matcher.form.leaves[literal.leaf]
        if literal.leaf in matcher.where:
            if bits[matcher.where.index(literal.leaf)] != literal.positive:
                return False
        elif isinstance(leaf, same) and not literal.positive and matches(leaf.signature.name, name):
            return False
    return True


def prototype_of(kernel: Kernel, function: Inlined) -> Prototype:
    """A prototype as debug information tells it, in terms of the kernel's types."""
    types: list[Type] = []
    first = kernel.btf.end

    def add(found: Type) -> int:
        types.append(found)
        return first + len(types) - 1

    def number(base: str, tag: str, pointers: int) -> int:
        ids = kernel.btf.find(base, *_CLASSES[tag]) if base != "void" or tag else [0]
        found = ids[0] if ids else add(Fwd(base or "unnamed", tag == "union"))
        for _ in range(pointers):
            found = add(Ptr(found))
        return found

    params = tuple([Param(param.name, number(*param.type)) for param in function.params])
    proto = add(FuncProto(number(*function.result), params, function.variadic))
    func = add(Func(function.name, proto, 0))
    return Prototype.of(Btf(write(types, kernel.btf), kernel.btf), func)


def plan_inlined(planner: Planner) -> None:
    """Plan the inlined copies of all advice of an aspect."""
    from klasy.match.places import ENTRY, SITE

    for matched in planner.matched.advice:
        for match in matched.inlined:
            shadow = match.shadow
            assert shadow.function is not None
            refusal: Refusal | None = planner.kernel.refusal(shadow.address, shadow.function, Way.KPROBE)
            if refusal is not None:
                planner.unreached(matched.advice, shadow, refusal)
                continue
            draft = planner.probes.point(SITE if shadow.offset else ENTRY, shadow.address, shadow.function)
            arm = planner.probes.arm(draft, matched.advice, match.outcome)
            why = "an inlined copy is reached by a kprobe at its beginning"
            arm.by_address[shadow.address] = planner.probes.joinpoint(matched.advice, shadow, "kprobe", why)
