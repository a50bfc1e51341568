"""From the bytes of a record to a LogEvent, by the record formats of the aspect that wrote it."""

from __future__ import annotations

import os
import time
from struct import Struct

from klasy import printf
from klasy.errors import SystemRefusal
from klasy.log.event import LogEvent, LogPoint, Schema
from klasy.log.format_text import harmless, value_text
from klasy.log.value import (
    Address,
    Char,
    CodeAddress,
    CutBytes,
    EnumValue,
    Fault,
    Pointer,
    Stack,
    UserStack,
    UserText,
    Value,
    ip4_text,
    ip6_text,
    text_of,
)
from klasy.plain import TYPE_CHECKING, cached_property
from klasy.record import HEADER, HEADER_SIZE, TEXT_KERNEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.btf.btf import Btf
    from klasy.log.access import Accesses
    from klasy.log.calls import Calls
    from klasy.log.symbolize import Symbolizer
    from klasy.record import Field, Format

_NO_POINT = LogPoint("unknown", None, 0, None)
_LAST_FAULT_BIT = 63
_NOT_SHOWN = frozenset(("address", "site", "access"))  # kinds of fields that are no value of the log
_TWO_WORDS = Struct("<QQ")
BY_ITSELF = frozenset(  # kinds of fields whose bytes say all of their value
    ("int", "bool", "char", "enum", "pointer", "symbol", "string", "ustring", "bytes", "buffer", "ip4", "ip6", "mac")
)
_STACKS = frozenset(("stack", "ustack"))
LOST_STACK = Fault("<no stack>")
_SAMPLES = 4  # of the clocks' distance, of which the surest is taken
_FIRST_NAMESPACE = 0xEFFF_FFFA  # the number of the time namespace that the kernel begins with (PROC_TIME_INIT_INO)
_STEP = 10_000_000  # ns between the clocks' distance and that of before: the clock was set


class WallClock:
    """How far the clock on the wall is from the monotonic one, whose times records carry.

    Aspects that are read together share one: each a distance of its own, microseconds apart, would show what one aspect
    logs between two records of another one in another order.
    ``offset``: what to add to the time of a record, in ns, to have that since 1970; None: as it is on this machine.
    """

    def __init__(self, offset: int | None = None) -> None:
        self._ours = offset is None
        self._ahead = _ahead() if offset is None else 0
        self.offset = min(_distance() for _ in range(_SAMPLES))[1] + self._ahead if offset is None else offset

    def now(self) -> int:
        """This moment, as records have it."""
        return time.monotonic_ns() - self._ahead

    def look(self) -> None:
        """See whether the clock on the wall was set, or the machine slept: what is decoded next is told by it."""
        if not self._ours:
            return
        unsure, offset = _distance()
        offset += self._ahead
        if abs(offset - self.offset) > _STEP + unsure:
            self.offset = offset


def _ahead(namespace: str = "/proc/self/ns/time", offsets: str = "/proc/self/timens_offsets") -> int:
    """How far this process's monotonic clock is ahead of the kernel's, in ns: not 0 in a time namespace only."""
    try:
        # To look at it opens no file: an aspect on opening files would see one with each look at its log.
        if os.stat(namespace).st_ino == _FIRST_NAMESPACE:
            return 0
        with open(offsets, encoding="ascii") as file:
            told = dict(line.split(maxsplit=1) for line in file)
        seconds, nanoseconds = map(int, told["monotonic"].split())
    except (OSError, ValueError, KeyError):  # a kernel without such namespaces
        return 0
    return seconds * 1_000_000_000 + nanoseconds


def _distance() -> tuple[int, int]:
    """How far the clocks are apart, in ns, behind how unsure that is: the process may have paused between."""
    before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return after - before, wall - (before + after) // 2


class Decoder:
    """Decodes the records of one aspect.

    ``types(module)`` gives the BTF that a field's ``type_id`` refers to; it is asked only when a record needs it. None:
    there is none; what is of such a type is shown as the bytes it is.
    ``wall``: what tells the time of day of a record.
    """

    def __init__(
        self,
        schema: Schema,
        types: Callable[[str | None], Btf | None],
        symbols: Symbolizer,
        *,
        wall: WallClock | None = None,
    ) -> None:
        self.schema = schema
        # Of each format where it tells the instruction that accessed data, if it does.
        self._sites = [_site(form) for form in schema.formats]
        self._types = types
        self.symbols = symbols
        # An event is a line; the newline that a template ends with, from the habit of C, would make it two.
        self._templates = [
            None if f.template is None else printf.parse(f.template.removesuffix("\n")) for f in schema.formats
        ]
        self.wall = wall or WallClock()
        self._second = (0, "")  # of the record before, with its text

    def decode(self, record: bytes | memoryview) -> LogEvent | None:
        """One record; None for that of an access to data which proves not to be of its join point's kind.

        Raises SystemRefusal where the bytes are no record of this aspect.
        """
        if len(record) < HEADER_SIZE:
            raise SystemRefusal(f"a record of aspect {self.schema.aspect} has {len(record)} bytes: no header")
        time_ns, point_id, format_id, cpu, pid, tid, comm, faults = HEADER.unpack_from(record)
        try:
            layout = self.schema.formats[format_id]
        except IndexError:
            raise SystemRefusal(f"a record of aspect {self.schema.aspect} has the unknown format {format_id}") from None
        points = self.schema.points
        point = points[point_id] if point_id < len(points) else _NO_POINT
        site = self._sites[format_id]
        if site is not None:
            ip, known = _TWO_WORDS.unpack_from(record, site)
            place = self._accesses.place(point, ip, known) if ip else point
            if place is None:
                return None
            point = place
        values, faulty = self._values(layout, bytes(record), faults, point)
        pieces = self._templates[format_id]
        lines = pieces is not None and any(isinstance(value, Stack | UserStack) for _, value in values)
        message = None if pieces is None else self._message(pieces, layout, values, lines)
        return LogEvent(
            time_ns,
            self.clock(time_ns),
            self.schema.aspect,
            self.schema.advice[layout.advice],
            point,
            cpu,
            pid,
            tid,
            text_of(comm),
            tuple(values),
            message,
            tuple(faulty),
            lines,
        )

    @cached_property
    def calls(self) -> Calls:
        """What decodes system calls."""
        from klasy.log.calls import Calls

        return Calls()

    @cached_property
    def _accesses(self) -> Accesses:
        from klasy.log.access import Accesses

        return Accesses(self.symbols.code)

    def clock(self, time_ns: int) -> str:
        """A moment of a record as local time of day."""
        begin, second = self.second(time_ns)
        return f"{second}.{(time_ns - begin) // 1000:06}"

    def second(self, time_ns: int) -> tuple[int, str]:
        """When, as records have it, the second began that holds a moment of a record; its local time of day."""
        offset = self.wall.offset
        seconds = (time_ns + offset) // 1_000_000_000
        if self._second[0] != seconds:
            self._second = seconds, time.strftime("%H:%M:%S", time.localtime(seconds))
        return seconds * 1_000_000_000 - offset, self._second[1]

    def _message(
        self, pieces: tuple[printf.Piece, ...], layout: Format, values: list[tuple[str, Value]], lines: bool
    ) -> str:
        """``lines``: the line ends in it must be those of stacks."""
        sizes = [entry.size for entry in layout.fields if entry.kind not in _NOT_SHOWN]
        shown: list[tuple[int | str, int]] = []
        for directive, (_, value), size in zip(printf.directives(pieces), values, sizes, strict=True):
            printable = self.printable(directive, value)
            if lines and isinstance(printable, str) and not isinstance(value, Stack | UserStack):
                printable = harmless(printable)
            shown.append((printable, size))
        return printf.render(pieces, shown)

    def printable(self, directive: printf.Directive, value: Value) -> int | str:
        """A value as the template takes it: a number for its directive to show, or text."""
        match value:
            case bool() if directive.kind == "s":
                pass  # as text: true or false
            case int():
                return self._symbol(directive, value) if directive.is_symbol else int(value)
            case EnumValue(number, name):
                return number if directive.is_integer or name is None else name
            case Pointer(address, _) | CodeAddress(address) if directive.is_symbol:
                return self._symbol(directive, address)
            case Pointer(address, _) | CodeAddress(address) if directive.kind != "s":
                return address
        return value_text(value, self.symbols, quote=False)

    def _symbol(self, directive: printf.Directive, address: int) -> str:
        """An address as the kernel's printk shows it."""
        return self.symbols.symbol(address, offset=directive.kind == "pS")

    def _values(
        self, layout: Format, record: bytes, faults: int, point: LogPoint
    ) -> tuple[list[tuple[str, Value]], list[str]]:
        values: list[tuple[str, Value]] = []
        faulty: list[str] = []
        address: int | None = None
        position = 0
        for entry in layout.fields:
            if entry.kind == "address":  # of the object that the next field holds
                address = int.from_bytes(record[entry.offset : entry.offset + 8], "little")
                continue
            if entry.kind in _NOT_SHOWN:
                continue
            if faults >> min(position, _LAST_FAULT_BIT) & 1:
                values.append((entry.name, LOST_STACK if entry.kind in _STACKS else Fault()))
                faulty.append(entry.name)
            else:
                values.append((entry.name, self._value(entry, record, point, address)))
            position += 1
            address = None
        return values, faulty

    def _value(self, entry: Field, record: bytes, point: LogPoint, address: int | None) -> Value:
        raw = record[entry.offset : entry.offset + entry.size]
        match entry.kind:
            case "call":
                return self.calls.decode(point.function or "", record[entry.offset :], over=entry.type_name == "after")
            case "object":
                types = self._types(entry.module)
                if types is None:
                    return raw
                from klasy.log.memory import decode

                return decode(types, entry.type_id, raw, address)
            case "joinpoint":
                return attribute(point, entry.type_name)
            case "stack" | "ustack":
                from klasy.log import stacks

                if entry.kind == "stack":
                    return stacks.kernel_stack(raw, point, self.symbols)
                time_ns, _, _, _, pid, *_ = HEADER.unpack_from(record)
                self.symbols.user.suggest((point.module,))
                return stacks.user_stack(raw, pid, time_ns)
        return self.value(entry, raw)

    def value(self, entry: Field, raw: bytes) -> Value:
        """The value of a field whose kind is one of BY_ITSELF, in its bytes."""
        match entry.kind:
            case "int":
                return int.from_bytes(raw, "little", signed=entry.signed)
            case "bool":
                return any(raw)
            case "char":
                return Char(int.from_bytes(raw[:1], "little", signed=entry.signed))
            case "enum":
                number = int.from_bytes(raw, "little", signed=entry.signed)
                return EnumValue(number, self._constant(entry, number))
            case "pointer":
                return Pointer(int.from_bytes(raw, "little"), entry.type_name)
            case "symbol":
                return CodeAddress(int.from_bytes(raw, "little"))
            case "string":
                return text_of(raw)
            case "ustring":
                return text_of(raw[:-1]) if raw[-1] == TEXT_KERNEL else UserText(text_of(raw[:-1]))
            case "buffer":
                return _buffer(raw)
            case "ip4" | "ip6" | "mac":
                return Address(_ADDRESSES[entry.kind](raw))
        return raw

    def _constant(self, entry: Field, number: int) -> str | None:
        from klasy.btf.types import Enum

        btf = self._types(entry.module)
        if btf is None:
            return None
        enum = btf.type(btf.resolve(entry.type_id))
        assert isinstance(enum, Enum)
        return next((name for name, value in enum.values if value == number), None)


def field_decoder(types: Callable[[str | None], Btf | None], symbols: Symbolizer) -> Callable[[Field, bytes], Value]:
    """What decodes single fields, which are no log's: the values and keys of states."""
    decoder = Decoder(Schema("", (), (), ()), types, symbols)
    return lambda entry, data: decoder._value(entry, data, _NO_POINT, None)


def _site(form: Format) -> int | None:
    """Where a record holds the place of an access to data, followed by what it was."""
    return next((entry.offset for entry in form.fields if entry.kind == "site"), None)


def _buffer(raw: bytes) -> Value:
    wanted, data = int.from_bytes(raw[:8], "little"), raw[8:]
    return data[:wanted] if wanted <= len(data) else CutBytes(data, wanted - len(data))


def _mac(raw: bytes) -> str:
    return raw.hex(":")


_ADDRESSES = {"ip4": ip4_text, "ip6": ip6_text, "mac": _mac}


def attribute(point: LogPoint, name: str) -> Value:
    """An attribute of a join point, as advice names it."""
    match name:
        case "kind":
            return point.kind
        case "address":
            return Pointer(point.address, "char *")  # a number: the name is joinpoint.function
        case "line":
            return point.line if point.line is not None else 0
        case "module":
            unknown = point.kind == "call" and not point.function  # nobody knows where it is
            return point.module or ("" if unknown else "vmlinux")
        case "callee":
            return point.callee or ""
        case "file":
            return point.file or ""
    return point.function or ""
