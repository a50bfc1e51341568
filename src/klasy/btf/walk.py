"""Walks through structs and unions as C's ``.`` does: members of anonymous ones inside count as the outer one's."""

from __future__ import annotations

from klasy.btf.btf import Btf
from klasy.btf.types import Int, Member, Struct
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEEPEST = 12  # anonymous structs inside structs; malformed BTF may nest without end


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member lies in a struct, through the anonymous ones: ``bit_offset`` from the outermost one's start.

    ``bitfield_size`` in bits, 0 for a member that is no bit-field. Bits are counted from the lowest of a
    little-endian integer, so a bit-field is bits ``bit_offset % 8`` and up of the bytes from ``byte_offset``.
    """

    name: str
    type_id: int
    bit_offset: int
    bitfield_size: int = 0

    @property
    def byte_offset(self) -> int:
        """Offset of the byte that holds the first bit."""
        return self.bit_offset // 8


def members(btf: Btf, type_id: int, *, within_anonymous: bool = True) -> Iterator[Place]:
    """The named members of a struct or union (typedefs and qualifiers are looked through), as declared.

    Nothing for another type. Without ``within_anonymous``: its own only, anonymous ones as members without a name.
    """
    yield from _members(btf, type_id, 0, _DEEPEST if within_anonymous else 0)


def _members(btf: Btf, type_id: int, base: int, deeper: int) -> Iterator[Place]:
    struct = btf.resolved(type_id)
    if not isinstance(struct, Struct):
        return
    for member in struct.members:
        if not member.name and deeper and not member.bitfield_size:
            yield from _members(btf, member.type_id, base + member.bit_offset, deeper - 1)
        elif member.name or not deeper:
            yield _place(btf, member, base)


def _place(btf: Btf, member: Member, base: int) -> Place:
    size, offset = member.bitfield_size, base + member.bit_offset
    if not size:
        whole = btf.resolved(member.type_id)
        if isinstance(whole, Int) and whole.bits and (whole.bits != 8 * whole.size or whole.offset):
            # BTF without the kind flag (before Linux 5.0) keeps the width in an integer type of its own
            size, offset = whole.bits, offset + whole.offset
    return Place(member.name, member.type_id, offset, size)


def find_member(btf: Btf, type_id: int, name: str) -> Place | None:
    """The member of a struct or union that ``.name`` reaches, or None."""
    for place in _members(btf, type_id, 0, _DEEPEST):
        if place.name == name:
            return place
    return None


def member_offset(btf: Btf, struct: str, name: str) -> int | None:
    """Where, in bytes, a member lies in the struct of a name; None where no struct of that name has it."""
    for type_id in btf.find(struct, Struct):
        place = find_member(btf, type_id, name)
        if place is not None:
            return place.byte_offset
    return None


def member_names(btf: Btf, type_id: int) -> list[str]:
    """The names that ``.`` reaches in a struct or union, as declared: what a misspelt one is compared with."""
    return [place.name for place in _members(btf, type_id, 0, _DEEPEST)]
