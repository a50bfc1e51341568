"""Accesses to members of the objects that advice watches: ``access(watched skb->len)``.

Which objects those are is known when advice says ``watch(skb->len)``. Here only the member is: its type and where in
the object it lies. A program of its own serves all objects whose member is watched; it is attached by the helper.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.match.accesses import DOES, KINDS, is_sound, ranges_of
from klasy.match.datum import WATCHED_LENGTHS, DataType, Piece, WatchedMember
from klasy.match.globals import Finder, NoData, Place
from klasy.match.matched import AccessMatch, Outcome
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Binding, Locator, Watch, WatchedObject
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.match.typeref import TypeRefError, base_in
from klasy.plain import TYPE_CHECKING, pattern

if TYPE_CHECKING:
    from klasy.match.conjunct import Conjunct
    from klasy.match.matched import AdviceMatch
    from klasy.match.matcher import AdviceMatcher
    from klasy.match.planner import Planner

_STEP = pattern(r"->\w+|[\w*%]+|\[\d+\]")
_GROUP = 64  # apart from the watches of globals


def match_watched(matcher: AdviceMatcher, conjunct: Conjunct, node: ast.Access, result: AdviceMatch) -> None:
    """Match a conjunct that selects accesses to watched objects."""
    if not is_sound(matcher, conjunct, of_object=True):
        conjunct.usable = False
        return
    try:
        member = _MemberFinder(matcher, node).member()
    except NoData:
        conjunct.usable = False
        return
    bindings = _bindings(matcher, conjunct, node, member)
    ranges = ranges_of(matcher, conjunct)
    if bindings is None or ranges == ():
        conjunct.usable = False
        return
    conjunct.hits += 1
    new = AccessMatch(KINDS[node.kind], member, Outcome(bindings, matcher.guard(conjunct)), ranges)
    if any(other.kind is new.kind and other.datum == member for other in result.accesses):
        matcher.bag.error(
            "pointcut-too-complex",
            f"two alternatives select the same accesses to the watched '{member.text}'",
            node.span,
            hints=["write two advice"],
        )
        return
    result.accesses.append(new)


def _bindings(
    matcher: AdviceMatcher, conjunct: Conjunct, node: ast.Access, member: WatchedMember
) -> tuple[Binding, ...] | None:
    """What the parameters of the advice are: the object, by ``watched x->m`` or ``target(x)``. None after an error."""
    names = {node.data.name} if node.data.name else set()
    leaves = [matcher.form.leaves[literal.leaf] for literal in conjunct.literals]
    names |= {leaf.name for leaf in leaves if isinstance(leaf, ast.Target)}
    before = len(matcher.bag.errors)
    bindings = []
    for name, param in sorted(matcher.binder.params.items()):
        if name not in names:
            matcher.bag.error("unbound-parameter", f"nothing in the pointcut binds '{name}'", param.span)
            continue
        try:
            btf, base = base_in(matcher.kernel, param.type)
            fits = param.type.pointers == 1 and btf.c_name(btf.resolve(base)) == member.owner
        except TypeRefError as error:
            error.report(matcher.bag)
            continue
        if not fits:
            is_object = f"'{name}' is the object, a '{member.owner} *'"
            matcher.bag.error("wrong-parameter-type", is_object, param.span)
        bindings.append(Binding(name, WatchedObject(member.offset), param.type))
    return tuple(bindings) if len(matcher.bag.errors) == before else None


class _MemberFinder(Finder):
    """Finds the member that a pattern names in its type."""

    def __init__(self, matcher: AdviceMatcher, node: ast.Access) -> None:
        super().__init__(node.data, matcher.kernel, matcher.bag)
        self.matcher = matcher

    def member(self) -> WatchedMember:
        """The member. Raises NoData when an error was reported."""
        start = self._object()
        place = Place(start.text, 0, start.type)
        for step in _STEP.findall(".".join(self.pattern.path)):
            if step.startswith("->"):
                raise self.fail(
                    "not-a-member",
                    f"'{place.text}' is a pointer, and what it leads to is another object",
                    f"watch that one: keep it in a variable p, and watch(p->{step[2:]})",
                )
            if step.startswith("["):
                if place.type.element() is None:
                    is_of = f"'{place.text}' is of type '{place.type.name}'"
                    raise self.fail("not-an-array", f"{is_of}, and has no elements")
                place = self.element(place, int(step[1:-1]))
            else:
                place = self.step(place, step, f".{step}")
        kind, offset = place.type, place.address
        if not kind.is_scalar:
            raise self.fail(
                "not-watchable",
                f"'{place.text}' is of type '{kind.name}': what is watched is a number or a pointer",
                "name an element of it" if kind.element() else "name a member of it",
            )
        if kind.size not in WATCHED_LENGTHS or offset % kind.size:
            raise self.fail("not-watchable", f"'{place.text}' is not aligned: a debug register cannot watch it")
        return WatchedMember(place.text, start.type.name, offset, kind)

    def _object(self) -> Place:
        """The type whose member is meant."""
        bag = self.bag
        ref = self.pattern.type
        if self.pattern.name is not None:
            param = self.matcher.binder.params.get(self.pattern.name)
            if param is None:
                raise self.fail(
                    "unbound-object", f"nothing says of what type '{self.pattern.name}' is",
                    f"make it a parameter of the advice, or write the type: watched struct TYPE.{self.pattern.text}",
                )  # fmt: skip
            ref = param.type
        if ref is None:
            raise self.fail(
                "unbound-object", "the object must be a parameter of the advice that uses this pointcut",
                f"or write the type: watched struct TYPE.{self.pattern.text}",
            )  # fmt: skip
        found = self.written(ref)
        target = found.target() if self.pattern.name is not None else found
        whole = self.complete(target) if target is not None else None
        if whole is None:
            bag.error("not-a-struct", f"'{found.name}' is not a {'pointer to a ' if self.pattern.name else ''}struct",
                      self.pattern.span)  # fmt: skip
            raise NoData
        kind = DataType(whole[0], whole[1])
        return Place(kind.name, 0, kind)


def plan_watched(planner: Planner) -> None:
    """Plan the accesses to watched objects: a program for each member."""
    wanted: dict[WatchedMember, list[tuple[ast.Advice, AccessMatch]]] = {}
    for matched in planner.matched.advice:
        for access in matched.accesses:
            if isinstance(access.datum, WatchedMember):
                wanted.setdefault(access.datum, []).append((matched.advice, access))
    for number, (member, accesses) in enumerate(wanted.items()):
        writes_only = all(access.kind is JoinPointKind.SET for _, access in accesses)
        piece = Piece(member.offset, member.size)
        watch = Watch(number, number, member, piece, writes_only, {}, per_object=True)
        kind = Kind(Mechanism.BREAKPOINT, Context.WATCH, Locator.FIXED, group=_GROUP + number, watch=watch)
        draft = planner.probes.watch(kind)
        what = "writes" if writes_only else "reads and writes"
        why = f"debug registers watch {what} of the objects that advice says watch() of, one each, on every CPU"
        for which, (advice, access) in enumerate(accesses):
            shadow = Shadow(access.kind, None, 0, datum=member, piece=piece)
            arm = planner.probes.arm(draft, advice, access.outcome, which)
            arm.does, arm.ranges = DOES[access.kind], access.ranges
            joinpoint = planner.probes.joinpoint(advice, shadow, Mechanism.BREAKPOINT.value, why)
            arm.by_address[piece.address] = joinpoint
