"""The executable files of user programs and libraries: where they are, and which functions lie where in them.

Read here without pyelftools, whose import alone takes a second in a slow machine: the tables of symbols are plain.
What a file looks like the user may have chosen: a broken one is a clear error, never a crash.
"""

from __future__ import annotations

import os
import struct

from klasy.errors import InputError
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where a library is looked for that is given by its name alone, and a program that PATH does not lead to.
LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib", "/lib")
DEBUG = "/usr/lib/debug/.build-id"

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_NOTE = struct.Struct("<III")
_X86_64 = 62
_EXECUTABLE, _SHARED = 2, 3
_PT_LOAD, _PT_NOTE, _PF_X = 1, 4, 1
_SYMTAB, _DYNSYM, _NOBITS = 2, 11, 8
_FUNCTION, _INDIRECT = 2, 10  # STT_FUNC, STT_GNU_IFUNC
_BUILD_ID = 3
_LONGEST_NAME = 4096


class NotAProgram(InputError):
    """There is no such file, or none that can be probed."""


class Symbol(NamedTuple):
    """A function. ``address`` is that of the file's own count, ``offset`` its place in the file, ``size`` in bytes.

    ``chosen``: what the symbol names is a function that picks, when a program starts, the one that is meant (an
    indirect function, as memcpy and strlen are in the C library).
    """

    name: str
    address: int
    offset: int
    size: int
    chosen: bool


def find(name: str) -> str:
    """The path of a program or library, links followed. Raises NotAProgram."""
    if "/" in name:
        places = [name]
    else:
        places = [f"{folder}/{name}" for folder in (*os.environ.get("PATH", "").split(":"), *LIBRARIES) if folder]
    for place in places:
        if os.path.isfile(place):
            return os.path.realpath(place)
    if "/" in name:
        reason = "it is no file" if os.path.exists(name) else "there is no such file"
        raise NotAProgram(f"'{name}' cannot be probed: {reason}")
    raise NotAProgram(
        f"there is no program '{name}' in PATH and no library of that name", hint="write its whole path, from '/' on"
    )


class ProgramFile:
    """One file, read when made. ``name`` is what messages call it. Raises NotAProgram."""

    def __init__(self, path: str, name: str | None = None) -> None:
        self.path = path
        self._name = name or path
        try:
            with open(path, "rb") as file:
                self._data = file.read()
        except OSError as error:
            raise NotAProgram(f"'{self._name}' cannot be read: {error.strerror}") from None
        try:
            self._read_header()
        except (struct.error, ValueError, IndexError, OverflowError):
            raise NotAProgram(f"'{self._name}' is damaged: it is no whole ELF file") from None
        self._symbols: list[Symbol] | None = None

    def _read_header(self) -> None:
        if self._data[:4] != b"\x7fELF":
            why = "a script: probe the program that runs it" if self._data[:2] == b"#!" else "no program or library"
            raise NotAProgram(f"'{self._name}' is {why}")
        header = _HEADER.unpack_from(self._data)
        if self._data[4] != 2 or self._data[5] != 1 or header[2] != _X86_64:
            raise NotAProgram(f"'{self._name}' is of another kind of machine: klasy probes 64-bit x86 programs")
        if header[1] not in (_EXECUTABLE, _SHARED):
            raise NotAProgram(f"'{self._name}' is no program or shared library, but a part of one")
        _, _, _, _, _, segments, sections, _, _, segment_size, segment_count, section_size, section_count, _ = header
        self._sections = [_SECTION.unpack_from(self._data, sections + n * section_size) for n in range(section_count)]
        self._segments = [_SEGMENT.unpack_from(self._data, segments + n * segment_size) for n in range(segment_count)]

    def symbols(self) -> list[Symbol]:
        """Its functions, by address; one of several names once for each. Names without versions."""
        if self._symbols is None:
            found: dict[tuple[str, int], Symbol] = {}
            for name, address, size, kind in self._read_symbols(self._data, self._sections):
                offset = self._offset(address)
                if offset is not None and name:
                    found.setdefault((name, address), Symbol(name, address, offset, size, kind == _INDIRECT))
            self._symbols = sorted(found.values(), key=lambda s: (s.address, s.name))
        return self._symbols

    def _read_symbols(self, data: bytes, sections: list[tuple[int, ...]]) -> Iterator[tuple[str, int, int, int]]:
        for section in sections:
            if section[1] not in (_SYMTAB, _DYNSYM):
                continue
            try:
                names_at, names_size = sections[section[6]][4:6]
                names = data[names_at : names_at + names_size]
                table = data[section[4] : section[4] + section[5] // _SYMBOL.size * _SYMBOL.size]
                for name, info, _, where, address, size in _SYMBOL.iter_unpack(table):
                    if info & 15 in (_FUNCTION, _INDIRECT) and where and address:
                        text = names[name : names.find(b"\0", name, name + _LONGEST_NAME)]
                        yield text.decode(errors="replace").partition("@")[0], address, size, info & 15
            except (struct.error, IndexError):
                continue  # of a damaged table nothing is known

    def _offset(self, address: int) -> int | None:
        """Where in the file the code of an address is."""
        for kind, flags, offset, start, _, in_file, _, _ in self._segments:
            if kind == _PT_LOAD and flags & _PF_X and start <= address < start + in_file:
                return int(offset + address - start)
        return None

    @property
    def build_id(self) -> str | None:
        """Its build id, in hexadecimal digits."""
        for kind, _, start, _, _, size, _, _ in self._segments:
            at, end = start, start + size
            while kind == _PT_NOTE and at + _NOTE.size <= min(end, len(self._data)):
                name, length, note = _NOTE.unpack_from(self._data, at)
                at += _NOTE.size + (name + 3 & ~3)
                if note == _BUILD_ID and self._data[at - 4 : at] == b"GNU\0":
                    return self._data[at : at + length].hex()
                at += length + 3 & ~3
        return None

    def debug_file(self) -> str | None:
        """The file that has its debug information: itself, or a separate one that is installed; None: there is none."""
        if self._has_section(b".debug_info"):
            return self.path
        build_id = self.build_id
        separate = f"{DEBUG}/{build_id[:2]}/{build_id[2:]}.debug" if build_id else ""
        return separate if separate and os.path.isfile(separate) else None

    def _has_section(self, name: bytes) -> bool:
        number = _HEADER.unpack_from(self._data)[-1]
        if number >= len(self._sections):
            return False
        names = self._sections[number][4]
        wanted = name + b"\0"
        return any(
            self._data[names + section[0] : names + section[0] + len(wanted)] == wanted and section[1] != _NOBITS
            for section in self._sections
        )
