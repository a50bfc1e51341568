"""Pins: names in a BPF file system that keep programs, maps and links alive without a process.

The tree under a directory can be walked like any other; what is pinned comes back as the live object it is. Names
must not contain a dot (the kernel reserves them).
"""

from __future__ import annotations

import errno
import os
import struct

from klasy.bpf import maps, sys
from klasy.bpf import uapi as u
from klasy.bpf.links import Link
from klasy.bpf.program import Program
from klasy.bpf.sys import Buffer
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    from klasy.bpf.maps import Map

    T = TypeVar("T", Program, Map, Link)

BPFFS = "/sys/fs/bpf"  # where everybody mounts it

_OBJECT = struct.Struct("<QII")  # pathname, bpf_fd, file_flags


def pin(obj: Program | Map | Link, path: str) -> None:
    """Give the object a name. Missing directories are made, for root only.

    KernelRefused: EEXIST if the name is taken, EPERM or ENOENT if ``path`` is not in a BPF file system.
    """
    _check_name(path)
    name = Buffer(os.fsencode(path) + b"\0")
    what = f"pinning at {path}"
    try:
        _make_directory(os.path.dirname(path))
    except OSError as error:
        raise sys.refused(what, error.errno or 0, _HINTS) from None
    sys.bpf(u.BPF_OBJ_PIN, _OBJECT.pack(name.address, obj.fileno(), 0), what, hints=_HINTS)


def open_pin(path: str) -> Program | Map | Link:
    """The object pinned at ``path``. KernelRefused, ENOENT if there is none."""
    name = Buffer(os.fsencode(path) + b"\0")
    fd = sys.bpf(u.BPF_OBJ_GET, _OBJECT.pack(name.address, 0, 0), f"opening the pin {path}")
    kind = _kind(fd)
    if kind == "bpf-map":
        return maps.open_fd(fd)
    if kind == "bpf-prog":
        program = Program(fd)
        program.name = program.info().name
        return program
    if kind in {"bpf-link", "bpf_link"}:  # the first from a pin or an id, the second when just made
        return Link(fd)
    os.close(fd)
    raise sys.refused(f"opening the pin {path}", errno.EINVAL, {errno.EINVAL: f"it is a {kind!r}, unknown to klasy"})


def open_map(path: str) -> Map:
    """The map pinned at ``path``; TypeError if something else is."""
    return _open_as(maps.Map, path, "map")


def open_link(path: str) -> Link:
    """The link pinned at ``path``; TypeError if something else is."""
    return _open_as(Link, path, "link")


def open_program(path: str) -> Program:
    """The program pinned at ``path``; TypeError if something else is."""
    return _open_as(Program, path, "program")


def _open_as(kind: type[T], path: str, word: str) -> T:
    obj = open_pin(path)
    if not isinstance(obj, kind):
        obj.close()
        raise TypeError(f"{path} is no {word}")
    return obj


def unpin(path: str) -> bool:
    """Take the name away; whether there was one.

    The object goes when nobody else holds it, a moment later: see :func:`klasy.bpf.sys.wait_gone`.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise sys.refused(f"removing the pin {path}", error.errno or 0) from None
    return True


def walk(root: str) -> Iterator[str]:
    """Paths of all pins under a directory, sorted within each directory; nothing if there is no such directory."""
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)
        else:
            yield entry.path


def unpin_tree(root: str) -> int:
    """Take away all pins under a directory, and it; how many pins there were. No such directory: none."""
    count = 0
    for path in list(walk(root)):
        count += unpin(path)
    for directory, _, _ in os.walk(root, topdown=False):
        try:
            os.rmdir(directory)
        except OSError as error:
            raise sys.refused(f"removing {directory}", error.errno or 0) from None
    return count


def is_bpffs(path: str, mounts: str = "/proc/self/mounts") -> bool:
    """Whether ``path``, or its nearest directory that exists, lies in a BPF file system."""
    path = os.path.realpath(path)
    best, kind = "", ""
    with open(mounts) as file:
        for line in file:
            _, point, filesystem, *_ = line.split()
            inside = point in {"/", path} or path.startswith(point + "/")
            if inside and len(point) >= len(best):  # of two mounts on one point the later lies on top
                best, kind = point, filesystem
    return kind == "bpf"


_HINTS = {
    errno.EPERM: "the directory must lie in a BPF file system: mount -t bpf bpf /sys/fs/bpf",
    errno.EACCES: "the directory must lie in a BPF file system that root can write",
    errno.EEXIST: "something is pinned there already",
}


def _check_name(path: str) -> None:
    if "." in os.path.basename(path):
        raise ValueError(f"the name of a pin cannot contain a dot: {path}")


def _make_directory(path: str) -> None:
    """os.makedirs, but those on the way are for root only too."""
    if not os.path.isdir(path):
        _make_directory(os.path.dirname(path))
        os.mkdir(path, mode=0o700)


def _kind(fd: int) -> str:
    """What a descriptor stands for: ``bpf-map``, ``bpf-prog``, ``bpf-link``."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").removeprefix("anon_inode:").strip("[]")
    except OSError:  # denied by a policy, which is to be switched off none the less
        with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
            told = file.read()
        kinds = {"map_type:": "bpf-map", "link_type:": "bpf-link", "prog_type:": "bpf-prog"}
        return next((kind for field, kind in kinds.items() if field in told), "?")
