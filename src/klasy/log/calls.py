"""System calls as a whole, out of their registers: ``openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC, 0) = 3``."""

from __future__ import annotations

from klasy.kernel import syscalls
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.kernel.tracepoints import LiveTracepoints
from klasy.log.callwords import ADDRESS_RESULTS, ADDRESSES, INTERNAL_ERRORS, words
from klasy.log.value import Call, CallArgument, UserText, text_of
from klasy.plain import TYPE_CHECKING
from klasy.record import CALL_REGISTERS, CALL_SIZE, TEXT_BYTES, TEXT_KERNEL, TEXT_NONE

if TYPE_CHECKING:
    from klasy.kernel.tracepoints import Field, Tracepoints

TRACEFS = "/sys/kernel/tracing"
_FIRST = PT_REGS[CALL_REGISTERS[0]]
_ERRORS = 4095
_BITS = {1: 8, 2: 16, 4: 32, 8: 64}
_SHORT = {"umode_t": 16, "mode_t": 16, "int": 32, "unsigned int": 32, "u32": 32, "__u32": 32, "__s32": 32}
_UNSIGNED = ("unsigned", "u32", "u64", "__u", "size_t", "umode_t", "qid_t", "uid_t", "gid_t", "aio_context_t")


class Calls:
    """Decodes them. ``tracepoints`` tell the arguments of each call."""

    def __init__(self, tracepoints: Tracepoints | None = None) -> None:
        self._tracepoints = tracepoints or LiveTracepoints(TRACEFS)
        self._known: dict[str, tuple[Field, ...]] = {}

    def decode(self, name: str, raw: bytes, *, over: bool) -> Call:
        """The call of that name; ``over``: with its result."""
        fields = self._fields(name)
        texts = dict(zip(syscalls.strings(name, fields), _texts(raw), strict=False))
        arguments = []
        for place, field in enumerate(fields):
            at = 8 + syscalls.ARGUMENT_OFFSETS[place] - _FIRST
            number = int.from_bytes(raw[at : at + 8], "little")
            arguments.append(_argument(name, field, number, texts.get(place)))
        result = int.from_bytes(raw[:8], "little", signed=True) if over else None
        return Call(name, tuple(arguments), result, _result_text(name, result) if over else "")

    def _fields(self, name: str) -> tuple[Field, ...]:
        if name not in self._known:
            self._known[name] = syscalls.recorded(self._tracepoints, name) or ()
        return self._known[name]


def _texts(raw: bytes) -> list[tuple[bytes, int]]:
    """Each string with where it is from."""
    starts = range(CALL_SIZE, len(raw) - TEXT_BYTES + 1, TEXT_BYTES)
    return [(raw[at : at + TEXT_BYTES - 1], raw[at + TEXT_BYTES - 1]) for at in starts]


def _argument(call: str, field: Field, number: int, text: tuple[bytes, int] | None) -> CallArgument:
    name = field.name
    if text is not None and text[1] != TEXT_NONE and number:
        string = text_of(text[0])
        return CallArgument(name, string if text[1] == TEXT_KERNEL else UserText(string), None)
    if field.type.endswith("*"):
        return CallArgument(name, number, f"{number:#x}" if number else "NULL")
    value = _number(field, number)
    meant = words(call, name)
    if meant is not None:
        return CallArgument(name, value, meant.text(value))
    if value and (field.type == "umode_t" or call == "umask"):
        return CallArgument(name, value, f"0{value:o}")
    if name in ADDRESSES and field.type == "unsigned long":
        return CallArgument(name, value, f"{value:#x}" if value else "NULL")
    return CallArgument(name, value, str(value))


def _number(field: Field, number: int) -> int:
    """A value of an argument's type: of a register only the low bits of a narrow type count."""
    is_descriptor = field.name == "fd"  # which mmap takes as an unsigned long
    bits = 32 if is_descriptor else _SHORT.get(field.type, 64)
    number &= (1 << bits) - 1
    unsigned = field.type.startswith(_UNSIGNED) and not is_descriptor
    return number if unsigned or not number >> (bits - 1) else number - (1 << bits)


def _result_text(name: str, result: int | None) -> str:
    assert result is not None
    if name == "umask" and result > 0:
        return f"0{result:o}"
    if not -_ERRORS <= result < 0:
        return f"{result & (1 << 64) - 1:#x}" if name in ADDRESS_RESULTS else str(result)
    import errno
    import os

    error = -result
    if error in INTERNAL_ERRORS:
        word, meaning = INTERNAL_ERRORS[error]
        return f"? {word} ({meaning})"
    if error in errno.errorcode:
        return f"-1 {errno.errorcode[error]} ({os.strerror(error)})"
    return str(result)
