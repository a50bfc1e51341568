"""ELF files of user programs, by pyelftools: the functions that their symbol tables name.

What files look like the user may have chosen: a damaged table is one that names nothing.
"""

from __future__ import annotations

import struct

from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

_FUNCTION, _INDIRECT = 2, 10  # STT_FUNC, STT_GNU_IFUNC
_LONGEST_NAME = 4096
# A symbol as the file has it: name, value, size, info and section, of 32 and of 64 bits in this order.
_SYMBOLS = {32: ("IIIBxH", (0, 1, 2, 3, 4)), 64: ("IBxHQQ", (0, 3, 4, 1, 2))}


class Function(NamedTuple):
    """``address`` is that of the file's own count, ``size`` in bytes. ``chosen``: it picks, when a program starts, the
    one that is meant, as memcpy and strlen do in the C library (an indirect function)."""

    name: str
    address: int
    size: int
    chosen: bool


def read_elf(file: BinaryIO) -> Any:
    """A file as pyelftools reads it. Raises ELFError, and whatever else its parsers meet in a damaged one."""
    from elftools.elf.elffile import ELFFile

    return ELFFile(file)


def functions(elf: Any) -> Iterator[Function]:
    """The functions of a file's symbol tables, in their order; one of both tables is there twice.

    pyelftools finds the tables. It takes some 40 us for each symbol in them, and a database server has 100,000: they
    are taken apart here in one go.
    """
    form, (_, address, size, info, section) = _SYMBOLS[elf.elfclass]
    symbol = struct.Struct(("<" if elf.little_endian else ">") + form)
    for table in elf.iter_sections():
        if table["sh_type"] not in ("SHT_SYMTAB", "SHT_DYNSYM"):
            continue
        try:
            names, data = elf.get_section(table["sh_link"]).data(), table.data()
        except Exception:  # pyelftools raises whatever its parsers meet
            continue
        for entry in symbol.iter_unpack(data[: len(data) // symbol.size * symbol.size]):
            if entry[info] & 15 in (_FUNCTION, _INDIRECT) and entry[section] and entry[address]:
                end = names.find(b"\0", entry[0], entry[0] + _LONGEST_NAME)
                name = names[entry[0] : max(end, 0)].decode(errors="replace")
                yield Function(name, entry[address], entry[size], entry[info] & 15 == _INDIRECT)
