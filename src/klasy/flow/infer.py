"""Types of the symbols of a function: forward from what is known, and back from how values are used.

A symbol's type is a *place* (``members``): what it points to, or None. Forward, a load of a pointer member gives what
the member points to, a join what all its values agree in, and so on, from the least to the most that can be known
false (an optimistic fixpoint over ``meet``). Back, a value of which nothing is known, or only that it is a part of
something, has the type of the parameter, result or member that it is given to: such *hints* are taken where all of a
symbol's agree.
"""

from __future__ import annotations

from klasy.flow import decode as d
from klasy.flow import state
from klasy.flow.state import _SHIFT, CONSTANT, OPAQUE, STACK, constant_of
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.flow.members import Place, Types
    from klasy.flow.seeds import Callee, Seeds
    from klasy.flow.transfer import Flow

    Known = Place | None

_NOT_YET = (-1, 0)  # of a symbol whose turn has not come: the top of the lattice
_ROUNDS = 12
_SMALLEST_ADDRESS = 4096  # constants nearer to zero are null and error codes: no objects, and at a join no objection


def meet(types: Types, first: Known, second: Known) -> Known:
    """What two places have in common: the one that is a part of the other at the right offset, or nothing."""
    if first == second:
        return first
    if first is None or second is None:
        return None
    if first == _NOT_YET:
        return second
    if second == _NOT_YET:
        return first
    if types.holds(second[0], second[1] - first[1], first[0]):
        return first
    if types.holds(first[0], first[1] - second[1], second[0]):
        return second
    return None


class Inference:
    """The types of the symbols of one function, worked out when made. ``place_of`` gives that of any value."""

    def __init__(
        self,
        flow: Flow,
        known: Seeds,
        arguments: Mapping[int, Place],
        globals_at: Mapping[int, Place],
        percpu: int,
        percpu_offsets: frozenset[int],
        result: int,
    ) -> None:
        self.flow = flow
        self.seeds = known
        self.module = flow.unit.text.module
        self.types = known.types_of(self.module)
        self.arguments = arguments
        self.globals_at = globals_at
        self.percpu = percpu
        self.percpu_offsets = percpu_offsets
        self.result = result
        self.hinted: dict[int, Place] = {}
        self.place: list[Known] = []
        self._forward()
        for _ in range(3):
            if not self._take_hints():
                break
            self._forward()

    # --- forward

    def _forward(self) -> None:
        values = self.flow.values
        count = len(values.kind)
        place: list[Known] = [_NOT_YET] * count
        place[CONSTANT] = place[OPAQUE] = place[STACK] = None
        self.place = place
        kinds, hinted = values.kind, self.hinted
        symbols = range(state.FIRST, count)
        for turn in range(_ROUNDS):
            changed = []
            for symbol in symbols:
                now = hinted.get(symbol) or self._evaluate(kinds[symbol], symbol)
                if now != place[symbol]:
                    place[symbol] = now
                    changed.append(symbol)
            if not changed:
                break
            if turn == 0:
                # the first round settles all that do not depend on what comes behind them
                symbols = [s for s in symbols if kinds[s] > state.ARGUMENT]  # type: ignore[assignment]
        else:
            for symbol in changed:  # what still moves is not known
                place[symbol] = None
        for symbol, found in enumerate(place):
            if found == _NOT_YET:
                place[symbol] = None

    def place_of(self, number: int) -> Known:
        """What a value points to."""
        symbol = number >> _SHIFT
        if symbol == CONSTANT:
            return self._global(constant_of(number))
        found = self.place[symbol]
        if found is None or found == _NOT_YET:
            return found
        return found[0], found[1] + constant_of(number)

    def _global(self, address: int) -> Known:
        return self.globals_at.get(address)

    def _evaluate(self, kind: int, symbol: int) -> Known:
        values = self.flow.values
        if kind == state.LOADED:
            number = values.a[symbol]
            index, gs = values.b[symbol]  # type: ignore[misc]
            return self._loaded(number, index, gs)  # type: ignore[arg-type]
        if kind == state.JOIN:
            return self._joined(values.a[symbol])  # type: ignore[arg-type]
        if kind == state.RESULT:
            result = self.seeds.callee(values.a[symbol]).result  # type: ignore[arg-type]
            return (result, 0) if result else None
        if kind == state.RESULT_INDIRECT:
            callee = self.called(values.a[symbol])  # type: ignore[arg-type]
            if callee is None:
                return self._waiting(values.a[symbol])  # type: ignore[arg-type]
            return (callee.result, 0) if callee.result else None
        if kind == state.SUM:
            number = values.a[symbol]
            other, scale = values.b[symbol]  # type: ignore[misc]
            return self.summed(number, other, scale)  # type: ignore[arg-type]
        if kind == state.MASKED:
            mask: int = values.b[symbol]  # type: ignore[assignment]
            return self.place_of(values.a[symbol]) if -16 <= mask <= -2 else None  # type: ignore[arg-type]
        if kind == state.ARGUMENT:
            return self.arguments.get(values.a[symbol])  # type: ignore[call-overload,no-any-return]
        if kind == state.FILLED:
            return self._filled(values.a[symbol], values.b[symbol])  # type: ignore[arg-type]
        return None

    def _waiting(self, number: int) -> Known:
        return _NOT_YET if self.place_of(number) == _NOT_YET else None

    def _loaded(self, number: int, index: tuple[int, int] | None, gs: bool) -> Known:
        symbol = number >> _SHIFT
        if symbol == CONSTANT:
            constant = constant_of(number)
            if gs:
                if constant in self.percpu_offsets:
                    return (self.percpu, 0) if self.percpu else None
                found: Known = (self.percpu, constant) if self.percpu else None
            elif index is not None and constant in self.percpu_offsets:
                return (self.percpu, 0) if self.percpu else None
            else:
                found = self._global(constant)
        else:
            found = self.place[symbol]
            if found == _NOT_YET:
                return found
            if found is not None:
                found = found[0], found[1] + constant_of(number)
        if index is not None:
            found = self.indexed(found, index)
        if found is None or found[1] < 0:
            return None
        return self.types.loaded(found[0], found[1])

    def _joined(self, numbers: list[int]) -> Known:
        found: Known = _NOT_YET
        for number in numbers:
            if number >> _SHIFT == CONSTANT and abs(constant_of(number)) < _SMALLEST_ADDRESS:
                continue
            found = meet(self.types, found, self.place_of(number))
            if found is None:
                return None
        return found

    def called(self, number: int) -> Callee | None:
        """What a call through a value calls, by the type of the function pointer."""
        from klasy.btf.types import FuncProto

        place = self.place_of(number)
        if place is None or place == _NOT_YET or place[1]:
            return None
        if not isinstance(self.types.btf.type(place[0]), FuncProto):
            return None
        return self.seeds.prototype(self.module, place[0])

    def _filled(self, callee: int, argument: int) -> Known:
        parameters = self.seeds.callee(callee).parameters
        if argument >= len(parameters) or not parameters[argument]:
            return None
        return self.types.loaded(parameters[argument], 0)

    # --- sums: arrays, per-CPU offsets

    def _multiple(self, number: int) -> int:
        """What a value is certainly a multiple of."""
        values = self.flow.values
        factor = 1
        for _ in range(4):
            symbol = number >> _SHIFT
            if symbol < state.FIRST or constant_of(number) or values.kind[symbol] != state.SCALED:
                break
            factor *= values.b[symbol]  # type: ignore[operator]
            number = values.a[symbol]  # type: ignore[assignment]
        return abs(factor)

    def indexed(self, place: Known, index: tuple[int, int]) -> Known:
        """Where an address points with an index added, or None where that may be anything.

        Within an array it is some element; whole objects further on it is another object of the same type.
        """
        if place is None or place == _NOT_YET:
            return place
        number, scale = index
        added = self.place_of(number)
        if scale == 1 and added is not None and self.percpu and added[0] == self.percpu and added[1] == 0:
            return place
        if place[0] == self.percpu and place[1] == 0 and scale == 1 and added is not None:
            return added
        step = scale * self._multiple(number)
        size = self.types.size(place[0])
        if size and step % size == 0:
            return place
        element = self.types.array_element(place[0], place[1]) if place[1] >= 0 else 0
        return place if element and step % element == 0 else None

    def summed(self, number: int, other: int, scale: int) -> Known:
        """What a value points to with another one added."""
        place = self.place_of(number)
        if place is None and scale == 1:
            place, number, other = self.place_of(other), other, number
        return self.indexed(place, (other, scale))

    # --- back

    def _take_hints(self) -> bool:
        """Give symbols of which too little is known the types of what they are given to; whether any was."""
        hints = self._hints()
        values = self.flow.values
        changed = False
        pending = list(hints.items())
        for symbol, offered in pending:
            if symbol in self.hinted:
                continue
            best: Known = None
            for place in offered:
                if best is None:
                    best = place
                else:
                    best = self._more_specific(best, place)
                    if best is None:
                        break
            now = self.place[symbol]
            if best is None or best == now:
                continue
            if now is not None and self._more_specific(now, best) != best:
                continue
            self.hinted[symbol] = best
            changed = True
            if values.kind[symbol] == state.JOIN:
                for number in values.a[symbol]:  # type: ignore[attr-defined]
                    source = number >> _SHIFT
                    if source >= state.FIRST and source not in self.hinted and self.place[source] is None:
                        pending.append((source, {(best[0], best[1] - constant_of(number))}))
        return changed

    def _more_specific(self, first: Place, second: Place) -> Known:
        """Which of two places is that of the larger object, if one is a part of the other; else None."""
        if first == second:
            return first
        if self.types.holds(second[0], second[1] - first[1], first[0]):
            return second
        if self.types.holds(first[0], first[1] - second[1], second[0]):
            return first
        return None

    def _hints(self) -> dict[int, set[Place]]:
        found: dict[int, set[Place]] = {}

        def hint(number: int, target: int) -> None:
            symbol = number >> _SHIFT
            if symbol >= state.FIRST and target and self.types.is_struct(target):
                found.setdefault(symbol, set()).add((target, -constant_of(number)))

        for _, target, direct, arguments in self.flow.calls:
            callee = self.seeds.callee(target) if direct else self.called(target)
            if callee is not None:
                for number, parameter in zip(arguments, callee.parameters, strict=False):
                    if parameter:
                        hint(number, parameter)
        for address, number in self.flow.stores:
            if number >> _SHIFT >= state.FIRST:
                place = self.place_of(address)
                if place is not None and place[1] >= 0:
                    member = self.types.loaded(place[0], place[1])
                    if member is not None and not member[1]:
                        hint(number, member[0])
        for number in self.flow.returns:
            if self.result:
                hint(number, self.result)
        return found

    # --- the outcome

    def accesses(self) -> list[tuple[int, Known, int, int, bool]]:
        """All accesses but those of stack slots: (index of the instruction, place, width, READ | WRITE, indexed)."""
        found = []
        ops = self.flow.unit.ops
        for here, address, index, width, rw in self.flow.accesses:
            symbol = address >> _SHIFT
            if symbol == STACK:
                continue
            m = ops[here][4]
            if symbol == CONSTANT and m is not None and m[4] == d.GS:
                place: Known = (self.percpu, constant_of(address)) if self.percpu else None
            else:
                place = self.place_of(address)
            if index is not None:
                place = self.indexed(place, index)
            found.append((here, place, width, rw, index is not None))
        return found
