"""What matching an aspect gives: for each advice its shadows, each with what it binds and what is left to run time."""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, NamedTuple, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.flow.sites import Access
    from klasy.kernel.model import CallSite, Function, Kernel
    from klasy.lang.ast import Advice, Aspect, Expr
    from klasy.match.datum import Datum, MemberData, WatchedMember
    from klasy.match.events import EventMatch
    from klasy.match.plan import Binding, FlowPlan, Unreached
    from klasy.match.shadow import JoinPointKind, Shadow
    from klasy.match.sites import Sites


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer at a shadow that is not "no": "yes", or with a ``guard`` "maybe"; and what is bound there.

    Objects are shared: those of one advice that are equal are the same.
    """

    bindings: tuple[Binding, ...]
    guard: Expr | None


class Match(NamedTuple):
    """One shadow that an advice matches."""

    shadow: Shadow
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class AccessMatch:
    """Accesses to a datum that an advice matches. ``ranges``: by code that lies there (start, end); None: by any."""

    kind: JoinPointKind
    datum: Datum | WatchedMember
    outcome: Outcome
    ranges: tuple[tuple[int, int], ...] | None = None


class MemberMatch(NamedTuple):
    """An instruction that an advice matches for the members it accesses. ``data``: those that are meant."""

    kind: JoinPointKind
    access: Access
    data: tuple[MemberData, ...]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class IndirectSite:
    """An indirect call that may reach functions named by ``call``: the outcomes by the callee's address."""

    site: CallSite
    outcomes: Mapping[int, Outcome]


@dataclass(eq=False)
class AdviceMatch:
    """What one advice matches.

    ``calls`` are the direct and tail calls; ``callees``, by address, what the advice's ``call`` designators name;
    ``unknown``, by the callee's address, the outcome for calls from no known site: only where no ``within`` asks from
    where. ``restricted``: some ``within`` does. ``indirect`` finds the indirect calls that the advice may match: only
    dispatch at the callee can tell, and finding them is dear. ``members``, by the instruction's address and the
    register that leads to the object, are accesses to members of types; ``untyped`` where more may be; ``places``, by
    address, instructions that are named. ``inlined`` are inlined copies, as executions
    or as calls.
    """

    advice: Advice
    executions: list[Match] = field(default_factory=list)
    inlined: list[Match] = field(default_factory=list)
    accesses: list[AccessMatch] = field(default_factory=list)
    places: dict[int, Match] = field(default_factory=dict)
    members: dict[tuple[int, int], MemberMatch] = field(default_factory=dict)
    untyped: set[int] = field(default_factory=set)
    events: list[EventMatch] = field(default_factory=list)
    calls: list[Match] = field(default_factory=list)
    callees: dict[int, Function] = field(default_factory=dict)
    unknown: dict[int, Outcome] = field(default_factory=dict)
    restricted: bool = False
    only_indirect: bool = False
    indirect: Callable[[], list[IndirectSite]] = list


@dataclass(frozen=True, slots=True)
class Matched:
    """What an aspect matches. ``unreached`` has the shadows that no advice can run at for lack of knowledge."""

    aspect: Aspect
    kernel: Kernel
    advice: tuple[AdviceMatch, ...]
    unreached: tuple[Unreached, ...]
    sites: Sites
    flows: FlowPlan | None = None
