"""Values as they come out of log records: plain Python where that says it all, small classes where it does not."""

from __future__ import annotations

from klasy.plain import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """Stands for a value that could not be computed: a load of kernel memory on the way to it failed."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address, and the type it was logged as, e.g. ``struct sock *``."""

    address: int
    type_name: str


@dataclass(frozen=True, slots=True)
class CodeAddress:
    """An address of code, to be shown as function+offset."""

    address: int


@dataclass(frozen=True, slots=True)
class EnumValue:
    """A value of an enum; ``name`` None where no constant has this value."""

    value: int
    name: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """A struct or union taken from memory. ``address`` None where it is not known.

    Members of anonymous structs and unions stand in an unnamed Record of their own (name ""), as in the source.
    """

    type_name: str
    address: int | None
    members: tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True)
class Elements:
    """An array taken from memory."""

    type_name: str
    items: tuple[Value, ...]


Value = int | bool | str | bytes | Fault | Pointer | CodeAddress | EnumValue | Record | Elements
