"""How ``call`` join points are reached: by probes at the call sites, or by one at the callee that tells them apart.

Probes at call sites see just the calls that matter, and cannot be fooled. A probe at the callee's entry or return
learns from the return address which call it was: one probe for any number of sites, those included that cannot be
probed, and calls through pointers.
"""

from __future__ import annotations

from klasy.kernel.model import CallKind, Refusal, Way
from klasy.lang.ast import AdviceKind
from klasy.match.execution import MOST_TRAMPOLINES, beyond_marks, takes_arguments
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Locator, MarkRole, MarkUse
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.plain import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.kernel.model import CallSite, Function
    from klasy.match.matched import AdviceMatch, IndirectSite, Match, Outcome
    from klasy.match.planner import Planner

# More calls of a callee than this are not probed one by one where the callee can be.
MOST_SITES = 64
# Where indirect calls count, every tail call of the callee must leave a mark; with more of them than this they do not.
MOST_FOREIGN_TAILS = 64
# One probe for each callee up to this number, so that each shows its own calls from unknown places.
MOST_ENTRIES = 16

# Of probes at calls, by whether they write marks; the same for all, as to compare them is dear.
_SITE = tuple(
    [Kind(Mechanism.KPROBE, Context.SITE, Locator.ADDRESS, use, MarkRole.CALL) for use in (MarkUse.NONE, MarkUse.WRITE)]
)

_BEHIND_NOTHING = Refusal("does-not-return", "nothing is behind this call: it does not return")


@dataclass(eq=False)
class _Dispatch:
    """Calls of one callee that one advice has told apart at the callee."""

    match: AdviceMatch
    callee: Function
    why: str
    direct: list[Match] = field(default_factory=list)
    tails: list[Match] = field(default_factory=list)
    indirect: list[tuple[CallSite, Outcome]] = field(default_factory=list)
    unknown: Outcome | None = None

    @property
    def any(self) -> bool:
        """Whether there are calls left that can be told."""
        return bool(self.direct or self.tails or self.indirect or self.unknown is not None)

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of all calls that are told by the return address."""
        known = [match.outcome for match in self.direct] + [outcome for _, outcome in self.indirect]
        return [*known, self.unknown] if self.unknown is not None else known


class CallPlanner:
    """Plans the calls of all advice of an aspect together."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.kernel = planner.kernel
        self.probes = planner.probes
        self.force = planner.options.force
        self.before_sites: list[tuple[AdviceMatch, Match, str]] = []
        self.after_sites: list[tuple[AdviceMatch, Match, str]] = []
        self.entries: list[_Dispatch] = []
        self.exits: list[_Dispatch] = []
        self.marked_tails: dict[int, CallSite] = {}
        self._caller_of: dict[int, Function] = {}
        self._refusals: dict[int, Refusal | None] = {}
        self._tail_kinds: dict[tuple[bool, int | None], Kind] = {}

    def plan(self) -> None:
        """Add the probes and join points to the planner's."""
        for match in self.planner.matched.advice:
            if match.calls or match.unknown or match.only_indirect:
                self._decide(match)
        marked_calls = self._plan_after_sites()
        for dispatch in self.entries + self.exits:
            self._mark_tails(dispatch)
        self.entries = [dispatch for dispatch in self.entries if dispatch.any]
        self.exits = [dispatch for dispatch in self.exits if dispatch.any]
        self._plan_before_sites(marked_calls)
        for address, site in self.marked_tails.items():
            self.probes.point(self._tail_kind(site), address, site.caller)
        self._plan_entries()
        self._plan_exits()

    # --- the choice

    def _decide(self, match: AdviceMatch) -> None:
        """Choose for each callee whose calls an advice matches."""
        by_callee: dict[int, list[Match]] = {}
        last: Function | None = None
        for found in match.calls:
            callee = found.shadow.callee
            assert callee is not None
            if callee is not last:
                here, last = by_callee.setdefault(callee.address, []), callee
            here.append(found)
        after = match.advice.kind is AdviceKind.AFTER
        indirect = match.indirect() if match.only_indirect and match.restricted else []
        wanted = {*by_callee, *match.unknown, *(address for site in indirect for address in site.outcomes)}
        for address in sorted(wanted):
            callee, calls = match.callees[address], by_callee.get(address, [])
            dispatch = self._why_dispatch(match, callee, calls)
            why = f"{len(calls)} call site{'s' if len(calls) != 1 else ''}"
            refusal: Refusal | None = None
            if dispatch is None and (address in match.unknown or match.only_indirect):
                why += "; calls through pointers are not seen"
            elif dispatch is not None:
                refusal = self._dispatch_refusal(match, callee, calls, indirect)
                if refusal is None:
                    self._dispatch(match, callee, calls, indirect, dispatch)
                    continue
                why += f"; {callee.name} itself cannot be probed: {refusal.reason}"
            (self.after_sites if after else self.before_sites).extend((match, found, why) for found in calls)
            if not calls or (refusal is not None and address in match.unknown):
                nowhere = Shadow(JoinPointKind.CALL, None, 0, callee)
                refusal = refusal or Refusal("indirect-only", "only a probe at the callee could see them")
                self.planner.unreached(match.advice, nowhere, refusal)

    def _why_dispatch(self, match: AdviceMatch, callee: Function, calls: Sequence[Match]) -> str | None:
        """Why the calls of a callee are to be told apart there; None where probes at the call sites are better."""
        count = len(calls)
        if self.force == "sites":
            return None
        if self.force == "dispatch":
            return "asked for"
        if callee.address in match.unknown:
            return f"every call of {callee.name} passes its entry, calls through pointers too"
        if match.only_indirect:
            return f"only calls through pointers reach {callee.name} here"
        if count > MOST_SITES:
            return f"{count} call sites; one probe serves them all"
        direct = [found for found in calls if found.shadow.call_kind is CallKind.DIRECT]  # a jump must be marked anyway
        refusals = [refusal for found in direct if (refusal := self._site_refusal(found)) is not None]
        if refusals:
            some = f"{len(refusals)} of {count} call sites" if count > 1 else "the call site"
            return f"{some} cannot be probed: {refusals[0].reason}"
        return None

    def _site_refusal(self, match: Match) -> Refusal | None:
        site = match.shadow.site
        assert site is not None
        if site.address not in self._refusals:
            self._refusals[site.address] = self.kernel.site_refusal(site)
        return self._refusals[site.address]

    def _dispatch_refusal(
        self, match: AdviceMatch, callee: Function, calls: Sequence[Match], indirect: Sequence[IndirectSite]
    ) -> Refusal | None:
        """Why the calls of a callee cannot be told apart there."""
        executions = self.planner.executions
        if match.advice.kind is not AdviceKind.AFTER:
            return executions.entry_refusal(callee, Way.KPROBE)
        refusal = executions.trampoline_refusal(callee, Way.FEXIT)
        outcomes = [found.outcome for found in calls]
        outcomes += [site.outcomes[callee.address] for site in indirect if callee.address in site.outcomes]
        if callee.address in match.unknown:
            outcomes.append(match.unknown[callee.address])
        if refusal is None or any(takes_arguments(outcome) for outcome in outcomes):
            return refusal
        return executions.entry_refusal(callee, Way.KRETPROBE)

    def _dispatch(
        self,
        match: AdviceMatch,
        callee: Function,
        calls: Sequence[Match],
        indirect: Sequence[IndirectSite],
        why: str,
    ) -> None:
        dispatch, tail = _Dispatch(match, callee, why), CallKind.TAIL
        for found in calls:
            site = found.shadow.site
            (dispatch.tails if site is not None and site.kind is tail else dispatch.direct).append(found)
        dispatch.unknown = match.unknown.get(callee.address)
        outcomes = [(each.site, each.outcomes[callee.address]) for each in indirect if callee.address in each.outcomes]
        if outcomes and dispatch.unknown is None:
            tails = self._foreign_tails(callee)
            if len(tails) <= MOST_FOREIGN_TAILS:
                dispatch.indirect = outcomes
                for site in tails:
                    if self.kernel.site_refusal(site) is None:
                        self.marked_tails[site.address] = site
        (self.exits if match.advice.kind is AdviceKind.AFTER else self.entries).append(dispatch)

    def _foreign_tails(self, callee: Function) -> list[CallSite]:
        """All tail calls of a function: one that an indirect call leads to would pass for the indirect call itself."""
        sites = self.planner.matched.sites.callers({callee.address: callee})
        return [site for site in sites if site.kind is CallKind.TAIL]

    # --- probes at call sites

    def _plan_before_sites(self, marked_calls: set[int]) -> None:
        for match, found, why in self.before_sites:
            site = found.shadow.site
            assert site is not None
            refusal = self._site_refusal(found)
            if refusal is not None:
                self.planner.unreached(match.advice, found.shadow, refusal)
                continue
            kind = self._tail_kind(site) if site.kind is CallKind.TAIL else _SITE[site.address in marked_calls]
            draft = self.probes.point(kind, site.address, site.caller)
            arm = self.probes.arm(draft, match.advice, found.outcome)
            arm.by_address[site.address] = self.probes.joinpoint(match.advice, found.shadow, "kprobe", why)

    def _plan_after_sites(self) -> set[int]:
        """Plan what comes after calls that are probed where they are made; the calls where marks are written."""
        marked: set[int] = set()
        for match, found, why in self.after_sites:
            site = found.shadow.site
            assert site is not None
            refusal = self._site_refusal(found)
            if refusal is None:
                if site.kind is CallKind.TAIL:
                    refusal = self._after_tail(match, found, why)
                else:
                    refusal = self._after_call(match, found, why, site)
                    if refusal is None:
                        marked.add(site.address)
                    elif refusal is not _BEHIND_NOTHING and self._after_at_callee(match, found, refusal):
                        continue
            if refusal is not None:
                self.planner.unreached(match.advice, found.shadow, refusal)
        for address in marked:
            self.probes.point(_SITE[True], address, self._caller_of[address])
        return marked

    def _after_call(self, match: AdviceMatch, found: Match, why: str, site: CallSite) -> Refusal | None:
        behind = site.return_address
        if behind >= site.caller.end:
            return _BEHIND_NOTHING
        refusal = beyond_marks(found.outcome) or self.kernel.refusal(behind, site.caller, Way.KPROBE)
        if refusal is None:
            kind = Kind(Mechanism.KPROBE, Context.BEHIND, Locator.MARK, MarkUse.TAKE, MarkRole.CALL)
            draft = self.probes.point(kind, behind, site.caller)
            arm = self.probes.arm(draft, match.advice, found.outcome)
            arm.by_address[site.address] = self.probes.joinpoint(match.advice, found.shadow, "kprobe pair", why)
            self._caller_of[site.address] = site.caller
        return refusal

    def _after_tail(self, match: AdviceMatch, found: Match, why: str) -> Refusal | None:
        """A tail call returns where its caller would: the callee's return tells, by the mark of the jump."""
        callee = found.shadow.callee
        assert callee is not None
        executions = self.planner.executions
        if executions.trampoline_refusal(callee, Way.FEXIT) is not None:
            refusal = executions.entry_refusal(callee, Way.KRETPROBE) or beyond_marks(found.outcome)
            if refusal is not None:
                return refusal
        why += "; a tail call has nothing behind it: the callee's return tells"
        self.exits.append(_Dispatch(match, callee, why, tails=[found]))
        return None

    def _after_at_callee(self, match: AdviceMatch, found: Match, refusal: Refusal) -> bool:
        """Tell one call by its return address where the place behind it cannot be probed."""
        callee = found.shadow.callee
        assert callee is not None
        if self._dispatch_refusal(match, callee, [found], []) is not None:
            return False
        self.exits.append(_Dispatch(match, callee, f"behind the call: {refusal.reason}", direct=[found]))
        return True

    # --- tail calls

    def _mark_tails(self, dispatch: _Dispatch) -> None:
        """Have the jumps marked; those that cannot be are not reached."""
        reached = []
        for found in dispatch.tails:
            site = found.shadow.site
            assert site is not None
            refusal = self._site_refusal(found)
            if refusal is None:
                self.marked_tails[site.address] = site
                reached.append(found)
            else:
                if dispatch.unknown is not None:
                    refusal = Refusal(refusal.code, f"{refusal.reason}; its calls count as from an unknown place")
                self.planner.unreached(dispatch.match.advice, found.shadow, refusal)
        dispatch.tails = reached

    def _tail_kind(self, site: CallSite) -> Kind:
        marked, condition = site.address in self.marked_tails, self._condition(site)
        kind = self._tail_kinds.get((marked, condition))
        if kind is None:
            mark = MarkUse.WRITE if marked else MarkUse.NONE
            kind = Kind(Mechanism.KPROBE, Context.TAIL, Locator.ADDRESS, mark, MarkRole.TAIL, condition)
            self._tail_kinds[marked, condition] = kind
        return kind

    def _condition(self, site: CallSite) -> int | None:
        """The condition code of a conditional jump, None for one that is always taken."""
        if site.length == 5:  # e9 rel32, by far the most
            return None
        code = self.kernel.text(site.address, site.length).lstrip(b"\x2e\x3e\x66\xf2\xf3")  # prefixes
        if len(code) > 1 and code[0] == 0x0F and code[1] & 0xF0 == 0x80:  # jcc rel32
            return code[1] & 0x0F
        if code and code[0] & 0xF0 == 0x70:  # jcc rel8
            return code[0] & 0x0F
        return None

    # --- probes at the callee

    def _plan_entries(self) -> None:
        marked = self._marked_callees()
        leaving = {dispatch.callee.address for dispatch in self.exits}
        groups = _groups(self.entries)
        for dispatch in self.entries:
            address = dispatch.callee.address
            mark = MarkUse.NONE
            if address in marked:
                mark = MarkUse.READ if address in leaving else MarkUse.TAKE
            kind = Kind(
                Mechanism.KPROBE, Context.ENTRY, Locator.DISPATCH, mark, MarkRole.TAIL, group=groups.by_callee[address]
            )
            self._add(kind, dispatch, "kprobe dispatch", groups.single)

    def _plan_exits(self) -> None:
        marked = self._marked_callees()
        groups = _groups(self.exits)
        arguments: set[int] = set()
        for dispatch in self.exits:
            if any(takes_arguments(outcome) for outcome in dispatch.outcomes):
                arguments.add(dispatch.callee.address)
        callees = {dispatch.callee.address: dispatch.callee for dispatch in self.exits}
        few = len(callees) <= MOST_TRAMPOLINES
        executions = self.planner.executions
        for dispatch in self.exits:
            callee = dispatch.callee
            address = callee.address
            mark = MarkUse.TAKE if address in marked else MarkUse.NONE
            trampoline = executions.trampoline_refusal(callee, Way.FEXIT) is None and (few or address in arguments)
            if trampoline or executions.entry_refusal(callee, Way.KRETPROBE) is not None:
                kind = Kind(Mechanism.FEXIT, Context.FEXIT, Locator.DISPATCH, mark, MarkRole.TAIL, group=address)
                self._add(kind, dispatch, "fexit dispatch", True)
            else:
                group = groups.by_callee[address]
                kind = Kind(Mechanism.KRETPROBE, Context.RETURN, Locator.DISPATCH, mark, MarkRole.TAIL, group=group)
                self._add(kind, dispatch, "kretprobe dispatch", groups.single)

    def _marked_callees(self) -> set[int]:
        return {site.callee.address for site in self.marked_tails.values() if site.callee is not None}

    def _add(self, kind: Kind, dispatch: _Dispatch, mechanism: str, single: bool) -> None:
        """Give a probe at the callee its arms. ``single``: it has no other callee."""
        probes, advice, why = self.probes, dispatch.match.advice, dispatch.why
        draft = probes.point(kind, dispatch.callee.address, dispatch.callee)
        first = probes.joinpoints(advice, dispatch.direct, mechanism, why)
        last = None
        for number, (shadow, outcome) in enumerate(dispatch.direct, first):
            if outcome is not last:  # there are thousands of calls and a few outcomes
                arm, last = probes.arm(draft, advice, outcome), outcome
            assert shadow.site is not None
            arm.by_return_address[shadow.site.return_address] = number
        first = probes.joinpoints(advice, dispatch.tails, mechanism, why)
        for number, (shadow, outcome) in enumerate(dispatch.tails, first):
            probes.arm(draft, advice, outcome).by_address[shadow.address] = number
        named = dispatch.callee if single else None
        for site, outcome in dispatch.indirect:
            arm = probes.arm(draft, advice, outcome)
            if site.return_address not in arm.by_return_address:
                shadow = Shadow(JoinPointKind.CALL, site.caller, site.address, named, site)
                arm.by_return_address[site.return_address] = probes.joinpoint(advice, shadow, mechanism, why)
        if dispatch.unknown is not None:
            arm = probes.arm(draft, advice, dispatch.unknown)
            if arm.otherwise is None:
                shadow = Shadow(JoinPointKind.CALL, None, 0, named)
                arm.otherwise = probes.joinpoint(advice, shadow, mechanism, f"{why}; indirect, or from code not known")


@dataclass(frozen=True, slots=True)
class _Groups:
    by_callee: dict[int, int]
    single: bool


def _groups(dispatches: Sequence[_Dispatch]) -> _Groups:
    """Which callees may share a program: all of what a call from an unknown place or a pointer means is the same."""
    callees = {dispatch.callee.address for dispatch in dispatches}
    if len(callees) <= MOST_ENTRIES:
        return _Groups({address: address for address in callees}, True)
    profiles: dict[int, list[tuple[object, ...]]] = {}
    for dispatch in dispatches:
        indirect = tuple([(site.address, id(outcome)) for site, outcome in dispatch.indirect])
        profile = dispatch.match.advice.index, id(dispatch.unknown), indirect
        profiles.setdefault(dispatch.callee.address, []).append(profile)
    numbers: dict[tuple[tuple[object, ...], ...], int] = {}
    return _Groups({a: numbers.setdefault(tuple(profile), len(numbers)) for a, profile in profiles.items()}, False)
