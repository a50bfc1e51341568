"""System calls as text, and the names of flags against the C headers and Python's own."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import zip_longest
from shutil import which
from struct import Struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logrecords import SYMBOLS, run
from support.logrecords import record as log_record
from tests.unit.kernel.test_syscalls import events

from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.kernel.callwords import RESOLVE, WORDS, Words
from klasy.kernel.structwords import STRUCT_WORDS
from klasy.log.calls import Calls
from klasy.log.decode import Decoder
from klasy.log.event import LogPoint, Schema
from klasy.log.format_json import event_json, value_json
from klasy.log.format_text import call_text, event_text
from klasy.log.lines import LineDecoder
from klasy.record import (
    CALL_REGISTERS,
    CALL_SIZE,
    HEADER_SIZE,
    TEXT_BYTES,
    TEXT_KERNEL,
    TEXT_NONE,
    TEXT_USER,
    Field,
    Format,
)

CALLS = Calls(
    events(
        openat="int dfd, const char * filename, int flags, umode_t mode",
        mmap="unsigned long addr, unsigned long len, unsigned long prot, unsigned long flags, unsigned long fd,"
        " unsigned long off",
        kill="pid_t pid, int sig",
        clone="unsigned long clone_flags, unsigned long newsp, int * parent_tidptr, int * child_tidptr,"
        " unsigned long tls",
        fcntl="unsigned int fd, unsigned int cmd, unsigned long arg",
        futex="u32 * uaddr, int op, u32 val, const struct __kernel_timespec * utime, u32 * uaddr2, u32 val3",
        mremap="unsigned long addr, unsigned long old_len, unsigned long new_len, unsigned long flags,"
        " unsigned long new_addr",
        prctl="int option, unsigned long arg2, unsigned long arg3, unsigned long arg4, unsigned long arg5",
        lseek="unsigned int fd, off_t offset, unsigned int whence",
        connect="int fd, struct sockaddr * uservaddr, int addrlen",
        accept4="int fd, struct sockaddr * upeer_sockaddr, int * upeer_addrlen, int flags",
        pipe2="int * fildes, int flags",
        openat2="int dfd, const char * filename, struct open_how * how, size_t usize",
        nanosleep="struct __kernel_timespec * rqtp, struct __kernel_timespec * rmtp",
        inotify_add_watch="int fd, const char * pathname, u32 mask",
        read="unsigned int fd, char * buf, size_t count",
        write="unsigned int fd, const char * buf, size_t count",
        sendto="int fd, void * buff, size_t len, unsigned int flags, struct sockaddr * addr, int addr_len",
        sethostname="char * name, int len",
        readlink="const char * path, char * buf, int bufsiz",
        getcwd="char * buf, unsigned long size",
        bpf="int cmd, union bpf_attr * uattr, unsigned int size",
        writev="unsigned long fd, const struct iovec * vec, unsigned long vlen",
        readv="unsigned long fd, const struct iovec * vec, unsigned long vlen",
        sendmsg="int fd, struct user_msghdr * msg, unsigned int flags",
        recvmsg="int fd, struct user_msghdr * msg, unsigned int flags",
        poll="struct pollfd * ufds, unsigned int nfds, int timeout_msecs",
        ppoll="struct pollfd * ufds, unsigned int nfds, struct __kernel_timespec * tsp, const sigset_t * sigmask,"
        " size_t sigsetsize",
        epoll_ctl="int epfd, int op, int fd, struct epoll_event * event",
        epoll_wait="int epfd, struct epoll_event * events, int maxevents, int timeout",
        setsockopt="int fd, int level, int optname, char * optval, int optlen",
        getsockopt="int fd, int level, int optname, char * optval, int * optlen",
        newfstatat="int dfd, const char * filename, struct stat * statbuf, int flag",
        statx="int dfd, const char * filename, unsigned flags, unsigned int mask, struct statx * buffer",
        wait4="pid_t upid, int * stat_addr, int options, struct rusage * ru",
        prlimit64="pid_t pid, unsigned int resource, const struct rlimit64 * new_rlim, struct rlimit64 * old_rlim",
        utimensat="int dfd, const char * filename, struct __kernel_timespec * utimes, int flags",
        setitimer="int which, struct __kernel_old_itimerval * value, struct __kernel_old_itimerval * ovalue",
        timerfd_settime="int ufd, int flags, const struct __kernel_itimerspec * utmr,"
        " struct __kernel_itimerspec * otmr",
        gettimeofday="struct __kernel_old_timeval * tv, struct timezone * tz",
        ioctl="unsigned int fd, unsigned int cmd, unsigned long arg",
        ptrace="long request, long pid, unsigned long addr, unsigned long data",
        fanotify_init="unsigned int flags, unsigned int event_f_flags",
        fanotify_mark="int fanotify_fd, unsigned int flags, __u64 mask, int dfd, const char * pathname",
    )
)
NAMES = (
    "openat",
    "mmap",
    "kill",
    "clone",
    "lseek",
    "connect",
    "accept4",
    "pipe2",
    "nanosleep",
    "write",
    "read",
    "sendto",
    "writev",
    "readv",
    "sendmsg",
    "recvmsg",
    "poll",
    "epoll_wait",
    "setsockopt",
    "newfstatat",
    "statx",
    "wait4",
    "prlimit64",
    "utimensat",
)
SHORT = 40  # the room of what is read or written
ORDER = ("di", "si", "dx", "r10", "r8", "r9")


def record(
    arguments: tuple[int, ...], result: int = 0, *texts: tuple[bytes, int], rooms: tuple[int, ...] = ()
) -> bytes:
    """The field of a record. ``rooms``: those of the texts, the largest unless it is given."""
    values = dict(zip(ORDER, arguments, strict=False))
    registers = [values.get(name, 0xDEAD) & (1 << 64) - 1 for name in CALL_REGISTERS]
    data = Struct("<q9Q").pack(result, *registers)
    found = zip_longest(texts, rooms[: len(texts)], fillvalue=TEXT_BYTES)
    return data + b"".join(text[: room - 1].ljust(room - 1, b"\0") + bytes([source]) for (text, source), room in found)


def text(
    name: str,
    arguments: tuple[int, ...],
    result: int | None,
    *texts: tuple[bytes, int],
    rooms: tuple[int, ...] = (),
) -> str:
    """A call as it is shown."""
    return call_text(CALLS.decode(name, record(arguments, result or 0, *texts, rooms=rooms), over=result is not None))


NUMBERS = st.sampled_from([0, 1, 2, 3, -1, -100, 0o100, 0x7FFF_0000_1000]) | st.integers(-(1 << 63), (1 << 63) - 1)

# Strings, and addresses of all kinds that sockets have.
TEXTS = st.sampled_from([b"/a", b"\xff\n%s"]) | st.builds(
    lambda family, rest: bytes([family, 0]) + rest, st.sampled_from([0, 1, 2, 10, 16, 40]), st.binary(max_size=200)
)
ROOMS = st.sampled_from([(), (SHORT,), (SHORT, TEXT_BYTES), (376,), (200,), (40, 24)])


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(NAMES)),
            st.lists(NUMBERS, min_size=6, max_size=6),
            st.sampled_from([3, 0, -2, -512, 0x7F00_0000_1000]),
            st.lists(st.tuples(TEXTS, st.integers(0, 2)), max_size=2),
            ROOMS,
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["before", "after"]),
    st.sampled_from([None, "%s", "%d %s"]),
    st.booleans(),
)
def test_many_at_a_time(calls: Any, when: str, template: str | None, as_json: bool) -> None:
    """Whatever is called, with whatever texts: the lines are those of the events that the records make."""
    points = (*(LogPoint("execution", name, 0, None) for name in NAMES), LogPoint("execution", "unknown", 0, None))
    number = Field("n", "int", HEADER_SIZE, 8)
    field = Field("joinpoint", "call", HEADER_SIZE + 8, CALL_SIZE + 3 * TEXT_BYTES, type_name=when)
    entries = (field,) if template == "%s" else (number, field)
    form = Format(0, 0, 1, template, entries, HEADER_SIZE + 8 + field.size)
    decoder = Decoder(Schema("a", (when,), points, (form,)), lambda _: None, SYMBOLS)
    decoder.calls = CALLS
    show = (lambda event: event_json(event, SYMBOLS)) if as_json else (lambda event: event_text(event, SYMBOLS))
    runs = [
        run(log_record(bytes(8) + record(tuple(arguments), result, *texts, rooms=rooms), point=point))
        for point, arguments, result, texts, rooms in calls
    ]
    found = LineDecoder(decoder, show, as_json=as_json).decode(runs)
    events = [decoder.decode(each.records()[0]) for each in runs]
    assert found == [(event.time_ns, show(event)) for event in events if event is not None]


def test_arguments_that_a_call_does_not_read_are_left_out() -> None:
    """Where another argument decides; what is in their registers is whatever the program left there."""
    junk = 0x6B6B_6B6B_6B6B
    assert text("openat", (5, 1, 0o200000, junk), None, (b"/d", TEXT_KERNEL)) == 'openat(5, "/d", O_RDONLY|O_DIRECTORY)'
    made = text("openat", (5, 1, 0o20200002, 0o600), None, (b"/d", TEXT_KERNEL))
    assert made == 'openat(5, "/d", O_RDWR|O_TMPFILE, 0600)'
    assert text("fcntl", (3, 3, junk), 2) == "fcntl(3, F_GETFL) = 2"
    assert text("fcntl", (3, 4, 2), 0) == "fcntl(3, F_SETFL, 2) = 0"
    assert text("futex", (0x1000, 129, 1, junk, junk, junk), 1) == "futex(0x1000, FUTEX_WAKE|FUTEX_PRIVATE_FLAG, 1) = 1"
    waiting = text("futex", (0x1000, 128, 1, 0, junk, junk), None)
    assert waiting == "futex(0x1000, FUTEX_WAIT|FUTEX_PRIVATE_FLAG, 1, NULL)"
    moved = text("mremap", (0x1000, 4096, 8192, 1, junk), 0x2000)
    assert moved == "mremap(0x1000, 4096, 8192, MREMAP_MAYMOVE) = 0x2000"
    assert text("mremap", (0x1000, 4096, 8192, 3, 0x3000), None).endswith("MREMAP_MAYMOVE|MREMAP_FIXED, 0x3000)")
    assert text("prctl", (15, 0x1000, junk, junk, junk), 0) == "prctl(PR_SET_NAME, 4096) = 0"
    shown: Any = value_json(CALLS.decode("fcntl", record((3, 1, junk)), over=True), SYMBOLS)
    assert shown["arguments"] == {"fd": 3, "cmd": 1}


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\2\0\0\x50\x7f\0\0\1", "127.0.0.1:80"),
        (b"\n\0\x1f\x90" + bytes(19) + b"\1", "[::1]:8080"),
        (b"\n\0\0\x16" + bytes(4) + b"\xfe\x80" + bytes(13) + b"\1\2\0\0\0", "[fe80::1%2]:22"),
        (b'\1\0/run/a "b"\0rest', 'unix:"/run/a \\"b\\""'),
        (b"\1\0\0name", 'unix:"@name"'),
        (b"\1\0\0a\0b", 'unix:"@a@b"'),
        (b"\1\0", 'unix:""'),
        (b"\x10\0\0\0\x39\x05\0\0\3\0\0\0", "netlink:1337,0x3"),
        (b"\x11\0\0\0", "AF_PACKET"),
        (b"\x63\0", "99"),
    ],
)
def test_socket_addresses(data: bytes, shown: str) -> None:
    """As people write them; an escape in a name does nothing to a terminal."""
    assert text("connect", (3, 0x1000, 16), None, (data, TEXT_USER)) == f"connect(3, {shown}, 16)"
    assert text("accept4", (3, 0x1000, 0x2000, 0), 4, (data, TEXT_USER)) == f"accept4(3, {shown}, 0x2000, 0) = 4"


def test_what_was_not_filled_or_not_read_is_an_address() -> None:
    """A call that failed has filled nothing, one that is about to be made neither; NULL is none."""
    at_home = (b"\2\0\0\x50\x7f\0\0\1", TEXT_USER)
    assert text("accept4", (3, 0x1000, 0x2000, 0), -11, at_home).startswith("accept4(3, 0x1000, 0x2000, 0) = -1 EAGAIN")
    assert text("accept4", (3, 0x1000, 0x2000, 0), None) == "accept4(3, 0x1000, 0x2000, 0)"
    assert text("accept4", (3, 0, 0, 0), 4, (b"", TEXT_NONE)) == "accept4(3, NULL, NULL, 0) = 4"
    assert text("connect", (3, 0x1000, 16), -14, (b"", TEXT_NONE)).startswith("connect(3, 0x1000, 16) = -1 EFAULT")
    failed = text("connect", (3, 0x1000, 16), -111, at_home)
    assert failed == "connect(3, 127.0.0.1:80, 16) = -1 ECONNREFUSED (Connection refused)"


def test_pairs_and_times() -> None:
    """Both ends of a pipe; what there is to wait; how a file is to be opened."""
    how = (Struct("<3Q").pack(0o2000002, 0o600, 0x108), TEXT_USER)
    opened = text("openat2", (-100, 1, 2, 24), 3, (b"/a", TEXT_KERNEL), how)
    shown_how = "{flags=O_RDWR|O_CLOEXEC, mode=0600, resolve=RESOLVE_BENEATH|0x100}"
    assert opened == f'openat2(AT_FDCWD, "/a", {shown_how}, 24) = 3'
    ends = (b"\3\0\0\0\4\0\0\0", TEXT_USER)
    assert text("pipe2", (0x1000, 0o2000000), 0, ends, rooms=(16,)) == "pipe2([3, 4], O_CLOEXEC) = 0"
    waited = (Struct("<qq").pack(1, 5), TEXT_USER)
    assert text("nanosleep", (0x1000, 0), 0, waited, rooms=(24,)) == "nanosleep({tv_sec=1, tv_nsec=5}, NULL) = 0"
    shown: Any = value_json(CALLS.decode("nanosleep", record((0x1000, 0), 0, waited, rooms=(24,)), over=True), SYMBOLS)
    assert shown["arguments"] == {"rqtp": "{tv_sec=1, tv_nsec=5}", "rmtp": 0}
    assert shown["user_memory"] == ["rqtp"]


@pytest.mark.parametrize(
    ("call", "result", "data", "shown"),
    [
        (("write", 1, 0x1000, 6), 6, b"hello\n", r'write(1, "hello\n", 6) = 6'),
        (("write", 1, 0x1000, 6), None, b'a\0\xff"\x1b', r'write(1, "a\0\xff\"\x1b\0", 6)'),
        (("write", 1, 0x1000, 32), 5, b"x" * 32, f'write(1, "{"x" * 32}", 32) = 5'),
        (("write", 1, 0x1000, 33), -32, b"x" * 32, f'write(1, "{"x" * 32}".., 33) = -1 EPIPE (Broken pipe)'),
        (("write", 1, 0x1000, 0), 0, b"", 'write(1, "", 0) = 0'),
        (("write", 1, 0, 0), 0, b"", "write(1, NULL, 0) = 0"),
        (("read", 0, 0x1000, 4096), 3, b"yes", 'read(0, "yes", 4096) = 3'),
        (("read", 0, 0x1000, 4096), 0, b"", 'read(0, "", 4096) = 0'),
        (("read", 0, 0x1000, 4096), 4096, b"y" * 32, f'read(0, "{"y" * 32}".., 4096) = 4096'),
        (("read", 0, 0x1000, 4096), -5, b"", "read(0, 0x1000, 4096) = -1 EIO (Input/output error)"),
        (("read", 0, 0x1000, 4096), None, b"", "read(0, 0x1000, 4096)"),
        (("sethostname", 0x1000, 0xDEAD_0000_0003), 0, b"box", 'sethostname("box", 3) = 0'),
        (("sethostname", 0x1000, -1), -22, b"box", "sethostname(0x1000, -1) = -1 EINVAL (Invalid argument)"),
    ],
)
def test_what_is_read_and_written(call: tuple[Any, ...], result: int | None, data: bytes, shown: str) -> None:
    """As many bytes as the call says, which may hold anything; that there were more; none where none were read yet."""
    room = 72 if call[0] == "sethostname" else SHORT
    assert text(call[0], call[1:], result, (data, TEXT_USER), rooms=(room,)) == shown


def test_what_is_read_with_others() -> None:
    """Each lies behind the one before, whatever its room; a path may be as long as a string; JSON has strings."""
    to = (b"\2\0\0\x50\x7f\0\0\1", TEXT_USER)
    sent = text("sendto", (3, 0x1000, 2, 0, 0x2000, 16), 2, (b"ab", TEXT_USER), to, rooms=(SHORT, TEXT_BYTES))
    assert sent == 'sendto(3, "ab", 2, 0, 127.0.0.1:80, 16) = 2'
    lost = text("sendto", (3, 0x1000, 2, 0, 0x2000, 16), 2, (b"", TEXT_NONE), to, rooms=(SHORT, TEXT_BYTES))
    assert lost == "sendto(3, 0x1000, 2, 0, 127.0.0.1:80, 16) = 2"
    link = text("readlink", (1, 0x1000, 4096), 60, (b"/a", TEXT_KERNEL), (b"/" + b"b" * 59, TEXT_USER))
    assert link == f'readlink("/a", "/{"b" * 59}", 4096) = 60'
    assert text("getcwd", (0x1000, 4096), 5, (b"/tmp", TEXT_USER)) == 'getcwd("/tmp", 4096) = 5'
    raw = record((1, 0x1000, 3), 3, (b"a\0\n", TEXT_USER), rooms=(SHORT,))
    shown: Any = value_json(CALLS.decode("write", raw, over=True), SYMBOLS)
    assert shown["arguments"] == {"fd": 1, "buf": "a\0\n", "count": 3}
    assert shown["user_memory"] == ["buf"]


def test_the_registers_lie_in_a_row() -> None:
    """What a record copies in one piece are successive words of struct pt_regs."""
    places = [PT_REGS[name] for name in CALL_REGISTERS]
    assert places == [places[0] + 8 * number for number in range(len(places))]


def test_calls_are_shown_as_programs_have_them() -> None:
    """Flags and errors by name, strings in quotes, addresses in hexadecimal, registers' high bits left out."""
    hosts = (b"/etc/hosts", TEXT_KERNEL)
    assert text("openat", (-100, 1, 0o2000000, 0), 3, hosts) == 'openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3'
    failed = text("openat", (5, 1, 0o101, 0xFFFF0000_000001A4), -2, hosts)
    assert failed == 'openat(5, "/etc/hosts", O_WRONLY|O_CREAT, 0644) = -1 ENOENT (No such file or directory)'
    assert text("openat", (5, 1, 0x40000000, 0), None, hosts) == 'openat(5, "/etc/hosts", O_RDONLY|0x40000000)'
    assert (
        text("openat", (5, 0xDEAD0, 2, 0), -14, (b"", TEXT_NONE))
        == "openat(5, 0xdead0, O_RDWR) = -1 EFAULT (Bad address)"
    )
    assert text("mmap", (0, 4096, 3, 0x22, 0xFFFFFFFF, 0), 0x7F0000001000) == (
        "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000001000"
    )
    assert text("mmap", (0, 4096, 0, 1, 3, 0), -12).endswith(
        "PROT_NONE, MAP_SHARED, 3, 0) = -1 ENOMEM (Cannot allocate memory)"
    )
    assert text("kill", (7, 9), 0) == "kill(7, SIGKILL) = 0"
    assert text("kill", (-7, 64), 0) == "kill(-7, 64) = 0"
    assert text("clone", (0x11, 0, 0, 0, 0), -512) == (
        "clone(SIGCHLD, NULL, NULL, NULL, NULL) = ? ERESTARTSYS (it is made again if the signal's handler lets it)"
    )
    watched = text("inotify_add_watch", (3, 0x1000, 0x20000406), 1, (b"w", TEXT_KERNEL))
    assert watched == 'inotify_add_watch(3, "w", IN_MODIFY|IN_ATTRIB|IN_DELETE_SELF|IN_MASK_ADD) = 1'
    assert text("fanotify_init", (4, 0), 3) == "fanotify_init(FAN_CLASS_CONTENT, O_RDONLY) = 3"
    marked = text("fanotify_mark", (3, 1, 0x08010020, -100, 0x1000), 0, (b"w", TEXT_KERNEL))
    assert marked == 'fanotify_mark(3, FAN_MARK_ADD, FAN_OPEN|FAN_OPEN_PERM|FAN_EVENT_ON_CHILD, AT_FDCWD, "w") = 0'
    assert text("lseek", (3, -1, 2), 17) == "lseek(3, -1, SEEK_END) = 17"


LOW_HALF = (1 << 32) - 1


@pytest.mark.parametrize("kind", ["pid_t", "int", "const int", "key_t", "const clockid_t", "timer_t", "enum any"])
@pytest.mark.parametrize("above", [0, 0xDEAD << 32, LOW_HALF << 32])
def test_of_a_narrow_argument_only_its_own_bits_count(kind: str, above: int) -> None:
    """C leaves anything in the upper half of the register of an int; -1 is mostly 0xffffffff there."""
    calls = Calls(events(wait4=f"{kind} upid"))
    shown = call_text(calls.decode("wait4", record((above | LOW_HALF,)), over=False))
    assert shown == "wait4(-1)"


def test_users_constants_and_addresses() -> None:
    """No user is -1, as programs write it; an unsigned number is what it is; typedefs of pointers are addresses."""
    calls = Calls(
        events(
            setresuid="uid_t ruid, uid_t euid, uid_t suid",
            getpid="unsigned a, const __u32 b, unsigned long c",
            capget="cap_user_header_t header, const cap_user_data_t data, const void *const rule",
        )
    )
    wide = 0xDEAD << 32 | LOW_HALF
    shown = [
        call_text(calls.decode(name, record(numbers), over=False))
        for name, numbers in (("setresuid", (wide, 0, LOW_HALF - 1)), ("getpid", (wide, wide, wide)))
    ]
    assert shown == ["setresuid(-1, 0, 4294967294)", f"getpid({LOW_HALF}, {LOW_HALF}, {wide})"]
    assert calls.decode("setresuid", record((wide, 0, 0)), over=False).arguments[0].value == LOW_HALF
    assert call_text(calls.decode("capget", record((0, 4096, 0)), over=False)) == "capget(NULL, 0x1000, NULL)"


def test_errors_have_the_names_of_the_manual_pages() -> None:
    """Numbers that have two names."""
    assert text("kill", (1, 0), -95) == "kill(1, 0) = -1 EOPNOTSUPP (Operation not supported)"
    assert text("kill", (1, 0), -35).startswith("kill(1, 0) = -1 EDEADLK (")
    assert text("kill", (1, 0), -11).startswith("kill(1, 0) = -1 EAGAIN (")


def test_json_tells_what_was_read_from_the_process() -> None:
    """The numbers as they are, the text, the result, and which strings the process may have changed."""
    for source, users in ((TEXT_USER, ["filename"]), (TEXT_KERNEL, None)):
        call = CALLS.decode("openat", record((-100, 1, 0, 0), -13, (b"a\xff", source)), over=True)
        shown = json.loads(json.dumps(value_json(call, None)))  # type: ignore[arg-type]  # it has no symbols
        assert shown["arguments"] == {"dfd": -100, "filename": "a\\xff", "flags": 0}
        assert (shown["call"], shown["result"], shown.get("user_memory")) == ("openat", -13, users)
        assert shown["text"].endswith("= -1 EACCES (Permission denied)")


def test_a_string_that_was_cut_says_so() -> None:
    """What fills its room may have been longer."""
    long = b"x" * (TEXT_BYTES - 2)
    assert f'"{long.decode()}"..,' in text("openat", (-100, 1, 0, 0), 3, (long, TEXT_KERNEL))


def test_an_unknown_call_has_no_arguments() -> None:
    """Where the kernel does not describe a call its name and result are shown."""
    assert text("mystery", (1, 2), 0) == "mystery() = 0"


@given(st.sampled_from([*WORDS.values(), *STRUCT_WORDS]), st.integers(0, (1 << 64) - 1))
def test_no_bit_of_a_value_is_lost(words: Words, value: int) -> None:
    """The names that are shown, and the number behind them, are together the value."""
    known = {**words.choices, **words.flags}
    shown = 0
    for part in words.text(value).split("|"):
        shown |= known[part] if part in known else 0 if part == words.none else int(part, 0)
    assert shown == value


HEADERS = (
    "fcntl.h unistd.h sys/mman.h sys/socket.h signal.h sched.h sys/wait.h sys/file.h sys/epoll.h sys/eventfd.h "
    "sys/inotify.h linux/fanotify.h sys/signalfd.h sys/timerfd.h sys/random.h sys/mount.h time.h sys/resource.h "
    "sys/ptrace.h sys/prctl.h asm/prctl.h linux/futex.h linux/close_range.h linux/falloc.h netinet/in.h linux/tcp.h "
    "linux/fs.h linux/openat2.h linux/bpf.h sys/stat.h stdio.h poll.h"
)


@pytest.mark.skipif(which("gcc") is None, reason="there is no C compiler")
def test_names_have_the_values_of_the_c_headers(tmp_path) -> None:
    """Every name is what the C headers say; only what these lack is not compared, and that is little."""
    names = {
        name: value
        for words in (*WORDS.values(), RESOLVE, *STRUCT_WORDS)
        for name, value in (*words.choices.items(), *words.flags.items())
    }
    includes = "".join(f"#if __has_include(<{h}>)\n#include <{h}>\n#endif\n" for h in HEADERS.split())
    source = tmp_path / "names.c"
    source.write_text(f"#define _GNU_SOURCE\n{includes}")
    left = subprocess.run(
        ["gcc", "-E", "-P", str(source)], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    enumerators = names.keys() & set(re.findall(r"\w+", left))
    show = '    printf("%s %%lld\\n", (long long)(%s));\n'
    lines = "".join(
        f"#if defined({name}) || {int(name in enumerators)}\n{show % (name, name)}#endif\n" for name in names
    )
    source.write_text(f"#define _GNU_SOURCE\n{includes}\nint main(void) {{\n{lines}return 0; }}\n")
    subprocess.run(["gcc", "-w", "-o", str(tmp_path / "names"), str(source)], check=True, timeout=120)
    told = subprocess.run([str(tmp_path / "names")], check=True, capture_output=True, text=True, timeout=20).stdout
    values = {name: int(number) for name, number in (line.split() for line in told.splitlines())}
    differing = {
        name: (value, values[name])
        for name, value in names.items()
        if name in values and (value ^ values[name]) & 0xFFFFFFFF and name != "O_LARGEFILE"
    }
    assert differing == {}
    assert len(values) > 0.9 * len(names)
