"""The bytes of the kernel's memory, its text above all, as they are now: read from /proc/kcore.

Live text differs from the kernel's file: alternatives, static calls, jump labels and return thunks are patched, and
modules are only here.
"""

from __future__ import annotations

import errno
import os
import struct

from klasy.errors import KernelLacks, KernelRefused, NotRoot
from klasy.plain import dataclass

_ELF_HEADER = struct.Struct("<16s2HI3QI6H")
_SEGMENT = struct.Struct(
    "<2I6Q"
)  # type, flags, offset, virtual address, physical address, size in file, size, alignment
_LOAD = 1


@dataclass(frozen=True, slots=True)
class _Segment:
    address: int
    size: int
    offset: int


class Kcore:
    """Kernel memory through an ELF core file, which /proc/kcore is.

    Raises NotRoot, KernelLacks or KernelRefused where it cannot be opened: it needs CAP_SYS_RAWIO, and a kernel whose
    lockdown is not ``confidentiality``.
    """

    def __init__(self, path: str = "/proc/kcore") -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError as error:
            if os.geteuid() != 0:
                raise NotRoot("reading kernel memory needs root", hint=f"{path} cannot be opened") from None
            raise KernelRefused(
                f"open {path}",
                error.errno or errno.EPERM,
                hint="lockdown in confidentiality mode forbids it: see /sys/kernel/security/lockdown",
            ) from None
        except FileNotFoundError:
            raise KernelLacks(f"this kernel has no {path}", hint="it was built without CONFIG_PROC_KCORE") from None
        self._segments = self._read_segments(path)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    def _read_segments(self, path: str) -> list[_Segment]:
        header = os.pread(self._fd, _ELF_HEADER.size, 0)
        if len(header) < _ELF_HEADER.size or header[:5] != b"\x7fELF\x02":
            raise KernelLacks(f"{path} is no 64-bit ELF file")
        fields = _ELF_HEADER.unpack(header)
        table, size, count = fields[5], fields[9], fields[10]
        entries = os.pread(self._fd, size * count, table)
        segments = []
        for at in range(0, len(entries) - _SEGMENT.size + 1, size):
            kind, _, offset, address, _, length, _, _ = _SEGMENT.unpack_from(entries, at)
            if kind == _LOAD:
                segments.append(_Segment(address, length, offset))
        return segments

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory. Raises KernelRefused where they cannot be read; unmapped memory in a segment reads as 0."""
        for segment in self._segments:
            at = address - segment.address
            if at >= 0 and at + size <= segment.size:
                return self._read(segment.offset + at, address, size)
        raise KernelRefused(f"read kernel memory at {address:#x}", errno.EFAULT)

    def _read(self, offset: int, address: int, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = os.pread(self._fd, size, offset)
            except OSError as error:
                raise KernelRefused(f"read kernel memory at {address:#x}", error.errno or errno.EIO) from None
            if not part:
                raise KernelRefused(f"read kernel memory at {address:#x}", errno.EFAULT)
            parts.append(part)
            size -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
