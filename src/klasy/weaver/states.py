"""The states of a woven aspect, read out of its maps: words only, what they mean is for :mod:`klasy.log`."""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass
from klasy.state import (
    LOST_WORDS,
    MAP_LOST,
    NO_PLACES,
    PLACE_KINDS,
    STACK_FIRST,
    STACK_KINDS,
    STACK_MORE,
    WORD,
    Places,
    join,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klasy.bpf.maps import Map
    from klasy.state import State
    from klasy.weaver.woven import WovenAspect


@dataclass(frozen=True, slots=True)
class Losses:
    """Updates of a state that were not made as they should.

    ``full``: there was no room for a new key. ``busy``: the kernel refused, because the map was locked on that CPU.
    ``faults``: made, but with a key or a value for which memory could not be read, so that 0 stands for it.
    ``stacks``: the stack that is the key could not be taken, or found no room.
    """

    full: int
    busy: int
    faults: int
    stacks: int = 0

    @property
    def lost(self) -> int:
        """How many were not made at all."""
        return self.full + self.busy + self.stacks


@dataclass(frozen=True, slots=True)
class StateContent:
    """What a state holds. ``elements``: keys, and the words of their values. ``room``: how many keys it can have.

    ``places``: what keys that are join points or stacks stand for.
    """

    state: State
    elements: tuple[tuple[bytes, tuple[int, ...]], ...]
    losses: Losses
    room: int
    places: Places = NO_PLACES


def read_states(woven: WovenAspect, *, take: bool = False) -> list[StateContent]:
    """What the states of an aspect hold now. While advice runs the numbers are of slightly different moments.

    ``take``: and empty them. An element with a key is read and taken out in one step, of a state without keys each
    word. Raises KernelRefused.
    """
    return [_content(woven, state, lost, take) for state, lost in zip(woven.states, read_losses(woven), strict=True)]


def read_losses(woven: WovenAspect) -> list[Losses]:
    """What was lost, for each state."""
    if not woven.states:
        return []
    counters = woven.map(MAP_LOST)
    found = []
    for state in woven.states:
        rows = counters.lookup_each_cpu(state.index.to_bytes(4, "little")) or []
        totals = [sum(column) for column in zip(*map(_words, rows), strict=True)] or [0] * LOST_WORDS
        found.append(Losses(*totals))
    return found


def losses_in_all(woven: WovenAspect) -> Losses:
    """What was lost of all states of an aspect together."""
    each = read_losses(woven)
    return Losses(*(sum(getattr(one, name) for one in each) for name in ("full", "busy", "faults", "stacks")))


def _content(woven: WovenAspect, state: State, losses: Losses, take: bool) -> StateContent:
    held = woven.map(state.map_name)
    elements = []
    for key, rows in _rows(held, state, take):
        parts = [_words(row) for row in rows]
        words = join(state.kind, parts) if held.per_cpu else parts[0]
        elements.append((key if state.key_size else b"", tuple(words)))
    places = _places(woven, state, [key for key, _ in elements])
    return StateContent(state, tuple(elements), losses, held.max_entries, places)


def _rows(held: Map, state: State, take: bool) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each element with its values: one for each CPU, or one."""
    if take and not state.key_size:
        from klasy.weaver.taking import take_words

        yield b"", take_words(held, state.words)
        return
    for key, joined in held.take_all() if take else held.items():
        yield key, held.part(joined) if held.per_cpu else [joined]


def _places(woven: WovenAspect, state: State, keys: list[bytes]) -> Places:
    """What keys stand for."""
    fields = [field for field in state.keys if field.kind in PLACE_KINDS]
    if not fields:
        return NO_PLACES
    stacks: dict[bytes, bytes] = {}
    for field in fields:
        for key in keys if field.kind in STACK_KINDS else ():
            raw = key[field.offset : field.offset + field.size]
            if raw not in stacks:
                number = int.from_bytes(raw[:4], "little")
                name = STACK_KINDS[field.kind][number & STACK_MORE != 0]
                kept = woven.map(name).lookup((number & (1 << STACK_FIRST) - 1).to_bytes(4, "little"))
                if kept is not None:
                    stacks[raw] = kept
    return Places(woven.joinpoints, stacks)


def _words(row: bytes) -> list[int]:
    return [int.from_bytes(row[at : at + WORD], "little") for at in range(0, len(row), WORD)]
