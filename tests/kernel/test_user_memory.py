"""What addresses of a process lead to, against what that process has put there."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from pathlib import Path

import pytest
from support.aspects import values
from support.children import child, let_go
from support.weaving import woven

LIBC = ctypes.CDLL(None, use_errno=True)
OPENAT2 = 437
PLACE = "/run/klasy/no-such.sock"

pytestmark = pytest.mark.usefixtures("nothing_left")


def connect_twice() -> None:
    with socket.socket() as inet, socket.socket(socket.AF_UNIX) as local:
        inet.connect_ex(("127.0.0.77", 4711))
        local.connect_ex(PLACE)


def test_addresses_of_sockets() -> None:
    """Of a connect, what it connects to: members through casts, variables, functions, conditions, keys of a state."""
    number, go = child(connect_twice)
    text = f"""aspect a {{
        u16 family(struct sockaddr *a) {{ return a->sa_family; }}
        struct sockaddr_in *inet(struct sockaddr *a) {{ return (struct sockaddr_in *)a; }}
        count ports[unsigned int];
        pointcut mine(struct sockaddr *uservaddr): syscall(connect) && if(pid == {number});
        after(struct sockaddr *a) returning (long r): mine(a) && if(family(a) == 2) {{
            struct sockaddr_in *in;
            in = inet(a);
            ports[ntohs(in->sin_port)]++;
            log("%s %u %d", ip4(in->sin_addr.s_addr), ntohs(in->sin_port), r);
            log(*in);
        }}
        after(struct sockaddr *a) returning (long r): mine(a) && if(a->sa_family == 1) {{
            log("%s %d", str(((struct sockaddr_un *)a)->sun_path), r);
        }}
    }}"""
    with woven(text) as a:
        let_go(number, go)
        logged = a.events()
        counted = values("a")["ports"]
    assert [e.message for e in logged if e.message] == ["127.0.0.77 4711 -111", f"{PLACE} -2"]
    (whole,) = (dict(e.values)["*in"] for e in logged if not e.message)
    members = dict(whole.members)
    assert (members["sin_family"], members["sin_port"]) == (2, socket.htons(4711))
    assert counted == {(4711,): 1}


def test_rows_of_addresses() -> None:
    """Pointers that lie in the process's memory lead on in it: the pieces of a writev, the words of an execve."""

    def act() -> None:
        reading, writing = os.pipe()
        os.writev(writing, [b"one", b"second\0", b"\x01\x02\x03"])
        os.write(writing, struct.pack("<HIQ", 0x1234, 5, 6))
        if not os.fork():
            os.execv("/bin/true", ["true", "first", "second word"])
        os.wait()
        os.close(reading)

    number, go = child(act)
    text = f"""aspect a {{
        pointcut mine(): if(pid == {number} || current->real_parent->tgid == {number});
        after(const struct iovec *vec, unsigned long vlen): syscall(writev) && mine() {{
            log("%u %u %s", vlen, vec[1].iov_len, str((char *)vec[1].iov_base));
            log(buf(vec[2].iov_base, vec[2].iov_len));
        }}
        after(const char *buf, size_t count): syscall(write) && mine() {{
            log("%#x %u %s", *(u16 *)buf, *(u32 *)(buf + 2), buf(buf, count));
        }}
        before(const char *const *argv): syscall(execve) && mine() {{
            for (int i = 0; i < 8 && argv[i]; i++) log("%d %s", i, str(argv[i]));
        }}
    }}"""
    with woven(text) as a:
        let_go(number, go)
        logged = a.events()
    written = struct.pack("<HIQ", 0x1234, 5, 6).hex(" ")
    assert [e.message for e in logged if e.message] == [
        "3 7 second", f"0x1234 5 {written}", "0 true", "1 first", "2 second word",
    ]  # fmt: skip
    (last,) = (e.values for e in logged if not e.message)
    assert list(dict(last).values()) == [b"\x01\x02\x03"]


def test_functions_of_the_kernel() -> None:
    """Where functions of the kernel get such addresses, ``__user`` says so, wherever there is a type."""
    number, go = child(connect_twice)
    text = f"""aspect a {{
        struct sockaddr __user *asked[tid];
        u64 as_number[tid];
        pointcut connects(struct sockaddr *uservaddr):
            execution(int __sys_connect(int fd, struct sockaddr __user *uservaddr, int addrlen)) && if(pid == {number});
        before(struct sockaddr *a): connects(a) {{ asked[tid] = a; as_number[tid] = (u64)a; }}
        before(struct sockaddr *unmarked): execution(int __sys_connect(int, struct sockaddr *unmarked, int))
                && if(pid == {number}) {{ log(unmarked->sa_family); }}
        before(struct sockaddr __user *b): execution(int __sys_connect(int, struct sockaddr *b, int))
                && if(pid == {number}) {{ log(b->sa_family); }}
        after(struct file *file) returning (int r): execution(int __sys_connect_file(struct file *file, ..))
                && if(pid == {number}) {{
            log("%u %u %d", asked[tid]->sa_family, ((struct sockaddr __user *)as_number[tid])->sa_family, r);
        }}
    }}"""
    with woven(text) as a:
        let_go(number, go)
        logged = a.events()
    assert [e.message for e in logged if e.message] == ["2 2 -111", "1 1 -2"]
    unmarked, marked = ([e for e in logged if e.advice == f"before#{number}"] for number in (1, 2))
    assert [e.faults for e in unmarked] == [("unmarked->sa_family",)] * 2  # of the kernel's memory
    assert [dict(e.values)["b->sa_family"] for e in marked] == [2, 1]


def test_an_address_of_the_kernel_is_none_of_the_process() -> None:
    """A process that gives an address of the kernel's does not have its memory logged."""
    symbols = Path("/proc/kallsyms").read_text().splitlines()
    symbol = next(int(line.split()[0], 16) for line in symbols if line.endswith(" linux_banner"))
    own = ctypes.create_string_buffer(struct.pack("<QQQ", os.O_PATH, 0, 0))

    def act() -> None:
        LIBC.syscall(OPENAT2, -100, b"/", ctypes.c_void_p(symbol), 24)
        LIBC.syscall(OPENAT2, -100, b"/", own, 24)

    number, go = child(act)
    text = f"""aspect a {{
        after(struct open_how *how) returning (long r): syscall(openat2) && if(pid == {number}) {{
            log(how->flags, *how, r < 0);
        }}
    }}"""
    with woven(text) as a:
        let_go(number, go)
        first, second = a.events()
    assert (first.faults, dict(first.values)["r < 0"]) == (("how->flags", "*how"), 1)
    assert (second.faults, dict(second.values)["how->flags"]) == ((), os.O_PATH)
