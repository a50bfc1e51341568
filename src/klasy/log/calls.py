"""System calls as a whole, out of their registers: ``openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC, 0) = 3``."""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import accumulate
from struct import Struct

from klasy.errors import errno_name
from klasy.kernel import syscalls
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.kernel.callwords import ADDRESS_RESULTS, ADDRESSES, FAMILY, INTERNAL_ERRORS, OPEN, RESOLVE, TAKEN, words
from klasy.kernel.tracepoints import LiveTracepoints
from klasy.log.format_text import quoted
from klasy.log.value import Call, CallArgument, UserText, ip4_text, ip6_text, text_of
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.record import CALL_REGISTERS, CALL_SIZE, TEXT_KERNEL, TEXT_NONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.kernel.syscalls import Content
    from klasy.kernel.tracepoints import Field, Tracepoints

TRACEFS = "/sys/kernel/tracing"
_FIRST = PT_REGS[CALL_REGISTERS[0]]
_WORD = 8
_NUMBERS = Struct(f"<q{len(CALL_REGISTERS)}Q")
assert _NUMBERS.size == CALL_SIZE
_REMEMBERED = 256
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_UNIX_SIZE = 110  # of struct sockaddr_un
_NETLINK, _TIME, _PAIR, _OPEN_HOW = Struct("<II"), Struct("<qq"), Struct("<ii"), Struct("<3Q")
_ERRORS = 4095
# Of these a program sets the low half of a register alone: what wait4(-1, ..) leaves there is 0xffffffff.
_WORDS = """int unsigned u32 __u32 __s32 pid_t uid_t gid_t qid_t clockid_t timer_t mqd_t key_t key_serial_t rwf_t"""
_SHORT = {"umode_t": 16, "mode_t": 16, "unsigned int": 32, **dict.fromkeys(_WORDS.split(), 32)}
_UNSIGNED = ("unsigned", "u32", "u64", "__u", "size_t", "umode_t", "qid_t", "uid_t", "gid_t", "aio_context_t")
_NOBODY = (1 << 32) - 1  # as a user or group: leave it as it is; programs write -1


class Calls:
    """Decodes them. ``tracepoints`` tell the arguments of each call."""

    def __init__(self, tracepoints: Tracepoints | None = None) -> None:
        self._tracepoints = tracepoints or LiveTracepoints(TRACEFS)
        self._known: dict[tuple[str, bool], tuple[_Argument, ...]] = {}

    def decode(self, name: str, raw: bytes, *, over: bool) -> Call:
        """The call of that name; ``over``: with its result."""
        numbers = _NUMBERS.unpack_from(raw)
        known = self._arguments(name, over)
        arguments = []
        for argument in known:
            number, content = numbers[argument.word], argument.content
            found = None
            if content is not None and number and not (content.filled and numbers[0] < 0):
                length = numbers[0]
                if content.kind == syscalls.DATA and not content.filled:
                    behind = known[content.place + 1]
                    length = int(behind.shown(numbers[behind.word]).value)
                found = _content(argument, content, raw, length)
            arguments.append(argument.shown(number) if found is None else found)
        taken = TAKEN.get(name)
        if taken is not None:
            place, rule = taken
            value = arguments[place].value if place < len(arguments) else None
            number = rule(value) if isinstance(value, int) else None
            if number is not None:
                del arguments[number:]
        result = numbers[0]
        return Call(name, tuple(arguments), result if over else None, _result_text(name, result) if over else "")

    def _arguments(self, name: str, over: bool) -> tuple[_Argument, ...]:
        found = self._known.get((name, over))
        if found is None:
            fields = syscalls.recorded(self._tracepoints, name) or ()
            contents = syscalls.contents_of(name, fields, over=over)
            ends = accumulate((each.room for each in contents), initial=CALL_SIZE)
            led = {each.place: (at, each) for at, each in zip(ends, contents, strict=False)}
            found = self._known[name, over] = tuple(
                [_argument(name, place, field, *led.get(place, (0, None))) for place, field in enumerate(fields)]
            )
        return found


class _Argument(NamedTuple):
    """What makes an argument of what a record holds.

    ``word``: which of the numbers is its register's; ``content``: what it leads to, which lies at ``at``; ``shown``:
    what a number comes to, remembered, for a program makes the same calls again and again.
    """

    name: str
    word: int
    at: int
    content: Content | None
    shown: Callable[[int], CallArgument]


def _argument(call: str, place: int, field: Field, at: int, content: Content | None) -> _Argument:
    word = 1 + (syscalls.ARGUMENT_OFFSETS[place] - _FIRST) // _WORD
    shown = lru_cache(_REMEMBERED)(lambda number: _shown(call, field, number))
    return _Argument(field.name, word, at, content, shown)


def _content(argument: _Argument, content: Content, raw: bytes, length: int) -> CallArgument | None:
    """An argument by what it leads to, of DATA ``length`` bytes; None where that is not in the record."""
    last = argument.at + content.room - 1
    if last >= len(raw) or raw[last] == TEXT_NONE:
        return None
    data = raw[argument.at : last]
    if content.kind == syscalls.STRING:
        text = text_of(data)
        return CallArgument(argument.name, text if raw[last] == TEXT_KERNEL else UserText(text), None)
    if content.kind == syscalls.DATA:
        if length < 0:  # which no call takes
            return None
        text = data[: min(length, content.size)].decode("utf-8", "surrogateescape")
        more = ".." if length > content.size else ""
        return CallArgument(argument.name, UserText(text), quoted(text) + more)
    value, text = _CONTENTS[content.kind](data)
    return CallArgument(argument.name, UserText(value), text)


def _socket_address(data: bytes) -> tuple[str, str]:
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


def _time(data: bytes) -> tuple[str, str]:
    seconds, nanoseconds = _TIME.unpack_from(data)
    text = f"{{tv_sec={seconds}, tv_nsec={nanoseconds}}}"
    return text, text


def _pair(data: bytes) -> tuple[str, str]:
    first, second = _PAIR.unpack_from(data)
    text = f"[{first}, {second}]"
    return text, text


def _open_how(data: bytes) -> tuple[str, str]:
    flags, mode, resolve = _OPEN_HOW.unpack_from(data)
    octal = f"0{mode:o}" if mode else "0"
    text = f"{{flags={OPEN.text(flags)}, mode={octal}, resolve={RESOLVE.text(resolve)}}}"
    return text, text


_CONTENTS = {
    syscalls.SOCKET_ADDRESS: _socket_address,
    syscalls.TIME: _time,
    syscalls.PAIR: _pair,
    syscalls.OPEN_HOW: _open_how,
}


def _shown(call: str, field: Field, number: int) -> CallArgument:
    name, kind = field.name, _unqualified(field)
    if "*" in kind or kind.startswith("cap_user_"):  # typedefs of pointers
        return CallArgument(name, number, f"{number:#x}" if number else "NULL")
    value = _number(field, number)
    meant = words(call, name)
    if meant is not None:
        return CallArgument(name, value, meant.text(value))
    if value and (kind == "umode_t" or call == "umask"):
        return CallArgument(name, value, f"0{value:o}")
    if name in ADDRESSES and kind == "unsigned long":
        return CallArgument(name, value, f"{value:#x}" if value else "NULL")
    if kind in ("uid_t", "gid_t") and value == _NOBODY:
        return CallArgument(name, value, "-1")
    return CallArgument(name, value, str(value))


def _number(field: Field, number: int) -> int:
    """A value of an argument's type: of a register only the low bits of a narrow type count."""
    is_descriptor = field.name == "fd"  # which mmap takes as an unsigned long
    kind = _unqualified(field)
    bits = 32 if is_descriptor or kind.startswith("enum ") else _SHORT.get(kind, 64)
    number &= (1 << bits) - 1
    unsigned = kind.startswith(_UNSIGNED) and not is_descriptor
    return number if unsigned or not number >> (bits - 1) else number - (1 << bits)


def _unqualified(field: Field) -> str:
    """The type, without the ``const`` in front that some calls have at their arguments themselves."""
    return field.type.removeprefix("const ")


@lru_cache(_REMEMBERED)
def _result_text(name: str, result: int) -> str:
    if name == "umask" and result > 0:
        return f"0{result:o}"
    if not -_ERRORS <= result < 0:
        return f"{result & (1 << 64) - 1:#x}" if name in ADDRESS_RESULTS else str(result)
    error = -result
    if error in INTERNAL_ERRORS:
        word, meaning = INTERNAL_ERRORS[error]
        return f"? {word} ({meaning})"
    known = errno_name(error)
    if known is not None:
        return f"-1 {known} ({os.strerror(error)})"
    return str(result)
