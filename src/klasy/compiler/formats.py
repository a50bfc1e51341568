"""The record formats of an aspect: one for each ``log``, with the place of each value in its record."""

from __future__ import annotations

from klasy.compiler import tree
from klasy.plain import TYPE_CHECKING, replace
from klasy.record import HEADER_SIZE, TYPED, Field, Format

if TYPE_CHECKING:
    from klasy.compiler.types import CType, Types
    from klasy.source import Span

MAX_RECORD = 16384  # bytes; a task_struct fits
LAST_FAULT_BIT = 63


class Formats:
    """The formats of an aspect, numbered as they are met."""

    def __init__(self) -> None:
        self.all: list[Format] = []
        self.limits: dict[Span, int] = {}  # of the aspect so far; one in a function serves all that call it

    def new(self, advice: int, line: int, template: str | None, layout: Layout) -> Format:
        """One more format."""
        fields = tuple(item.field for item in layout.items)
        made = Format(len(self.all), advice, line, template, fields, layout.size)
        self.all.append(made)
        return made


class Layout:
    """Lays out the fields of one record as they come."""

    def __init__(self, types: Types) -> None:
        self.types = types
        self.items: list[tree.Item] = []
        self._end = HEADER_SIZE
        self._values = 0
        self._last: list[tree.Item] = []

    def add(self, kind: str, size: int, value: tree.Expr, shown: CType | None = None, *, signed: bool = False) -> None:
        """A field of the value that is being laid out; ``shown`` is the type the reader decodes or names it by."""
        alignment = size
        if kind in ("object", "buffer", "stack", "ustack", "call"):
            alignment = 8
        elif kind in ("string", "ustring", "joinpoint", "bytes", "ip6", "mac"):
            alignment = 1
        offset = -(-self._end // alignment) * alignment
        type_name, module, type_id = "", None, 0
        if isinstance(value, tree.JoinPointAttribute):
            type_name = value.attribute
        elif shown is not None:
            type_name = shown.name
            if kind in TYPED:
                module, type_id = self.types.shown(shown)
        field = Field(one_line(value.span), kind, offset, size, signed, type_name, module, type_id)
        self.items.append(tree.Item(field, value, min(self._values, LAST_FAULT_BIT)))
        self._end = offset + size

    def add_last(self, kind: str, size: int, value: tree.Expr) -> None:
        """A field that is to be the last of the record, for it may be shorter."""
        self.add(kind, size, value)
        self._end -= size
        self._last.append(self.items[-1])

    def close(self) -> bool:
        """Put the last field behind the others; whether there is but one."""
        for item in self._last:
            offset = -(-self._end // 8) * 8
            item.field = replace(item.field, offset=offset)
            self._end = offset + item.field.size
        return len(self._last) <= 1

    def next_value(self) -> None:
        """What comes now belongs to the next value of the log."""
        self._values += 1

    @property
    def size(self) -> int:
        """Bytes of the record so far, padded."""
        return -(-self._end // 8) * 8

    @property
    def whole(self) -> bool:
        """Whether a record can be that long."""
        return self.size <= MAX_RECORD


def one_line(span: Span) -> str:
    """An expression's text on one line, without comments: what a logged value is shown under."""
    text = ""
    rest = span.text
    ends = {"//": "\n", "/*": "*/"}
    while starts := [at for at in (rest.find(mark) for mark in ends) if at >= 0]:
        at = min(starts)
        text += rest[:at] + " "
        mark = ends[rest[at : at + 2]]
        end = rest.find(mark, at + 2)
        rest = rest[end + len(mark) :] if end >= 0 else ""
    return " ".join((text + rest).split())
