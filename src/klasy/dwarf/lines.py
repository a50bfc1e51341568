"""A unit's table of lines: which line of which file each instruction was made from."""

from __future__ import annotations

import struct
from bisect import bisect_left

from klasy.dwarf.elf import DwarfError
from klasy.dwarf.units import sleb, uleb
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.dwarf.elf import ElfFile

_LINE_STRP, _STRP, _STRING, _UDATA = 0x1F, 0x0E, 0x08, 0x0F
_SIZES = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1E: 16}
_PATH, _DIRECTORY = 1, 2
_FILE = struct.Struct("<IB")


class Row(NamedTuple):
    """From ``address`` up to the next row's. ``statement``: a debugger would stop here. ``end``: behind the last."""

    address: int
    file: int
    line: int
    statement: bool
    end: bool


class Endings:
    """Which of the strings that tables of lines name have an ending. Each is looked at once."""

    def __init__(self, elf: ElfFile, ending: str) -> None:
        self._strings = elf.section(".debug_line_str")
        self._ending = ending
        self._seen: set[int] = set()
        self._with: set[int] = set()

    def count(self, offsets: set[int]) -> int:
        """How many of some strings, by their places, have the ending."""
        for offset in offsets - self._seen:
            if self._strings.text(offset).endswith(self._ending):
                self._with.add(offset)
        self._seen |= offsets
        return len(self._with & offsets)


class LineTable:
    """The table at a place of .debug_line; the program that makes the rows is run when they are asked for."""

    def __init__(self, elf: ElfFile, place: int) -> None:
        self.elf = elf
        section = elf.section(".debug_line")
        try:
            length, self.version = struct.unpack("<IH", section.cut(place, place + 6))
            if length >= 0xFFFFFFF0 or not 2 <= self.version <= 5:
                raise DwarfError("a table of lines is in a form that is not read here")
            self._data = section.cut(place, place + 4 + length)
            self._read_header()
        except (IndexError, struct.error, ValueError):
            raise DwarfError("a table of lines is damaged") from None

    def _read_header(self) -> None:
        data = self._data
        at = 6 + (2 if self.version == 5 else 0)
        (length,) = struct.unpack_from("<I", data, at)
        self._program = at + 4 + length
        at += 4
        self._least = data[at]
        at += 2 if self.version >= 4 else 1  # behind the operations of an instruction, of which x86 has one
        self._default, self._base, self._range, self._special = struct.unpack_from("<BbBB", data, at)
        self._lengths = data[at + 4 : at + 3 + self._special]
        self._tables_at = at + 3 + self._special

    def files(self) -> list[str]:
        """The files by number, as they were named to the compiler: relative to its folder, or from /."""
        try:
            return self._files5() if self.version == 5 else self._files4()
        except (IndexError, struct.error, ValueError):
            raise DwarfError("a table of lines is damaged") from None

    def may_name(self, known: Endings) -> bool:
        """Whether more than one file has a name with an ending, told quickly; True also where that cannot be."""
        data, at = self._data, self._tables_at
        if self.version != 5 or data[at : at + 3] != bytes((1, _PATH, _LINE_STRP)):
            return True
        try:
            number, at = uleb(data, at + 3)
            at += 4 * number
            if data[at : at + 5] != bytes((2, _PATH, _LINE_STRP, _DIRECTORY, _UDATA)):
                return True
            number, at = uleb(data, at + 5)
        except IndexError:
            raise DwarfError("a table of lines is damaged") from None
        if at + 5 * number != self._program:  # folders beyond the 127th
            return True
        return known.count({offset for offset, _ in _FILE.iter_unpack(data[at : self._program])}) > 1

    def _files5(self) -> list[str]:
        folders, at = self._entries(self._tables_at)
        names = [path for path, _ in folders]
        return [
            path if path[:1] == "/" or not names else _joined(names[folder] if folder < len(names) else "", path)
            for path, folder in self._entries(at)[0]
        ]

    def _entries(self, at: int) -> tuple[list[tuple[str, int]], int]:
        data = self._data
        count, at = data[at], at + 1
        formats = []
        for _ in range(count):
            content, at = uleb(data, at)
            form, at = uleb(data, at)
            formats.append((content, form))
        number, at = uleb(data, at)
        found = []
        for _ in range(number):
            path, folder = "", 0
            for content, form in formats:
                value: int | str = 0
                if form in (_LINE_STRP, _STRP):
                    (offset,) = struct.unpack_from("<I", data, at)
                    at += 4
                    if content == _PATH:
                        value = self.elf.section(".debug_line_str" if form == _LINE_STRP else ".debug_str").text(offset)
                elif form == _STRING:
                    end = data.index(b"\0", at)
                    value, at = data[at:end].decode(errors="replace"), end + 1
                elif form == _UDATA:
                    value, at = uleb(data, at)
                elif form in _SIZES:
                    value = int.from_bytes(data[at : at + _SIZES[form]], "little")
                    at += _SIZES[form]
                else:
                    raise DwarfError("a table of lines names its files in a form that is not read here")
                if content == _PATH and isinstance(value, str):
                    path = value
                elif content == _DIRECTORY and isinstance(value, int):
                    folder = value
            found.append((path, folder))
        return found, at

    def _files4(self) -> list[str]:
        data, at = self._data, self._tables_at
        folders, files = [""], [""]
        while data[at]:
            end = data.index(b"\0", at)
            folders.append(data[at:end].decode(errors="replace"))
            at = end + 1
        at += 1
        while data[at]:
            end = data.index(b"\0", at)
            name = data[at:end].decode(errors="replace")
            folder, at = uleb(data, end + 1)
            _, at = uleb(data, at)
            _, at = uleb(data, at)
            files.append(_joined(folders[folder], name))
        return files

    def at(self, addresses: Sequence[int]) -> dict[int, tuple[int, int]]:
        """The file's number and the line that each of some addresses was made from: ``rows`` take thrice as long.

        An address that was made from no line (gcc says 0) has that of what lies before it.
        """
        try:
            return self._at(sorted(addresses))
        except (IndexError, struct.error):
            raise DwarfError("a table of lines is damaged") from None

    def _at(self, wanted: list[int]) -> dict[int, tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        data, at, end = self._data, self._program, len(self._data)
        special, base, span, least = self._special, self._base, self._range or 1, self._least
        steps = [((code - special) // span * least, base + (code - special) % span) for code in range(256)]
        address, file, line, row = 0, 1, 1, False
        seen_file, seen_line, index, following = 0, 0, 0, 1 << 64  # of the last row; the next that is wanted
        while at < end:
            code = data[at]
            at += 1
            ends = False
            if code >= special:
                advance, step = steps[code]
                address += advance
                line += step
            elif code == 2:
                value, at = uleb(data, at)
                address += value * least
                continue
            elif code == 3:
                value, at = sleb(data, at)
                line += value
                continue
            elif code == 4:
                file, at = uleb(data, at)
                continue
            elif code == 8:
                address += steps[255][0]
                continue
            elif code == 9:
                address += int.from_bytes(data[at : at + 2], "little")
                at += 2
                continue
            elif code == 0:
                size, at = uleb(data, at)
                ends = data[at] == 1
                if data[at] == 2:
                    (address,) = struct.unpack_from("<Q", data, at + 1)
                    if not row:  # a sequence begins
                        index = bisect_left(wanted, address)
                        following = wanted[index] if index < len(wanted) else 1 << 64
                at += size
                if not ends:
                    continue
            elif code != 1:
                for _ in range(self._lengths[code - 1]):
                    _, at = uleb(data, at)
                continue
            while following < address:
                if row and seen_line:
                    found[following] = seen_file, seen_line
                index += 1
                following = wanted[index] if index < len(wanted) else 1 << 64
            row = not ends
            if line:
                seen_file, seen_line = file, line
            if ends:
                address, file, line, seen_line, following = 0, 1, 1, 0, 1 << 64
        return found

    def rows(self) -> list[Row]:
        """All rows, in the order of the table: sequences, each by address."""
        try:
            return self._run()
        except (IndexError, struct.error):
            raise DwarfError("a table of lines is damaged") from None

    def _run(self) -> list[Row]:
        data, at, end = self._data, self._program, len(self._data)
        special, base, span, least = self._special, self._base, self._range or 1, self._least
        default = bool(self._default)
        address, file, line, statement = 0, 1, 1, default
        rows: list[Row] = []
        add = rows.append
        while at < end:
            code = data[at]
            at += 1
            if code >= special:
                advance, step = divmod(code - special, span)
                address += advance * least
                line += base + step
                add(Row(address, file, line, statement, False))
            elif code == 1:
                add(Row(address, file, line, statement, False))
            elif code == 2:
                value, at = uleb(data, at)
                address += value * least
            elif code == 3:
                value, at = sleb(data, at)
                line += value
            elif code == 4:
                file, at = uleb(data, at)
            elif code == 6:
                statement = not statement
            elif code == 8:
                address += (255 - special) // span * least
            elif code == 9:
                address += int.from_bytes(data[at : at + 2], "little")
                at += 2
            elif code == 0:
                size, at = uleb(data, at)
                which = data[at]
                if which == 1:
                    add(Row(address, file, line, statement, True))
                    address, file, line, statement = 0, 1, 1, default
                elif which == 2:
                    (address,) = struct.unpack_from("<Q", data, at + 1)
                at += size
            else:
                for _ in range(self._lengths[code - 1]):
                    _, at = uleb(data, at)
        return rows


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and folder != "." and name[:1] != "/" else name
