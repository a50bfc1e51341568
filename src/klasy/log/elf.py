"""ELF files of user programs: build id, and the function at an offset.

What files look like the user may have chosen: a broken one is a file without names, never a crash. To find a build id
a thousand files may have to be opened, so what says it is read here: pyelftools takes a hundred times as long for one.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

from klasy.notes import gnu_build_id
from klasy.plain import TYPE_CHECKING
from klasy.programs.elf import functions, read_elf

if TYPE_CHECKING:
    from typing import BinaryIO

    from klasy.programs.elf import Function

BUILD_ID_SIZE = 20  # what the kernel keeps; shorter ones are filled up with zeros
_PT_LOAD, _PT_NOTE = 1, 4
_MOST_NOTES = 1 << 16  # bytes of one segment; they are some hundred
# By the class of the file (32, 64 bits): where its header says where the segments' headers lie, their size and number;
# and of such a header: type, offset, address and size in the file.
_PLACES = {1: ("28xI10xHH", 46, "IIIxxxxI12x"), 2: ("32xQ14xHH", 58, "IxxxxQQ8xQ16x")}


class NoElf(Exception):
    """The file is no ELF file that can be read."""


class ElfFile:
    """One file. ``path`` is the name it goes by; it is read at ``at``, and its symbols when first asked for."""

    def __init__(self, at: str, path: str) -> None:
        self.path = path
        self._at = at
        self._functions: list[tuple[int, int, str]] | None = None
        with open(at, "rb") as file:
            try:
                order, segments = _segments(file)
                self.build_id = _build_id(file, order, segments)
            except (struct.error, OverflowError, OSError) as error:
                raise NoElf(str(error)) from None
            self._segments = [(at, size, address) for kind, at, address, size in segments if kind == _PT_LOAD]

    def is_(self, build_id: bytes) -> bool:
        """Whether it has a build id."""
        return self.build_id is not None and self.build_id == build_id

    def function_at(self, offset: int, debug: str = "") -> tuple[str, int] | None:
        """The function that holds what lies at an offset in the file, and how far in it that is.

        ``debug``: the folder of separate debug information, by build id.
        """
        address = next((offset - at + to for at, size, to in self._segments if at <= offset < at + size), None)
        if address is None:
            return None
        if self._functions is None:
            self._functions = self._read_functions(debug)
        place = bisect_right(self._functions, (address, 1 << 64, "")) - 1
        # A function of an inner range may end before the address, and an outer one still hold it.
        for start, size, name in reversed(self._functions[max(0, place - 8) : place + 1]):
            if start <= address < start + max(size, 1):
                return name, address - start
        return None

    def _read_functions(self, debug: str) -> list[tuple[int, int, str]]:
        found: dict[tuple[int, int], str] = {}
        for name, start, size, _ in _symbols(self._at):
            found.setdefault((start, size), name)
        if debug and self.build_id:
            hexadecimal = self.build_id.rstrip(b"\0").hex()
            for name, start, size, _ in _symbols(f"{debug}/{hexadecimal[:2]}/{hexadecimal[2:]}.debug"):
                found.setdefault((start, size), name)
        return sorted((start, size, name) for (start, size), name in found.items())


def _segments(file: BinaryIO) -> tuple[str, list[tuple[int, int, int, int]]]:
    """The order of bytes, as struct writes it, and the segments: type, offset, address, size in the file."""
    head = file.read(64)
    if head[:4] != b"\x7fELF" or head[4:5] not in (b"\1", b"\2") or head[5:6] not in (b"\1", b"\2"):
        raise NoElf("it does not begin as an ELF file does")
    order = "<" if head[5] == 1 else ">"
    place, used, form = _PLACES[head[4]]
    at, size, number = struct.unpack(order + place, head[:used])
    each = struct.Struct(order + form)
    if number and size != each.size:
        raise NoElf("its segments have headers of another size")
    file.seek(at)
    return order, list(each.iter_unpack(file.read(size * number)))


def _build_id(file: BinaryIO, order: str, segments: list[tuple[int, int, int, int]]) -> bytes | None:
    """As the kernel has it: 20 bytes, a shorter one with zeros behind."""
    for kind, at, _, size in segments:
        if kind == _PT_NOTE:
            file.seek(at)
            found = gnu_build_id(file.read(min(size, _MOST_NOTES)), order)
            if found is not None:
                return bytes.fromhex(found)[:BUILD_ID_SIZE].ljust(BUILD_ID_SIZE, b"\0")
    return None


def _symbols(path: str) -> list[Function]:
    """The functions in the symbol tables of a file; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return list(functions(read_elf(file)))
    except Exception:  # pyelftools raises whatever its parsers meet: names are then not to be had
        return []
