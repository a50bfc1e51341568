"""Names for code addresses of processes: which file of the system they lie in, and which function of it.

A frame names its file by the build id, so what is found is that very file, also when the process has ended since. It
is looked for where it is likely: the files that the aspect is woven into; what the process, then any other, has mapped;
separate debug information; the folders of programs and libraries; those in the environment variable KLASY_SYMBOLS. A
frame that is but an address needs the process: it must still be there, and have been there before.
"""

from __future__ import annotations

import os

from klasy.log.elf import ElfFile, NoElf
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from klasy.log.value import UserFrame, UserStack

DEBUG = "/usr/lib/debug/.build-id"
_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/lib/x86_64-linux-gnu", "/usr/local/lib")


class UserSymbols:
    """Finds names; remembers files, and what it did not find."""

    def __init__(self, proc: str = "/proc", debug: str = DEBUG, folders: tuple[str, ...] | None = None) -> None:
        own = tuple(folder for folder in os.environ.get("KLASY_SYMBOLS", "").split(":") if folder)
        self._proc = proc
        self._debug = debug
        self._folders = own + _FOLDERS if folders is None else folders
        self._files: dict[tuple[int, int], ElfFile | None] = {}  # by device and inode: containers share names
        self._by_build_id: dict[bytes, ElfFile | None] = {}
        self._likely: dict[str, None] = {}

    def suggest(self, files: Iterable[str | None]) -> None:
        """Where to look first: of the modules of join points those that are files of programs."""
        self._likely |= {file: None for file in files if file is not None and file.startswith("/")}

    def frames(self, stack: UserStack) -> list[dict[str, Any]]:
        """The frames of a stack: function, offset in it, file, build_id, file_offset, address; None: not known."""
        return [self._frame(stack, frame, returns=bool(at)) for at, frame in enumerate(stack.frames)]

    def _frame(self, stack: UserStack, frame: UserFrame, *, returns: bool) -> dict[str, Any]:
        file, offset, address = None, None, None
        if frame.build_id is not None:
            file, offset = self._with_build_id(frame.build_id, stack.pid), frame.offset
        else:
            address = f"{frame.offset:#x}"
            mapped = self._mapped_at(stack, frame.offset)
            if mapped is not None:
                file, offset = self._open(mapped[0]), mapped[1]
        build_id = frame.build_id or (file.build_id if file else None)
        function = inside = None
        if file is not None and offset is not None:
            found = file.function_at(offset - returns, self._debug)
            if found is not None:
                function, inside = found[0], found[1] + returns
        return {
            "function": function,
            "offset": inside,
            "file": file.path if file else None,
            "build_id": build_id.hex() if build_id else None,
            "file_offset": offset,
            "address": address,
        }

    # --- files by what the process has mapped

    def _maps(self, pid: int | str) -> Iterator[tuple[int, int, int, str]]:
        """Start, end, offset in the file and path of what a process has mapped to run."""
        try:
            with open(f"{self._proc}/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError:
            return
        for line in lines:
            fields = line.split(None, 5)
            if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
                start, end = (int(number, 16) for number in fields[0].split("-"))
                path = f"{self._proc}/{pid}/root{fields[5]}"
                if not os.path.exists(path):  # a chroot's, or gone: whatever its name, the mapping itself leads to it
                    path = f"{self._proc}/{pid}/map_files/{start:x}-{end:x}"
                yield start, end, int(fields[2], 16), path

    def _mapped_at(self, stack: UserStack, address: int) -> tuple[str, int] | None:
        """The file and the offset in it that a process has mapped at an address; None if it is another by now."""
        if not self._began_before(stack):
            return None
        for start, end, offset, path in self._maps(stack.pid):
            if start <= address < end:
                return path, address - start + offset
        return None

    def _began_before(self, stack: UserStack) -> bool:
        """Whether the process of that number is the one of the stack: it began before it."""
        try:
            with open(f"{self._proc}/{stack.pid}/stat", "rb") as file:
                ticks = int(file.read().rpartition(b")")[2].split()[19])  # field 22, starttime, since boot
        except (OSError, IndexError, ValueError):
            return False
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK") <= stack.time_ns

    # --- files by their build id

    def _with_build_id(self, build_id: bytes, pid: int) -> ElfFile | None:
        if build_id not in self._by_build_id:
            self._by_build_id[build_id] = next(
                (file for path in self._candidates(build_id, pid) if (file := self._open(path)) and file.is_(build_id)),
                None,
            )
        return self._by_build_id[build_id]

    def _candidates(self, build_id: bytes, pid: int) -> Iterator[str]:
        """Paths of files that may have it, the likely ones first."""
        yield from self._likely
        yield from (path for _, _, _, path in self._maps(pid))
        try:
            others = [entry for entry in os.listdir(self._proc) if entry.isdigit()]
        except OSError:
            others = []
        for other in others:
            yield from (path for _, _, _, path in self._maps(other))
        for folder in self._folders:
            try:
                with os.scandir(folder) as entries:
                    yield from [entry.path for entry in entries if entry.is_file()]
            except OSError:
                continue
        name = build_id.rstrip(b"\0").hex()
        yield f"{self._debug}/{name[:2]}/{name[2:]}.debug"

    def _open(self, path: str) -> ElfFile | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        key = found.st_dev, found.st_ino
        if key not in self._files:
            try:
                self._files[key] = ElfFile(path, self._shown(path))
            except (OSError, NoElf):
                self._files[key] = None
        return self._files[key]

    def _shown(self, path: str) -> str:
        """A file as its process calls it."""
        if not path.startswith(f"{self._proc}/"):
            return path
        inside = path.partition("/root/")[2]
        return f"/{inside}" if inside else os.readlink(path)
