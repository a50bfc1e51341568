"""Accesses to global data: what matches, and the debug registers that see it.

Where an access happens is known when it does: one join point stands for all accesses of one kind to a datum (or to a
piece of it, where it takes several registers), and ``within`` is left to run time, as ranges of addresses.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.match.datum import REGISTERS, Datum, Piece, WatchedMember
from klasy.match.glob import matches
from klasy.match.globals import find_data
from klasy.match.guard import either
from klasy.match.matched import AccessMatch, Outcome
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import READS, WRITES, Locator, Watch
from klasy.match.pointcut import KERNEL_PROPER
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klasy.kernel.model import Function
    from klasy.match.conjunct import Conjunct
    from klasy.match.matched import AdviceMatch
    from klasy.match.matcher import AdviceMatcher
    from klasy.match.planner import Planner

    Ranges = tuple[tuple[int, int], ...]

MOST_RANGES = 32  # compared one by one at each access
KINDS = {
    ast.AccessKind.GET: JoinPointKind.GET,
    ast.AccessKind.SET: JoinPointKind.SET,
    ast.AccessKind.ACCESS: JoinPointKind.ACCESS,
}
DOES = {JoinPointKind.GET: READS, JoinPointKind.SET: WRITES, JoinPointKind.ACCESS: 0}
_EVERYWHERE = ((0, 1 << 64),)


# --- matching


def match_accesses(matcher: AdviceMatcher, conjunct: Conjunct, result: AdviceMatch) -> None:
    """Match a conjunct that selects accesses to data."""
    node = matcher.form.leaves[conjunct.accesses[0]]
    assert isinstance(node, ast.Access)
    if node.data.watched:
        from klasy.match.objects import match_watched

        match_watched(matcher, conjunct, node, result)
        return
    from klasy.match.memberpattern import is_of_type

    by_type = is_of_type(matcher, node.data)
    if not is_sound(matcher, conjunct, of_object=by_type):
        conjunct.usable = False
        return
    if by_type:
        from klasy.match.members import match_members

        match_members(matcher, conjunct, node, result)
        return
    data = _data(matcher, node)
    ranges = ranges_of(matcher, conjunct)
    if not data or ranges == ():
        conjunct.usable = False
        return
    conjunct.hits += 1
    for datum in data:
        new = AccessMatch(KINDS[node.kind], datum, Outcome((), matcher.guard(conjunct)), ranges)
        _add(matcher, result, new, node)


def is_sound(matcher: AdviceMatcher, conjunct: Conjunct, *, of_object: bool) -> bool:
    """Whether a conjunct can select accesses to data; else errors were reported. ``of_object``: it can bind one."""
    form, bag = matcher.form, matcher.bag
    before = len(bag.errors)
    spans = [form.leaves[leaf].span for leaf in conjunct.accesses]
    if len(spans) > 1:
        bag.error(
            "matches-nothing",
            "an access is of one datum and of one kind: these are two",
            spans[1],
            hints=["for both write '||'; for reads and writes alike: access(..)"],
        )
    for literal in conjunct.literals:
        leaf = form.leaves[literal.leaf]
        if not literal.positive and isinstance(leaf, ast.Access):
            bag.error(
                "negated-data",
                f"'{leaf.kind.value}' cannot be excluded from accesses to data",
                leaf.span,
                hints=["get is reads, set is writes, access is either: name what is wanted"],
            )
        elif isinstance(leaf, ast.Args):
            bag.error(
                "no-arguments",
                "an access to data has no arguments",
                leaf.span,
                hints=["what was read or written is 'value'; in set advice 'old' and 'new' are there, too"],
            )
    returning = matcher.advice.returning
    if returning is not None:
        bag.error(
            "no-result",
            "an access to data has no result",
            returning.span,
            hints=["what was read or written is 'value'; in set advice 'old' and 'new' are there, too"],
        )
    for literal in () if of_object else conjunct.literals:
        if isinstance(form.leaves[literal.leaf], ast.Target):
            members_only = "'target' binds the object whose member is accessed, and this is a global"
            bag.error("no-target", members_only, form.leaves[literal.leaf].span)
    for name, param in () if of_object else matcher.binder.params.items():
        from klasy.match import lint

        lint.report_unbound(matcher, name, param)
    return len(bag.errors) == before


def _data(matcher: AdviceMatcher, node: ast.Access) -> list[Datum]:
    data = find_data(node.data, matcher.kernel, matcher.bag)
    for datum in data:
        need = len(datum.pieces())
        if need > REGISTERS:
            matcher.bag.error(
                "too-large-data",
                f"'{datum.text}' has {datum.size} bytes at {datum.address:#x}: that takes {need} debug registers, "
                f"and a CPU has {REGISTERS}",
                node.data.span,
                hints=[f"name an element: {datum.text}[0]" if datum.type.element() else "name a member of it"],
            )
            return []
    return data


def _add(matcher: AdviceMatcher, result: AdviceMatch, new: AccessMatch, node: ast.Access) -> None:
    """Where two alternatives select the same accesses, the advice runs there once, if either holds."""
    for index, other in enumerate(result.accesses):
        if (other.kind, other.datum) != (new.kind, new.datum):
            continue
        if other.ranges == new.ranges:
            guard = either(other.outcome.guard, new.outcome.guard)
            result.accesses[index] = replace(other, outcome=Outcome((), guard))
        elif other.outcome == new.outcome and other.ranges is not None and new.ranges is not None:
            result.accesses[index] = replace(other, ranges=_merged((*other.ranges, *new.ranges)))
        elif other.outcome == new.outcome:
            result.accesses[index] = replace(other, ranges=None)
        else:
            matcher.bag.error(
                "pointcut-too-complex",
                f"two alternatives select accesses to '{new.datum.text}' by different code, on different conditions",
                node.span,
                hints=["write two advice"],
            )
        return
    result.accesses.append(new)


# --- within, as ranges of addresses


def ranges_of(matcher: AdviceMatcher, conjunct: Conjunct) -> Ranges | None:
    """Where the accesses of a conjunct may come from; None: anywhere. Empty where an error was reported."""
    if not any(
        isinstance(matcher.form.leaves[x.leaf], ast.Within | ast.WithinModule | ast.WithinFile)
        for x in conjunct.literals
    ):
        return None
    kept: Ranges = _EVERYWHERE
    objects: dict[str, tuple[int, int]] = {}
    for literal in conjunct.literals:
        leaf = matcher.form.leaves[literal.leaf]
        if isinstance(leaf, ast.Within):
            area = _merged((f.address, f.end) for f in matcher.resolved[literal.leaf].lies_in.values())
        elif isinstance(leaf, ast.WithinModule):
            objects = objects or _objects(matcher.signatures.functions("*"))
            area = _merged(span for name, span in objects.items() if matches(leaf.glob, name))
        elif isinstance(leaf, ast.WithinFile):
            place = matcher.where.index(literal.leaf)
            area = _merged((f.address, f.end) for f in matcher.signatures.functions("*") if matcher.bits(f)[place])
        else:
            continue
        kept = _common(kept, area if literal.positive else _outside(area))
    spans = [matcher.form.leaves[literal.leaf].span for literal in conjunct.literals]
    if not kept:
        matcher.bag.error("matches-nothing", "no code lies where all of these ask for it", spans[0].to(spans[-1]))
    elif len(kept) > MOST_RANGES:
        matcher.bag.error(
            "pointcut-too-complex",
            f"the code named here lies in {len(kept)} separate places, and at most {MOST_RANGES} are compared",
            spans[0].to(spans[-1]),
            hints=["name fewer functions, or log joinpoint.function"],
        )
        return ()
    return kept


def _objects(functions: Iterable[Function]) -> dict[str, tuple[int, int]]:
    """Where the text of the kernel proper and of each module lies."""
    found: dict[str, tuple[int, int]] = {}
    for function in functions:
        name = function.module or KERNEL_PROPER
        low, high = found.get(name, (function.address, function.end))
        found[name] = min(low, function.address), max(high, function.end)
    return found


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same ranges, ascending, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def _outside(ranges: Ranges) -> Ranges:
    edges = [0, *(edge for low_high in ranges for edge in low_high), 1 << 64]
    return tuple((low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high)


def _common(one: Ranges, other: Ranges) -> Ranges:
    found = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return tuple(sorted((low, high) for low, high in found if low < high))


# --- planning


def plan_accesses(planner: Planner) -> None:
    """Plan the accesses to data of all advice of an aspect together: what watches the same memory shares a register."""
    wanted: dict[tuple[Piece, Piece], list[tuple[ast.Advice, AccessMatch]]] = {}
    data: dict[Datum, int] = {}
    for matched in planner.matched.advice:
        for access in matched.accesses:
            datum = access.datum
            if isinstance(datum, WatchedMember):
                continue
            data.setdefault(datum, len(data))
            for piece in datum.pieces():
                key = piece, Piece(datum.address, datum.size)
                wanted.setdefault(key, []).append((matched.advice, access))
    every = (access.datum for matched in planner.matched.advice for access in matched.accesses)
    if any(isinstance(datum, WatchedMember) for datum in every):
        from klasy.match.objects import plan_watched

        plan_watched(planner)
    if len(wanted) > REGISTERS:
        _report_too_many(planner, data)
        return
    for slot, ((piece, _), accesses) in enumerate(wanted.items()):
        datum = accesses[0][1].datum
        assert isinstance(datum, Datum)
        writes_only = all(access.kind is JoinPointKind.SET for _, access in accesses)
        kinds = {} if writes_only else _known_kinds(planner, datum, piece)
        watch = Watch(slot, data[datum], datum, piece, writes_only, kinds)
        _plan_watch(planner, watch, accesses)


def _plan_watch(planner: Planner, watch: Watch, accesses: list[tuple[ast.Advice, AccessMatch]]) -> None:
    # Each watch has a program of its own: where it watches is what tells it its join points.
    kind = Kind(Mechanism.BREAKPOINT, Context.WATCH, Locator.FIXED, group=watch.slot, watch=watch)
    draft = planner.probes.watch(kind)
    for which, (advice, access) in enumerate(accesses):
        shadow = Shadow(access.kind, None, watch.piece.address, datum=access.datum, piece=watch.piece)
        arm = planner.probes.arm(draft, advice, access.outcome, which)
        arm.does, arm.ranges = DOES[access.kind], access.ranges
        joinpoint = planner.probes.joinpoint(advice, shadow, Mechanism.BREAKPOINT.value, _why(watch))
        arm.by_address[watch.piece.address] = joinpoint


def _known_kinds(planner: Planner, datum: Datum, piece: Piece) -> Mapping[int, int]:
    """What the instructions that name the address do, by the address behind each."""
    per_cpu = None if datum.per_cpu is None else datum.per_cpu + piece.address - datum.address
    if datum.followed:
        return {}  # found by a pointer, so by code too
    found = planner.kernel.references(piece.address, piece.length, per_cpu)
    return {reference.end: reference.kind for reference in found if reference.kind}


def _why(watch: Watch) -> str:
    where = f"{watch.piece.length} byte{'s' * (watch.piece.length > 1)} at {watch.piece.address:#x}, on every CPU"
    if watch.writes_only:
        what = f"watches writes of {where}"
    else:
        number = len(watch.kinds)
        known = f"{number} instruction{'s' * (number != 1)} known beforehand" if number else "as they are met"
        what = f"watches reads and writes of {where}; which of them it was, the instruction tells ({known})"
    followed = "".join(f"; {text} was {address:#x}" for text, address in getattr(watch.data, "followed", ()))
    return what + followed


def _report_too_many(planner: Planner, data: Mapping[Datum, int]) -> None:
    takes = ", ".join(f"'{datum.text}' {len(datum.pieces())}" for datum in data)
    aspect = planner.matched.aspect
    planner.bag.error(
        "too-many-watched",
        f"aspect '{aspect.name}' needs more debug registers than the {REGISTERS} that a CPU has: {takes}",
        next(a.pointcut.span for a in aspect.advice if any(isinstance(p, ast.Access) for p in _parts(a.pointcut))),
        hints=["watch fewer or smaller data; of a per-CPU variable name the CPU: per_cpu(variable, 0)"],
    )


def _parts(pointcut: ast.Pointcut) -> Iterable[ast.Pointcut]:
    from klasy.match.pointcut import walk

    return walk(pointcut)
