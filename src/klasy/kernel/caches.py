"""Files that keep what is dear to compute and belongs to one build of a kernel.

A cache is never needed and never trusted: one that cannot be written is no error, and one is read only if it is the
reader's own (or root's) regular file that nobody else may write, and whole. A file is

    8 bytes   b"klasy\\0" and the version of its contents
    4 bytes   CRC-32 of the contents
    8 bytes   length of the contents
    the contents

but for what is kept to be mapped into memory: that is the contents alone, without a checksum, as reading all of it is
what is to be saved, and is written so that it is whole or not there whatever happens to the machine.

``KLASY_CACHE`` names the folder; else it is /var/cache/klasy for root, ``$XDG_CACHE_HOME/klasy`` for others.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib

from klasy.plain import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from mmap import mmap
    from typing import TypeVar

    T = TypeVar("T")

_HEAD = struct.Struct("<6sHIQ")
_MAGIC = b"klasy\0"


def folder() -> str:
    """Where the caches lie."""
    named = os.environ.get("KLASY_CACHE")
    if named:
        return named
    if os.geteuid() == 0:
        return "/var/cache/klasy"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "klasy")


def load(name: str, version: int) -> memoryview | None:
    """What was kept under a name, or None if there is nothing that can be trusted."""
    data = _trusted(name, _read)
    if data is None or len(data) < _HEAD.size:
        return None
    magic, found_version, checksum, length = _HEAD.unpack_from(data)
    contents = memoryview(data)[_HEAD.size :]
    if (magic, found_version, length) != (_MAGIC, version, len(contents)) or zlib.crc32(contents) != checksum:
        return None
    return contents


def load_mapped(name: str) -> mmap | None:
    """What ``store_mapped`` has kept under a name, or None if there is nothing that can be trusted."""
    from mmap import ACCESS_READ, mmap

    return _trusted(name, lambda fd, size: mmap(fd, size, access=ACCESS_READ) if size else None)


def _trusted(name: str, read: Callable[[int, int], T]) -> T | None:
    """What ``read`` makes of a file, by descriptor and size, if it is one that nobody else may write."""
    try:
        fd = os.open(os.path.join(folder(), name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        facts = os.fstat(fd)
        trusted = stat.S_ISREG(facts.st_mode) and facts.st_uid in (0, os.geteuid()) and not facts.st_mode & 0o022
        return read(fd, facts.st_size) if trusted else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _read(fd: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def store(name: str, version: int, contents: bytes, *, private: bool = False) -> bool:
    """Keep something under a name; whether it was done. ``private``: nobody else may read it."""
    head = _HEAD.pack(_MAGIC, version, zlib.crc32(contents), len(contents))
    return _store(name, (head, contents), 0o600 if private else 0o644)


def store_mapped(name: str, contents: bytes) -> bool:
    """Keep something to be mapped into memory; whether it was done."""
    return _store(name, (contents,), 0o644, durably=True)


def _store(name: str, parts: Sequence[bytes], mode: int, *, durably: bool = False) -> bool:
    where = os.path.join(folder(), name)
    draft = f"{where}.{os.getpid()}"
    try:
        os.makedirs(folder(), mode=0o755, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except OSError:
        return False
    try:
        with open(fd, "wb", buffering=0) as file:
            os.fchmod(fd, mode)  # whatever the umask adds or takes
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[file.write(rest) :]
            if durably:
                os.fsync(fd)
        os.rename(draft, where)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        return False
    return True


_PART = struct.Struct("<II")


def pack(parts: Mapping[str, bytes]) -> bytes:
    """Several named contents as one."""
    pieces = []
    for name, contents in parts.items():
        label = name.encode()
        pieces += [_PART.pack(len(label), len(contents)), label, contents]
    return b"".join(pieces)


def unpack(data: memoryview) -> dict[str, memoryview]:
    """What ``pack`` was given. Raises ValueError for anything else."""
    parts = {}
    at = 0
    while at < len(data):
        if at + _PART.size > len(data):
            raise ValueError("cut short")
        label, length = _PART.unpack_from(data, at)
        start = at + _PART.size + label
        at = start + length
        if at > len(data):
            raise ValueError("cut short")
        parts[str(data[start - label : start], "utf-8")] = data[start:at]
    return parts
