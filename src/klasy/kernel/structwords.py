"""What numbers mean that lie in the memory which system calls are given or fill; and options of sockets, by level.

From the headers of Linux for x86-64, as :mod:`klasy.kernel.callwords`; compared with them by the same test.
"""

from __future__ import annotations

from klasy.kernel.callwords import LEVEL, Words, row
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

POLL = Words(
    {},
    {
        "POLLIN": 0x1,
        "POLLPRI": 0x2,
        "POLLOUT": 0x4,
        "POLLERR": 0x8,
        "POLLHUP": 0x10,
        "POLLNVAL": 0x20,
        "POLLRDNORM": 0x40,
        "POLLRDBAND": 0x80,
        "POLLWRNORM": 0x100,
        "POLLWRBAND": 0x200,
        "POLLMSG": 0x400,
        "POLLREMOVE": 0x1000,
        "POLLRDHUP": 0x2000,
    },
)
EPOLL = Words(
    {},
    {
        "EPOLLIN": 0x1,
        "EPOLLPRI": 0x2,
        "EPOLLOUT": 0x4,
        "EPOLLERR": 0x8,
        "EPOLLHUP": 0x10,
        "EPOLLRDNORM": 0x40,
        "EPOLLRDBAND": 0x80,
        "EPOLLWRNORM": 0x100,
        "EPOLLWRBAND": 0x200,
        "EPOLLMSG": 0x400,
        "EPOLLRDHUP": 0x2000,
        "EPOLLEXCLUSIVE": 1 << 28,
        "EPOLLWAKEUP": 1 << 29,
        "EPOLLONESHOT": 1 << 30,
        "EPOLLET": 1 << 31,
    },
)
FILE_TYPE = Words(
    {
        "S_IFIFO": 0o010000,
        "S_IFCHR": 0o020000,
        "S_IFDIR": 0o040000,
        "S_IFBLK": 0o060000,
        "S_IFREG": 0o100000,
        "S_IFLNK": 0o120000,
        "S_IFSOCK": 0o140000,
    }
)
DEVICES = frozenset({"S_IFCHR", "S_IFBLK"})
WHEN = Words({"UTIME_NOW": (1 << 30) - 1, "UTIME_OMIT": (1 << 30) - 2})


SOCKET_OPTION = Words(
    {
        **row(
            "SO_DEBUG SO_REUSEADDR SO_TYPE SO_ERROR SO_DONTROUTE SO_BROADCAST SO_SNDBUF SO_RCVBUF SO_KEEPALIVE "
            "SO_OOBINLINE SO_NO_CHECK SO_PRIORITY SO_LINGER SO_BSDCOMPAT SO_REUSEPORT SO_PASSCRED SO_PEERCRED "
            "SO_RCVLOWAT SO_SNDLOWAT SO_RCVTIMEO SO_SNDTIMEO",
            1,
        ),
        **row("SO_BINDTODEVICE SO_ATTACH_FILTER SO_DETACH_FILTER SO_PEERNAME SO_TIMESTAMP SO_ACCEPTCONN", 25),
        **row("SO_PEERSEC SO_SNDBUFFORCE SO_RCVBUFFORCE SO_PASSSEC SO_TIMESTAMPNS SO_MARK SO_TIMESTAMPING", 31),
        **row("SO_PROTOCOL SO_DOMAIN SO_RXQ_OVFL SO_WIFI_STATUS SO_PEEK_OFF SO_NOFCS SO_LOCK_FILTER", 38),
        **row("SO_SELECT_ERR_QUEUE SO_BUSY_POLL SO_MAX_PACING_RATE SO_BPF_EXTENSIONS SO_INCOMING_CPU", 45),
        **row("SO_ATTACH_BPF SO_ATTACH_REUSEPORT_CBPF SO_ATTACH_REUSEPORT_EBPF SO_CNX_ADVICE - SO_MEMINFO", 50),
        **row("SO_INCOMING_NAPI_ID SO_COOKIE - SO_PEERGROUPS SO_ZEROCOPY SO_TXTIME SO_BINDTOIFINDEX", 56),
    }
)
TCP_OPTION = Words(
    {
        **row(
            "TCP_NODELAY TCP_MAXSEG TCP_CORK TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_SYNCNT TCP_LINGER2 "
            "TCP_DEFER_ACCEPT TCP_WINDOW_CLAMP TCP_INFO TCP_QUICKACK TCP_CONGESTION TCP_MD5SIG",
            1,
        ),
        **row("TCP_THIN_LINEAR_TIMEOUTS TCP_THIN_DUPACK TCP_USER_TIMEOUT TCP_REPAIR TCP_REPAIR_QUEUE", 16),
        **row("TCP_QUEUE_SEQ TCP_REPAIR_OPTIONS TCP_FASTOPEN TCP_TIMESTAMP TCP_NOTSENT_LOWAT TCP_CC_INFO", 21),
        **row("TCP_SAVE_SYN TCP_SAVED_SYN TCP_REPAIR_WINDOW TCP_FASTOPEN_CONNECT TCP_ULP TCP_MD5SIG_EXT", 27),
        **row("TCP_FASTOPEN_KEY TCP_FASTOPEN_NO_COOKIE TCP_ZEROCOPY_RECEIVE TCP_INQ TCP_TX_DELAY", 33),
    }
)
_OPTIONS = {LEVEL.choices["SOL_SOCKET"]: SOCKET_OPTION, LEVEL.choices["SOL_TCP"]: TCP_OPTION}

CHOSEN: Mapping[str, tuple[int, int, Mapping[int, Words]]] = {
    "setsockopt": (1, 2, _OPTIONS),
    "getsockopt": (1, 2, _OPTIONS),
}
"""Where one argument says what the numbers of another mean: which, of which, and by what it says."""

STRUCT_WORDS = (POLL, EPOLL, FILE_TYPE, WHEN, SOCKET_OPTION, TCP_OPTION)
