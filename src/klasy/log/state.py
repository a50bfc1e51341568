"""What states hold, decoded: from words and bytes to numbers, buckets and keys. Sorted, the largest first."""

from __future__ import annotations

from klasy.log.decode import LOST_STACK, attribute, field_decoder
from klasy.log.event import LogPoint
from klasy.log.value import Value
from klasy.plain import TYPE_CHECKING, dataclass
from klasy.record import Field
from klasy.state import (
    NO_PLACES,
    PLACE_KINDS,
    STACK_FIRST,
    STACK_KEY,
    STACK_MORE,
    Places,
    State,
    bucket_range,
    decode_extreme,
    join,
    signed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from klasy.btf.btf import Btf
    from klasy.log.symbolize import Symbolizer


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of a histogram: numbers from ``low`` on and below ``high``; None: there is no bound."""

    low: int | None
    high: int | None
    count: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One element of a state.

    ``value``: of a scalar its value, of an aggregation what it came to, None for the extreme of nothing; of a
    histogram None, and ``buckets`` has its buckets, but for empty ones at either end. ``count``: how many were added,
    of an avg and of a histogram; ``total``: what they add up to, of an avg.
    """

    key: tuple[Value, ...]
    value: Value | None
    count: int | None = None
    total: int | None = None
    buckets: tuple[Bucket, ...] = ()


class StateDecoder:
    """Decodes the elements of states. ``types`` gives BTF as for log records.

    ``learn`` is to be told of aspects before their states are decoded: they bring types along.
    """

    def __init__(
        self,
        types: Callable[[str | None], Btf | None],
        symbols: Symbolizer,
        learn: Callable[[Iterable[Any]], None] = lambda _: None,
    ) -> None:
        self.learn = learn
        self._field = field_decoder(types, symbols)
        self._symbols = symbols

    def slots(
        self, state: State, elements: Iterable[tuple[bytes, Sequence[int]]], places: Places = NO_PLACES
    ) -> list[Slot]:
        """The elements of a state, the largest first; equal ones by their keys."""
        if any(field.kind == "ustack" for field in state.keys):
            self._symbols.user.suggest(point.module for point in places.joinpoints)
            elements = _merged(state, elements, places)
        weighed = []
        for key, words in elements:
            slot = self._slot(state, key, words, places)
            weighed.append((-_weight(slot), key, slot))
        weighed.sort(key=lambda item: item[:2])
        return [slot for _, _, slot in weighed]

    def _slot(self, state: State, key: bytes, words: Sequence[int], places: Places) -> Slot:
        keys = tuple(
            place_key(field, key, places, self._symbols) if field.kind in PLACE_KINDS else self._field(field, key)
            for field in state.keys
        )
        match state.kind:
            case "scalar":
                assert state.value is not None
                return Slot(keys, self._scalar(state.value, words[0]))
            case "count":
                return Slot(keys, words[0])
            case "sum":
                return Slot(keys, signed(words[0]))
            case "min" | "max":
                return Slot(keys, decode_extreme(state.kind, words[0]) if words[0] else None)
            case "avg":
                total = signed(words[1])
                return Slot(keys, _quotient(total, words[0]) if words[0] else None, words[0], total)
        used = [number for number, count in enumerate(words) if count]
        span = range(used[0], used[-1] + 1) if used else range(0)
        buckets = tuple(Bucket(*bucket_range(state, number), words[number]) for number in span)
        return Slot(keys, None, sum(words), None, buckets)

    def _scalar(self, field: Field, word: int) -> Value:
        return self._field(field, word.to_bytes(8, "little"))


def _merged(
    state: State, elements: Iterable[tuple[bytes, Sequence[int]]], places: Places
) -> Iterable[tuple[bytes, Sequence[int]]]:
    """What is of one stack of programs as one element: the kernel tells stacks apart by addresses, which are others in
    each process, though the functions are the same. Of two values by assignment none is the right one: they stay two.
    """
    if state.kind == "scalar":
        return elements
    fields = [field for field in state.keys if field.kind == "ustack"]
    found: dict[bytes, list[tuple[bytes, Sequence[int]]]] = {}
    for key, words in elements:
        same = bytearray(key)
        for field in fields:
            kept = places.stacks.get(key[field.offset : field.offset + field.size])
            if kept is not None:
                same[field.offset : field.offset + STACK_KEY] = bytes(STACK_KEY)
                same += kept
        found.setdefault(bytes(same), []).append((key, words))
    return [(rows[0][0], join(state.kind, [words for _, words in rows])) for rows in found.values()]


def place_key(field: Field, key: bytes, places: Places, symbols: Symbolizer) -> Value:
    """A part of a key that is a join point's, or a stack."""
    raw = key[field.offset : field.offset + field.size]
    if field.kind == "joinpoint":
        return attribute(LogPoint.of(places.joinpoints[int.from_bytes(raw, "little")]), field.type_name)
    from klasy.log import stacks

    kept = places.stacks.get(raw)
    if kept is None:
        return LOST_STACK
    if field.kind == "ustack":
        return stacks.user_stack(raw[STACK_KEY:] + kept, 0, 0)
    where, place = (int.from_bytes(raw[at : at + 4], "little") for at in (0, 4))
    first = (where & ~STACK_MORE) >> STACK_FIRST
    return stacks.kernel_stack(first.to_bytes(8, "little") + kept, LogPoint.of(places.joinpoints[place]), symbols)


def _quotient(total: int, count: int) -> int:
    """As C divides, and advice that reads the average."""
    return abs(total) // count * (1 if total >= 0 else -1)


def _weight(slot: Slot) -> int:
    if slot.buckets:
        return slot.count or 0
    return slot.value if isinstance(slot.value, int) else 0


def key_text(values: Sequence[Value], show: Callable[[Value], str]) -> list[str]:
    """The parts of a key as text: strings bare, for they are told by their column."""
    return [value if isinstance(value, str) else show(value) for value in values]
