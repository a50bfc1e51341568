"""Which functions can hold an access of a member: those whose code has a displacement that leads there.

Only bytes are searched, no instruction is decoded, so some of what is found is something else. What this misses: an
access whose address was computed by more than one constant that appears nowhere as the member's offset from a struct
that holds it.
"""

from __future__ import annotations

import re
import struct

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klasy.flow.engine import Engine
    from klasy.flow.members import Types
    from klasy.flow.sites import Member

_MANY = 64  # displacements; where a struct is a part of more, all functions are looked at
_SMALL = range(-128, 128)


def units(engine: Engine, module: str | None, all_units: Sequence[int], members: Iterable[Member]) -> Sequence[int]:
    """Of an object's units, those that may access one of some members."""
    types = engine.seeds.types_of(module)
    wanted: set[int] = set()
    for member in members:
        if member.module is not None and member.module != module:
            continue
        found = displacements(types, member)
        if found is None:
            return all_units
        wanted |= found
    text = engine.text(module)
    starts = [text.starts[index] for index in all_units]
    by_start = dict(zip(starts, all_units, strict=True))
    hits: set[int] = set()
    for place in _places(text.code, wanted):
        index = text.function_index(place)
        if index is None:
            continue
        start = text.starts[index]
        if start in by_start:
            hits.add(start)
        else:
            unit = engine.unit_of(module, index)
            if unit is not None:
                hits.add(text.starts[unit])
    return [by_start[start] for start in sorted(hits) if start in by_start]


def displacements(types: Types, member: Member) -> set[int] | None:
    """The displacements by which a member may be reached; None: too many, or none needed."""
    found: set[int] = set()
    places = types.around(member.struct, _MANY)
    if places is None:
        return None
    for place in places:
        low, high = place + member.offset, place + member.end
        for offset in (low, *range(low, high)) if high - low <= 4096 else ():
            # a wider access may begin at a neighbour: 8 bytes at any multiple of 4, 4 at any of 2
            found.update((offset, offset & ~1, (offset & ~1) - 2, offset & ~3, (offset & ~3) - 4, offset & ~7))
        if high - low > 4096:
            return None
    return None if 0 in found else found


def _places(code: bytes, wanted: set[int]) -> Iterable[int]:
    """Where a displacement may stand."""
    small = b"".join(re.escape(struct.pack("b", shift)) for shift in sorted(wanted) if shift in _SMALL)
    if small:
        pattern = re.compile(rb"(?:[\x40-\x7f]|[\x44\x4c\x54\x5c\x64\x6c\x74\x7c].)(?=([" + small + rb"]))", re.DOTALL)
        for match in pattern.finditer(code):
            yield match.start(1)
    for shift in wanted:
        needle = struct.pack("<i", shift)
        at = code.find(needle)
        while at >= 0:
            if at >= 2 and (code[at - 1] & 0xC0 == 0x80 or code[at - 2] & 0xC7 == 0x84):
                yield at
            at = code.find(needle, at + 1)
