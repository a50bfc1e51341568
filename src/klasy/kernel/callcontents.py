"""What the arguments of system calls lead to in a program's memory: which of it a call takes note of, and how much.

A whole system call (``log(joinpoint)``) shows it as strace does. What lies there is read when the advice runs. What a
call fills is there behind it only; what it overwrites, of no use to know afterwards, is read before it only.
"""

from __future__ import annotations

from klasy.errors import SystemRefusal
from klasy.kernel.syscalls import ARGUMENT_OFFSETS, event_name, recorded
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.record import TEXT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.kernel.tracepoints import Field, Tracepoints

# Kinds. Of the first the program's memory tells itself where they end.
STRING = "string"
# As long as the next argument says: as a number or, of what the call fills, as the address of an int.
SOCKET_ADDRESS, OPEN_HOW = "socket address", "open_how"
# Of a size of their own.
TIME, TIMES, TIMER = "time", "times", "timer"  # struct timespec, two of them, struct itimerspec
CLOCK, CLOCK_TIMER = "clock", "clock timer"  # struct timeval, struct itimerval
PAIR, LIMIT, STATUS, EPOLL_EVENT, STAT, STATX = "pair", "limit", "status", "event", "stat", "statx"
# So many elements as the next argument says or, of what the call fills, its result.
DATA, OPTION, POLLS, EVENTS = "data", "option", "polls", "events"
# Pieces of memory with their lengths (struct iovec): as many as the next argument says; those of a struct msghdr.
PIECES, MESSAGE = "pieces", "message"

ELEMENT = {DATA: 1, OPTION: 1, POLLS: 8, EVENTS: 12}
"""Bytes of an element of those that are counted."""

# Of PIECES so many are noted, each with so much of what it leads to; then a byte for each that tells whether it was
# read. Of a MESSAGE the struct, the address of the other end and the pieces.
MOST_PIECES = 4
PIECE_BYTES = 16
PIECE_DATA = 32
PIECES_DATA = MOST_PIECES * PIECE_BYTES
PIECES_TOLD = PIECES_DATA + MOST_PIECES * PIECE_DATA
PIECES_SIZE = PIECES_TOLD + MOST_PIECES
MESSAGE_NAME, MESSAGE_NAME_SIZE = 56, 112
MESSAGE_NAME_TOLD = MESSAGE_NAME + MESSAGE_NAME_SIZE
MESSAGE_PIECES = MESSAGE_NAME_TOLD + 8
# In struct msghdr (include/linux/socket.h, struct user_msghdr).
MESSAGE_NAME_LENGTH, MESSAGE_VECTOR, MESSAGE_COUNT, MESSAGE_CONTROL, MESSAGE_FLAGS = 8, 16, 24, 32, 48

_DATA = 32  # of what is read and written as much as strace shows
_PATH = TEXT_BYTES - 1
_FEW = 4  # elements

GIVEN, FILLED, CHANGED = "given", "filled", "changed"


class Content(NamedTuple):
    """What an argument leads to.

    ``place``: which argument it is; ``size``: the most bytes that are noted of it; 0 where the room for a string is.
    """

    place: int
    kind: str
    size: int = 0
    filled: bool = False

    @property
    def register(self) -> int:
        """The register with its address, as an offset in ``struct pt_regs``."""
        return ARGUMENT_OFFSETS[self.place]

    @property
    def size_register(self) -> int:
        """That of the next argument."""
        return ARGUMENT_OFFSETS[self.place + 1]

    @property
    def room(self) -> int:
        """Bytes in a record: as many as there may be, and one that tells where they are from."""
        return -(-(self.size + 1) // 8) * 8 if self.size else TEXT_BYTES


_SIZES = {
    **{TIME: 16, TIMES: 32, TIMER: 32, CLOCK: 16, CLOCK_TIMER: 32},
    **{PAIR: 8, LIMIT: 16, STATUS: 4, EPOLL_EVENT: 12, STAT: 56, STATX: 48},
    **{OPTION: _DATA, POLLS: _FEW * ELEMENT[POLLS], EVENTS: _FEW * ELEMENT[EVENTS]},
    **{DATA: _DATA, PIECES: PIECES_SIZE, MESSAGE: MESSAGE_PIECES + PIECES_SIZE},
}

# What calls are given, or fill, by call and argument.
_LEAD = {
    ("connect", "uservaddr"): (SOCKET_ADDRESS, GIVEN),
    ("bind", "umyaddr"): (SOCKET_ADDRESS, GIVEN),
    ("sendto", "addr"): (SOCKET_ADDRESS, GIVEN),
    ("accept", "upeer_sockaddr"): (SOCKET_ADDRESS, FILLED),
    ("accept4", "upeer_sockaddr"): (SOCKET_ADDRESS, FILLED),
    ("getsockname", "usockaddr"): (SOCKET_ADDRESS, FILLED),
    ("getpeername", "usockaddr"): (SOCKET_ADDRESS, FILLED),
    ("recvfrom", "addr"): (SOCKET_ADDRESS, FILLED),
    ("setsockopt", "optval"): (OPTION, GIVEN),
    ("sendmsg", "msg"): (MESSAGE, GIVEN),
    ("recvmsg", "msg"): (MESSAGE, FILLED),
    ("openat2", "how"): (OPEN_HOW, GIVEN),
    ("pipe", "fildes"): (PAIR, FILLED),
    ("pipe2", "fildes"): (PAIR, FILLED),
    ("socketpair", "usockvec"): (PAIR, FILLED),
    # time
    ("nanosleep", "rqtp"): (TIME, GIVEN),
    ("clock_nanosleep", "rqtp"): (TIME, GIVEN),
    ("clock_settime", "tp"): (TIME, GIVEN),
    ("clock_gettime", "tp"): (TIME, FILLED),
    ("clock_getres", "tp"): (TIME, FILLED),
    ("sched_rr_get_interval", "interval"): (TIME, FILLED),
    ("futex", "utime"): (TIME, GIVEN),
    ("semtimedop", "timeout"): (TIME, GIVEN),
    ("epoll_pwait2", "timeout"): (TIME, GIVEN),
    ("rt_sigtimedwait", "uts"): (TIME, GIVEN),
    ("mq_timedsend", "u_abs_timeout"): (TIME, GIVEN),
    ("mq_timedreceive", "u_abs_timeout"): (TIME, GIVEN),
    ("ppoll", "tsp"): (TIME, CHANGED),
    ("pselect6", "tsp"): (TIME, CHANGED),
    ("select", "tvp"): (CLOCK, CHANGED),
    ("utimensat", "utimes"): (TIMES, GIVEN),
    ("gettimeofday", "tv"): (CLOCK, FILLED),
    ("settimeofday", "tv"): (CLOCK, GIVEN),
    ("setitimer", "value"): (CLOCK_TIMER, GIVEN),
    ("setitimer", "ovalue"): (CLOCK_TIMER, FILLED),
    ("getitimer", "value"): (CLOCK_TIMER, FILLED),
    ("timer_settime", "new_setting"): (TIMER, GIVEN),
    ("timer_settime", "old_setting"): (TIMER, FILLED),
    ("timer_gettime", "setting"): (TIMER, FILLED),
    ("timerfd_settime", "utmr"): (TIMER, GIVEN),
    ("timerfd_settime", "otmr"): (TIMER, FILLED),
    ("timerfd_gettime", "otmr"): (TIMER, FILLED),
    # processes
    ("setrlimit", "rlim"): (LIMIT, GIVEN),
    ("getrlimit", "rlim"): (LIMIT, FILLED),
    ("prlimit64", "new_rlim"): (LIMIT, GIVEN),
    ("prlimit64", "old_rlim"): (LIMIT, FILLED),
    ("wait4", "stat_addr"): (STATUS, FILLED),
    # waiting for files
    ("poll", "ufds"): (POLLS, GIVEN),
    ("ppoll", "ufds"): (POLLS, GIVEN),
    ("epoll_ctl", "event"): (EPOLL_EVENT, GIVEN),
    ("epoll_wait", "events"): (EVENTS, FILLED),
    ("epoll_pwait", "events"): (EVENTS, FILLED),
    ("epoll_pwait2", "events"): (EVENTS, FILLED),
    # files
    **{(call, "statbuf"): (STAT, FILLED) for call in ("stat", "fstat", "lstat", "newfstatat")},
    ("statx", "buffer"): (STATX, FILLED),
    # reading and writing
    ("write", "buf"): (DATA, GIVEN),
    ("pwrite64", "buf"): (DATA, GIVEN),
    ("sendto", "buff"): (DATA, GIVEN),
    ("mq_timedsend", "u_msg_ptr"): (DATA, GIVEN),
    **{(f"{which}setxattr", "value"): (DATA, GIVEN) for which in ("", "l", "f")},
    ("sethostname", "name"): (DATA, GIVEN),
    ("setdomainname", "name"): (DATA, GIVEN),
    ("read", "buf"): (DATA, FILLED),
    ("pread64", "buf"): (DATA, FILLED),
    ("recvfrom", "ubuf"): (DATA, FILLED),
    ("mq_timedreceive", "u_msg_ptr"): (DATA, FILLED),
    ("getrandom", "buf"): (DATA, FILLED),
    ("getrandom", "ubuf"): (DATA, FILLED),  # since 6.6
    **{(f"{which}getxattr", "value"): (DATA, FILLED) for which in ("", "l", "f")},
    ("readlink", "buf"): (DATA, FILLED),
    ("readlinkat", "buf"): (DATA, FILLED),
    ("getcwd", "buf"): (STRING, FILLED),
    **{(call, "vec"): (PIECES, GIVEN) for call in ("writev", "pwritev", "pwritev2")},
    **{(call, "vec"): (PIECES, FILLED) for call in ("readv", "preadv", "preadv2")},
    ("vmsplice", "uiov"): (PIECES, GIVEN),
}
_LEADING = frozenset(call for call, _ in _LEAD)

# Of these more is shown than of other data.
_LONG = {"sethostname": 64, "setdomainname": 64, "readlink": _PATH, "readlinkat": _PATH}  # a name has 64 at the most

# Strings that the kernel takes, though their type is not 'const char *'.
_ALSO_STRINGS = {"mount": ("dev_name", "dir_name", "type"), "umount2": ("name",)}


def contents(tracepoints: Tracepoints, name: str, *, over: bool) -> tuple[Content, ...]:
    """What a call leads to, by place; ``over``: what it has filled, too. Faster where that is nothing."""
    if name not in _LEADING:
        try:
            if "char *" not in tracepoints.read("syscalls", event_name(name)):
                return ()
        except SystemRefusal:
            return ()
    return contents_of(name, recorded(tracepoints, name) or (), over=over)


def contents_of(name: str, fields: Sequence[Field], *, over: bool) -> tuple[Content, ...]:
    """See :func:`contents`. ``fields`` are the arguments."""
    also = _ALSO_STRINGS.get(name, ())
    found = []
    for place, field in enumerate(fields):
        kind, when = _LEAD.get((name, field.name), ("", GIVEN))
        if not kind and (field.name in also or field.type.replace(" ", "") == "constchar*"):
            found.append(Content(place, STRING))
        elif kind and when != (CHANGED if over else FILLED):
            size = _LONG.get(name, _DATA) if kind == DATA else _SIZES.get(kind, 0)
            found.append(Content(place, kind, size, when == FILLED))
    return tuple(found)
