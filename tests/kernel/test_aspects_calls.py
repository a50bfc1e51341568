"""The ready aspects on system calls, against what the programs know that made them."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections import Counter
from pathlib import Path

import pytest
from support.aspects import ME, messages, ready, values

from klasy.log.format_text import call_text

pytestmark = pytest.mark.usefixtures("nothing_left", "loopback")


def test_opens(tmp_path: Path) -> None:
    """Every file that is opened is logged by its name, with the flags, and the descriptor or the error."""
    libc = ctypes.CDLL(None)
    there, nowhere = tmp_path / "there", tmp_path / "nowhere"
    with ready("opens") as made:
        descriptor = os.open(there, os.O_RDWR | os.O_CREAT)
        with pytest.raises(FileNotFoundError):
            os.open(nowhere, os.O_RDONLY)
        os.close(descriptor)
        how = struct.pack("<QQQ", os.O_NOFOLLOW, 0, 2)
        others = [libc.syscall(2, b"/proc/stat", 0, 0), libc.syscall(85, str(there).encode(), 0o600)]
        others += [libc.syscall(437, -100, path, how, len(how)) for path in (b"/proc", b"/proc/self")]
        said = [call_text(e.values[0][1]) for e in made.mine()]
        failed = values("opens")["failed"]
    for opened in others[:3]:
        os.close(opened)
    assert f'openat(AT_FDCWD, "{there}", O_RDWR|O_CREAT|O_CLOEXEC, 0777) = {descriptor}' in said
    assert f'openat(AT_FDCWD, "{nowhere}", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)' in said
    shown = "{flags=O_RDONLY|O_NOFOLLOW, mode=0, resolve=RESOLVE_NO_MAGICLINKS}, 24"
    assert [line for line in said if not line.startswith("openat(")] == [
        f'open("/proc/stat", O_RDONLY) = {others[0]}',
        f'creat("{there}", 0600) = {others[1]}',
        f'openat2(AT_FDCWD, "/proc", {shown}) = {others[2]}',
        f'openat2(AT_FDCWD, "/proc/self", {shown}) = -1 ELOOP (Too many levels of symbolic links)',
    ]
    assert failed[ME,] >= 2


def test_connects() -> None:
    """Attempts to connect are logged with the address that was asked for and the result that the program got."""
    asked: list[tuple[int, tuple[object, ...] | str, str]] = [
        (socket.AF_INET, ("127.0.0.9", 9), "127.0.0.9:9"),
        (socket.AF_INET6, ("::1", 77), "[::1]:77"),
        (socket.AF_UNIX, "/run/klasy-nobody", "/run/klasy-nobody"),
        (socket.AF_UNIX, "\0klasy-hidden", "@klasy-hidden"),
        (socket.AF_UNIX, "\0klasy-nobody", "@klasy-nobody"),
    ]
    results = []
    with ready("connects") as made, socket.socket(socket.AF_UNIX) as server:
        server.bind("\0klasy-hidden")
        server.listen()
        for family, address, _ in asked:
            with socket.socket(family) as end:
                results.append(end.connect_ex(address))
        said = [(e.message or "").rpartition(", in ")[0] for e in made.mine()]
        kept = values("connects")
    assert results[3] == 0
    assert said == [f"{ME}[{os.getpid()}] to {shown} = {-r}" for (*_, shown), r in zip(asked, results, strict=True)]
    assert {key[1]: n for key, n in kept["failed"].items() if key[0] == ME} == Counter(r for r in results if r)
    assert kept["began"] == {}


def test_raw_calls(tmp_path: Path) -> None:
    """A system call made by its number is warned of, the same made by the library's function is not."""
    libc = ctypes.CDLL(None)
    one, two = tmp_path / "one", tmp_path / "two"
    for file in (one, two):
        file.write_text("x")
    with ready("raw_calls") as made:
        one.unlink()
        libc.syscall(87, str(two).encode())
        os.kill(os.getpid(), 0)
        libc.syscall(62, os.getpid(), 0)
        with socket.socket() as unconnected:
            unconnected.connect_ex(("127.0.0.1", 1))
            libc.syscall(42, unconnected.fileno(), b"\2\0\0\1\x7f\0\0\1" + bytes(8), 16)
        said = [e.message for e in made.mine()]
    me = f"warning: {ME}[{os.getpid()}] without the C library: "
    assert said[:2] == [f'{me}unlink("{two}") = 0', f"{me}kill({os.getpid()}, 0) = 0"]
    assert len(said) == 3
    assert said[2].startswith(f"{me}connect(")


def test_deny_path(tmp_path: Path) -> None:
    """The file cannot be opened while the policy is woven, others can; each attempt is logged."""
    secret, other = tmp_path / "klasy-secret", tmp_path / "klasy-other"
    secret.write_text("s")
    other.write_text("o")
    with ready("deny_path") as made:
        for _ in range(2):
            with pytest.raises(PermissionError):
                secret.read_text()
        assert other.read_text() == "o"
        said = messages(made)
    assert secret.read_text() == "s"
    assert said == [f"{ME}[{os.getpid()}] uid 0 may not open klasy-secret"] * 2
