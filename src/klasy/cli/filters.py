"""``--pid``, ``--comm``, ``--cgroup``, ``--uid``, ``--children``: from what was written to a filter.

What is named must be there. The kernel's numbers are what programs see: where klasy itself lives in a namespace of its
own, in which other numbers hold, it says so instead of filtering by the wrong ones.
"""

from __future__ import annotations

import os

from klasy.errors import InputError, SystemRefusal, UsageError, one_line
from klasy.match.filter import COMM_SIZE, Cgroup, Filter, User
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from klasy.cli.options import Arguments

_INITIAL = {"pid": 0xEFFFFFFC, "cgroup": 0xEFFFFFFB}  # inodes of the first namespaces (include/linux/proc_ns.h)
_MOST = 64  # values of one option: each costs instructions at each hit


def read_filter(args: Arguments, *, proc: str = "/proc") -> Filter:
    """The filter that a command line asks for. Raises UsageError, InputError, SystemRefusal."""
    if args.command is not None and args.pid:
        raise UsageError("--pid and a command do not go together", hint="the command's processes are the ones woven on")
    if args.children and not args.pid:
        raise UsageError("--children goes with --pid", hint="of a command the children are followed anyway")
    return Filter(
        pids=tuple(_pids(args.pid or (), proc)),
        comms=tuple(map(_comm, _few("--comm", args.comm or ()))),
        cgroups=tuple(_cgroup(path, proc) for path in _few("--cgroup", args.cgroup or ())),
        users=tuple(_user(text) for text in _few("--uid", _split(args.uid or ()))),
        children=args.children,
    )


def ended(woven: dict[str, Any], *, proc: str = "/proc") -> list[str]:
    """What of a woven aspect's filter, as Filter.to_json gives it, is no longer there, a line each.

    Where this process cannot know (in a namespace of its own) nothing is said.
    """
    lines = []
    try:
        if woven["pids"] and not woven["children"]:  # else children of one that has ended may go on
            in_first_namespace("pid", proc)
            lines += [f"process {pid} has ended" for pid in woven["pids"] if _process_of(pid, proc) != pid]
        if woven["cgroups"]:
            in_first_namespace("cgroup", proc)
            told = [_ended_cgroup(*each, proc) for each in zip(woven["cgroups"], woven["cgroup_ids"], strict=True)]
            lines += filter(None, told)
    except SystemRefusal:
        pass
    return lines


def in_first_namespace(kind: str, proc: str = "/proc") -> None:
    """Raise SystemRefusal where this process lives in a namespace of its own of a kind: other numbers hold there."""
    try:
        inode = os.stat(f"{proc}/self/ns/{kind}").st_ino
    except OSError:
        return
    if inode != _INITIAL[kind]:
        what = {"pid": "processes have other numbers", "cgroup": "cgroups have other paths"}[kind]
        raise SystemRefusal(
            f"klasy runs in a container ({kind} namespace), where {what} than in the kernel",
            hint="run it on the host, or filter in the aspect: if(..) with pid, comm, uid, cgroup",
        )


def _split(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",")]


def _few(option: str, values: Sequence[str]) -> Sequence[str]:
    if len(values) > _MOST:
        raise UsageError(f"{option} takes up to {_MOST} values")
    return list(dict.fromkeys(values))


def _pids(texts: Sequence[str], proc: str) -> Iterator[int]:
    for text in _few("--pid", _split(texts)):
        if not (text.isascii() and text.isdecimal()) or int(text) == 0:
            raise UsageError(f"--pid: '{one_line(text)}' is no process number")
        in_first_namespace("pid", proc)
        pid = int(text)
        process = _process_of(pid, proc)
        if process is None:
            raise InputError(f"--pid: there is no process {pid}")
        if process != pid:
            raise InputError(
                f"--pid: {pid} is a thread of process {process}",
                hint=f"--pid {process}; or, in the aspect, if(tid == {pid})",
            )
        yield pid


def _process_of(pid: int, proc: str) -> int | None:
    """The process that a number belongs to: /proc knows threads by their numbers too, though it does not list them."""
    try:
        with open(f"{proc}/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == "Tgid":
                    return int(value)
    except (OSError, ValueError):
        pass
    return None


def _comm(name: str) -> bytes:
    encoded = os.fsencode(name)
    most = COMM_SIZE - 1
    if not encoded or b"\0" in encoded:
        raise UsageError(f"--comm: '{one_line(name)}' is no name of a thread")
    if len(encoded) > most:
        cut = one_line(encoded[:most].decode(errors="replace"))
        raise UsageError(
            f"--comm: '{one_line(name)}' is longer than the {most} bytes that the kernel keeps of a name",
            hint=f"it would be '{cut}' there",
        )
    return encoded


def _user(text: str) -> User:
    if text.isascii() and text.isdecimal():
        if int(text) >= 0xFFFFFFFF:
            raise UsageError(f"--uid: {text} is no user's number")
        return User(int(text), text)
    import pwd

    try:
        uid = pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise InputError(f"--uid: there is no user '{one_line(text)}'") from None
    return User(uid, f"{uid} ({text})")


# --- cgroups --------------------------------------------------------------------------------------------------------


def _cgroup(text: str, proc: str) -> Cgroup:
    """A cgroup by its path in the file system, or from the top of the hierarchy."""
    in_first_namespace("cgroup", proc)
    mounts = list(_cgroup_mounts(proc))
    if not mounts:
        raise SystemRefusal(
            "--cgroup: no cgroup2 file system is mounted",
            hint="mount -t cgroup2 none /sys/fs/cgroup; hierarchies of version 1 cannot be filtered by",
        )
    device, root, top = mounts[0]
    text = text.replace("\0", "?")  # no file's name has it
    path = os.path.realpath(text if text.startswith(f"{top}/") or text == top else f"{top}/{text.strip('/')}")
    inside = "" if path == top else path.removeprefix(f"{top}/")
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        status = None
    if status is None or path == inside or status.st_dev != device or not os.path.isdir(path):
        raise InputError(f"--cgroup: there is no cgroup '{one_line(text)}'", hint=f"cgroups are directories in {top}")
    names = [part for part in f"{root}/{inside}".split("/") if part]
    return Cgroup("/" + "/".join(names), status.st_ino, len(names))


def _ended_cgroup(path: str, known: int, proc: str) -> str:
    """What became of a cgroup of a path and an id; nothing if it is there, or not to be seen from here."""
    for _, root, top in _cgroup_mounts(proc):
        inside = root.rstrip("/")
        if path != inside and not path.startswith(f"{inside}/"):
            continue
        try:
            now = os.stat(top + path.removeprefix(inside)).st_ino
        except FileNotFoundError:
            return f"the cgroup {path} was removed"
        except OSError:
            return ""
        return "" if now == known else f"the cgroup {path} is another one now: the one that was asked for was removed"
    return ""


def _cgroup_mounts(proc: str) -> Iterator[tuple[int, str, str]]:
    """Device, root (a path in the hierarchy) and place of each cgroup2 mount."""
    with open(f"{proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, behind = line.partition(" - ")
            if behind.split(" ", 1)[0] == "cgroup2":
                _, _, device, root, top, *_ = before.split(" ")
                major, _, minor = device.partition(":")
                yield os.makedev(int(major), int(minor)), root, top
