"""Values and events as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.log.value import CodeAddress, Elements, EnumValue, Fault, Pointer, Record, Value

if TYPE_CHECKING:
    from klasy.log.event import LogEvent
    from klasy.log.symbolize import Symbolizer

_INDENT = "    "


def harmless(text: str) -> str:
    """Text from the kernel or from user programs, with everything that could drive a terminal made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}.get(character)
    if named:
        return named
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def value_text(value: Value, symbols: Symbolizer, depth: int = 0, *, quote: bool = True) -> str:
    """One value. ``quote`` puts strings in quotes, as C would; a format template wants them without."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return f'"{harmless(value)}"' if quote else harmless(value)
        case bytes():
            return value.hex(" ")
        case Fault():
            return "<bad address>"
        case Pointer(address, type_name):
            return _pointer(address, type_name, symbols)
        case CodeAddress(address):
            return symbols.name(address)
        case EnumValue(number, name):
            return name if name is not None else str(number)
        case Record():
            return _record(value, symbols, depth)
        case Elements():
            return _elements(value, symbols, depth)


def _pointer(address: int, type_name: str, symbols: Symbolizer) -> str:
    if not address:
        return "NULL"
    name = symbols.exact(address) if "(" in type_name else None
    return name or f"{address:#x}"


def _record(record: Record, symbols: Symbolizer, depth: int) -> str:
    margin = _INDENT * (depth + 1)
    head = f"({record.type_name}) " if record.type_name and depth == 0 else ""
    if record.address is not None:
        head = f"({record.type_name} *) {record.address:#x} "
    lines = []
    for name, member in record.members:
        text = value_text(member, symbols, depth + 1)
        lines.append(f"{margin}{name} = {text}," if name else f"{margin}{text},")
    return f"{head}{{\n" + "\n".join(lines) + f"\n{_INDENT * depth}}}"


def _elements(array: Elements, symbols: Symbolizer, depth: int) -> str:
    if not array.items:
        return "{}"
    texts = [value_text(item, symbols, depth + 1) for item in array.items]
    if len(set(texts)) == 1 and len(texts) > 1 and texts[0] in ("0", "NULL", "false"):
        return "{}"  # all zero: C's own short form
    if any("\n" in text for text in texts):
        margin = _INDENT * (depth + 1)
        return "{\n" + "".join(f"{margin}{text},\n" for text in texts) + f"{_INDENT * depth}}}"
    return "{ " + ", ".join(texts) + " }"


def event_text(event: LogEvent, symbols: Symbolizer) -> str:
    """One event: when, who, where, and what was logged."""
    what = harmless(event.message) if event.message is not None else _values(event, symbols)
    return (
        f"{event.clock} {event.cpu:3} {harmless(event.comm)}[{event.tid}] "
        f"{event.aspect}: {event.joinpoint.place}: {what}"
    )


def _values(event: LogEvent, symbols: Symbolizer) -> str:
    return ", ".join(f"{name} = {value_text(value, symbols)}" for name, value in event.values)
