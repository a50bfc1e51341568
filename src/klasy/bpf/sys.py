"""The system calls: bpf(2), perf_event_open(2), and the ioctls of perf events. The only user of C functions in klasy.

Thin on purpose: attributes come packed, and what comes back is a number or a :class:`KernelRefused` that says what
was being tried. What the attributes mean is known by the modules of the live objects. Descriptors are owned by a
:class:`Descriptor` from the moment the kernel hands them out, so that no error on the way can leak one.
"""

from __future__ import annotations

import errno
import os
import struct
import time

# What ctypes is made of. Importing that, with its forty types, costs six times as much.
from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, _SimpleCData, addressof, dlopen, dlsym, get_errno
from _io import FileIO

from klasy.bpf import uapi as u
from klasy.errors import KernelRefused
from klasy.plain import TYPE_CHECKING, Closing

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCKDOWN_FILE = "/sys/kernel/security/lockdown"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 1 << 1


class _Byte(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _Int(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Function(CFuncPtr):
    """A function of the C library that returns a long and leaves its errno."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Long


_libc = dlopen(None, 0)  # type: ignore[arg-type]  # what this process is linked with
_syscall = _Function(dlsym(_libc, "syscall"))
_syscall.argtypes = [_Long] * 6
_ioctl = _Function(dlsym(_libc, "ioctl"))
_ioctl.argtypes = [_Int, _Long, _Long]
_ioctl.restype = _Int


class Buffer:
    """Memory at a fixed address, for the kernel to read and write.

    Made from a size or from bytes. The address holds as long as the object lives: keep it in a variable over the call.
    """

    __slots__ = ("_memory", "address", "size", "view")

    def __init__(self, content: int | bytes) -> None:
        memory = bytearray(content or 1)
        self.size = content if isinstance(content, int) else len(content)
        self._memory = _Byte.from_buffer(memory)  # while it is there, the bytes stay where they are
        self.address = addressof(self._memory)
        #: the bytes, to read and write in place
        self.view = memoryview(memory)[: self.size]

    def bytes(self) -> bytes:
        """A copy of the content."""
        return self.view.tobytes()

    def text(self) -> str:
        """The content up to the first NUL, as text."""
        return self.bytes().partition(b"\0")[0].decode(errors="replace")


class Descriptor(Closing):
    """A file descriptor with an owner. Closed by ``close()``, by ``with``, or, with a warning, when forgotten."""

    # What closes a forgotten one is not a finalizer of ours: a signal could come in it, whose exception Python would
    # print and forget, and the weave that it was to end would go on.
    _file: FileIO | None = None

    def __init__(self, fd: int) -> None:
        self._file = FileIO(fd) if fd >= 0 else None

    def fileno(self) -> int:
        """The number, for the likes of select; ValueError when closed."""
        if self._file is None:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._file.fileno()

    def close(self) -> None:
        """Give the descriptor back. What the kernel object does then depends on who else holds it. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._file is None else f'fd {self.fileno()}'}>"


def bpf(command: int, attributes: bytes | Buffer, what: str, *, hints: dict[int, str] | None = None) -> int:
    """bpf(2). Returns its result, as a rule a descriptor or 0.

    ``what`` goes into the error, in words that stand before ``: Operation not permitted``. ``hints`` are remedies by
    error number. Give a Buffer when the kernel writes into the attributes.
    """
    buffer = attributes if isinstance(attributes, Buffer) else Buffer(attributes)
    result, error = bpf_raw(command, buffer)
    if error:
        raise refused(what, error, hints)
    return result


def bpf_raw(command: int, buffer: Buffer) -> tuple[int, int]:
    """bpf(2), as (result, error number): for callers to whom some errors are answers."""
    return _number(u.__NR_bpf, command, buffer.address, buffer.size, 0, 0)


def perf_event_open(attributes: bytes, what: str, *, cpu: int, hints: dict[int, str] | None = None) -> int:
    """perf_event_open(2) for all tasks on one CPU; the new descriptor."""
    buffer = Buffer(attributes)
    everyone, no_group = -1, -1
    result, error = _number(u.__NR_perf_event_open, buffer.address, everyone, cpu, no_group, u.PERF_FLAG_FD_CLOEXEC)
    if error:
        raise refused(what, error, hints)
    return result


def ioctl(fd: int, request: int, argument: int, what: str) -> int:
    """ioctl(2)."""
    result: int = _ioctl(fd, request, argument)
    if result < 0:
        raise refused(what, get_errno())
    return result


def rename_exchange(one: str, other: str) -> None:
    """Swap two paths in one step: renameat2(2) with RENAME_EXCHANGE (on bpffs from 5.16)."""
    names = Buffer(os.fsencode(one) + b"\0"), Buffer(os.fsencode(other) + b"\0")
    _, error = _number(u.__NR_renameat2, _AT_FDCWD, names[0].address, _AT_FDCWD, names[1].address, _RENAME_EXCHANGE)
    if error:
        raise refused(f"swapping {one} and {other}", error)


def refused(what: str, error: int, hints: dict[int, str] | None = None) -> KernelRefused:
    """The exception for a system call that failed, with the remedy if one is known."""
    hint = (hints or {}).get(error)
    if hint is None and error in {errno.EPERM, errno.EACCES}:
        hint = _rights_hint()
    return KernelRefused(what, error, hint=hint)


def lockdown(path: str = LOCKDOWN_FILE) -> str | None:
    """The kernel's lockdown: ``none``, ``integrity``, ``confidentiality``; None where it cannot be told."""
    try:
        with open(path) as file:
            text = file.read()
    except OSError:
        return None
    inside = text.partition("[")[2].partition("]")[0]
    return inside or None


def object_ids(command: int) -> list[int]:
    """Ids of all programs, maps or links of the machine: ``command`` is one of ``BPF_*_GET_NEXT_ID``."""
    ids: list[int] = []
    attributes = Buffer(12)
    while True:
        struct.pack_into("<III", attributes.view, 0, ids[-1] if ids else 0, 0, 0)
        _, error = bpf_raw(command, attributes)
        if error == errno.ENOENT:
            return ids
        if error:
            raise refused("listing the kernel's BPF objects", error)
        ids.append(struct.unpack_from("<I", attributes.view, 4)[0])


def wait_gone(command: int, numbers: Iterable[int], timeout: float) -> bool:
    """Wait until the kernel has freed the objects with these ids; whether it did within ``timeout`` seconds.

    ``command`` as for :func:`object_ids`. Letting the last holder of a link go detaches at once only where that is a
    descriptor; a pin's link goes some milliseconds after the name, when an RCU grace period has passed, and its
    program keeps running until then. The program's id goes last, after the link has been taken off.
    """
    wanted = set(numbers)
    deadline = time.monotonic() + timeout
    while wanted & set(object_ids(command)):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.002)
    return True


def open_id(command: int, number: int, what: str) -> int:
    """A descriptor of the object with this id: ``command`` is one of ``BPF_*_GET_FD_BY_ID``."""
    return bpf(command, struct.pack("<III", number, 0, 0), what)


def object_info(fd: int, info: Buffer, what: str) -> int:
    """BPF_OBJ_GET_INFO_BY_FD: fills ``info``; how many of its bytes this kernel knows.

    What ``info`` holds goes in too: pointers to buffers and their lengths. Bytes that the kernel does not know must
    be zero, and stay zero: a newer field of an older kernel reads as 0.
    """
    attributes = Buffer(struct.pack("<IIQ", fd, info.size, info.address))
    bpf(u.BPF_OBJ_GET_INFO_BY_FD, attributes, what)
    length: int = struct.unpack_from("<I", attributes.view, 4)[0]
    return length


def object_name(name: str) -> bytes:
    """A name as the kernel takes it: at most 15 bytes, of letters, digits, ``_`` and ``.``; others become ``_``."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)
    return kept.encode()[: u.BPF_OBJ_NAME_LEN - 1]


def _number(*arguments: int) -> tuple[int, int]:
    result: int = _syscall(*arguments)
    return result, (get_errno() if result < 0 else 0)


def _rights_hint() -> str | None:
    if os.geteuid() != 0:
        return "this needs root"
    if lockdown() == "confidentiality":
        return "the kernel is locked down (confidentiality): boot without lockdown=confidentiality"
    return "root without CAP_SYS_ADMIN, CAP_BPF or CAP_PERFMON (a container?) is not enough"
