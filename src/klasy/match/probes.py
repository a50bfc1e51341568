"""Gathers join points into probes: what shares a way of probing shares a program and its traps."""

from __future__ import annotations

from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Arm, CallUse, JoinPoint, Locator, MarkRole, MarkUse, Members, Note, Point, Probe
from klasy.plain import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.kernel.callcontents import Content
    from klasy.kernel.model import Function
    from klasy.lang.ast import Advice
    from klasy.match.matched import Match, Outcome
    from klasy.match.plan import MemberCode, Watch
    from klasy.match.shadow import Shadow


@dataclass(frozen=True, slots=True)
class Kind:
    """What the points of one probe have in common. ``group`` keeps apart what must not share a program."""

    mechanism: Mechanism
    context: Context
    locator: Locator
    mark: MarkUse = MarkUse.NONE
    role: MarkRole = MarkRole.CALL
    condition: int | None = None
    group: int = 0
    calls: CallUse = CallUse.NONE
    watch: Watch | None = field(default=None, compare=False)


@dataclass(eq=False)
class NoteDraft:
    """What becomes a Note."""

    number: int
    advice: int
    wants: frozenset[str]
    shift: int
    by_address: dict[int, int] = field(default_factory=dict)
    code: dict[int, MemberCode] = field(default_factory=dict)


@dataclass(eq=False)
class _ArmDraft:
    advice: int
    outcome: Outcome
    by_address: dict[int, int] = field(default_factory=dict)
    by_return_address: dict[int, int] = field(default_factory=dict)
    otherwise: int | None = None
    does: int = 0
    ranges: tuple[tuple[int, int], ...] | None = None
    members: Members | None = None
    contents: tuple[Content, ...] | None = None
    note: NoteDraft | None = None
    order: int = 0


@dataclass(eq=False)
class _Draft:
    points: dict[int, Function] = field(default_factory=dict)
    arms: dict[tuple[int, int, int], _ArmDraft] = field(default_factory=dict)
    notes: list[NoteDraft] = field(default_factory=list)


# The order in which probes are registered, see plan.py. Kprobes at one place run in the opposite order: a mark is
# written before a return probe replaces the return address, a call comes before the execution it leads to, and what
# lies behind one call or access comes before the next one: its note would take the place of the first. Return probes of
# one function run in this order, fexit in the opposite: the execution ends before the call does.
def _rank(kind: Kind) -> int:
    dispatched = kind.locator is Locator.DISPATCH
    match kind.context:
        case Context.FENTRY | Context.WATCH | Context.RAW | Context.RECORD | Context.SYS_ENTER | Context.SYS_EXIT:
            return 0
        case Context.FEXIT:
            return 1 if dispatched else 2
        case Context.RETURN:
            return 4 if dispatched else 3
        case Context.BODY:
            return 5
        case Context.ENTRY:
            if dispatched:
                return 6
            return 7 if kind.mark is MarkUse.WRITE else 5
        case Context.SITE | Context.MEMBER:
            return 8
        case Context.TAIL:
            return 9
        case Context.BEHIND | Context.ACCESSED:
            return 10


class ProbeSet:
    """The probes and join points of an aspect as they come to be."""

    def __init__(self) -> None:
        self._joinpoints: list[tuple[int, Shadow, str, str]] = []
        self._drafts: dict[Kind, _Draft] = {}
        self._known: dict[int, _Draft] = {}  # the same by the identity of a kind: its hash is dear
        self._seen: list[Kind] = []
        self._ids: list[int] = []  # by the numbers for now
        self._notes = 0

    def joinpoint(self, advice: Advice, shadow: Shadow, mechanism: str, why: str) -> int:
        """A new join point: its number for now; ``build`` gives the ids."""
        self._joinpoints.append((advice.index, shadow, mechanism, why))
        return len(self._joinpoints) - 1

    def joinpoints(self, advice: Advice, matches: Sequence[Match], mechanism: str, why: str) -> int:
        """New join points where an advice matches: the first one's number for now, from which the others count on."""
        first, index = len(self._joinpoints), advice.index
        self._joinpoints += [(index, match.shadow, mechanism, why) for match in matches]
        return first

    def executions(self, kind: Kind, advice: Advice, matches: Sequence[Match], places: Sequence[int], why: str) -> None:
        """Have executions where an advice matches with one outcome, each reached at its own place by one probe."""
        first = self.joinpoints(advice, matches, kind.mechanism.value, why)
        draft = self.watch(kind)
        for match, place in zip(matches, places, strict=True):
            function = match.shadow.function
            assert function is not None
            draft.points[place] = function
        arm = self.arm(draft, advice, matches[0].outcome)
        arm.by_address.update(zip(places, range(first, first + len(places)), strict=True))

    def point(self, kind: Kind, address: int, function: Function) -> _Draft:
        """Attach a probe of a kind to an address too."""
        draft = self._known.get(id(kind))
        if draft is None:
            draft = self._known[id(kind)] = self._drafts.setdefault(kind, _Draft())
            self._seen.append(kind)
        draft.points[address] = function
        return draft

    def watch(self, kind: Kind) -> _Draft:
        """Have a probe of a kind that watches data."""
        return self._drafts.setdefault(kind, _Draft())

    def arm(self, draft: _Draft, advice: Advice, outcome: Outcome, which: int = 0) -> _ArmDraft:
        """The arm of a probe that runs an advice with some bindings and guard. ``which`` tells several such apart."""
        key = advice.index, id(outcome), which
        arm = draft.arms.get(key)
        if arm is None:
            arm = draft.arms[key] = _ArmDraft(advice.index, outcome, order=advice.order)
        return arm

    def note(self, draft: _Draft, arm: _ArmDraft, wants: frozenset[str], shift: int) -> NoteDraft:
        """What the probe ``draft`` keeps for an arm of another one, which runs behind."""
        if arm.note is None:
            arm.note = NoteDraft(self._notes, arm.advice, wants, shift)
            self._notes += 1
            draft.notes.append(arm.note)
        return arm.note

    def build(self) -> tuple[tuple[JoinPoint, ...], tuple[Probe, ...]]:
        """The join points, by advice and place, and the probes, in the order in which they are to be registered."""
        drafts = self._joinpoints
        ordered = sorted(range(len(drafts)), key=lambda i: _place(drafts[i]))
        self._ids = [0] * len(ordered)
        for new, old in enumerate(ordered):
            self._ids[old] = new
        joinpoints = tuple([JoinPoint(new, *drafts[old]) for new, old in enumerate(ordered)])
        kinds = sorted(self._drafts, key=lambda kind: (_rank(kind), self._first(kind), kind.condition or 0))
        return joinpoints, tuple([self._probe(index, kind) for index, kind in enumerate(kinds)])

    def _first(self, kind: Kind) -> int:
        """The lowest of the places of a probe."""
        return kind.watch.piece.address if kind.watch else min(self._drafts[kind].points)

    def _probe(self, index: int, kind: Kind) -> Probe:
        draft, ids = self._drafts[kind], self._ids
        points = [Point(address, draft.points[address]) for address in sorted(draft.points)]
        arms = []
        for arm in sorted(draft.arms.values(), key=lambda arm: (arm.order, arm.advice)):
            by_address = {address: ids[number] for address, number in arm.by_address.items()}
            by_return_address = {address: ids[number] for address, number in arm.by_return_address.items()}
            otherwise = None if arm.otherwise is None else ids[arm.otherwise]
            outcome = arm.outcome
            arms.append(
                Arm(
                    arm.advice,
                    outcome.bindings,
                    outcome.guard,
                    by_address,
                    by_return_address,
                    otherwise,
                    arm.does,
                    arm.ranges,
                    arm.members,
                    arm.contents,
                    self._note(arm.note) if arm.note is not None else None,
                )
            )
        return Probe(
            index,
            kind.mechanism,
            kind.context,
            kind.locator,
            kind.mark,
            tuple(points),
            tuple(arms),
            kind.role,
            kind.condition,
            kind.watch,
            kind.calls,
            tuple([self._note(note) for note in draft.notes]),
        )

    def _note(self, note: NoteDraft) -> Note:
        by_address = {address: self._ids[number] for address, number in note.by_address.items()}
        return Note(note.number, note.advice, by_address, Members(note.wants, note.code), note.shift)


def _place(draft: tuple[int, Shadow, str, str]) -> int:
    """What join points are ordered by: the advice, then those whose function is known, then the address."""
    advice, shadow, _, _ = draft
    return (2 * advice + (shadow.function is None) << 64) + shadow.address
