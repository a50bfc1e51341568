"""The table of system calls: numbers, and which arguments are strings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klasy.kernel import callcontents, syscalls
from klasy.kernel.tracepoints import Tracepoints

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
FORMAT = """name: sys_enter_{name}
ID: 1
format:
{fields}
"""


@pytest.mark.skipif(not HEADER.exists(), reason="the kernel's headers for programs are not installed")
def test_numbers_are_those_of_the_headers() -> None:
    """Each call that the C headers know has their number, and no other."""
    known = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())}
    assert len(known) > 300
    assert {name: syscalls.number(name) for name in known if name in syscalls.NAMES} == {
        name: number for name, number in known.items() if name in syscalls.NAMES
    }
    assert set(known) <= {*syscalls.NAMES, "uretprobe"}


def test_numbers_are_all_different() -> None:
    """No two calls share a number, and all lie in the table that programs look them up in."""
    numbers = [syscalls.number(name) for name in syscalls.NAMES]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < 512


def events(**calls: str) -> Tracepoints:
    """The trace events of calls, each declared as C does."""
    texts = {}
    for name, declared in calls.items():
        fields = "".join(
            f"\tfield:{text.strip()};\toffset:{16 + 8 * place};\tsize:8;\tsigned:0;\n"
            for place, text in enumerate(declared.split(","))
        )
        head = "\tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n"
        texts["syscalls", f"sys_enter_{name}"] = FORMAT.format(name=name, fields=head + fields)
    return Tracepoints(texts)


def test_strings_are_what_the_kernel_takes_as_such() -> None:
    """A const char * is one, but not a buffer, of which the call knows the length; of mount's arguments three are,
    though they are not const."""
    known = events(
        openat="int dfd, const char * filename, int flags, umode_t mode",
        write="unsigned int fd, const char * buf, size_t count",
        mount="char * dev_name, char * dir_name, char * type, unsigned long flags, void * data",
        getcwd="char * buf, unsigned long size",
        close="unsigned int fd",
    )
    found = {
        name: tuple(
            each.place for each in callcontents.contents(known, name, over=False) if each.kind == callcontents.STRING
        )
        for name in ("openat", "write", "mount", "getcwd", "close", "read")
    }
    assert found == {"openat": (1,), "write": (), "mount": (0, 1, 2), "getcwd": (), "close": (), "read": ()}


def test_what_a_call_fills_is_there_when_it_is_over() -> None:
    """The address that connect is given is there before; that of accept's peer, and both ends of a pipe, afterwards."""
    known = events(
        connect="int fd, struct sockaddr * uservaddr, int addrlen",
        accept="int fd, struct sockaddr * upeer_sockaddr, int * upeer_addrlen",
        pipe2="int * fildes, int flags",
        write="unsigned int fd, const char * buf, size_t count",
        read="unsigned int fd, char * buf, size_t count",
        sendto="int fd, void * buff, size_t len, unsigned int flags, struct sockaddr * addr, int addr_len",
        recvfrom="int fd, void * ubuf, size_t size, unsigned int flags, struct sockaddr * addr, int * addr_len",
        setxattr="const char * pathname, const char * name, const void * value, size_t size, int flags",
    )
    for name, before, after in (
        ("connect", [1], [1]),
        ("accept", [], [1]),
        ("pipe2", [], [0]),
        ("write", [1], [1]),
        ("read", [], [1]),
        ("sendto", [1, 4], [1, 4]),
        ("recvfrom", [], [1, 4]),
        ("setxattr", [0, 1, 2], [0, 1, 2]),
    ):
        assert [each.place for each in callcontents.contents(known, name, over=False)] == before
        assert [each.place for each in callcontents.contents(known, name, over=True)] == after


def test_an_argument_may_be_called_as_the_number_is() -> None:
    """What stands before the arguments is told by its place: some calls have an argument 'nr'."""
    known = events(io_submit="aio_context_t ctx_id, long nr, struct iocb * * iocbpp")
    assert [field.name for field in syscalls.recorded(known, "io_submit") or ()] == ["ctx_id", "nr", "iocbpp"]
