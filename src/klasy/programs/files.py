"""The executable files of user programs and libraries: where they are, and which functions lie where in them.

What a file looks like the user may have chosen: a broken one is a clear error, never a crash.
"""

from __future__ import annotations

import os
from contextlib import suppress
from io import BytesIO

from klasy.errors import InputError
from klasy.notes import gnu_build_id
from klasy.plain import NamedTuple
from klasy.programs.elf import functions, read_elf

# Where a library is looked for that is given by its name alone, and a program that PATH does not lead to.
LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib", "/lib")
DEBUG = "/usr/lib/debug/.build-id"

_CLASS_AND_ORDER = b"\2\1"  # ELFCLASS64, ELFDATA2LSB
_EXECUTABLE = 1  # PF_X


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
            return _followed(place)
    if "/" in name:
        reason = "it is no file" if os.path.exists(name) else "there is no such file"
        raise NotAProgram(f"'{name}' cannot be probed: {reason}")
    raise NotAProgram(
        f"there is no program '{name}' in PATH and no library of that name", hint="write its whole path, from '/' on"
    )


def _followed(place: str) -> str:
    """A path with its links followed. Those of /proc lead elsewhere than they say: /proc/PID/root into a container."""
    real = os.path.realpath(place)
    with suppress(OSError):
        if os.path.samefile(real, place):
            return real
    return os.path.abspath(place)


class ProgramFile:
    """One file, read when made. ``name`` is what messages call it. Raises NotAProgram."""

    def __init__(self, path: str, name: str | None = None) -> None:
        self.path = path
        self._name = name or path
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise NotAProgram(f"'{self._name}' cannot be read: {error.strerror}") from None
        if data[:4] != b"\x7fELF":
            why = "a script: probe the program that runs it" if data[:2] == b"#!" else "no program or library"
            raise NotAProgram(f"'{self._name}' is {why}")
        if data[4:6] != _CLASS_AND_ORDER:
            raise self._of_another_machine()
        try:
            self._elf = read_elf(BytesIO(data))
            machine, kind = self._elf["e_machine"], self._elf["e_type"]
            segments = list(self._elf.iter_segments())
            notes = [gnu_build_id(s.data()) for s in segments if s["p_type"] == "PT_NOTE"]
            self._sections = {section.name: section["sh_type"] for section in self._elf.iter_sections()}
        except Exception:  # pyelftools raises whatever its parsers meet
            raise NotAProgram(f"'{self._name}' is damaged: it is no whole ELF file") from None
        if machine != "EM_X86_64":
            raise self._of_another_machine()
        if kind not in ("ET_EXEC", "ET_DYN"):
            raise NotAProgram(f"'{self._name}' is no program or shared library, but a part of one")
        self._code = [s for s in segments if s["p_type"] == "PT_LOAD" and s["p_flags"] & _EXECUTABLE]
        self.build_id = next((build_id for build_id in notes if build_id), None)  # in hexadecimal digits
        self._symbols: list[Symbol] | None = None

    def _of_another_machine(self) -> NotAProgram:
        return NotAProgram(f"'{self._name}' is of another kind of machine: klasy probes 64-bit x86 programs")

    def symbols(self) -> list[Symbol]:
        """Its functions, by address; one of several names once for each. Names without versions."""
        if self._symbols is None:
            found: dict[tuple[str, int], Symbol] = {}
            for full, address, size, chosen in functions(self._elf):
                name, offset = full.partition("@")[0], self._offset(address)
                if offset is not None and name:
                    found.setdefault((name, address), Symbol(name, address, offset, size, chosen))
            self._symbols = sorted(found.values(), key=lambda s: (s.address, s.name))
        return self._symbols

    def _offset(self, address: int) -> int | None:
        """Where in the file the code of an address is."""
        for segment in self._code:
            if segment["p_vaddr"] <= address < segment["p_vaddr"] + segment["p_filesz"]:
                return int(segment["p_offset"] + address - segment["p_vaddr"])
        return None

    def debug_file(self) -> str | None:
        """The file that has its debug information: itself, or a separate one that is installed; None: there is none."""
        if self._sections.get(".debug_info", "SHT_NOBITS") != "SHT_NOBITS":
            return self.path
        build_id = self.build_id
        separate = f"{DEBUG}/{build_id[:2]}/{build_id[2:]}.debug" if build_id else ""
        return separate if separate and os.path.isfile(separate) else None
