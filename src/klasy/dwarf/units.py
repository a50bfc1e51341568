"""Units of compilation and the entries (DIEs) in them. An entry is read when it is asked for, and not kept."""

from __future__ import annotations

import struct
from bisect import bisect_right

from klasy.dwarf.elf import DwarfError
from klasy.plain import TYPE_CHECKING, NamedTuple, cached_property

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klasy.dwarf.elf import ElfFile, Section

# Tags
FORMAL_PARAMETER, COMPILE_UNIT, INLINED, SUBPROGRAM = 0x05, 0x11, 0x1D, 0x2E
POINTER, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, BASE, SUBROUTINE = 0x0F, 0x01, 0x13, 0x17, 0x04, 0x16, 0x24, 0x15
CONST, VOLATILE, RESTRICT, UNSPECIFIED_PARAMETERS = 0x26, 0x35, 0x37, 0x18
# Attributes
SIBLING, LOCATION, NAME, STMT_LIST, LOW_PC, HIGH_PC, COMP_DIR, CONST_VALUE = (
    0x01,
    0x02,
    0x03,
    0x10,
    0x11,
    0x12,
    0x1B,
    0x1C,
)
IS_INLINE, ABSTRACT_ORIGIN, DECL_FILE, DECL_LINE, SPECIFICATION, TYPE = 0x20, 0x31, 0x3A, 0x3B, 0x47, 0x49
VARIABLE, LEXICAL_BLOCK, CALL_SITE, GNU_CALL_SITE = 0x34, 0x0B, 0x48, 0x4109
BYTE_SIZE, DATA_MEMBER_LOCATION, MEMBER, FRAME_BASE = 0x0B, 0x38, 0x0D, 0x40
GNU_LOCVIEWS, GNU_ENTRY_VIEW = 0x2137, 0x2138
ENTRY_PC, RANGES, CALL_FILE, CALL_LINE = 0x52, 0x55, 0x58, 0x59
_STR_OFFSETS_BASE, _ADDR_BASE, _RNGLISTS_BASE, _LOCLISTS_BASE = 0x72, 0x73, 0x74, 0x8C
# Forms
ADDR, STRP, SEC_OFFSET, EXPRLOC, FLAG_PRESENT = 0x01, 0x0E, 0x17, 0x18, 0x19
_STRING, _LINE_STRP, _IMPLICIT, _INDIRECT = 0x08, 0x1F, 0x21, 0x16
_FIXED = {
    ADDR: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, STRP: 4, 0x10: 4, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8,
    SEC_OFFSET: 4, FLAG_PRESENT: 0, 0x1C: 4, 0x1D: 4, 0x1E: 16, _LINE_STRP: 4, 0x20: 8, 0x24: 8, 0x25: 1, 0x26: 2,
    0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4, 0x1F20: 4, 0x1F21: 4,
}  # fmt: skip
_SIGNED = {0x0D}
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4}
_LEB = {0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23}  # udata, ref_udata, strx, addrx, loclistx, rnglistx
_UNIT_RELATIVE = {0x11, 0x12, 0x13, 0x14, 0x15}
_STRX = {0x1A, 0x25, 0x26, 0x27, 0x28}
_ADDRX = {0x1B, 0x29, 0x2A, 0x2B, 0x2C}
LOCLISTX, RNGLISTX = 0x22, 0x23
CONSTANTS = {0x05, 0x06, 0x07, 0x0B, 0x0D, 0x0F, _IMPLICIT}
REF4 = 0x13
_HEAD = 256  # bytes: enough for most units' first entries
_LAST_VIEW = 1 << 32
_FAR = 1 << 13  # bytes: more than a table of abbreviations usually has


def uleb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number, and where it ends."""
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def sleb(data: bytes, at: int) -> tuple[int, int]:
    """A signed LEB128 number, and where it ends."""
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (result - (1 << shift) if byte & 0x40 else result), at


def encode_uleb(value: int) -> bytes:
    """The shortest LEB128 of a number, which is what compilers write."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | 0x80 if value else low)
        if not value:
            return bytes(out)


class Abbreviation(NamedTuple):
    """How entries of one shape are written. ``attributes``: name, form and, of implicit constants, the value."""

    code: int
    tag: int
    children: bool
    attributes: tuple[tuple[int, int, int], ...]

    def before(self, name: int) -> tuple[int, int] | None:
        """An attribute's form, and how many bytes lie before it in an entry; None: it has none, or that varies."""
        size = 0
        for attribute, form, _ in self.attributes:
            if attribute == name:
                return form, size
            if form == _IMPLICIT:
                continue
            if form not in _FIXED:
                return None
            size += _FIXED[form]
        return None


class Entry(NamedTuple):
    """An entry. ``offset``: bytes from the beginning of its unit, ``end``: behind its attributes.

    ``attributes``: by name, form and value; references within the unit are offsets as ``offset``.
    """

    offset: int
    end: int
    tag: int
    children: bool
    attributes: dict[int, tuple[int, int | bytes]]

    def number(self, name: int) -> int | None:
        """A numeric attribute."""
        found = self.attributes.get(name)
        return found[1] if found is not None and isinstance(found[1], int) else None


class Unit:
    """One unit of compilation. ``offset`` and ``end`` are places in .debug_info."""

    def __init__(self, elf: ElfFile, offset: int) -> None:
        self.elf = elf
        self.offset = offset
        info = elf.section(".debug_info")
        head = info.cut(offset, min(offset + 24, info.size))
        if len(head) < 12:
            raise DwarfError("a unit has no header")
        length, self.version = struct.unpack_from("<IH", head)
        if length >= 0xFFFFFFF0:
            raise DwarfError("it is in the 64-bit form of DWARF, which is not read here")
        self.end = offset + 4 + length
        if self.version == 5:
            self.kind, address_size, self._abbreviations_at = struct.unpack_from("<BBI", head, 6)
            self.first = {1: 12, 2: 24, 3: 12, 4: 20, 5: 20, 6: 24}.get(self.kind, 12)
        elif self.version in (2, 3, 4):
            self._abbreviations_at, address_size = struct.unpack_from("<IB", head, 6)
            self.kind, self.first = 1, 11
        else:
            raise DwarfError(f"it is in version {self.version} of DWARF, which is not read here")
        if address_size != 8:
            raise DwarfError("its addresses have not 8 bytes")

    @cached_property
    def data(self) -> bytes:
        """All of the unit."""
        return self.elf.section(".debug_info").cut(self.offset, self.end)

    @cached_property
    def abbreviations(self) -> dict[int, Abbreviation]:
        """By code."""
        section = self.elf.section(".debug_abbrev")
        size = 1 << 13
        while True:  # a table does not say how long it is
            data = section.cut(self._abbreviations_at, min(self._abbreviations_at + size, section.size))
            try:
                return _abbreviations(data)
            except IndexError:
                if self._abbreviations_at + size >= section.size:
                    raise DwarfError("a table of abbreviations has no end") from None
                size *= 4

    @cached_property
    def top(self) -> Entry:
        """The entry that all others of the unit are in. Of the table of abbreviations only its own is read."""
        if "data" not in self.__dict__:
            head = self.elf.section(".debug_info").cut(self.offset, min(self.offset + _HEAD, self.end))
            try:
                code, at = uleb(head, self.first)
                found = self._first_abbreviation(code)
                if found is not None:
                    attributes, end = self._attributes(found, head, at)
                    return Entry(self.first, end, found.tag, found.children, attributes)
            except (IndexError, ValueError, DwarfError):
                pass
        return self.entry(self.first)

    def _first_abbreviation(self, code: int) -> Abbreviation | None:
        """That of a unit of compilation with children, found by how it is written. It lies where a declaration begins:
        first of all, or behind the two zeros that end another; no two zeros stand anywhere else before a code."""
        section, begin = self.elf.section(".debug_abbrev"), self._abbreviations_at
        written = encode_uleb(code) + bytes((COMPILE_UNIT, 1))
        place = begin if section.cut(begin, min(begin + len(written), section.size)) == written else -1
        if place < 0:
            place = section.find(b"\0\0" + written, begin, begin + _FAR) + 2
            if place < 2:
                return None
        try:
            return _abbreviation(section.cut(place, min(place + _FAR, section.size)), 0)[0]
        except IndexError:
            return None

    def entry(self, offset: int) -> Entry:
        """The entry at a place, which must be one's beginning."""
        try:
            return self._entry(offset)
        except (IndexError, struct.error, KeyError):
            raise DwarfError("an entry is damaged") from None

    def _entry(self, offset: int) -> Entry:
        data = self.data
        code, at = uleb(data, offset)
        if code == 0:
            return Entry(offset, at, 0, False, {})
        abbreviation = self.abbreviations[code]
        attributes, at = self._attributes(abbreviation, data, at)
        return Entry(offset, at, abbreviation.tag, abbreviation.children, attributes)

    @staticmethod
    def _attributes(abbreviation: Abbreviation, data: bytes, at: int) -> tuple[dict[int, tuple[int, int | bytes]], int]:
        found: dict[int, tuple[int, int | bytes]] = {}
        for name, form, implicit in abbreviation.attributes:
            if form == _IMPLICIT:
                found[name] = form, implicit
                continue
            actual = form
            if form == _INDIRECT:
                actual, at = uleb(data, at)
            size = _FIXED.get(actual)
            value: int | bytes
            if size is not None:
                value = int.from_bytes(data[at : at + size], "little") if size else 1
                at += size
            else:
                value, at = _varying(data, at, actual)
            found[name] = actual, value
        if at > len(data):
            raise DwarfError("an entry has no end")
        return found, at

    def next(self, entry: Entry) -> int:
        """Where the entry behind one and all that is in it begins (that may be the mark of the row's end)."""
        if not entry.children:
            return entry.end
        sibling = entry.number(SIBLING)
        if sibling is not None:
            if sibling < entry.end:
                raise DwarfError("an entry lies before the one that it follows")
            return sibling
        at, depth = entry.end, 1
        while depth:
            child = self.entry(at)
            at = child.end
            depth += child.children - (child.tag == 0)
        return at

    def children(self, parent: Entry) -> Iterator[Entry]:
        """The entries that lie directly in one."""
        if not parent.children:
            return
        at = parent.end
        while at < len(self.data):
            entry = self.entry(at)
            if entry.tag == 0:
                return
            yield entry
            at = self.next(entry)

    # --- what attributes mean

    def string(self, entry: Entry, name: int) -> str | None:
        """An attribute that is a string."""
        found = entry.attributes.get(name)
        if found is None:
            return None
        form, value = found
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        if form == STRP:
            return self.elf.section(".debug_str").text(value)
        if form == _LINE_STRP:
            return self.elf.section(".debug_line_str").text(value)
        if form in _STRX:
            base = self._base(_STR_OFFSETS_BASE, 8)
            offsets = self.elf.section(".debug_str_offsets")
            (place,) = struct.unpack("<I", offsets.cut(base + 4 * value, base + 4 * value + 4))
            return self.elf.section(".debug_str").text(place)
        raise DwarfError("a string is kept in another file")

    def address(self, entry: Entry, name: int) -> int | None:
        """An attribute that is an address."""
        form, value = entry.attributes.get(name, (0, 0))
        if isinstance(value, bytes):
            return None
        if form == ADDR:
            return value
        return self.indexed_address(value) if form in _ADDRX else None

    def indexed_address(self, index: int) -> int:
        """An address of the unit's table of them."""
        base = self._base(_ADDR_BASE, 8)
        section = self.elf.section(".debug_addr")
        return int.from_bytes(section.cut(base + 8 * index, base + 8 * index + 8), "little")

    def _base(self, name: int, least: int) -> int:
        return self.top.number(name) or least

    def ranges(self, entry: Entry) -> list[tuple[int, int]]:
        """The text of an entry: from where to where, in no order."""
        low = self.address(entry, LOW_PC)
        high = entry.attributes.get(HIGH_PC)
        if low is not None and high is not None:
            end = self.address(entry, HIGH_PC)
            return [(low, low + int(high[1]) if end is None else end)]
        found = entry.attributes.get(RANGES)
        if found is None or isinstance(found[1], bytes):
            return []
        from klasy.dwarf import lists

        if self.version < 5:
            return lists.old_ranges(self.elf.section(".debug_ranges"), found[1], self.base_address)
        place = found[1]
        section = self.elf.section(".debug_rnglists")
        if found[0] == RNGLISTX:
            place = self._listed(section, _RNGLISTS_BASE, place)
        return lists.ranges(self, section, place)

    @cached_property
    def base_address(self) -> int:
        """What addresses in lists are relative to."""
        return self.address(self.top, LOW_PC) or 0

    def _listed(self, section: Section, name: int, index: int) -> int:
        base = self._base(name, 12)
        return base + int.from_bytes(section.cut(base + 4 * index, base + 4 * index + 4), "little")

    def location(self, entry: Entry, address: int, view: int | None = None) -> bytes | None:
        """The expression that says where a variable is when control is at an address; None: it is nowhere.

        ``view``: of several points of the source that lie at one address, without an instruction between them, which;
        None: the last.
        """
        found = entry.attributes.get(LOCATION)
        if found is None:
            return None
        form, value = found
        if isinstance(value, bytes):
            return value
        from klasy.dwarf import lists

        point, views = (address, _LAST_VIEW if view is None else view), entry.number(GNU_LOCVIEWS)
        if self.version < 5:
            return lists.old_location(self.elf.section(".debug_loc"), value, self.base_address, point, views)
        section = self.elf.section(".debug_loclists")
        place = self._listed(section, _LOCLISTS_BASE, value) if form == LOCLISTX else value
        return lists.location(self, section, place, point, views)

    def locations(self, entry: Entry) -> list[tuple[int, int, bytes]]:
        """The expressions that say where a variable is, each with the text, from where to where, in which it holds.

        One that holds wherever the variable is known at all has (0, 2**64). Views are left out: what a register holds
        at an address is the same for all of them.
        """
        found = entry.attributes.get(LOCATION)
        if found is None:
            return []
        form, value = found
        if isinstance(value, bytes):
            return [(0, 1 << 64, value)]
        from klasy.dwarf import lists

        if self.version < 5:
            return list(lists.old_locations(self.elf.section(".debug_loc"), value, self.base_address))
        section = self.elf.section(".debug_loclists")
        place = self._listed(section, _LOCLISTS_BASE, value) if form == LOCLISTX else value
        return list(lists.locations(self, section, place))

    def referred(self, entry: Entry, name: int) -> Entry | None:
        """The entry of this unit that an attribute refers to."""
        found = entry.attributes.get(name)
        if found is None or found[0] not in _UNIT_RELATIVE or isinstance(found[1], bytes):
            return None
        return self.entry(found[1])


def _varying(data: bytes, at: int, form: int) -> tuple[int | bytes, int]:
    if form in _LEB:
        return uleb(data, at)
    if form in _SIGNED:
        return sleb(data, at)
    if form == _STRING:
        end = data.index(b"\0", at)
        return data[at:end], end + 1
    if form in (EXPRLOC, 0x09):
        size, at = uleb(data, at)
        return data[at : at + size], at + size
    if form in _BLOCKS:
        width = _BLOCKS[form]
        size = int.from_bytes(data[at : at + width], "little")
        return data[at + width : at + width + size], at + width + size
    raise DwarfError(f"an attribute is in the form {form:#x}, which is not known here")


def _abbreviations(data: bytes) -> dict[int, Abbreviation]:
    found: dict[int, Abbreviation] = {}
    at = 0
    while data[at]:
        each, at = _abbreviation(data, at)
        found[each.code] = each
    return found


def _abbreviation(data: bytes, at: int) -> tuple[Abbreviation, int]:
    code, at = uleb(data, at)
    tag, at = uleb(data, at)
    children = data[at] == 1
    at += 1
    attributes: list[tuple[int, int, int]] = []
    while True:
        name, at = uleb(data, at)
        form, at = uleb(data, at)
        implicit = 0
        if form == _IMPLICIT:
            implicit, at = sleb(data, at)
        if name == form == 0:
            return Abbreviation(code, tag, children, tuple(attributes)), at
        attributes.append((name, form, implicit))


def unit_offsets(elf: ElfFile) -> list[int]:
    """Where the units of compilation begin in .debug_info."""
    info = elf.section(".debug_info")
    data, start, found, at = info.data, info.start, [], 0
    while at + 12 <= info.size:
        (length,) = struct.unpack_from("<I", data, start + at)
        if length >= 0xFFFFFFF0 or length < 7:
            raise DwarfError("the units of compilation are damaged, or in 64-bit DWARF")
        found.append(at)
        at += 4 + length
    return found


_ARANGES = struct.Struct("<IHIBB")


def address_ranges(elf: ElfFile) -> list[tuple[int, int, int]]:
    """What .debug_aranges tells: the text (start, end) and the place of its unit, by start."""
    section = elf.section(".debug_aranges")
    data, at = section.cut(0, section.size), 0
    found: list[tuple[int, int, int]] = []
    while at + _ARANGES.size <= len(data):
        length, version, unit, address_size, segment_size = _ARANGES.unpack_from(data, at)
        if version != 2 or address_size != 8 or segment_size:
            raise DwarfError("its table of address ranges is not in a form that is read here")
        end = at + 4 + length
        pairs = data[at + 16 : end]
        pairs = pairs[: len(pairs) - len(pairs) % 16]
        found += [(low, low + size, unit) for low, size in struct.iter_unpack("<QQ", pairs) if size]
        at = end
    return sorted(found)


def holder(ranges: list[tuple[int, int, int]], address: int) -> int | None:
    """The unit whose text an address lies in."""
    place = bisect_right(ranges, (address, 1 << 64, 0)) - 1
    if place >= 0 and ranges[place][0] <= address < ranges[place][1]:
        return ranges[place][2]
    return None
