"""The sections of an ELF file with debug information, mapped, not read: of a kernel's half gigabyte little is needed.

A kernel module's file is relocatable: its sections are then read and relocated when asked for.
"""

from __future__ import annotations

import mmap
import struct

from klasy.notes import gnu_build_id
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_RELOCATABLE = 1  # ET_REL
_NO_BITS, _RELA_TYPE = 8, 4
_COMPRESSED = 1 << 11  # SHF_COMPRESSED
_NOTE = ".note.gnu.build-id"
_WORD64, _WORD32S = 1, (10, 11)  # R_X86_64_64; R_X86_64_32 and 32S


class DwarfError(Exception):
    """Something is not as the format says, or is laid out in a way that is not read here."""


class Header(NamedTuple):
    """A section's header, as in the file."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int


class Section:
    """The bytes of a section: ``size`` of ``data`` from ``start`` on."""

    def __init__(self, data: mmap.mmap | bytes, start: int, size: int) -> None:
        self.data = data
        self.start = start
        self.size = size

    def cut(self, low: int, high: int) -> bytes:
        """The bytes from one place to another."""
        if not 0 <= low <= high <= self.size:
            raise DwarfError("a place lies outside its section")
        return self.data[self.start + low : self.start + high]

    def find(self, pattern: bytes, low: int = 0, high: int | None = None) -> int:
        """Where a pattern stands next, from ``low`` on and before ``high``; -1: nowhere."""
        end = self.start + (self.size if high is None else min(high, self.size))
        found = self.data.find(pattern, self.start + low, end)
        return found - self.start if found >= 0 else -1

    def find_all(self, pattern: bytes, low: int = 0, high: int | None = None) -> list[int]:
        """All places where a pattern stands."""
        places = []
        at = self.find(pattern, low, high)
        while at >= 0:
            places.append(at)
            at = self.find(pattern, at + 1, high)
        return places

    def text(self, at: int) -> str:
        """The string that ends with NUL."""
        end = self.find(b"\0", at)
        if not 0 <= at <= end:
            raise DwarfError("a string has no end")
        return self.cut(at, end).decode(errors="replace")


EMPTY = Section(b"", 0, 0)


class ElfFile:
    """An ELF file. Raises OSError where it cannot be opened, DwarfError where it is none for this machine.

    ``places``: of a relocatable file, where each of its sections lies in memory, by name; what is not named lies at 0.
    """

    def __init__(self, path: str, places: Mapping[str, int] | None = None) -> None:
        self.path = path
        self._places = places or {}
        with open(path, "rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            except ValueError:
                raise DwarfError("the file is empty") from None
        try:
            self._read_headers()
        except (struct.error, IndexError, ValueError):
            raise DwarfError("the file is damaged") from None
        self._sections: dict[str, Section] = {}

    def _read_headers(self) -> None:
        ident, kind, *_ = found = _HEADER.unpack_from(self._map)
        if ident[:6] != b"\x7fELF\x02\x01":
            raise DwarfError("it is no 64-bit ELF file")
        self.relocatable = kind == _RELOCATABLE
        table, size, count, names = found[6], found[11], found[12], found[13]
        raw = [_SECTION.unpack_from(self._map, table + size * index) for index in range(count)]
        strings = raw[names][4]

        def name(at: int) -> str:
            return self._map[strings + at : self._map.find(b"\0", strings + at)].decode(errors="replace")

        self.headers = [Header(name(r[0]), r[1], r[2], r[3], r[4], r[5], r[6], r[7]) for r in raw]
        self._named = {header.name: header for header in reversed(self.headers)}

    @property
    def build_id(self) -> str | None:
        """The GNU build id, as hexadecimal digits."""
        for name in (_NOTE, ".notes"):  # the kernel's own linker script gathers all notes
            notes = self.section(name)
            found = gnu_build_id(notes.cut(0, notes.size))
            if found is not None:
                return found
        return None

    def address(self, name: str) -> int | None:
        """Where a section lies, as the file was linked; None: it has no such."""
        header = self._named.get(name)
        return header.address if header else None

    def section(self, name: str) -> Section:
        """A section, relocated; an empty one where there is none."""
        if name not in self._sections:
            self._sections[name] = self._load(name)
        return self._sections[name]

    def _load(self, name: str) -> Section:
        header = self._named.get(name)
        if header is None or header.type == _NO_BITS:
            return EMPTY
        if header.offset + header.size > len(self._map):
            raise DwarfError("the file is cut short")
        found = Section(self._map, header.offset, header.size)
        if header.flags & _COMPRESSED:
            import zlib

            kind, _, size = struct.unpack_from("<IIQ", self._map, header.offset)
            if kind != 1:  # ELFCOMPRESS_ZLIB
                raise DwarfError("its sections are compressed in a way that is not read here")
            found = Section(zlib.decompress(found.cut(24, header.size)), 0, size)
        if self.relocatable:
            found = self._relocated(header, found)
        return found

    def _relocated(self, header: Header, section: Section) -> Section:
        index = self.headers.index(header)
        tables = [h for h in self.headers if h.type == _RELA_TYPE and h.info == index]
        if not tables:
            return section
        data = bytearray(section.cut(0, section.size))
        values = self._symbol_values(tables[0].link)
        wide, narrow = struct.Struct("<Q").pack_into, struct.Struct("<I").pack_into
        for table in tables:
            for place, info, addend in _RELA.iter_unpack(self._map[table.offset : table.offset + table.size]):
                kind, value = info & 0xFFFFFFFF, values[info >> 32] + addend
                if kind == _WORD64:
                    wide(data, place, value & 0xFFFFFFFFFFFFFFFF)
                elif kind in _WORD32S:
                    narrow(data, place, value & 0xFFFFFFFF)
        return Section(bytes(data), 0, len(data))

    def _symbol_values(self, link: int) -> list[int]:
        table = self.headers[link]
        starts = [self._places.get(h.name, 0) if h.name[:7] != ".debug_" else 0 for h in self.headers]
        return [
            value + (starts[section] if section < len(starts) else 0)
            for _, _, _, section, value, _ in _SYMBOL.iter_unpack(self._map[table.offset : table.offset + table.size])
        ]
