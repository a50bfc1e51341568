"""What system calls are given in memory, or fill, as text."""

from __future__ import annotations

from struct import Struct
from typing import Any

import pytest
from tests.unit.log.test_calls import CALLS, record, text

from klasy.log.format_json import value_json
from klasy.record import TEXT_BYTES, TEXT_KERNEL, TEXT_NONE, TEXT_USER

WORDS = Struct("<4q")
LIMITS = Struct("<2Q")
POLL = Struct("<ihh")
EVENT = Struct("<IQ")
STAT = Struct("<24xI12xQQ")
AT = 0x1000  # where it was
VECTOR, MESSAGE = 200, 376  # their rooms


def pieces(*each: tuple[int, int, bytes | None]) -> bytes:
    """What a record has of a vector: addresses, lengths, and what is there (None: it could not be read)."""
    heads = b"".join(LIMITS.pack(address, length) for address, length, _ in each).ljust(64, b"\0")
    data = b"".join((there or b"").ljust(32, b"\0") for _, _, there in each).ljust(128, b"\0")
    return heads + data + bytes([TEXT_NONE if there is None else TEXT_USER for _, _, there in each])


def message(name: bytes | None, vector: bytes, *, control: int = 0, flags: int = 0, told: int = TEXT_USER) -> bytes:
    """What a record has of a struct msghdr with one piece."""
    form = Struct("<QI4x2Q2QI4x")
    address, controls = 16 * (name is not None), 48 * bool(control)
    head = form.pack(address, len(name or b""), 32, 1, controls, control, flags)
    return head + (name or b"").ljust(112, b"\0") + bytes([told]).ljust(8, b"\0") + vector


HELLO = pieces((16, 5, b"hello"))
TWO = pieces((16, 40, b"x" * 32), (32, 5, b"12345"))
HOME = b"\2\0\0\x35\x7f\0\0\1" + bytes(8)
MANY_X = "x" * 32


@pytest.mark.parametrize(
    ("call", "result", "data", "shown"),
    [
        (("writev", 1, AT, 1), 5, HELLO, 'writev(1, [{iov_base="hello", iov_len=5}], 1) = 5'),
        (("writev", 1, AT, 0), 0, b"", "writev(1, [], 0) = 0"),
        (
            ("writev", 1, AT, 2),
            None,
            TWO,
            f'writev(1, [{{iov_base="{MANY_X}".., iov_len=40}}, {{iov_base="12345", iov_len=5}}], 2)',
        ),
        (
            ("writev", 1, AT, 6),
            -14,
            pieces((0, 0, b""), (16, 5, None), (0, 5, None), (16, 1, b"a")),
            "writev(1, [{iov_base=NULL, iov_len=0}, {iov_base=0x10, iov_len=5}, {iov_base=NULL, iov_len=5}, "
            '{iov_base="a", iov_len=1}, ..], 6) = -1 EFAULT (Bad address)',
        ),
        (
            ("readv", 1, AT, 2),
            42,
            TWO,
            f'readv(1, [{{iov_base="{MANY_X}".., iov_len=40}}, {{iov_base="12", iov_len=5}}], 2) = 42',
        ),
        (
            ("readv", 1, AT, 2),
            3,
            TWO,
            'readv(1, [{iov_base="xxx", iov_len=40}, {iov_base="", iov_len=5}], 2) = 3',
        ),
        (("readv", 1, AT, 2), -5, TWO, "readv(1, 0x1000, 2) = -1 EIO (Input/output error)"),
        (("readv", 1, AT, 2), None, TWO, "readv(1, 0x1000, 2)"),
    ],
)
def test_vectors(call: tuple[Any, ...], result: int | None, data: bytes, shown: str) -> None:
    """Each piece with its length; of what was filled as much as came, one piece after the other."""
    assert text(call[0], call[1:], result, (data, TEXT_USER), rooms=(VECTOR,)) == shown


def test_messages() -> None:
    """To whom, what, and how much comes along; what the call has filled only behind it."""
    piece = '{iov_base="hello", iov_len=5}'

    def sent(data: bytes, result: int | None) -> str:
        return text("sendmsg", (3, AT, 0), result, (data, TEXT_USER), rooms=(MESSAGE,))

    whole = sent(message(HOME, HELLO, control=24), 5)
    assert whole == f"sendmsg(3, {{msg_name=127.0.0.1:53, msg_iov=[{piece}], msg_controllen=24}}, 0) = 5"
    unread = sent(message(b"x", HELLO, told=TEXT_NONE), -14)
    assert unread == f"sendmsg(3, {{msg_name=0x10, msg_iov=[{piece}]}}, 0) = -1 EFAULT (Bad address)"
    assert sent(message(None, HELLO, flags=0x20), None) == f"sendmsg(3, {{msg_iov=[{piece}]}}, 0)"
    came = (message(None, HELLO, flags=0x20), TEXT_USER)
    shown = text("recvmsg", (3, AT, 0), 2, came, rooms=(MESSAGE,))
    assert shown == 'recvmsg(3, {msg_iov=[{iov_base="he", iov_len=5}], msg_flags=MSG_TRUNC}, 0) = 2'
    assert text("recvmsg", (3, AT, 0), None, rooms=()) == "recvmsg(3, 0x1000, 0)"


@pytest.mark.parametrize(
    ("call", "result", "data", "room", "shown"),
    [
        (
            ("poll", AT, 0xDEAD << 32 | 2, -1),
            1,
            POLL.pack(3, 1, 1) + POLL.pack(-1, 5, 0),
            40,
            "poll([{fd=3, events=POLLIN, revents=POLLIN}, {fd=-1, events=POLLIN|POLLOUT}], 2, -1) = 1",
        ),
        (("poll", AT, 1, 5), None, POLL.pack(3, 1, 1), 40, "poll([{fd=3, events=POLLIN}], 1, 5)"),
        (("poll", AT, 5, 0), 0, bytes(32), 40, f"poll([{'{fd=0, events=0}, ' * 4}..], 5, 0) = 0"),
        (
            ("epoll_wait", 4, AT, 64, -1),
            2,
            EVENT.pack(1, 7) + EVENT.pack(1 << 31 | 0x10, 1 << 40 | 5),
            56,
            "epoll_wait(4, [{events=EPOLLIN, data={u32=7, u64=7}}, "
            "{events=EPOLLHUP|EPOLLET, data={u32=5, u64=1099511627781}}], 64, -1) = 2",
        ),
        (("epoll_wait", 4, AT, 64, 0), 0, b"", 56, "epoll_wait(4, [], 64, 0) = 0"),
        (
            ("epoll_ctl", 4, 1, 7, AT),
            0,
            EVENT.pack(1, 7),
            16,
            "epoll_ctl(4, EPOLL_CTL_ADD, 7, {events=EPOLLIN, data={u32=7, u64=7}}) = 0",
        ),
        (
            ("setsockopt", 3, 1, 2, AT, 4),
            0,
            b"\1\0\0\0",
            40,
            "setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0",
        ),
        (("setsockopt", 3, 6, 13, AT, 5), 0, b"cubic", 40, 'setsockopt(3, SOL_TCP, TCP_CONGESTION, "cubic", 5) = 0'),
        (("setsockopt", 3, 41, 26, AT, -1), None, b"", 40, "setsockopt(3, SOL_IPV6, 26, 0x1000, -1)"),
        (("getsockopt", 3, 1, 4, AT, 16), 0, b"", 40, "getsockopt(3, SOL_SOCKET, SO_ERROR, 0x1000, 0x10) = 0"),
    ],
)
def test_what_is_waited_for(call: tuple[Any, ...], result: int | None, data: bytes, room: int, shown: str) -> None:
    """Files with events, those that came too, a few of many; options of sockets by name."""
    assert text(call[0], call[1:], result, (data, TEXT_USER), rooms=(room,)) == shown


@pytest.mark.parametrize(
    ("status", "options", "result", "shown"),
    [
        (3 << 8, 0, 7, "[{WIFEXITED(s) && WEXITSTATUS(s) == 3}], 0"),
        (9, 0, 7, "[{WIFSIGNALED(s) && WTERMSIG(s) == SIGKILL}], 0"),
        (0x80 | 6, 0, 7, "[{WIFSIGNALED(s) && WTERMSIG(s) == SIGABRT && WCOREDUMP(s)}], 0"),
        (0x137F, 2, 7, "[{WIFSTOPPED(s) && WSTOPSIG(s) == SIGSTOP}], WUNTRACED"),
        (0xFFFF, 8, 7, "[{WIFCONTINUED(s)}], WCONTINUED"),
        (0, 1, 0, "0x1000, WNOHANG"),
    ],
)
def test_what_became_of_a_process(status: int, options: int, result: int, shown: str) -> None:
    """As the macros of wait(2) tell it; nothing where none has ended."""
    data = (status.to_bytes(4, "little"), TEXT_USER)
    assert text("wait4", (-1, AT, options, 0), result, data, rooms=(8,)) == f"wait4(-1, {shown}, NULL) = {result}"


def test_times() -> None:
    """Seconds and their parts; until when; what the call changes is of interest before it only."""
    two = (WORDS.pack(1, 2, 0, 0)[:16], TEXT_USER)
    assert text("gettimeofday", (AT, 0), 0, two, rooms=(24,)) == "gettimeofday({tv_sec=1, tv_usec=2}, NULL) = 0"
    four = (WORDS.pack(1, 2, 3, 4), TEXT_USER)
    timer = text("timerfd_settime", (3, 1, AT, 0), None, four, rooms=(40,))
    assert timer == (
        "timerfd_settime(3, TFD_TIMER_ABSTIME, {it_interval={tv_sec=1, tv_nsec=2}, it_value={tv_sec=3, tv_nsec=4}}, "
        "NULL)"
    )
    clock = text("setitimer", (0, AT, 0), 0, four, rooms=(40, 40))
    assert clock == "setitimer(0, {it_interval={tv_sec=1, tv_usec=2}, it_value={tv_sec=3, tv_usec=4}}, NULL) = 0"
    waiting = text("futex", (16, 128, 1, AT, 5, 6), -110, two, rooms=(24,))
    assert waiting.startswith("futex(0x10, FUTEX_WAIT|FUTEX_PRIVATE_FLAG, 1, {tv_sec=1, tv_nsec=2}) = -1 ETIMEDOUT")
    polls = (POLL.pack(3, 1, 0), TEXT_USER)
    before = text("ppoll", (AT, 1, 16, 0, 8), None, polls, two, rooms=(40, 24))
    assert before == "ppoll([{fd=3, events=POLLIN}], 1, {tv_sec=1, tv_nsec=2}, NULL, 8)"
    assert text("ppoll", (AT, 1, 16, 0, 8), 0, polls, rooms=(40,)).endswith("], 1, 0x10, NULL, 8) = 0")


def test_files_and_limits() -> None:
    """A file's kind, mode and size, or its device; when it was changed; both limits; and what JSON has of it."""
    name = (b"/a", TEXT_KERNEL)

    def status(mode: int, device: int, size: int) -> str:
        data = (STAT.pack(mode, device, size), TEXT_USER)
        return text("newfstatat", (-100, 1, AT, 0), 0, name, data, rooms=(TEXT_BYTES, 64))

    assert status(0o100644, 0, 5) == 'newfstatat(AT_FDCWD, "/a", {st_mode=S_IFREG|0644, st_size=5, ..}, 0) = 0'
    assert "{st_mode=S_IFCHR|0666, st_rdev=makedev(0x1, 0x3), ..}" in status(0o020666, 0x103, 0)
    extended = (Struct("<28xH10xQ").pack(0o041777, 4096), TEXT_USER)
    shown = text("statx", (-100, 1, 0, 0x7FF, AT), 0, name, extended, rooms=(TEXT_BYTES, 56))
    assert shown.endswith("{stx_mode=S_IFDIR|01777, stx_size=4096, ..}) = 0")
    when = (WORDS.pack(5, (1 << 30) - 1, 6, 7), TEXT_USER)
    shown = text("utimensat", (-100, 1, AT, 0), 0, name, when, rooms=(TEXT_BYTES, 40))
    assert shown == 'utimensat(AT_FDCWD, "/a", [UTIME_NOW, {tv_sec=6, tv_nsec=7}], 0) = 0'
    limits = [(LIMITS.pack(soft, (1 << 64) - 1), TEXT_USER) for soft in (4, 8)]
    new, old = (f"{{rlim_cur={soft}, rlim_max=RLIM_INFINITY}}" for soft in (4, 8))
    both = text("prlimit64", (0, 7, AT, 16), 0, *limits, rooms=(24, 24))
    assert both == f"prlimit64(0, RLIMIT_NOFILE, {new}, {old}) = 0"
    failed = text("prlimit64", (0, 7, AT, 16), -1, *limits, rooms=(24, 24))
    assert failed.startswith(f"prlimit64(0, RLIMIT_NOFILE, {new}, 0x10) = -1 EPERM")
    raw = record((1, AT, 1), 5, (HELLO, TEXT_USER), rooms=(VECTOR,))
    decoded: Any = value_json(CALLS.decode("writev", raw, over=True), None)  # type: ignore[arg-type]
    assert decoded["arguments"] == {"fd": 1, "vec": '[{iov_base="hello", iov_len=5}]', "vlen": 1}
    assert decoded["user_memory"] == ["vec"]


def test_numbers_that_may_be_addresses() -> None:
    """What an argument is another one decides: what can be an address is shown as one, a code in hexadecimal."""
    assert text("ioctl", (1, 0x5413, 0x7FFC_0000_1000), 0, rooms=()) == "ioctl(1, 0x5413, 0x7ffc00001000) = 0"
    assert text("ioctl", (1, 0x540B, 2), 0, rooms=()) == "ioctl(1, 0x540b, 2) = 0"
    traced = text("ptrace", (12, 348, 0, 0x7FFC_0000_1000), 0, rooms=())
    assert traced == "ptrace(PTRACE_GETREGS, 348, NULL, 0x7ffc00001000) = 0"
