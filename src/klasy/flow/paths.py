"""Which types lead to which others by the pointers in them: the graph that ``reach`` looks for ways in.

Nearly every struct of the kernel leads to nearly every other in some steps; what tells functions apart is by which
offsets. Of some types few pointers lead away, to others few lead at an offset that a function's code has: a search from
both sides, always on from where less is to be looked at, ends as soon as one of them does. The graph grows as types are
named from which ways may begin, and a module's own goes on from the kernel's.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    Table = Mapping[int, AbstractSet[int]]

ALWAYS = -1  # in the place of an offset: what a type leads to wherever something is accessed


class Paths:
    """The ways among the types of one object. ``table_of`` tells what a type leads to, by offset; ``base``: the
    kernel's, where the types below ``first`` lead to the same as in it."""

    def __init__(self, table_of: Callable[[int], Table], base: Paths | None = None, first: int = 0) -> None:
        self._table_of = table_of
        self._base = base
        self._first = first if base is not None else 0
        self._tables: dict[int, Table] = {}
        self._back: dict[int, dict[int, list[int]]] = {}  # type -> offset -> the types that lead to it from there

    def add(self, types: Iterable[int]) -> None:
        """Let ways begin at some types. Of what they do not lead to nothing is known."""
        tables = self._tables
        todo = [type_id for type_id in types if type_id not in tables]
        while todo:
            type_id = todo.pop()
            if type_id in tables:
                continue
            if type_id < self._first:
                assert self._base is not None
                self._base.add((type_id,))
                tables[type_id] = self._base._tables[type_id]
                todo += [each for targets in tables[type_id].values() for each in targets if each not in tables]
                continue
            table = tables[type_id] = self._table_of(type_id)
            for offset, targets in table.items():
                for target in targets:
                    self._back.setdefault(target, {}).setdefault(offset, []).append(type_id)
                    if target not in tables:
                        todo.append(target)

    def lead(self, starts: AbstractSet[int], wanted: AbstractSet[int], offsets: AbstractSet[int]) -> bool:
        """Whether a way leads from one of some types to a wanted one, if only pointers at some offsets are followed."""
        ahead, behind = set(starts), set(wanted)
        ahead_now, behind_now = ahead, behind
        while ahead.isdisjoint(behind):
            if len(ahead_now) <= len(behind_now):
                ahead_now = self.after(ahead_now, offsets) - ahead
                if not ahead_now:
                    return False
                ahead |= ahead_now
            else:
                behind_now = self.before(behind_now, offsets) - behind
                if not behind_now:
                    return False
                behind |= behind_now
        return True

    def back_from(self, wanted: AbstractSet[int], offsets: AbstractSet[int]) -> set[int]:
        """All types from which such ways lead to some wanted ones, these included."""
        found = set(wanted)
        now = found
        while now:
            now = self.before(now, offsets) - found
            found |= now
        return found

    def after(self, types: AbstractSet[int], offsets: AbstractSet[int]) -> set[int]:
        """What some types lead to at once, by pointers at some offsets."""
        found: set[int] = set()
        for type_id in types:
            table = self._tables[type_id]
            for offset in table.keys() & offsets:
                found |= table[offset]
            if ALWAYS in table:
                found |= table[ALWAYS]
        return found

    def before(self, types: AbstractSet[int], offsets: AbstractSet[int]) -> set[int]:
        """The types that lead to some at once, by pointers at some offsets."""
        found: set[int] = set()
        level: Paths | None = self
        while level is not None:
            for type_id in types:
                here = level._back.get(type_id)
                if here is not None:
                    for offset in here.keys() & offsets:
                        found.update(here[offset])
                    if ALWAYS in here:
                        found.update(here[ALWAYS])
            level = level._base
        return found
