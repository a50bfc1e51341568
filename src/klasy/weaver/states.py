"""The states of a woven aspect, read out of its maps: words only, what they mean is for :mod:`klasy.log`."""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass
from klasy.state import LOST_WORDS, MAP_LOST, WORD, join

if TYPE_CHECKING:
    from klasy.state import State
    from klasy.weaver.woven import WovenAspect


@dataclass(frozen=True, slots=True)
class Losses:
    """Updates of a state that were not made as they should.

    ``full``: there was no room for a new key. ``busy``: the kernel refused, because the map was locked on that CPU.
    ``faults``: made, but with a key or a value for which memory could not be read, so that 0 stands for it.
    """

    full: int
    busy: int
    faults: int

    @property
    def lost(self) -> int:
        """How many were not made at all."""
        return self.full + self.busy


@dataclass(frozen=True, slots=True)
class StateContent:
    """What a state holds. ``elements``: keys, and the words of their values. ``room``: how many keys it can have."""

    state: State
    elements: tuple[tuple[bytes, tuple[int, ...]], ...]
    losses: Losses
    room: int


def read_states(woven: WovenAspect) -> list[StateContent]:
    """What the states of an aspect hold now. While advice runs the numbers are of slightly different moments.

    Raises KernelRefused.
    """
    return [_content(woven, state, lost) for state, lost in zip(woven.states, read_losses(woven), strict=True)]


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
    return Losses(sum(one.full for one in each), sum(one.busy for one in each), sum(one.faults for one in each))


def _content(woven: WovenAspect, state: State, losses: Losses) -> StateContent:
    held = woven.map(state.map_name)
    elements = []
    for key, joined in held.items():
        rows = [_words(row) for row in held.part(joined)] if held.per_cpu else [_words(joined)]
        words = join(state.kind, rows) if held.per_cpu else rows[0]
        elements.append((key if state.key_size else b"", tuple(words)))
    return StateContent(state, tuple(elements), losses, held.max_entries)


def _words(row: bytes) -> list[int]:
    return [int.from_bytes(row[at : at + WORD], "little") for at in range(0, len(row), WORD)]
