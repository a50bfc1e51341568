"""What system calls are given in memory, or fill, as text, like strace: addresses, times, what is read and written ..

The layouts are those of x86-64 (include/uapi, arch/x86/include/uapi). Only so much of each is in a record as
:mod:`klasy.kernel.callcontents` says.
"""

from __future__ import annotations

import os
from struct import Struct

from klasy.kernel import callcontents as cc
from klasy.kernel.callwords import FAMILY, MESSAGE, OPEN, RESOLVE, SIGNAL
from klasy.kernel.structwords import DEVICES, EPOLL, FILE_TYPE, POLL, WHEN
from klasy.log.format_text import quoted
from klasy.log.value import ip4_text, ip6_text, text_of
from klasy.plain import TYPE_CHECKING
from klasy.record import TEXT_NONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.kernel.callcontents import Content

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_UNIX_SIZE = 110  # of struct sockaddr_un
_TWO_WORDS, _PAIR, _OPEN_HOW = Struct("<qq"), Struct("<ii"), Struct("<3Q")
_NETLINK, _INT, _LIMITS = Struct("<II"), Struct("<i"), Struct("<2Q")
_POLL, _EVENT, _PIECE = Struct("<ihH"), Struct("<IQ"), Struct("<2Q")
_STAT = Struct("<24xI12xQQ")  # st_mode, st_rdev, st_size
_VECTOR = Struct("<4Q")  # msg_iov, msg_iovlen, msg_control, msg_controllen
_STATX = Struct("<28xH10xQ")  # stx_mode, stx_size
_UNLIMITED = (1 << 64) - 1
_CONTINUED = 0xFFFF


def shown(content: Content, data: bytes, count: int, result: int, over: bool) -> tuple[str, str] | None:
    """The value and the text of what ``data`` has of a content; None where there is nothing that could be shown.

    ``count`` is the next argument, ``result`` that of the call if it is ``over``.
    """
    number = result if content.filled else count
    filled = result if content.filled else None
    match content.kind:
        case cc.DATA | cc.OPTION if number < 0:
            return None
        case cc.DATA:
            return _data(data[: content.size], number)
        case cc.OPTION:
            return _option(data[: content.size], number)
        case cc.STATUS:  # of a process; without one none has changed its state
            return _status(data) if result > 0 else None
        case cc.POLLS:
            return _same(_polls(data, max(count, 0), over))
        case cc.EVENTS:
            return _same(_elements(data, result, cc.ELEMENT[cc.EVENTS], _event))
        case cc.PIECES:
            return _same(_pieces(data, max(count, 0), filled))
        case cc.MESSAGE:
            return _same(_message(data, filled))
        case kind:
            return _KINDS[kind](data)


def _same(text: str) -> tuple[str, str]:
    return text, text


def _data(data: bytes, length: int) -> tuple[str, str]:
    """Of ``length`` bytes those that are there."""
    text = data[:length].decode("utf-8", "surrogateescape")
    return text, quoted(text) + (".." if length > len(data) else "")


def _option(data: bytes, length: int) -> tuple[str, str]:
    """Most options of sockets are an int."""
    return _same(f"[{_INT.unpack_from(data)[0]}]") if length == _INT.size else _data(data, length)


def socket_address(data: bytes) -> tuple[str, str]:
    """As people write it: ``127.0.0.1:80``, ``[::1]:80``, ``unix:"/run/x"``; @ is a NUL of an abstract name."""
    family, port = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "big")
    if family == _AF_UNIX:
        path = data[2:_UNIX_SIZE]
        name = text_of(path) if path[0] else text_of(b"@" * any(path) + path[1:].rstrip(b"\0").replace(b"\0", b"@"))
        return f"unix:{name}", f"unix:{quoted(name)}"
    if family == _AF_INET:
        text = f"{ip4_text(data[4:8])}:{port}"
    elif family == _AF_INET6:
        scope = int.from_bytes(data[24:28], "little")
        text = f"[{ip6_text(data[8:24])}{f'%{scope}' if scope else ''}]:{port}"
    elif family == _AF_NETLINK:
        number, groups = _NETLINK.unpack_from(data, 4)
        text = f"netlink:{number},{groups:#x}"
    else:
        text = FAMILY.text(family)
    return text, text


# --- of a size of their own -------------------------------------------------------------------------------------------


def _time(data: bytes) -> str:
    seconds, nanoseconds = _TWO_WORDS.unpack_from(data)
    return f"{{tv_sec={seconds}, tv_nsec={nanoseconds}}}"


def _times(data: bytes) -> str:
    """When a file was read and changed, which may be now or left alone."""
    texts = []
    for at in (0, _TWO_WORDS.size):
        _, nanoseconds = _TWO_WORDS.unpack_from(data, at)
        word = nanoseconds in WHEN.choices.values()
        texts.append(WHEN.text(nanoseconds) if word else _time(data[at:]))
    return f"[{', '.join(texts)}]"


def _timer(data: bytes) -> str:
    return f"{{it_interval={_time(data)}, it_value={_time(data[_TWO_WORDS.size :])}}}"


def _clock(data: bytes) -> str:
    seconds, microseconds = _TWO_WORDS.unpack_from(data)
    return f"{{tv_sec={seconds}, tv_usec={microseconds}}}"


def _clock_timer(data: bytes) -> str:
    return f"{{it_interval={_clock(data)}, it_value={_clock(data[_TWO_WORDS.size :])}}}"


def _pair(data: bytes) -> str:
    first, second = _PAIR.unpack_from(data)
    return f"[{first}, {second}]"


def _limit(data: bytes) -> str:
    soft, hard = ("RLIM_INFINITY" if n == _UNLIMITED else str(n) for n in _LIMITS.unpack_from(data))
    return f"{{rlim_cur={soft}, rlim_max={hard}}}"


def _status(data: bytes) -> tuple[str, str]:
    """What has become of a process (wait(2))."""
    (status,) = _INT.unpack_from(data)
    low, high = status & 0x7F, status >> 8 & 0xFF
    if status == _CONTINUED:
        text = "WIFCONTINUED(s)"
    elif low == 0x7F:
        text = f"WIFSTOPPED(s) && WSTOPSIG(s) == {SIGNAL.text(high)}"
    elif low:
        core = " && WCOREDUMP(s)" if status & 0x80 else ""
        text = f"WIFSIGNALED(s) && WTERMSIG(s) == {SIGNAL.text(low)}{core}"
    else:
        text = f"WIFEXITED(s) && WEXITSTATUS(s) == {high}"
    return _same(f"[{{{text}}}]")


def _open_how(data: bytes) -> str:
    flags, mode, resolve = _OPEN_HOW.unpack_from(data)
    octal = f"0{mode:o}" if mode else "0"
    return f"{{flags={OPEN.text(flags)}, mode={octal}, resolve={RESOLVE.text(resolve)}}}"


def _mode(mode: int) -> str:
    kind = mode & 0o170000
    return f"{FILE_TYPE.text(kind)}|0{mode & 0o7777:o}"


def _stat(data: bytes) -> str:
    mode, device, size = _STAT.unpack_from(data)
    if FILE_TYPE.text(mode & 0o170000) in DEVICES:
        return f"{{st_mode={_mode(mode)}, st_rdev=makedev({os.major(device):#x}, {os.minor(device):#x}), ..}}"
    return f"{{st_mode={_mode(mode)}, st_size={size}, ..}}"


def _statx(data: bytes) -> str:
    mode, size = _STATX.unpack_from(data)
    return f"{{stx_mode={_mode(mode)}, stx_size={size}, ..}}"


# --- several ----------------------------------------------------------------------------------------------------------


def _elements(data: bytes, number: int, size: int, text: Callable[[bytes], str]) -> str:
    """So many elements of ``size`` bytes, as far as they are there."""
    there = min(number, len(data) // size)
    texts = [text(data[at * size :]) for at in range(there)]
    return f"[{', '.join([*texts, '..'] if number > there else texts)}]"


def _polls(data: bytes, number: int, over: bool) -> str:
    def text(element: bytes) -> str:
        descriptor, wanted, found = _POLL.unpack_from(element)
        came = f", revents={POLL.text(found)}" if over and found else ""
        return f"{{fd={descriptor}, events={POLL.text(wanted & 0xFFFF)}{came}}}"

    return _elements(data, number, cc.ELEMENT[cc.POLLS], text)


def _event(data: bytes) -> str:
    events, own = _EVENT.unpack_from(data)
    return f"{{events={EPOLL.text(events)}, data={{u32={own & 0xFFFF_FFFF}, u64={own}}}}}"


def _pieces(data: bytes, number: int, filled: int | None) -> str:
    """Pieces of memory; ``filled``: with so many bytes of all, one after the other."""
    texts = []
    left = filled
    for at in range(min(number, cc.MOST_PIECES)):
        address, length = _PIECE.unpack_from(data, cc.PIECE_BYTES * at)
        there = length if left is None else min(length, left)
        start = cc.PIECES_DATA + cc.PIECE_DATA * at
        if data[cc.PIECES_TOLD + at] == TEXT_NONE or not address:
            base = f"{address:#x}" if address else "NULL"
        else:
            base = _data(data[start : start + cc.PIECE_DATA], there)[1]
        texts.append(f"{{iov_base={base}, iov_len={length}}}")
        left = None if left is None else left - there
    if number > cc.MOST_PIECES:
        texts.append("..")
    return f"[{', '.join(texts)}]"


def _message(data: bytes, filled: int | None) -> str:
    """A struct msghdr: what of it says something."""
    name = int.from_bytes(data[:8], "little")
    parts = []
    if name and data[cc.MESSAGE_NAME_TOLD] != TEXT_NONE:
        length = int.from_bytes(data[cc.MESSAGE_NAME_LENGTH : cc.MESSAGE_NAME_LENGTH + 4], "little")
        end = cc.MESSAGE_NAME + min(length, cc.MESSAGE_NAME_SIZE)
        address = data[cc.MESSAGE_NAME : end].ljust(cc.MESSAGE_NAME_SIZE, b"\0")
        parts.append(f"msg_name={socket_address(address)[1]}")
    elif name:
        parts.append(f"msg_name={name:#x}")
    vector, number, control, control_length = _VECTOR.unpack_from(data, cc.MESSAGE_VECTOR)
    pieces = _pieces(data[cc.MESSAGE_PIECES :], number, filled) if vector else "NULL"
    parts.append(f"msg_iov={pieces}")
    if control:
        parts.append(f"msg_controllen={control_length}")
    (flags,) = _INT.unpack_from(data, cc.MESSAGE_FLAGS)
    if filled is not None and flags:
        parts.append(f"msg_flags={MESSAGE.text(flags)}")
    return f"{{{', '.join(parts)}}}"


def _plain(text: Callable[[bytes], str]) -> Callable[[bytes], tuple[str, str]]:
    return lambda data: _same(text(data))


_KINDS: dict[str, Callable[[bytes], tuple[str, str]]] = {
    cc.SOCKET_ADDRESS: socket_address,
    cc.TIME: _plain(_time),
    cc.TIMES: _plain(_times),
    cc.TIMER: _plain(_timer),
    cc.CLOCK: _plain(_clock),
    cc.CLOCK_TIMER: _plain(_clock_timer),
    cc.PAIR: _plain(_pair),
    cc.LIMIT: _plain(_limit),
    cc.OPEN_HOW: _plain(_open_how),
    cc.EPOLL_EVENT: _plain(_event),
    cc.STAT: _plain(_stat),
    cc.STATX: _plain(_statx),
}
