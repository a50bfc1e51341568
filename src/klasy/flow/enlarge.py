"""``container_of`` and C's casts to a larger struct: what a known part is a part of.

An access beyond a known object is one of an object around it. Which, follows where only one kind of struct in the
kernel holds such a part and has a member where each access is; or where the function's name names one of them, as
tcp_rcv_established's does of the structs that begin with a struct sock. Parts that are everywhere (list_head) are left.
"""

from __future__ import annotations

from klasy.btf.types import Array, Struct
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from klasy.flow.members import Place, Types

_MANY = 60  # containers: a part in more structs says nothing
_TOO_MANY = 400  # nobody looks at all of them
_SEVERAL = 4  # different accesses which all fit are more than chance
_FEW = 3  # large enough ones: one of so few that fits is the one
# Links that hold objects together are parts of everything; that one struct's name fits is chance.
_LINKS = frozenset(
    (
        *("list_head", "hlist_node", "hlist_nulls_node", "hlist_bl_node", "llist_node", "rb_node", "plist_node"),
        *("callback_head", "work_struct", "timer_list", "wait_queue_entry", "kref", "refcount_struct", "kobject"),
        *("spinlock", "raw_spinlock", "qspinlock", "mutex", "rw_semaphore", "completion", "cpumask", "delayed_work"),
        *("wait_queue_head", "swait_queue_head", "hlist_head", "llist_head", "rb_root", "rb_root_cached", "xarray"),
    )
)
_SHORTEST_KIND = 3  # letters: shorter words end others by chance
_DEEPEST = 5  # structs within structs
_WORD = 8  # bytes: wider accesses are copies, narrower ones may cover several members
# Families of functions whose objects are called otherwise: net/ipv4, net/ipv6
_FAMILIES = dict.fromkeys(
    ("ip", "ip4", "ip6", "ipv6", "igmp", "icmp", "raw", "ping", "cipso", "tcp", "tcp4", "udp", "udp4", "udpv6"), "inet"
)


def enlarge(types: Types, parts: Collection[Place], uses: Collection[tuple[int, int]], function: str) -> Place | None:
    """The place in the larger object, if there is one answer.

    ``parts``: what a value is known to point to, one or several parts of the object. ``uses``: (offset from the value,
    width) of the accesses through it. ``function``: the name of the function they are in.
    """
    parts = [
        part
        for part in parts
        if not any(other != part and types.holds(other[0], other[1] - part[1], part[0]) for other in parts)
    ]
    # Of parts that are equally rare none is to be left out: a search ends where too much is around, and what lies
    # deep around one part may hold the other at once.
    fewest = min(len(types.containers(part[0])) for part in parts)
    rarest = [part for part in parts if len(types.containers(part[0])) == fewest]
    searches = [
        [c for c in candidates(types, part, uses, len(parts)) if _holds_all(types, c, parts)] for part in rarest
    ]
    inside = [*dict.fromkeys(found for search in searches for found in search)]
    found = [c for c in inside if all(fits(types, c[0], c[1] + use, width) for use, width in uses)]
    several = len({use for use, _ in uses}) >= _SEVERAL
    links = all(is_link(types, part[0]) for part in parts)
    if len(found) == 1:
        if links:
            return found[0] if len(parts) >= _FEW or (len(parts) > 1 and several) else None
        if len(inside) <= _FEW or ((len(parts) > 1 or several) and len(inside) <= _FEW * len(parts)):
            return found[0]
    if (links and len(parts) == 1) or min(map(len, searches)) > _MANY:
        return None
    starts = [candidate for candidate in found if candidate[1] == 0]
    if any(part[1] < 0 for part in rarest) and len(starts) == 1 and several and not links:
        return starts[0]  # a pointer to a whole object, most likely
    named = [candidate for candidate in found if affinity(types.name(candidate[0]), function)]
    if len(named) > 1:
        best = max(affinity(types.name(candidate[0]), function) for candidate in named)
        named = [candidate for candidate in named if affinity(types.name(candidate[0]), function) == best]
    if len(named) == 1:
        return named[0]
    if not named and types.base is not None:
        own = [candidate for candidate in found if candidate[0] >= types.btf.first]
        if len(own) == 1:
            return own[0]  # a module handles its own kind
    return None


def is_link(types: Types, type_id: int) -> bool:
    """Whether a struct is one that links or guards others, and so a part of everything."""
    found = types.links.get(type_id)
    if found is None:
        kind = types.btf.type(type_id)
        found = types.links[type_id] = isinstance(kind, Struct) and kind.name in _LINKS
    return found


def _holds_all(types: Types, whole: Place, parts: Collection[Place]) -> bool:
    return all(types.holds(whole[0], whole[1] - part[1], part[0]) for part in parts)


def candidates(types: Types, part: Place, uses: Collection[tuple[int, int]], parts: int) -> list[Place]:
    """The smallest structs around a part in which all uses lie."""
    found: list[Place] = []
    level = [part]
    seen = {part}
    limit = _TOO_MANY if parts == 1 else 10 * _TOO_MANY
    lowest = min(use for use, _ in uses)
    highest = max(use + width for use, width in uses)
    for _ in range(_DEEPEST):
        outer: list[Place] = []
        for type_id, offset in level:
            holders = types.containers(type_id)
            if len(holders) > limit:
                return []
            for holder, at in holders:
                larger = holder, offset + at
                if larger in seen or not types.is_struct(holder):
                    continue
                seen.add(larger)
                named = types.btf.type(holder)
                if (
                    larger[1] + lowest >= 0
                    and larger[1] + highest <= types.size(holder)
                    and isinstance(named, Struct)
                    and named.name
                ):
                    found.append(larger)
                else:
                    outer.append(larger)
        level = outer
        if not level or len(level) > _TOO_MANY:
            break
    return found


def fits(types: Types, type_id: int, offset: int, width: int) -> bool:
    """Whether an access could be one of a member: whether a member begins where it begins, or an array holds it."""
    key = type_id, offset, width
    found = types.fitting.get(key)
    if found is None:
        found = types.fitting[key] = _fits(types, type_id, offset, width)
    return found


def _fits(types: Types, type_id: int, offset: int, width: int) -> bool:
    if width == 0:
        return True
    for part, inside, _, _ in types.parts(type_id, offset):
        kind = types.btf.type(part)
        if isinstance(kind, Array):
            return True
        if not inside and not isinstance(kind, Struct) and width <= _WORD:
            return True
        if not isinstance(kind, Struct) and inside + width <= types.size(part):
            return True  # a byte of a larger integer
    return _in_bits(types, type_id, offset)


def _in_bits(types: Types, type_id: int, offset: int) -> bool:
    """Whether a bit-field lies in a byte of a struct."""
    kind = types.btf.type(type_id)
    if not isinstance(kind, Struct):
        return False
    for member in kind.members:
        start = member.bit_offset // 8
        if member.bitfield_size:
            if start <= offset <= (member.bit_offset + member.bitfield_size - 1) // 8:
                return True
        elif start <= offset < start + types.size(member.type_id) and _in_bits(
            types, types.btf.resolve(member.type_id), offset - start
        ):
            return True
    return False


def affinity(struct: str, function: str) -> int:
    """Twice the number of words that a struct's name and a function's begin with together, or 1 for kindred ones."""
    words = struct.removeprefix("struct ").removeprefix("union ").split("_")
    own = function.strip("_").split("_")
    found = 0
    for mine, theirs in zip(words, own, strict=False):
        if mine == theirs:
            found += 2
        elif not found and (mine == _FAMILIES.get(theirs) or _ends_so(theirs, mine)):
            found = 1
        else:
            break
    return found


def _ends_so(theirs: str, mine: str) -> bool:
    """Whether a function's first word is a kind of a struct's, as cubictcp is one of tcp."""
    return len(mine) >= _SHORTEST_KIND and theirs.endswith(mine)
