"""System calls as a whole, out of their registers: ``openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC, 0) = 3``."""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import accumulate
from struct import Struct

from klasy.errors import errno_name
from klasy.kernel import syscalls
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.kernel.callcontents import STRING, contents_of
from klasy.kernel.callwords import (
    ADDRESS_RESULTS,
    ADDRESSES,
    CODES,
    INTERNAL_ERRORS,
    MAYBE_ADDRESSES,
    TAKEN,
    words,
)
from klasy.kernel.structwords import CHOSEN
from klasy.kernel.tracepoints import LiveTracepoints
from klasy.log.callmemory import shown
from klasy.log.value import Call, CallArgument, UserText, text_of
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.record import CALL_REGISTERS, CALL_SIZE, TEXT_KERNEL, TEXT_NONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.kernel.callcontents import Content
    from klasy.kernel.tracepoints import Field, Tracepoints

TRACEFS = "/sys/kernel/tracing"
_FIRST = PT_REGS[CALL_REGISTERS[0]]
_WORD = 8
_NUMBERS = Struct(f"<q{len(CALL_REGISTERS)}Q")
assert _NUMBERS.size == CALL_SIZE
_REMEMBERED = 256
_ERRORS = 4095
_LOWEST_ADDRESS = 1 << 16  # that a program has anything at, as a rule (sysctl vm.mmap_min_addr)
# Of these a program sets the low half of a register alone: what wait4(-1, ..) leaves there is 0xffffffff.
_WORDS = """int unsigned u32 __u32 __s32 pid_t uid_t gid_t qid_t clockid_t timer_t mqd_t key_t key_serial_t rwf_t"""
_SHORT = {"umode_t": 16, "mode_t": 16, "unsigned int": 32, **dict.fromkeys(_WORDS.split(), 32)}
_UNSIGNED = ("unsigned", "u32", "u64", "__u", "size_t", "umode_t", "qid_t", "uid_t", "gid_t", "aio_context_t")
_LOW_HALF = (1 << 32) - 1
_NOBODY = _LOW_HALF  # as a user or group: leave it as it is; programs write -1


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
            number = numbers[argument.word]
            led = number and argument.content is not None
            found = _led_to(argument, known, numbers, raw, over) if led else None
            arguments.append(argument.shown(number) if found is None else found)
        _choose(name, arguments, known, numbers)
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
            contents = contents_of(name, fields, over=over)
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


def _led_to(
    argument: _Argument, known: tuple[_Argument, ...], numbers: tuple[int, ...], raw: bytes, over: bool
) -> CallArgument | None:
    """An argument by what it leads to; None where that is not in the record, or was not filled."""
    content, result = argument.content, numbers[0]
    assert content is not None
    if content.filled and result < 0:
        return None
    if content.kind == STRING:
        return _string(argument, raw)
    data = _room(argument, raw)
    if data is None:
        return None
    count: object = 0
    if content.place + 1 < len(known):
        behind = known[content.place + 1]
        count = behind.shown(numbers[behind.word]).value
    found = shown(content, data[:-1], count if isinstance(count, int) else 0, result, over)
    return None if found is None else CallArgument(argument.name, UserText(found[0]), found[1])


def _choose(name: str, arguments: list[CallArgument], known: tuple[_Argument, ...], numbers: tuple[int, ...]) -> None:
    """Show an argument by the words that another one chooses, where there are some."""
    chooses, place, choices = CHOSEN.get(name, (0, len(arguments), {}))
    if place < len(arguments):
        meant, value = choices.get(numbers[known[chooses].word] & _LOW_HALF), arguments[place].value
        if meant is not None and isinstance(value, int):
            arguments[place] = CallArgument(arguments[place].name, value, meant.text(value))


def _string(argument: _Argument, raw: bytes) -> CallArgument | None:
    """An argument by the string that it leads to; None where that is not in the record."""
    data = _room(argument, raw)
    if data is None:
        return None
    text = text_of(data[:-1])
    return CallArgument(argument.name, text if data[-1] == TEXT_KERNEL else UserText(text), None)


def _room(argument: _Argument, raw: bytes) -> bytes | None:
    """What is in a record of what an argument leads to, and the byte that tells where that is from."""
    assert argument.content is not None
    end = argument.at + argument.content.room
    return None if end > len(raw) or raw[end - 1] == TEXT_NONE else raw[argument.at : end]


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
    if (call, name) in CODES or (name in MAYBE_ADDRESSES and kind == "unsigned long" and value >= _LOWEST_ADDRESS):
        return CallArgument(name, value, f"{value:#x}")
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
