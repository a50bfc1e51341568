"""Backward inference: what a function's values are given to says what they are.

A value that is an argument, is stored in a member, returned, or assigned to a variable that debug information knows has
the type of what takes it. ``infer`` takes such hints where it knows less.
"""

from __future__ import annotations

from klasy.flow import state
from klasy.flow.derivation import by_debug
from klasy.flow.enlarge import is_link
from klasy.flow.lattice import meet
from klasy.flow.state import SHIFT, constant_of
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klasy.flow.infer import Inference
    from klasy.flow.members import Place


def hints(inference: Inference) -> dict[int, dict[Place, str]]:
    """What symbols are given to: the places they would have, each with what says so."""
    found: dict[int, dict[Place, str]] = {}

    def hint(number: int, target: int, what: str) -> None:
        symbol = number >> SHIFT
        if symbol >= state.FIRST and target and inference.types.is_struct(target):
            known = inference.place_of(number)
            if (
                known is not None
                and 0 <= known[1] < inference.types.size(known[0])
                and meet(inference.types, known, (target, 0)) is None
            ):
                return  # C's casts: the head of a queue given as if it were one of its members
            found.setdefault(symbol, {}).setdefault((target, -constant_of(number)), what)

    for _, target, direct, arguments in inference.flow.calls:
        callee = inference.seeds.called_from(inference.module, target) if direct else inference.called(target)
        if callee is not None:
            for number, parameter in zip(arguments, callee.parameters, strict=False):
                if parameter:
                    hint(number, parameter, f"given to {callee.name or 'a function pointer'}")
    for address, number in inference.flow.stores:
        if number >> SHIFT >= state.FIRST:
            place = inference.place_of(address)
            if place is not None and place[1] >= 0:
                member = inference.types.loaded(place[0], place[1])
                if member is not None and not member[1]:
                    hint(number, member[0], f"stored in a member of {inference.types.name(place[0])}")
    for number in inference.flow.returns:
        if inference.result:
            hint(number, inference.result, "returned")
    for symbol, (there, _) in inference.facts.items():
        if inference.flow.values.kind[symbol] == state.JOIN and inference.place[symbol] == there:
            for source, place in _assigned(inference, symbol, there):
                found.setdefault(source, {}).setdefault(place, by_debug(inference.facts[symbol][1]))
    return found


def _assigned(inference: Inference, join: int, variable: Place) -> Iterator[tuple[int, Place]]:
    """What is assigned to a variable, and is none itself, but for the nodes of lists: a value of which nothing is
    known, as it is; one of which a part is known with what is added to it. An array's next element is neither."""
    for number in inference.flow.values.a[join]:  # type: ignore[attr-defined]
        source, distance = number >> SHIFT, constant_of(number)
        if source < state.FIRST:
            continue
        if source in inference.facts and not is_link(inference.types, inference.facts[source][0][0]):
            continue  # a scheduling entity need not be a task's
        there, now = (variable[0], variable[1] - distance), inference.place[source]
        if not distance if now is None else now != there and inference.types.larger(now, there) == there:
            yield source, there
