"""Variables of the source: symbols that joins tie together, and what all of them say of one object.

A variable that is assigned in several places is several symbols, each with few uses. The joins that are used tie them:
``Web`` holds such symbols with their distances, what is known or hinted of any of them (*parts* of the object), and
where it is accessed (*uses*). An object is believed where all parts and uses fit in it and in no other.
"""

from __future__ import annotations

from klasy.flow import state
from klasy.flow.enlarge import fits, is_link
from klasy.flow.state import constant_of, symbol_of
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.flow.infer import Inference
    from klasy.flow.lattice import Known
    from klasy.flow.members import Place, Types


class Web:
    """Symbols of one variable. ``distance[s]``: what is added to the web's own value to have symbol ``s``.

    ``parts``: places that the web's value has; ``offered``: places of values of other variables that are assigned to
    it; ``uses``: (offset from it, width).
    """

    __slots__ = ("distance", "offered", "parts", "uses")

    def __init__(self) -> None:
        self.distance: dict[int, int] = {}
        self.parts: set[Place] = set()
        self.offered: set[Place] = set()
        self.uses: set[tuple[int, int]] = set()


def webs(inference: Inference, hints: dict[int, dict[Place, str]]) -> list[Web]:
    """The variables of a function through which something is accessed. One that moves through an array is left out."""
    values = inference.flow.values
    uses: dict[int, set[tuple[int, int]]] = {}
    for _, address, index, width, *_ in inference.flow.accesses:
        symbol = symbol_of(address)
        if symbol >= state.FIRST and index is None:
            uses.setdefault(symbol, set()).add((constant_of(address), width))
    used = set(uses) | set(hints)
    parent: dict[int, tuple[int, int]] = {}  # symbol -> (another of its web, distance from it)
    broken: set[int] = set()

    def root(symbol: int) -> tuple[int, int]:
        distance = 0
        while symbol in parent:
            symbol, step = parent[symbol]
            distance += step
        return symbol, distance

    offered: list[tuple[int, Place]] = []
    pending = [symbol for symbol in used if values.kind[symbol] == state.JOIN]
    done = set(pending)
    while pending:
        join = pending.pop()
        for number in values.a[join]:  # type: ignore[attr-defined]
            source = symbol_of(number)
            if source < state.FIRST:
                continue
            here, there = inference.place[join], inference.place[source]
            if there is not None and (
                here != (there[0], there[1] + constant_of(number))
                or not (values.kind[source] == state.JOIN or is_link(inference.types, there[0]))
            ):
                offered.append((join, (there[0], there[1] + constant_of(number))))
                continue  # a variable of its own, whose object this one may only be a part of
            if values.kind[source] == state.JOIN and source not in done:
                done.add(source)
                pending.append(source)
            # join = source + constant
            (first, a), (second, b) = root(join), root(source)
            if first != second:
                parent[first] = second, b + constant_of(number) - a
                if first in broken:
                    broken.add(second)
            elif a != b + constant_of(number):
                broken.add(first)
    found: dict[int, Web] = {}
    for symbol in used | done | {s for s in parent}:
        top, distance = root(symbol)
        if top in broken:
            continue
        web = found.setdefault(top, Web())
        web.distance[symbol] = distance
        place = inference.place[symbol]
        if place is not None and inference.types.is_struct(place[0]):
            web.parts.add((place[0], place[1] - distance))
        for part in hints.get(symbol, ()):
            web.parts.add((part[0], part[1] - distance))
        for use, width in uses.get(symbol, ()):
            web.uses.add((use + distance, width))
    for join, place in offered:
        top, distance = root(join)
        if top in found and inference.types.is_struct(place[0]):
            found[top].offered.add((place[0], place[1] - distance))
    for top, web in found.items():
        web.distance.setdefault(top, 0)
    return [web for web in found.values() if web.uses and (web.parts or web.offered)]


def known_object(types: Types, web: Web) -> Known:
    """Of a web's parts, the one that is the whole object: all uses fit in it, and all others are parts of it.

    The object may also be one that is assigned to the variable, as in ``skb = rb_next(skb)``.
    """
    found: Known = None
    for type_id, offset in web.parts | web.offered:
        size = types.size(type_id)
        if all(0 <= offset + use <= size - width for use, width in web.uses) and all(
            types.holds(type_id, offset - other[1], other[0]) for other in web.parts
        ):
            if not all(fits(types, type_id, offset + use, width) for use, width in web.uses):
                continue
            if found is not None:
                return None
            found = type_id, offset
    return found
