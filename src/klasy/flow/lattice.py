"""What can be known of a symbol's type, from the most to the least: nothing yet, a place (``members``), or nothing.

Inference goes down only: from ``NOT_YET``, by ``meet``, to what all values of a symbol agree in.
"""

from __future__ import annotations

from klasy.flow.state import CONSTANT, SHIFT, constant_of
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.flow.members import Place, Types

    Known = Place | None

NOT_YET = (-1, 0)  # of a symbol whose turn has not come: the top of the lattice
_SMALLEST_ADDRESS = 4096  # constants nearer to zero are null and error codes: no objects, and at a join no objection


def is_small(number: int) -> bool:
    """Whether a value is a constant that is no address: null, or an error code."""
    return number >> SHIFT == CONSTANT and abs(constant_of(number)) < _SMALLEST_ADDRESS


def meet(types: Types, first: Known, second: Known) -> Known:
    """What two places have in common: the one that is a part of the other at the right offset, or nothing."""
    if first == second:
        return first
    if first is None or second is None:
        return None
    if first == NOT_YET:
        return second
    if second == NOT_YET:
        return first
    if types.holds(second[0], second[1] - first[1], first[0]):
        return first
    if types.holds(first[0], first[1] - second[1], second[0]):
        return second
    return None
