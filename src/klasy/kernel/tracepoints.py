"""The kernel's trace events (static tracepoints with a record) as tracefs tells them: names, ids, fields.

    events/CATEGORY/NAME/format     ID: 319
                                    format:
                                        field:char prev_comm[16];  offset:8;  size:16;  signed:1;
                                        field:__data_loc char[] filename;  offset:8;  size:4;  signed:1;

A field of ``__data_loc`` holds where in the record its data lies (low 16 bits) and how long it is (high 16 bits);
``__rel_loc`` counts from behind the field. The fields that all records begin with (``common_type`` ..) are left out,
and so are events which no program can be attached to: tracefs' own records (``ftrace``) and klasy's kernel probes.

A source is a directory or a mapping of texts, so that a test needs no tracefs.
"""

from __future__ import annotations

import os

from klasy.errors import KernelLacks, NotRoot
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_OFFERED = ("ftrace", "klasy_")  # categories that begin so
_WORDS = (1, 2, 4, 8)
_WHOLES = ("struct ", "union ")
_COMMON_END = 8  # bytes of struct trace_entry, include/linux/trace_events.h


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a trace event's record.

    ``type`` is as the format has it, without dimensions. ``kind`` is ``value`` (``size`` bytes at ``offset``),
    ``array`` (the elements themselves lie there), ``data_loc`` or ``rel_loc`` (where they lie, see above).
    """

    name: str
    type: str
    offset: int
    size: int
    signed: bool
    kind: str
    count: int = 0  # elements of an array

    @property
    def text(self) -> str:
        """As advice may declare it: what lies in the record is a pointer to it."""
        if self.kind == "array" and self.count:
            return f"{self.type} {self.name}[{self.count}]"
        type_ = self.declared_type
        return f"{type_}{self.name}" if type_.endswith("*") else f"{type_} {self.name}"

    @property
    def declared_type(self) -> str:
        """Its type in advice."""
        if self.kind == "value":
            return self.type
        return f"{self.type}*" if self.type.endswith("*") else f"{self.type} *"


@dataclass(frozen=True, slots=True)
class EventFormat:
    """A trace event. ``id`` is what perf knows it by, until the next boot or load of its module."""

    category: str
    name: str
    id: int
    fields: tuple[Field, ...]

    @property
    def text(self) -> str:
        """It as C would declare a function of its fields."""
        return f"{self.category}:{self.name}({', '.join(field.text for field in self.fields)})"


def parse(category: str, name: str, text: str) -> EventFormat:
    """A format file. Lines that are not understood are skipped."""
    number = 0
    fields: list[Field] = []
    for line in text.splitlines():
        line = line.strip()  # noqa: PLW2901
        if line.startswith("ID:"):
            number = int(line[3:])
        elif line.startswith("field:"):
            field = _field(line)
            if field is not None and field.offset >= _COMMON_END:
                fields.append(field)
    return EventFormat(category, name, number, tuple(fields))


def _field(line: str) -> Field | None:
    facts = dict(part.strip().split(":", 1) for part in line.split(";") if ":" in part)
    try:
        offset, size, signed = int(facts["offset"]), int(facts["size"]), facts.get("signed") == "1"
    except (KeyError, ValueError):
        return None
    words = facts["field"].strip()
    kind = "value"
    for mark in ("data_loc", "rel_loc"):
        if words.startswith(f"__{mark} "):
            kind, words = mark, words[len(mark) + 3 :]
    head, _, name = words.replace("*", "* ").rpartition(" ")
    count = 0
    if "[" in name:  # char comm[16]
        name, _, dimension = name.partition("[")
        kind, count = "array", int(dimension[:-1]) if dimension[:-1].isdigit() else 0
    type_ = " ".join(head.replace("[]", "").split()).replace("* *", "**").strip()
    if kind == "value" and (size not in _WORDS or offset % size or (type_.startswith(_WHOLES) and type_[-1] != "*")):
        kind = "array"  # a struct, or what no single load gets: its address is offered
    return Field(name, type_, offset, size, signed, kind, count) if type_ and name else None


class Tracepoints:
    """Trace events, out of format texts by (category, name)."""

    def __init__(self, formats: Mapping[tuple[str, str], str] | None = None) -> None:
        self._texts = formats or {}
        self._known: dict[tuple[str, str], EventFormat] = {}

    def names(self) -> list[tuple[str, str]]:
        """All, as (category, name), sorted. Raises SystemRefusal where they cannot be listed."""
        return sorted(self._texts)

    def read(self, category: str, name: str) -> str:
        """The text of a format. Raises KernelLacks where there is no such event (any more)."""
        if (category, name) not in self._texts:
            raise KernelLacks(f"this kernel has no trace event {category}:{name}")
        return self._texts[category, name]

    def format(self, category: str, name: str) -> EventFormat:
        """One of :meth:`names`. Raises KernelLacks where it is gone."""
        key = category, name
        if key not in self._known:
            self._known[key] = parse(category, name, self.read(category, name))
        return self._known[key]


class LiveTracepoints(Tracepoints):
    """Those of the running kernel. ``root`` is where tracefs is mounted."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self._root = f"{root}/events"
        self._names: list[tuple[str, str]] | None = None

    def names(self) -> list[tuple[str, str]]:
        """All, as (category, name), sorted. Raises NotRoot, KernelLacks."""
        if self._names is None:
            found = []
            try:
                categories = [entry.name for entry in os.scandir(self._root) if entry.is_dir()]
            except PermissionError:
                raise NotRoot("the kernel's trace events are only for root to see", hint="run klasy as root") from None
            except OSError:
                categories = []
            for category in categories:
                if not category.startswith(_NOT_OFFERED):
                    events = os.scandir(f"{self._root}/{category}")
                    found += [(category, event.name) for event in events if event.is_dir()]
            if not found:
                raise KernelLacks(
                    "this kernel shows no trace events",
                    hint="they need CONFIG_TRACING, and tracefs: mount -t tracefs nodev /sys/kernel/tracing",
                )
            self._names = sorted(found)
        return self._names

    def read(self, category: str, name: str) -> str:
        """The text of a format. Raises KernelLacks where there is no such event (any more)."""
        try:
            with open(f"{self._root}/{category}/{name}/format", encoding="ascii", errors="replace") as file:
                return file.read()
        except OSError:
            raise KernelLacks(f"this kernel has no trace event {category}:{name}") from None
