"""The stack frame: 512 bytes below r10, of which the lowest part holds spilled values, the highest scratch space.

Scratch is for one operation at a time (a key for a map, bytes to compare): all operations share it. A spill slot is 8
bytes, 8-aligned, and shared by values that do not live at the same time.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.backend.bytecode.liveness import Interval

STACK_BYTES = 512  # MAX_BPF_STACK
SLOT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """A value on the stack: ``size`` bytes at r10 + ``offset``, zero-extended when read."""

    offset: int
    size: int = SLOT_BYTES


def place_slots(spilled: Iterable[Interval]) -> tuple[list[int], int]:
    """A slot number for each interval, which come by start, and how many slots there are.

    Intervals that overlap get different slots. A result may take the slot of an operand of the same operation.
    """
    ends: list[int] = []
    chosen: list[int] = []
    for interval in spilled:
        for number, end in enumerate(ends):
            if end < interval.start:
                ends[number] = interval.end
                chosen.append(number)
                break
        else:
            chosen.append(len(ends))
            ends.append(interval.end)
    return chosen, len(ends)
