"""The memory accesses of a function as ``Row``, which the index keeps: where each is, and of what, as inferred."""

from __future__ import annotations

from klasy.flow import decode as d
from klasy.flow.derivation import by_debug, confidence, reason
from klasy.flow.sites import PROVED
from klasy.flow.state import CONSTANT, FIRST, SHIFT, STACK, constant_of
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from klasy.flow.infer import Inference
    from klasy.flow.lattice import Known


class Row(NamedTuple):
    """One access: where, what, how. ``at`` is the instruction's offset in the text.

    ``type_id`` 0: unknown, ``offset`` then the displacement. ``register`` (31: none) points ``shift`` bytes behind the
    object's start before the instruction; ``moves``: the index chooses among objects. ``percpu``: relative to gs.
    """

    at: int
    type_id: int
    offset: int
    shift: int
    width: int
    rw: int
    register: int
    percpu: bool
    moves: bool
    confidence: int
    reason: str


def rows_of(inference: Inference) -> list[Row]:
    """All accesses but those of stack slots and of nameless variables, typed or not."""
    found: list[Row] = []
    unit = inference.flow.unit
    ops, ats, size_of = unit.ops, unit.at, inference.types.size
    for here, address, index, width, rw, register, added in inference.flow.accesses:
        symbol = address >> SHIFT
        if symbol == STACK:
            continue
        m = ops[here][4]
        gs = m is not None and m[4] == d.GS
        place: Known
        if symbol == CONSTANT:
            place = (inference.percpu, constant_of(address)) if gs and inference.percpu else inference.place_of(address)
            if place is None:
                continue
        else:
            place = inference.place_of(address)
        moves = False
        if index is not None and place is None:
            place = inference.by_distance(address, index[0])
        elif index is not None and place is not None:
            before = place
            place = inference.indexed(place, index)
            size = size_of(before[0])
            moves = bool(size) and index[1] * inference.multiple(index[0]) % size == 0
        if place is not None and not (place[1] >= 0 and place[1] + width <= size_of(place[0])):
            place = None
        told = None
        if place is None and inference.told and index is None and register >= 0:
            told = inference.told.at(register, ats[here], inference.types)
            if told is not None and 0 <= told[0][1] + added <= size_of(told[0][0]) - width:
                place = told[0][0], told[0][1] + added
        if place is None:
            displacement = constant_of(address) if index is None else added
            found.append(Row(ats[here], 0, displacement, 0, width, rw, 31, False, False, 0, ""))
            continue
        if not inference.types.is_struct(place[0]) and place[0] != inference.percpu:
            continue
        shift = place[1] - added if symbol != CONSTANT else 0
        found.append(
            Row(
                ats[here],
                place[0],
                place[1],
                shift,
                width,
                rw,
                register if register >= 0 and symbol != CONSTANT else 31,
                gs,
                moves,
                confidence(inference, symbol) if symbol >= FIRST and told is None else PROVED,
                reason(inference, symbol) if told is None else by_debug(told[1]),
            )
        )
    return found
