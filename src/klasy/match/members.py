"""Accesses to members of types: the instructions that ``klasy.flow`` finds, each a join point of its own.

Which members a pattern names, :mod:`klasy.match.memberpattern` says; how an advice is run at the instructions,
:mod:`klasy.match.memberplan`.
"""

from __future__ import annotations

from klasy.errors import KernelLacks
from klasy.lang import ast
from klasy.match import modules
from klasy.match.accesses import KINDS
from klasy.match.glob import matches
from klasy.match.guard import either
from klasy.match.matched import MemberMatch, Outcome
from klasy.match.memberpattern import NamedMembers
from klasy.match.plan import Binding, Object
from klasy.match.pointcut import KERNEL_PROPER, MOST_SHADOWS
from klasy.match.shadow import JoinPointKind
from klasy.match.typeref import TypeRefError, find_base
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.flow.sites import Access, Unknown
    from klasy.kernel.model import Function
    from klasy.match.conjunct import Conjunct
    from klasy.match.matched import AdviceMatch
    from klasy.match.matcher import AdviceMatcher


def report_target(matcher: AdviceMatcher, leaf: int) -> None:
    """``target`` at what is no access to a member."""
    matcher.bag.error(
        "no-target",
        "'target' binds the object whose member is accessed: here is no access to one",
        matcher.leaf_span(leaf),
    )


def match_members(matcher: AdviceMatcher, conjunct: Conjunct, node: ast.Access, result: AdviceMatch) -> None:
    """Match a conjunct that selects accesses to members of a type."""
    conjunct.usable = False  # what is wrong is said here
    members = NamedMembers(matcher, node, _named(matcher, conjunct))
    wanted = members.find()
    bindings = _bindings(matcher, conjunct, node, members.structs) if wanted else None
    if bindings is None:
        return
    from klasy import flow
    from klasy.progress import line

    by_member = dict(wanted)
    progress = line("looking for accesses, functions")
    found = flow.accesses(matcher.kernel, list(by_member), progress, where=_where(matcher, conjunct))  # type: ignore[arg-type]
    kind = KINDS[node.kind]
    unknown = [one for one in found.unknown if _is_of_kind(one, kind) and _may_lie(matcher, conjunct, one.address)]
    result.untyped.update(one.address for one in unknown)
    outcome = Outcome(bindings, matcher.guard(conjunct))
    hits = elsewhere = 0
    for access in found.accesses:
        if not _is_of_kind(access, kind):
            continue
        if not _lies_where_asked(matcher, conjunct, access.function):
            elsewhere += 1
            continue
        hits += 1
        _add(matcher, result, MemberMatch(kind, access, tuple(by_member[m] for m in access.members), outcome), node)
    if not hits:
        conjunct.usable = True  # an error only if others do not match by what it asks, either
        functions = found.functions
        conjunct.report = lambda: _report_none(
            matcher, conjunct, node, elsewhere=elsewhere, functions=functions, unknown=len(unknown)
        )
    elif len(result.members) > MOST_SHADOWS:
        from klasy.match import lint

        lint.report_too_many(len(result.members), matcher.advice, matcher.bag)
    else:
        conjunct.usable = True
        conjunct.hits += hits


def _is_of_kind(access: Access | Unknown, kind: JoinPointKind) -> bool:
    """Whether a pointcut of a kind selects what an instruction does."""
    return (kind is not JoinPointKind.GET or access.reads) and (kind is not JoinPointKind.SET or access.writes)


def _named(matcher: AdviceMatcher, conjunct: Conjunct) -> list[str]:
    """The modules that a conjunct names; none where it names no module."""
    globs = matcher.module_globs(conjunct)
    return [m for m in sorted(matcher.kernel.modules()) if globs and all(matches(glob, m) for glob in globs)]


def _where(matcher: AdviceMatcher, conjunct: Conjunct) -> Callable[[str | None, int], bool] | None:
    """Which functions need to be looked at, where a conjunct asks for some only."""
    if not conjunct.asks_where:
        return None
    globs = matcher.module_globs(conjunct)
    bodies = [matcher.resolved[leaf].lies_in for leaf in conjunct.withins]
    files = [matcher.where.index(leaf) for leaf in conjunct.files]
    known: dict[str | None, bool] = {}

    def where(module: str | None, address: int) -> bool:  # asked of each function of the kernel
        if module not in known:
            known[module] = all(matches(glob, module or KERNEL_PROPER) for glob in globs)
        if not known[module]:
            return False
        for body in bodies:
            if address not in body:
                return False
        function = matcher.kernel.function_at(address) if files else None
        return not files or (function is not None and all(matcher.bits(function)[place] for place in files))

    return where


def _may_lie(matcher: AdviceMatcher, conjunct: Conjunct, address: int) -> bool:
    if not matcher.where:
        return True
    function = matcher.kernel.function_at(address)
    return function is not None and _lies_where_asked(matcher, conjunct, function)


def _report_none(
    matcher: AdviceMatcher, conjunct: Conjunct, node: ast.Access, *, elsewhere: int, functions: int, unknown: int
) -> None:
    what = {ast.AccessKind.GET: "reads", ast.AccessKind.SET: "writes"}.get(node.kind, "accesses")
    hints = []
    if elsewhere:
        hints.append(f"{elsewhere} such instruction{'s lie' if elsewhere > 1 else ' lies'} elsewhere")
    if unknown:
        hints.append(f"{unknown} more access something at its offset in objects whose type is not known")
    if functions:
        try:
            matcher.kernel.debug_info.check()
        except KernelLacks as error:  # or is another build's; what the remedy is, it says itself
            hints.append(f"debug information would tell of more variables: {error.hint}")
    asked = [*conjunct.withins, *conjunct.modules, *conjunct.files]
    matcher.bag.error(
        "matches-nothing",
        f"no instruction is known that {what} '{node.data.span.text}'{' there' if elsewhere or matcher.where else ''} "
        f"({functions} function{' was' if functions == 1 else 's were'} looked at)",
        node.data.span,
        hints=hints,
        related=[(matcher.leaf_span(leaf), "it was looked for there") for leaf in asked if len(matcher.conjuncts) > 1],
    )


def _lies_where_asked(matcher: AdviceMatcher, conjunct: Conjunct, function: Function) -> bool:
    bits = matcher.bits(function)
    return all(
        bits[matcher.where.index(literal.leaf)] == literal.positive
        for literal in conjunct.literals
        if literal.leaf in matcher.where
    )


def _add(matcher: AdviceMatcher, result: AdviceMatch, new: MemberMatch, node: ast.Access) -> None:
    """Where two alternatives select one instruction, the advice runs there once, if either holds.

    One that copies from one such object to another is two join points: it reads the one and writes the other.
    """
    key = new.access.address, new.access.base
    other = result.members.get(key)
    if other is None:
        result.members[key] = new
        return
    if other.outcome.bindings != new.outcome.bindings:
        matcher.bag.error(
            "pointcut-too-complex",
            f"two alternatives select {new.access.function}+{new.access.offset:#x} and bind different objects there",
            node.span,
            hints=["write two advice"],
        )
        return
    same_place = (other.access.base, other.access.base_offset) == (new.access.base, new.access.base_offset)
    data = tuple(dict.fromkeys((*other.data, *new.data)))
    result.members[key] = MemberMatch(
        other.kind if other.kind is new.kind else JoinPointKind.ACCESS,
        other.access if same_place else replace(other.access, base=-1, reads=True, writes=True),
        data,
        replace(other.outcome, guard=either(other.outcome.guard, new.outcome.guard))
        if other.outcome is not new.outcome
        else other.outcome,
    )


def _bindings(
    matcher: AdviceMatcher, conjunct: Conjunct, node: ast.Access, structs: list[modules.Meaning]
) -> tuple[Binding, ...] | None:
    """The parameters that are the object, one of ``structs``; None where an error was reported."""
    params = matcher.binder.params
    names: list[str] = []
    if node.data.type is not None and not node.data.path and node.data.name:
        names.append(node.data.name)
    for literal in conjunct.literals:
        leaf = matcher.form.leaves[literal.leaf]
        if isinstance(leaf, ast.Target):
            names.append(leaf.name)
    before = len(matcher.bag.errors)
    for name in names:
        param = params.get(name)
        if param is None:
            continue  # the resolver says so
        if param.type.name == "void" and param.type.pointers == 1:
            continue
        try:
            said = modules.meaning(matcher.kernel, param.type, [each.module for each in structs])
            if said is None:
                find_base(matcher.kernel.btf, param.type)
        except TypeRefError as error:
            error.report(matcher.bag)
            continue
        if param.type.pointers != 1 or said is None or len(modules.distinct([structs[0], said])) != 1:
            matcher.bag.error(
                "wrong-parameter-type",
                f"'{name}' is the object, a '{structs[0].btf.c_name(structs[0].btf.resolve(structs[0].type_id))} *'",
                param.span,
            )
    for name, param in params.items():
        if name not in names:
            from klasy.match import lint

            lint.report_unbound(matcher, name, param)
    if len(matcher.bag.errors) > before:
        return None
    return tuple(Binding(name, Object(), params[name].type) for name in sorted(names) if name in params)
