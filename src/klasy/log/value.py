"""Values as they come out of log records: plain Python where that says it all, small classes where it does not."""

from __future__ import annotations

from klasy.kernel.arch_x86_64 import IMAGE
from klasy.plain import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """Stands for a value that could not be computed: a load of kernel memory on the way to it failed.

    ``shown`` is what text has in its place.
    """

    shown: str = "<bad address>"


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
    def may_be_code(self) -> bool:
        """Whether its address may have a name: a pointer to a function, or to anything, into the kernel's image."""
        return "(" in self.type_name or (self.type_name == "void *" and self.address >= IMAGE)


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
class Stack:
    """Code addresses of the kernel, the innermost first: the join point's place, then return addresses.

    ``cut``: there may have been more than were kept.
    """

    frames: tuple[int, ...]
    cut: bool


@dataclass(frozen=True, slots=True)
class UserFrame:
    """A code address of a process: an offset in the file that has the build id, or where that is None an address."""

    build_id: bytes | None
    offset: int


@dataclass(frozen=True, slots=True)
class UserStack:
    """Code addresses of a process, the innermost first. ``time_ns``: when it had them, on the monotonic clock."""

    pid: int
    time_ns: int
    frames: tuple[UserFrame, ...]
    cut: bool


class UserText(str):
    """A string that was read from a process's memory for the log, which the process may have changed meanwhile."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class CallArgument:
    """An argument of a system call. ``text`` shows it; None of a string, which is its ``value`` itself."""

    name: str
    value: int | str
    text: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """A system call as a whole. ``result`` None: it is about to be made. A failed one has a negative result."""

    name: str
    arguments: tuple[CallArgument, ...]
    result: int | None
    result_text: str


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
# fmt: off
Value = (
    int | bool | float | str | bytes | Fault | Char | Pointer | CodeAddress | EnumValue | Address | CutBytes | Stack
    | UserStack | Record | Elements | Call
)
# fmt: on


def text_of(raw: bytes) -> str:
    """The string in bytes that a NUL ends, or their end."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def ip4_text(raw: bytes) -> str:
    """An address of four bytes, as people write it."""
    first, second, third, fourth = raw
    return f"{first}.{second}.{third}.{fourth}"


def ip6_text(raw: bytes) -> str:
    """An address of sixteen bytes, as RFC 5952 has it."""
    from socket import AF_INET6, inet_ntop

    return inet_ntop(AF_INET6, raw)
