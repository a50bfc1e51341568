"""Values and events as JSON: one object a line, its fields described in docs/json.md."""

from __future__ import annotations

import json

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
    UserText,
    Value,
)
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from klasy.log.event import LogEvent, LogPoint
    from klasy.log.symbolize import Symbolizer


def value_json(value: Value, symbols: Symbolizer) -> Any:
    """A value as JSON can hold it. Numbers stay numbers; addresses are hexadecimal strings; a fault is null."""
    match value:
        case Fault():
            return None
        case bytes():
            return value.hex()
        case float() if not abs(value) < float("inf"):  # JSON has no such numbers
            return str(value)
        case CutBytes(data, left_out):
            return {"hex": data.hex(), "left_out": left_out}
        case Address(text):
            return text
        case Stack() | UserStack():
            from klasy.log import stacks

            return stacks.as_json(value, symbols)
        case str():
            return text_json(value)
        case Char(number):
            return number
        case Pointer(address, _):
            return symbols.name(address) if value.may_be_code else f"{address:#x}"
        case CodeAddress(address):
            return symbols.name(address)
        case EnumValue(number, name):
            return name if name is not None else number
        case Record():
            return _record(value, symbols)
        case Call():
            return call_json(value)
        case Elements():
            return [value_json(item, symbols) for item in value.items]
    return value


def text_json(text: str) -> str:
    """A string without the lone surrogates that stand for bytes that are no UTF-8: JSON is UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        return text
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in text)


def call_json(call: Call) -> dict[str, Any]:
    """A system call: its arguments by name, as text too, and its result."""
    from klasy.log.format_text import call_text

    shown: dict[str, Any] = {
        "call": call.name,
        "arguments": {a.name: text_json(a.value) if isinstance(a.value, str) else a.value for a in call.arguments},
        "text": text_json(call_text(call)),
    }
    if call.result is not None:
        shown["result"] = call.result
    users = [a.name for a in call.arguments if isinstance(a.value, UserText)]
    return shown | ({"user_memory": users} if users else {})


def _record(record: Record, symbols: Symbolizer) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, member in record.members:
        shown = value_json(member, symbols)
        if name:
            members[name] = shown
        elif isinstance(shown, dict):
            members |= shown  # an anonymous struct or union: its members belong to the outer one, as in C
    return members


def point_json(point: LogPoint) -> dict[str, Any]:
    """Where something was logged."""
    found = {"kind": point.kind, "function": point.function, "offset": point.offset, "callee": point.callee}
    return found | ({"data": point.data, "access": point.access} if point.data is not None else {})


def event_json(event: LogEvent, symbols: Symbolizer) -> str:
    """One event as one line of JSON."""
    document: dict[str, Any] = {
        "time_ns": event.time_ns,
        "aspect": event.aspect,
        "advice": event.advice,
        "joinpoint": point_json(event.joinpoint),
        "cpu": event.cpu,
        "pid": event.pid,
        "tid": event.tid,
        "comm": text_json(event.comm),
    }
    if event.message is not None:
        document["message"] = text_json(event.message)
    else:
        document["values"] = {name: value_json(value, symbols) for name, value in event.values}
    users = [name for name, value in event.values if isinstance(value, UserText)]
    if users:
        document["user_memory"] = users
    if event.faults:
        document["faults"] = list(event.faults)
    return json.dumps(document, ensure_ascii=False)
