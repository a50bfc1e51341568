"""Values and events as text for people."""

from __future__ import annotations

from klasy.log.value import (
    Address,
    Call,
    Char,
    CodeAddress,
    CutBytes,
    Elements,
    EnumValue,
    Fault,
    Pointer,
    Record,
    Stack,
    UserStack,
    Value,
)
from klasy.plain import TYPE_CHECKING
from klasy.record import TEXT_BYTES

if TYPE_CHECKING:
    from klasy.log.event import LogEvent
    from klasy.log.symbolize import Symbolizer

_INDENT = "    "
_MAX_ELEMENTS = 64  # of an array that are shown; JSON has all
_CHARACTERS = {ord("'"): r"'\''"}  # as C writes it; Python would use other quotes


def harmless(text: str) -> str:
    """Text from the kernel or from user programs, with everything that could drive a terminal made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def message_text(text: str) -> str:
    """A message of the advice: harmless, with the tabs that a template may have to line up its columns."""
    return text if text.isprintable() else "\t".join(map(harmless, text.split("\t")))


def _escape(character: str) -> str:
    code = ord(character)
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}.get(character)
    if named:
        return named
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def quoted(text: str) -> str:
    """A string as C writes it."""
    return '"' + harmless(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def value_text(value: Value, symbols: Symbolizer, depth: int = 0, *, quote: bool = True) -> str:
    """One value. ``quote`` shows strings as C writes them; without it they are as they are, for a format template."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return quoted(value) if quote else value
        case bytes():
            return value.hex(" ")
        case CutBytes(data, left_out):
            return f"{data.hex(' ')} .. {left_out} more"
        case Address(text):
            return text
        case Stack() | UserStack():
            from klasy.log import stacks

            return stacks.text(value, symbols)
        case Fault(shown):
            return shown
        case Char(number):
            return f"{number} {_CHARACTERS.get(number) or repr(chr(number))}" if 32 <= number < 127 else str(number)
        case Pointer(address, _):
            return _pointer(address, value.may_be_code, symbols)
        case CodeAddress(address):
            return _pointer(address, True, symbols)
        case EnumValue(number, name):
            return name if name is not None else str(number)
        case Record():
            return _record(value, symbols, depth)
        case Call():
            return call_text(value)
        case Elements():
            return _elements(value, symbols, depth)


def call_text(call: Call) -> str:
    """A system call as a program has it, with its result."""
    arguments = [_argument(a.value) if a.text is None else a.text for a in call.arguments]
    end = "" if call.result is None else f" = {call.result_text}"
    return f"{call.name}({', '.join(arguments)}){end}"


def _argument(value: int | str) -> str:
    text = str(value)
    return quoted(text) + (".." if len(text) >= TEXT_BYTES - 2 else "")  # the record had no room for more


def _pointer(address: int, is_code: bool, symbols: Symbolizer) -> str:
    if not address:
        return "NULL"
    return symbols.name(address) if is_code else f"{address:#x}"


def _record(record: Record, symbols: Symbolizer, depth: int) -> str:
    margin = _INDENT * (depth + 1)
    head = f"({record.type_name}) " if record.type_name and depth == 0 else ""
    if record.address is not None:
        head = f"({record.type_name} *) {record.address:#x} "
    lines = []
    for name, member in record.members:
        text = value_text(member, symbols, depth + 1)
        lines.append(f"{margin}{name} = {text}," if name else f"{margin}{text},")
    return f"{head}{{\n" + "\n".join(lines) + f"\n{_INDENT * depth}}}" if lines else head + "{}"


def _elements(array: Elements, symbols: Symbolizer, depth: int) -> str:
    if not array.items:
        return "{}"
    shown = array.items[:_MAX_ELEMENTS]
    texts = [value_text(item, symbols, depth + 1) for item in shown]
    if len(texts) > 1 and texts[0] in ("0", "NULL", "false") and all(item == array.items[0] for item in array.items):
        return "{}"  # all zero: C's own short form
    more = len(array.items) - len(shown)
    note = [f".. {more} more"] if more else []
    if any("\n" in text for text in texts):
        margin = _INDENT * (depth + 1)
        lines = [*(f"{margin}{text},\n" for text in texts), *(f"{margin}{text}\n" for text in note)]
        return "{\n" + "".join(lines) + f"{_INDENT * depth}}}"
    return "{ " + ", ".join(texts + note) + " }"


def event_text(event: LogEvent, symbols: Symbolizer) -> str:
    """One event: when, who, where, and what was logged."""
    if event.message is None:
        what = _values(event, symbols)
    elif event.lines:
        what = "\n".join(message_text(line) for line in event.message.split("\n"))
    else:
        what = message_text(event.message)
    return (
        f"{event.clock} {event.cpu:3} {harmless(event.comm)}[{event.tid}] "
        f"{event.aspect}: {event.joinpoint.place}: {what}"
    )


def _values(event: LogEvent, symbols: Symbolizer) -> str:
    return ", ".join(
        value_text(value, symbols) if isinstance(value, Call) else f"{name} = {value_text(value, symbols)}"
        for name, value in event.values
    )
