"""Linear-scan register allocation (Poletto and Sarkar 1999) over eBPF's two kinds of registers.

    r0, r1      never allocated: results of calls, and scratch for whoever emits an operation
    r2 .. r5    for what no call outlives; calls destroy them
    r6 .. r9    for what does
    r10         the frame

What gets no register lives in a stack slot for all its life. That costs little here: a loaded value is on the stack
already (a helper put it there), and the few other values are stored once.
"""

from __future__ import annotations

from klasy.backend.bytecode.frame import SLOT_BYTES, Slot, place_slots
from klasy.bpf.insn import R2, R3, R4, R5, R6, R7, R8, R9, Reg
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import TypeAlias

    from klasy.backend.bytecode.code import Local
    from klasy.backend.bytecode.liveness import Interval

Place: TypeAlias = Reg | Slot

KEPT = (R6, R7, R8, R9)
DESTROYED = (R3, R2, R4, R5)  # r3 first: the address of a read goes there


class Allocation:
    """Where each local lives. ``slot_bytes`` of stack, below ``scratch`` bytes, are taken."""

    def __init__(self, places: dict[Local, Place], scratch: int, slot_bytes: int) -> None:
        self.places = places
        self.scratch = scratch
        self.slot_bytes = slot_bytes

    @property
    def stack_bytes(self) -> int:
        """Bytes of the frame in use."""
        return self.scratch + self.slot_bytes


def allocate(
    intervals: list[Interval],
    *,
    fixed: Mapping[Local, Reg],
    on_stack: Collection[Local],
    sizes: Mapping[Local, int],
    scratch: int,
) -> Allocation:
    """Places for all intervals, which come by start.

    ``fixed`` locals have their register already (one that is never allocated). Those in ``on_stack`` are better off
    in a slot. ``sizes``: how many bytes of its slot a local uses, where not 8. ``scratch``: bytes of the frame that
    are taken, a multiple of 8.
    """
    places: dict[Local, Place] = dict(fixed)
    spilled: list[Interval] = []
    active: list[Interval] = []
    for interval in intervals:
        if interval.local in fixed:
            continue
        if interval.local in on_stack:
            spilled.append(interval)
            continue
        active = [other for other in active if other.end >= interval.start]
        _place(interval, active, places, spilled)
    spilled.sort(key=lambda i: i.start)
    numbers, count = place_slots(spilled)
    for interval, number in zip(spilled, numbers, strict=True):
        offset = -scratch - SLOT_BYTES * (number + 1)
        places[interval.local] = Slot(offset, sizes.get(interval.local, SLOT_BYTES))
    return Allocation(places, scratch, count * SLOT_BYTES)


def _place(interval: Interval, active: list[Interval], places: dict[Local, Place], spilled: list[Interval]) -> None:
    """Give the interval a register, if need be that of a less useful one, or spill it."""
    allowed = KEPT if interval.crosses else DESTROYED + KEPT
    taken = {places[other.local] for other in active}
    for register in (*_preferred(interval, places), *allowed):
        if register in allowed and register not in taken:
            places[interval.local] = register
            active.append(interval)
            return
    candidates = [other for other in active if places[other.local] in allowed]
    worst = min((*candidates, interval), key=_usefulness)
    spilled.append(worst)
    if worst is not interval:
        places[interval.local] = places.pop(worst.local)
        active.remove(worst)
        active.append(interval)


def _preferred(interval: Interval, places: dict[Local, Place]) -> list[Place]:
    """Where a partner is; or what a partner can use that takes over when this one ends and must outlive a call."""
    preferred = [places[partner.local] for partner in interval.partners if partner.local in places]
    heirs = any(partner.crosses and partner.start >= interval.end for partner in interval.partners)
    return [*preferred, *KEPT] if heirs else preferred


def _usefulness(interval: Interval) -> float:
    """How much a register serves it: occurrences per length of life."""
    return interval.uses / (interval.end - interval.start + 1)
