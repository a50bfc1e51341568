"""The layout of an aspect's state in its maps: written by compiled advice, read by ``klasy stat``.

Each state has a map of its own. A value in it is a row of 64-bit words, little-endian:

    scalar      the value, extended to 64 bits (its type's low bytes count)
    count       how many
    sum         the total, signed
    min, max    the extreme, coded by :func:`encode_extreme` so that 0 stands for "none yet"
    avg         how many; their total, signed
    hist        a word for each bucket: below 0; 0; then [2**k, 2**(k+1)) for k from 0 to 62
    lhist       a word for each bucket: below low; each step; from high on

A state that advice only adds to (none reads or clears it) is kept per CPU: the value is that of all CPUs together, by
:func:`join`. A state without a key is the one element of an array.

Beside them is one per-CPU array, ``state_lost``, with four words for each state by its index: updates that found the
map full, updates that the kernel refused because the map was locked on that CPU, updates (made all the same) with a key
or value that came of memory which could not be read, and updates whose stack the kernel could not take or keep.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, asdict, dataclass
from klasy.record import USER_FRAME, Field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MAP_PREFIX = "state__"  # and the state's name
MAP_LOST = "state_lost"
MAP_ZEROS = "state_zeros"  # an array of one element: what a new element of a hash is made from
LOST_WORDS = 4
LOST_FULL, LOST_BUSY, LOST_FAULT, LOST_STACK = 0, 1, 2, 3  # its words

# A key that is a stack: where it is (4 bytes: the kernel's id of it, STACK_MORE if it is in the second map, and how its
# first frame is to be taken, record.STACK_BENEATH .., from bit STACK_FIRST on); then the number of the place where it
# begins (4 bytes, a join point's). The kernel keeps one stack for each value of a hash and refuses another one: that
# goes to the second map, and few there meet again. Of a process's stack comes, behind that, the caller's frame that the
# kernel leaves out, as in a record.
STACK_KEY = 8
STACK_FIRST = 24
STACK_MORE = 1 << 30
MAP_STACKS = ("stacks", "stacks_more")
MAP_USER_STACKS = ("ustacks", "ustacks_more")
STACK_KINDS = {"stack": MAP_STACKS, "ustack": MAP_USER_STACKS}  # the maps of a key by the kind of its field
PLACE_KINDS = frozenset(("joinpoint", *STACK_KINDS))  # fields of keys that stand for what Places has

HIST_BUCKETS = 65
MAX_LHIST_BUCKETS = 1000  # the two outer ones not counted
WORD = 8
_MASK = (1 << 64) - 1
_SIGN = 1 << 63


def stack_key_bytes(*, user: bool) -> int:
    """The size of a key that is a stack, the kernel's or a process's."""
    return STACK_KEY + (USER_FRAME.size if user else 0)


@dataclass(frozen=True, slots=True)
class State:
    """A state of an aspect.

    ``kind`` is ``scalar`` or the aggregation's name; ``type_name`` a scalar's type as C writes it. ``value`` says how
    a scalar is decoded, ``keys`` how each part of a key is, with its offset in the key; ``key_size`` 0: it has none.
    ``bounds`` are an lhist's low, high and step.
    """

    index: int
    name: str
    kind: str
    line: int
    value: Field | None
    keys: tuple[Field, ...]
    key_size: int
    bounds: tuple[int, int, int] | None
    per_cpu: bool

    @property
    def words(self) -> int:
        """How many words a value has."""
        match self.kind:
            case "avg":
                return 2
            case "hist":
                return HIST_BUCKETS
            case "lhist":
                assert self.bounds is not None
                return lhist_steps(self.bounds) + 2
        return 1

    @property
    def map_name(self) -> str:
        """The name of its map in the artifact."""
        return MAP_PREFIX + self.name

    @property
    def map_type(self) -> str:
        """The type of its map."""
        return ("percpu_" if self.per_cpu else "") + ("hash" if self.key_size else "array")

    def to_json(self) -> dict[str, Any]:
        """As plain data for the registry entry of a woven aspect."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> State:
        """The inverse of :meth:`to_json`."""
        known = dict(data)
        known["value"] = Field(**data["value"]) if data["value"] else None
        known["keys"] = tuple(Field(**key) for key in data["keys"])
        known["bounds"] = tuple(data["bounds"]) if data["bounds"] else None
        return State(**known)


@dataclass(frozen=True, slots=True)
class Places:
    """What keys stand for that are join points or stacks: the join points by number, stacks by the key's bytes."""

    joinpoints: Sequence[Any]
    stacks: Mapping[bytes, bytes]


NO_PLACES = Places((), {})


def lhist_steps(bounds: tuple[int, int, int]) -> int:
    """How many steps a linear histogram has between its bounds; the last may be shorter."""
    low, high, step = bounds
    return -(-(high - low) // step)


def signed(word: int) -> int:
    """A word as a signed number."""
    return word - (1 << 64) if word & _SIGN else word


def encode_extreme(kind: str, value: int) -> int:
    """A signed number as the word of a ``max`` or ``min``: the larger word is always the one to keep."""
    word = (value & _MASK) ^ _SIGN
    return word if kind == "max" else word ^ _MASK


def decode_extreme(kind: str, word: int) -> int:
    """The inverse of :func:`encode_extreme`."""
    return signed((word if kind == "max" else word ^ _MASK) ^ _SIGN)


def join(kind: str, rows: Sequence[Sequence[int]]) -> list[int]:
    """The value that the words of each CPU make together."""
    if kind in ("min", "max"):
        return [max(row[0] for row in rows)]
    return [sum(column) & _MASK for column in zip(*rows, strict=True)]


def bucket_range(state: State, bucket: int) -> tuple[int | None, int | None]:
    """The lowest number of a bucket, and the lowest above it; None: there is no bound."""
    if state.bounds is None:
        if bucket == 0:
            return None, 0
        return (0, 1) if bucket == 1 else (1 << bucket - 2, 1 << bucket - 1)
    low, high, step = state.bounds
    if bucket == 0:
        return None, low
    if bucket == state.words - 1:
        return high, None
    start = low + (bucket - 1) * step
    return start, min(start + step, high)
