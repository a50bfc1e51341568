"""Values as they come out of log records: plain Python where that says it all, small classes where it does not."""

from __future__ import annotations

from klasy.plain import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """Stands for a value that could not be computed: a load of kernel memory on the way to it failed."""


@dataclass(frozen=True, slots=True)
class Char:
    """A value of C's type ``char``: a number, which may stand for a character."""

    value: int


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address, and the type it was logged as, e.g. ``struct sock *``."""

    address: int
    type_name: str

    @property
    def to_function(self) -> bool:
        """Whether it is a pointer to a function, so that its address has a name."""
        return "(" in self.type_name


@dataclass(frozen=True, slots=True)
class CodeAddress:
    """An address of code: a function's, or one within it."""

    address: int


@dataclass(frozen=True, slots=True)
class EnumValue:
    """A value of an enum; ``name`` None where no constant has this value."""

    value: int
    name: str | None


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a network, as its users write it."""

    text: str


@dataclass(frozen=True, slots=True)
class CutBytes:
    """Bytes of which the record had room for the first only; ``left_out`` is how many more there were."""

    data: bytes
    left_out: int


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


# A str may hold bytes that are no UTF-8, as lone surrogates (PEP 383): each output says how it shows them.
Value = (
    int | bool | str | bytes | Fault | Char | Pointer | CodeAddress | EnumValue | Address | CutBytes | Record | Elements
)


def text_of(raw: bytes) -> str:
    """The string in bytes that a NUL ends, or their end."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
