"""How ``after`` advice runs at accesses to members: by a kprobe at the instruction behind.

Where jumps lead there too, or the access spoils what the advice asks for, a kprobe at the access keeps a note, without
which nothing runs behind it (see ``plan``). Else the one behind is enough.
"""

from __future__ import annotations

from klasy.flow.behind import loaded, stack_shift, written
from klasy.flow.decode import REGISTERS
from klasy.kernel.model import Refusal, Way
from klasy.lang.ast import AdviceKind
from klasy.match.matched import MemberMatch
from klasy.match.mechanism import Context, Mechanism
from klasy.match.memberplan import MEMBER, Site, shadow_of, wanted, why
from klasy.match.plan import Locator, MemberCode, Members
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from klasy.kernel.model import Function
    from klasy.match.matched import AdviceMatch
    from klasy.match.planner import Planner

NOTED = Kind(Mechanism.KPROBE, Context.ACCESSED, Locator.ADDRESS)
ALONE = Kind(Mechanism.KPROBE, Context.ACCESSED, Locator.ADDRESS, group=1)
_ELSEWHERE = Refusal(
    "goes-elsewhere",
    "it is itself a call or jump through the member: what runs next is where it leads to, and others get there, too",
)
_NOTHING = Refusal("nothing-behind", "there is nothing behind this instruction")
_FAULTS = Refusal("may-fault", "where its fault is expected the kernel goes on elsewhere, and there is no access")
_STACK = Refusal("stack-moves", "it moves the stack, by which an access is known again behind it")


class _Access(NamedTuple):
    """One access that an advice is to run behind. ``alone``: how what is asked for is found there, if it can be."""

    matched: AdviceMatch
    wants: frozenset[str]
    found: MemberMatch
    noted: MemberCode | None
    alone: MemberCode | None
    can_be_alone: bool

    @property
    def behind(self) -> int:
        return self.found.access.address + self.found.access.length


def plan_behind(planner: Planner) -> None:
    """Plan all advice of an aspect that runs behind accesses. Of one place all of it runs in one way, and in order."""
    todo = []
    for matched in planner.matched.advice:
        if matched.members and matched.advice.kind is AdviceKind.AFTER:
            wants = wanted(matched)
            todo += [
                one for _, found in sorted(matched.members.items()) if (one := _access(planner, matched, wants, found))
            ]
    noted = {one.behind for one in todo if not one.can_be_alone}
    lonely = {one.behind: one.found.access.function for one in todo if one.behind not in noted}
    alone = frozenset(planner.kernel.only_from_before(lonely)) if lonely else frozenset()
    seen: set[tuple[int, int]] = set()
    for one in todo:
        access = one.found.access
        shift = stack_shift(access.code)
        refusal = None
        if one.behind not in alone:
            refusal = _FAULTS if planner.kernel.may_fault(access.address, access.function) else None
            refusal = refusal or (_STACK if shift is None else None)
        if refusal is not None:
            planner.unreached(one.matched.advice, shadow_of(one.found), refusal)
            continue
        key = one.matched.advice.index, access.address  # of a copy between two objects the advice runs for each
        _add(planner, one, one.behind in alone, shift or 0, key in seen)
        seen.add(key)


def _access(planner: Planner, matched: AdviceMatch, wants: frozenset[str], found: MemberMatch) -> _Access | None:
    access, kernel = found.access, planner.kernel
    refusal: Refusal | None = _ELSEWHERE if written(access.code) is None else None
    if refusal is None:
        refusal = kernel.refusal(access.address, access.function, Way.KPROBE)
    if refusal is None:
        refusal = _behind_refusal(planner, access.address + access.length, access.function)
    code = Site(found).code(wants, after=True)
    if refusal is None and isinstance(code, Refusal):
        refusal = code
    if refusal is not None:
        planner.unreached(matched.advice, shadow_of(found), refusal)
        return None
    assert not isinstance(code, Refusal)
    alone = _alone(found, code, wants) if code is not None else None
    return _Access(matched, wants, found, code, alone, code is None or alone is not None)


def _behind_refusal(planner: Planner, behind: int, function: Function) -> Refusal | None:
    if behind >= function.end:
        return _NOTHING
    refusal = planner.kernel.refusal(behind, function, Way.KPROBE)
    return Refusal(refusal.code, f"of what lies behind it: {refusal.reason}") if refusal is not None else None


def _alone(found: MemberMatch, code: MemberCode, wants: frozenset[str]) -> MemberCode | None:
    """How what is asked for is found behind the instruction, from registers and memory as it leaves them; or None."""
    from klasy.flow.stored import Stored

    access = found.access
    spoilt = written(access.code) or 0
    if "old" in wants:
        return None
    stored = code.stored
    if "new" in wants:
        if access.writes and found.kind is JoinPointKind.GET:
            return None  # what it read is there no more
        if not access.writes:
            register = loaded(access.code) if code.width else None
            stored = Stored("store", register) if register is not None else None
        elif stored is not None and (stored.op != "store" or (stored.register >= 0 and spoilt & 1 << stored.register)):
            stored = None  # memory has it
    places = wants - {"new"} or ("new" in wants and stored is None)
    if places and any(spoilt & 1 << REGISTERS.index(name) for name in (code.base, code.indexed) if name):
        return None
    return code._replace(stored=stored, late=False)


def _add(planner: Planner, one: _Access, alone: bool, shift: int, again: bool) -> None:
    probes, access, advice = planner.probes, one.found.access, one.matched.advice
    mechanism = "kprobe behind" if alone else "kprobe pair"
    joinpoint = probes.joinpoint(advice, shadow_of(one.found), mechanism, why(one.found))
    draft = probes.point(ALONE if alone else NOTED, one.behind, access.function)
    arm = probes.arm(draft, advice, one.found.outcome, 2 * shift + again)
    arm.by_address[one.behind] = joinpoint
    if alone:
        if one.alone is not None:
            known = arm.members.code if arm.members is not None else {}
            arm.members = Members(one.wants, {**known, one.behind: one.alone})
        return
    note = probes.note(probes.point(MEMBER, access.address, access.function), arm, one.wants, shift)
    note.by_address[access.address] = joinpoint
    if one.noted is not None:
        note.code[access.address] = one.noted
