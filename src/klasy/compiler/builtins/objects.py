"""``watch(p->member)`` and ``unwatch(p->member)``: to see the accesses to one object."""

from __future__ import annotations

from klasy.compiler import tree
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.types import Pointer, Struct, pointer_to
from klasy.lang import ast
from klasy.match.datum import WatchedMember
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.compiler.checkexpr import ExprChecker
    from klasy.diag import DiagnosticBag
    from klasy.match.plan import Plan

UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}
_MOST = (1 << 62) - 1
_BOUNDS = "how often: a number; how long: 10*ms"


class Objects:
    """What an aspect's advice may watch: the members of which pointcuts select accesses.

    ``known`` false: matching failed, and no fault is found with what is watched.
    """

    def __init__(self, members: Sequence[WatchedMember], *, known: bool = True) -> None:
        self.members = members
        self.known = known
        self.named: set[int] = set()  # those that advice watches, by their number

    def find(self, place: tree.Place) -> int | None:
        """The number of the member that a place is."""
        assert isinstance(place.base.type, Pointer)
        target = place.base.type.target
        if not isinstance(target, Struct) or target.btf is None:
            return None
        owner = target.btf.c_name(target.btf.resolve(target.type_id))
        wanted = owner, place.offset, place.type.size
        members = ((member.owner, member.offset, member.size) for member in self.members)
        return next((number for number, member in enumerate(members) if member == wanted), None)

    def report_unused(self, bag: DiagnosticBag, advice: Sequence[ast.Advice]) -> None:
        """An error for each member that no advice watches: its accesses are never seen."""
        from klasy.match.pointcut import walk

        for number, member in enumerate(self.members):
            if self.known and number not in self.named and not bag.errors:
                parts = (part for each in advice for part in walk(each.pointcut))
                span = next(part.span for part in parts if isinstance(part, ast.Access) and part.data.watched)
                bag.error(
                    "never-watched",
                    f"no advice of this aspect watches '{member.text}', so there is nothing to see here",
                    span,
                    hints=["in an advice that has such an object at hand say watch(p->member);"],
                )


def offer(plan: Plan | None, checkers: Sequence[ExprChecker]) -> None:
    """Tell the checkers of an aspect's advice what can be watched. Without a plan, matching failed."""
    watches = [probe.watch for probe in plan.probes if probe.watch is not None] if plan else []
    ordered = sorted(watches, key=lambda watch: watch.slot)
    objects = Objects([w.data for w in ordered if isinstance(w.data, WatchedMember)], known=plan is not None)
    for checker in checkers:
        checker.objects = objects


def _place(checker: ExprChecker, call: ast.Apply) -> tuple[tree.AddressOf, int] | None:
    """The address of what is watched, and the member's number."""
    node = call.args[0]
    text = node.span.text
    place = checker.any(node)
    if place is None:
        return None
    hint = f"what is watched is a member of an object: {_name(call)}(p->member)"
    if not isinstance(place, tree.Place) or not isinstance(place.base.type, Pointer):
        checker.error("not-watchable", f"'{text}' is no member of an object", node.span, hint)
        return None
    if place.bits:
        checker.error("not-watchable", f"'{text}' is a bit-field: a debug register cannot watch it", node.span)
        return None
    objects = checker.objects
    if objects is None or not objects.known:
        return None
    number = objects.find(place)
    if number is None:
        owner = place.base.type.target.name
        known = ", ".join(f"'{member.text}'" for member in objects.members)
        checker.error(
            "not-selected",
            f"no pointcut of this aspect selects accesses to the watched '{text}', so nothing would be done at them",
            node.span,
            f"write an advice for them: before(): access(watched {owner}.member) {{ log(value); }}",
            f"those that are selected: {known}" if known else hint,
        )
        return None
    return tree.AddressOf(pointer_to(place.type), node.span, place), number


def _name(call: ast.Apply) -> str:
    assert isinstance(call.callee, ast.Name)
    return call.callee.name


def _check_watch(checker: ExprChecker, call: ast.Apply) -> tree.Stmt | None:
    found = _place(checker, call)
    hits = duration = 0
    for node in call.args[1:]:
        match node:
            case ast.IntLiteral(value=number) if not hits and 0 < number <= _MOST:
                hits = number
            case ast.Binary(op="*", left=ast.IntLiteral(value=number), right=ast.Name(name=unit)) if (
                unit in UNITS and not duration and 0 < number * UNITS[unit] <= _MOST
            ):
                duration = number * UNITS[unit]
            case _:
                checker.error("bad-bound", f"'{node.span.text}' is no bound of a watch", node.span, _BOUNDS)
                return None
    if found is None:
        return None
    address, number = found
    assert checker.objects is not None
    checker.objects.named.add(number)
    return tree.WatchObject(call.span, address, number, address.place.type.size, hits, duration)


def _check_unwatch(checker: ExprChecker, call: ast.Apply) -> tree.Stmt | None:
    found = _place(checker, call)
    return None if found is None else tree.UnwatchObject(call.span, *found)


FUNCTIONS = (Builtin("watch", _check_watch), Builtin("unwatch", _check_unwatch))
