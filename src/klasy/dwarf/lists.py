"""Lists of ranges and of locations: .debug_rnglists and .debug_loclists, and what came before them in DWARF 4."""

from __future__ import annotations

import struct

from klasy.dwarf.elf import DwarfError
from klasy.dwarf.units import uleb
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klasy.dwarf.elf import Section
    from klasy.dwarf.units import Unit

_MOST = 1 << 16  # bytes of one list
_LAST = (1 << 64) - 1
# Entries of both kinds of list; the codes of the first five are the same in both.
_END, _BASE_X, _START_X_END_X, _START_X_LENGTH, _OFFSETS = range(5)
_RANGE_CODES = {5: "base", 6: "start end", 7: "start length"}
_LOCATION_CODES = {5: "default", 6: "base", 7: "start end", 8: "start length"}


def ranges(unit: Unit, section: Section, place: int) -> list[tuple[int, int]]:
    """A list of ranges of DWARF 5."""
    return [(low, high) for low, high, _ in _walk(unit, section, place, _RANGE_CODES, located=False)]


def location(
    unit: Unit, section: Section, place: int, point: tuple[int, int], views_at: int | None = None
) -> bytes | None:
    """The expression of a list of locations of DWARF 5 that holds at a point: an address, and a view of it.

    ``views_at``: where the list of views lies, a pair for each entry, if there is one (gcc's; see "Location Views" in
    the manual of as).
    """
    return _at(_walk(unit, section, place, _LOCATION_CODES, located=True), section, point, views_at)


def locations(unit: Unit, section: Section, place: int) -> Iterator[tuple[int, int, bytes]]:
    """All of a list of locations of DWARF 5: from where to where which expression holds; where no other, (0, 2**64)."""
    return _walk(unit, section, place, _LOCATION_CODES, located=True)


def _at(
    entries: Iterator[tuple[int, int, bytes]], section: Section, point: tuple[int, int], views_at: int | None
) -> bytes | None:
    default = None
    views = b"" if views_at is None else section.cut(views_at, min(views_at + _MOST, section.size))
    at = 0
    for low, high, expression in entries:
        first = last = 0
        if views:
            try:
                first, at = uleb(views, at)
                last, at = uleb(views, at)
            except IndexError:
                raise DwarfError("a list of views has no end") from None
        if (low, high) == (0, _LAST):
            default = expression
        elif (low, first) <= point and (point[0] < high or (point[0] == high and point[1] < last)):
            return expression
    return default


def _walk(
    unit: Unit, section: Section, place: int, codes: dict[int, str], *, located: bool
) -> Iterator[tuple[int, int, bytes]]:
    data = section.cut(place, min(place + _MOST, section.size))
    at, base = 0, unit.base_address
    try:
        while True:
            code = data[at]
            at += 1
            low = high = 0
            kind = codes.get(code)
            if code == _END:
                return
            if code == _BASE_X:
                index, at = uleb(data, at)
                base = unit.indexed_address(index)
                continue
            if kind == "base":
                (base,) = struct.unpack_from("<Q", data, at)
                at += 8
                continue
            if kind == "default":
                low, high = 0, _LAST
            elif kind == "start end":
                low, high = struct.unpack_from("<QQ", data, at)
                at += 16
            elif kind == "start length":
                (low,) = struct.unpack_from("<Q", data, at)
                size, at = uleb(data, at + 8)
                high = low + size
            elif code == _OFFSETS:
                first, at = uleb(data, at)
                second, at = uleb(data, at)
                low, high = base + first, base + second
            elif code in (_START_X_END_X, _START_X_LENGTH):
                first, at = uleb(data, at)
                second, at = uleb(data, at)
                low = unit.indexed_address(first)
                high = low + second if code == _START_X_LENGTH else unit.indexed_address(second)
            else:
                raise DwarfError("a list of ranges or locations has entries of a kind that is not known here")
            expression = b""
            if located:
                size, at = uleb(data, at)
                expression = data[at : at + size]
                at += size
            yield low, high, expression
    except (IndexError, struct.error):
        raise DwarfError("a list of ranges or locations has no end") from None


def old_ranges(section: Section, place: int, base: int) -> list[tuple[int, int]]:
    """A list of .debug_ranges."""
    return [(low, high) for low, high, _ in _walk_old(section, place, base, located=False)]


def old_location(
    section: Section, place: int, base: int, point: tuple[int, int], views_at: int | None = None
) -> bytes | None:
    """The same of a list of .debug_loc."""
    return _at(_walk_old(section, place, base, located=True), section, point, views_at)


def old_locations(section: Section, place: int, base: int) -> Iterator[tuple[int, int, bytes]]:
    """The same of a list of .debug_loc."""
    return _walk_old(section, place, base, located=True)


def _walk_old(section: Section, place: int, base: int, *, located: bool) -> Iterator[tuple[int, int, bytes]]:
    data, at = section.cut(place, min(place + _MOST, section.size)), 0
    try:
        while True:
            low, high = struct.unpack_from("<QQ", data, at)
            at += 16
            if low == high == 0:
                return
            if low == _LAST:
                base = high
                continue
            expression = b""
            if located:
                (size,) = struct.unpack_from("<H", data, at)
                expression = data[at + 2 : at + 2 + size]
                at += 2 + size
            yield base + low, base + high, expression
    except struct.error:
        raise DwarfError("a list of ranges or locations has no end") from None
