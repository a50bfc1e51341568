"""What macros of the headers stand for, as Python's own modules have it."""

from __future__ import annotations

import errno
import mmap
import os
import re
import select
import signal
import socket
import stat
import subprocess
from pathlib import Path
from shutil import which

import pytest
from support.fakekernel import FakeKernel

from klasy.kernel import callwords, headernumbers, macros

KERNEL = FakeKernel(
    "enum { __REQ_SYNC = 11, __REQ_NR_BITS = 24, NETIF_F_GSO_BIT = 16, NETIF_F_GSO_BIT_MAX = 3 }; void f(int a);"
)


def number(name: str) -> int | None:
    """The number of a name for a kernel of 6.1."""
    found = macros.find(name, KERNEL)
    return None if found is None else found.value


@pytest.mark.parametrize(
    ("module", "prefix"),
    [
        *((errno, "E"), (signal, "SIG"), (socket, "AF_"), (socket, "SOCK_"), (socket, "MSG_"), (os, "O_")),
        *((mmap, "PROT_"), (stat, "S_I"), (select, "EPOLL"), (select, "POLL"), (os, "SCHED_"), (socket, "PACKET_")),
        *((os, "XATTR_"), (os, "CLD_")),
    ],
)
def test_numbers_are_the_headers(module: object, prefix: str) -> None:
    """Whatever Python names too has the same number: many of each kind; O_LARGEFILE is 0 in the C library alone."""
    shared = {
        name: int(value) for name, value in vars(module).items() if number(name) is not None and not callable(value)
    }
    shared = {name: number for name, number in shared.items() if name.startswith(prefix) and name != "O_LARGEFILE"}
    assert len(shared) >= 2
    assert {name: number(name) for name in shared} == shared


def test_a_name_has_one_number() -> None:
    """No two tables give a name different numbers, as the last one would be believed."""
    seen: dict[str, int] = {}
    for words in [*callwords.WORDS.values(), callwords.FAMILY, callwords.RESOLVE, callwords.AT_FDCWD]:
        for name, value in {**words.choices, **words.flags}.items():
            assert seen.setdefault(name, value) == value
    assert number("ERESTARTSYS") == 512
    assert number("NR_CPUS") is None


def test_no_name_stands_in_two_tables() -> None:
    """Of two tables, the last one would be believed."""
    tables = [*headernumbers.FIXED.values(), *headernumbers.INTERNAL.values()]
    assert len({name for table in tables for name in table}) == sum(len(table) for table in tables)
    calls = [*callwords.WORDS.values(), callwords.FAMILY, callwords.RESOLVE, callwords.AT_FDCWD]
    older = {name: value for words in calls for name, value in {**words.choices, **words.flags}.items()}
    for table in tables:
        assert {name: older[name] for name in table.keys() & older} == {n: table[n] for n in table.keys() & older}


HEADERS = (
    "linux/if_ether.h linux/if_packet.h linux/if_arp.h linux/icmp.h linux/icmpv6.h linux/netfilter.h linux/neighbour.h "
    "linux/xfrm.h linux/netlink.h linux/capability.h sys/stat.h dirent.h sys/xattr.h sched.h signal.h poll.h "
    "sys/epoll.h limits.h linux/limits.h stdint.h"
)


@pytest.mark.skipif(which("gcc") is None, reason="there is no C compiler")
def test_formats_are_the_c_headers(tmp_path: Path) -> None:
    """Every name has the number of the C headers, but for those that only the kernel's own have."""
    names = {name: value for table in headernumbers.FIXED.values() for name, value in table.items()}
    includes = "".join(f"#if __has_include(<{h}>)\n#include <{h}>\n#endif\n" for h in HEADERS.split())
    source = tmp_path / "names.c"
    source.write_text(f"#define _GNU_SOURCE\n{includes}")
    left = subprocess.run(
        ["gcc", "-E", "-P", str(source)], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    constants = names.keys() & set(re.findall(r"\w+", left))
    show = '    printf("%s %%lld\\n", (long long)(%s));\n'
    lines = "".join(f"#if defined({n}) || {int(n in constants)}\n{show % (n, n)}#endif\n" for n in names)
    source.write_text(f"#define _GNU_SOURCE\n#include <stdio.h>\n{includes}\nint main(void) {{\n{lines}return 0; }}\n")
    subprocess.run(["gcc", "-w", "-o", str(tmp_path / "names"), str(source)], check=True, timeout=120)
    told = subprocess.run([str(tmp_path / "names")], check=True, capture_output=True, text=True, timeout=20).stdout
    values = {name: int(value) for name, value in (line.split() for line in told.splitlines())}
    bits = 2**32 - 1  # a flag of the C library may be an int where the kernel's is unsigned
    assert {n: v for n, v in values.items() if (names[n] ^ v) & bits} == {}
    assert len(values) > 0.7 * len(names)


def test_the_kernels_own_are_of_its_release() -> None:
    """What a kernel may change is known of those it was compared with; the rest of any."""
    older, newer, odd = (FakeKernel("void f(int a);") for _ in range(3))
    older.release, newer.release, odd.release = "5.19.0-1", "6.12.95+deb12-amd64", "next"
    kernels = (older, KERNEL, newer, odd)
    assert [macros.find("PF_KTHREAD", each) for each in kernels] == [
        None,
        (2**21, ""),
        (2**21, ""),
        None,
    ]
    assert [macros.find("GFP_ATOMIC", each) for each in (older, KERNEL, newer)] == [None, (0xA20, "U"), (0x820, "U")]
    assert {macros.find("ETH_P_IP", each) for each in (older, newer, odd)} == {(0x800, "")}
    assert "TASK_RUNNING" in macros.names(newer)
    assert "TASK_RUNNING" not in macros.names(odd)


def test_flags_that_an_enumeration_numbers() -> None:
    """The kernel's own type information tells them; a name that has no enumerator is none."""
    assert macros.find("REQ_SYNC", KERNEL) == (1 << 11, "UL")
    assert macros.find("NETIF_F_GSO", KERNEL) == (1 << 16, "UL")
    assert macros.find("REQ_META", KERNEL) is None
    assert macros.find("REQ_NR_BITS", KERNEL) is None
    assert {"REQ_SYNC", "NETIF_F_GSO", "ENOENT"} <= set(macros.names(KERNEL))
    assert not {"REQ_NR_BITS", "NETIF_F_GSO_BIT_MAX"} & set(macros.names(KERNEL))
    assert macros.find("NETIF_F_GSO_BIT", KERNEL) is None
