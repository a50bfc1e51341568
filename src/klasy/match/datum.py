"""Data that a pointcut names: where it lies, of what type it is. Plain data, no system calls.

A :class:`Datum` is what ``get``, ``set`` and ``access`` select accesses of: a global or a part of one, at an address;
a :class:`MemberData` is the member of a type, which lies at no one address.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass, field, replace

if TYPE_CHECKING:
    from klasy.btf.btf import Btf
    from klasy.btf.types import Type

POINTER_BYTES = 8

# A debug register watches so many bytes, at an address that is a multiple of them (Intel SDM volume 3, 18.2.5).
WATCHED_LENGTHS = (8, 4, 2, 1)
REGISTERS = 4  # debug registers of one CPU


@dataclass(frozen=True, slots=True)
class DataType:
    """A type of BTF, or built upon one: an array of ``counts`` elements of ``pointers`` pointers to ``type_id``."""

    btf: Btf = field(compare=False, repr=False)
    type_id: int
    pointers: int = 0
    counts: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """In bytes; 0 where it has none."""
        size = POINTER_BYTES if self.pointers else self.btf.size_of(self.type_id)
        for count in self.counts:
            size *= count
        return size

    @property
    def name(self) -> str:
        """As C writes it."""
        stars = "*" * self.pointers
        base = self.btf.c_name(self.type_id)
        text = f"{base}{'' if base.endswith('*') else ' '}{stars}" if stars else base
        return text + "".join(f"[{count}]" for count in self.counts)

    @property
    def resolved(self) -> Type | None:
        """What it is in BTF; None where it is a pointer or an array that was built upon."""
        return None if self.pointers or self.counts else self.btf.resolved(self.type_id)

    @property
    def is_scalar(self) -> bool:
        """Whether a value of it fits a register and can be computed with: a number or a pointer."""
        from klasy.btf.types import Enum, Int, Ptr

        found = self.resolved
        whole = (self.pointers and not self.counts) or isinstance(found, Int | Enum | Ptr)
        return bool(whole) and self.size in WATCHED_LENGTHS

    def target(self) -> DataType | None:
        """What it points to; None where it is no pointer."""
        from klasy.btf.types import Ptr

        if self.counts:
            return None
        if self.pointers:
            return replace(self, pointers=self.pointers - 1)
        found = self.resolved
        return DataType(self.btf, found.type_id) if isinstance(found, Ptr) else None

    def element(self) -> tuple[DataType, int] | None:
        """The type of its elements and how many there are; None where it is no array."""
        from klasy.btf.types import Array

        if self.counts:
            return replace(self, counts=self.counts[1:]), self.counts[0]
        found = self.resolved
        return (DataType(self.btf, found.type_id), found.count) if isinstance(found, Array) else None


@dataclass(frozen=True, slots=True)
class Datum:
    """A global, or a part of one.

    ``text`` is its path as a person writes it. ``per_cpu`` is the offset in a CPU's area where it is a CPU's copy.
    ``module`` is that of the variable, None for the kernel proper. ``followed`` are the pointers on the way to it with
    what they were: were they to change, the datum would still be what they pointed to when the aspect was woven.
    """

    text: str
    address: int
    type: DataType
    module: str | None = None
    per_cpu: int | None = None
    followed: tuple[tuple[str, int], ...] = ()

    @property
    def size(self) -> int:
        """In bytes."""
        return self.type.size

    @property
    def is_sure(self) -> bool:
        """Whether its memory is there as long as the kernel is."""
        return self.module is None and not self.followed

    def pieces(self) -> list[Piece]:
        """What debug registers must watch: aligned pieces, as few as there can be."""
        found = []
        at, end = self.address, self.address + self.size
        while at < end:
            length = next(n for n in WATCHED_LENGTHS if at % n == 0 and at + n <= end)
            found.append(Piece(at, length))
            at += length
        return found

    def piece_text(self, piece: Piece) -> str:
        """A piece as a person reads it: the datum itself, if one piece is all of it."""
        first = piece.address - self.address
        if (first, piece.length) == (0, self.size):
            return self.text
        if piece.length == 1:
            return f"{self.text}, byte {first}"
        return f"{self.text}, bytes {first} to {first + piece.length - 1}"


@dataclass(frozen=True, slots=True)
class MemberData:
    """A member of a type, in whatever object: ``text`` is its name as a person writes it."""

    text: str
    type: DataType

    @property
    def is_sure(self) -> bool:
        """Whether its memory is there as long as the kernel is: no object is."""
        return False

    def piece_text(self, piece: Piece) -> str:
        """Its name; no debug register watches pieces of it."""
        return self.text


@dataclass(frozen=True, slots=True)
class WatchedMember:
    """A member of those objects that advice watches: ``offset`` bytes from the start of an ``owner``, a struct."""

    text: str
    owner: str
    offset: int
    type: DataType

    @property
    def size(self) -> int:
        """In bytes: 1, 2, 4 or 8."""
        return self.type.size

    @property
    def is_sure(self) -> bool:
        """Whether its memory is there as long as the kernel is: an object is not."""
        return False

    def piece_text(self, piece: Piece) -> str:
        """As a person reads it."""
        return f"watched {self.text}"


@dataclass(frozen=True, slots=True)
class Piece:
    """Memory that one debug register watches: ``length`` bytes (1, 2, 4, 8) at an aligned address."""

    address: int
    length: int
