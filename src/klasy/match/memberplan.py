"""How accesses to members are reached: a kprobe at each instruction (``after`` advice: :mod:`klasy.match.behind`).

What the advice asks for (the object, the member's values) is worked out there from the registers; where that cannot be
done, the join point is not reached.
"""

from __future__ import annotations

from klasy.btf.types import Enum, Int
from klasy.kernel.model import Refusal, Way
from klasy.lang import ast
from klasy.lang.walk import nodes
from klasy.match.datum import DataType
from klasy.match.matched import MemberMatch
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Locator, MemberCode, Members
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.plain import TYPE_CHECKING, cached_property, replace

if TYPE_CHECKING:
    from klasy.flow.stored import Stored
    from klasy.match.matched import AdviceMatch
    from klasy.match.planner import Planner

_WORDS = {"read": "reads", "write": "writes", "both": "reads and writes"}
_LONGEST = 8
_NAMES = ("value", "old", "new")

MEMBER = Kind(Mechanism.KPROBE, Context.MEMBER, Locator.ADDRESS)


def plan_members(planner: Planner) -> None:
    """A kprobe at each instruction, all of an aspect in one probe."""
    if any(m.members and m.advice.kind is ast.AdviceKind.AFTER for m in planner.matched.advice):
        from klasy.match.behind import plan_behind

        plan_behind(planner)
    for matched in planner.matched.advice:
        if not matched.members or matched.advice.kind is ast.AdviceKind.AFTER:
            continue
        wants = wanted(matched)
        codes: dict[int, dict[int, MemberCode]] = {}
        known_at: set[int] = set()
        for (address, _), found in sorted(matched.members.items()):
            shadow = shadow_of(found)
            code = Site(found).code(wants)
            refusal = planner.kernel.refusal(address, found.access.function, Way.KPROBE)
            if refusal is None and isinstance(code, Refusal):
                refusal = code
            if refusal is not None:
                planner.unreached(matched.advice, shadow, refusal)
                continue
            draft = planner.probes.point(MEMBER, address, found.access.function)
            # of a copy from one such object to another, the advice runs for each of them
            arm = planner.probes.arm(draft, matched.advice, found.outcome, int(address in known_at))
            known_at.add(address)
            arm.by_address[address] = planner.probes.joinpoint(matched.advice, shadow, "kprobe", why(found))
            if wants and isinstance(code, MemberCode):
                known = codes.setdefault(id(arm), {})
                known[address] = code
                arm.members = Members(wants, known)


def shadow_of(found: MemberMatch) -> Shadow:
    """The shadow that an access is."""
    datum, access = found.data[0], found.access
    if len(found.data) > 1:
        datum = replace(datum, text=", ".join(data.text for data in found.data))
    return Shadow(found.kind, access.function, access.address, datum=datum, access=access)


def wanted(matched: AdviceMatch) -> frozenset[str]:
    """What the advice asks for at its accesses."""
    conditions = [m.outcome.guard for m in matched.members.values() if m.outcome.guard is not None]
    body = [matched.advice.body] if isinstance(matched.advice.body, ast.Node) else []
    used = {
        node.name
        for part in (*body, *dict.fromkeys(conditions))
        for node in nodes(part)
        if isinstance(node, ast.Name) and node.name in _NAMES
    }
    wants = {"old" if name == "old" else "new" for name in used}
    data = {data for found in matched.members.values() for data in found.data}
    if wants and not all(one.type.is_scalar for one in data):
        wants = {"address"}  # of an array or struct 'value' is the place itself
    if any(found.outcome.bindings for found in matched.members.values()):
        wants.add("object")
    return frozenset(wants)


def why(found: MemberMatch) -> str:
    """What the access does, and how its type is known."""
    from klasy.flow.sites import CONFIDENCE

    access = found.access
    size = f"{access.width} byte{'s' * (access.width != 1)}"
    how = f"{CONFIDENCE.get(access.confidence, '')}: {access.derivation}"
    return f"{_WORDS[access.kind]} {size} at {access.placed_in}+{access.place_offset:#x}; type {how}"


class Site:
    """One instruction: how what is asked for is found there."""

    def __init__(self, found: MemberMatch) -> None:
        self.found = found
        self.access = found.access
        self.member = found.access.members[0]

    def code(self, wants: frozenset[str], *, after: bool = False) -> MemberCode | Refusal | None:
        """None where nothing is asked for; a Refusal where it cannot be had. ``after``: for what runs behind it."""
        if not wants:
            return None
        access = self.access
        base = access.base_register
        if access.per_cpu:
            return Refusal("per-cpu-object", "the object is this CPU's, and has no register that leads to it")
        if base is None:
            return Refusal("object-not-known", "it cannot be told in which register the object's address is")
        moves = self._index is not None
        if moves and "object" in wants:
            return Refusal("object-not-known", "an index takes part in the address: which object it is, is not known")
        values = wants - {"object"}
        if values and len(self.found.data) > 1:
            return Refusal("several-members", "it accesses several of the members at once: there is no one value")
        kind = self.found.data[0].type
        if values and moves and kind.element() is not None:
            return Refusal("object-not-known", "an index takes part in the address: where the member is, is not known")
        word, width = self._operand
        stored, late = None, False
        if "new" in wants and access.writes and self.found.kind is not JoinPointKind.GET:
            stored = self._stored(width)
            late = after and stored is None
            if stored is None and not late:
                return Refusal("new-not-known", "what it leaves in the member cannot be told before it has run")
        if values and self.member.bit_offset % 8 + min(self.member.bits, 8 * _LONGEST) > 8 * _LONGEST:
            return Refusal("several-words", "the bit-field lies in more than eight bytes")
        # Addresses are from the base: the object is base_offset before it.
        return MemberCode(
            base, self._index, access.scale if moves else 1, self.member.offset - access.base_offset,
            -access.base_offset, self.member.bit_offset % 8, min(self.member.bits, 8 * _LONGEST),
            _is_signed(kind), word, width, stored, late,
        )  # fmt: skip

    def _stored(self, width: int) -> Stored | None:
        """What the instruction leaves in the member."""
        from klasy.flow.stored import stored, string_stored

        if width:
            return stored(self.access.code, width)
        at, size = self.member.offset - self.access.base_offset, self.member.end - self.member.offset
        if self.access.base_register != "di" or at + size > self.access.width:
            return None
        return string_stored(self.access.code, at, size)

    @cached_property
    def _index(self) -> str | None:
        from klasy.flow.decode import REGISTERS

        index = self.access.index
        return REGISTERS[index] if 0 <= index < len(REGISTERS) else None

    @cached_property
    def _operand(self) -> tuple[int, int]:
        """Where the instruction's operand is, from the base register, and its width; 0 if it does not hold the member
        whole, or is none that a register holds."""
        from klasy.flow import decode as d

        access = self.access
        memory = d.decode(access.code)[4]
        if memory is None or access.width not in (1, 2, 4, 8) or memory[4] or access.base not in memory[:2]:
            return 0, 0
        if self._index is None and (memory[0] != access.base or memory[1] != d.NONE):
            return 0, 0  # a register of known value takes part in the address
        low = self.member.offset - access.base_offset
        high = low + self.member.end - self.member.offset
        at = memory[3]
        if not at <= low or not high <= at + access.width:
            return 0, 0
        return at, access.width


def _is_signed(kind: DataType) -> bool:
    found = kind.resolved
    return (isinstance(found, Int) and found.signed) or (isinstance(found, Enum) and found.signed)
