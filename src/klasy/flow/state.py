"""Abstract values of registers and stack slots, and what joins do to them.

Values are numbered, as in static single assignment form: everything an instruction makes anew, and every join of
different values, is a *symbol*. A value is a symbol and a constant added to it, so that two values are the same at run
time where they are equal here. What type a symbol has is asked later (``infer``), once for each symbol.

A value is one integer, since the transfer function handles millions: the symbol in the high bits, the constant, with
a bias, in the low ``SHIFT`` ones. Adding a constant to a value is adding two integers.
"""

from __future__ import annotations

from klasy.flow import decode as d
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

SHIFT = 44
_BIAS = 1 << (SHIFT - 1)
_LOW = (1 << SHIFT) - 1

# Symbols that are the same in every function
CONSTANT = 0  # nothing: the value is its constant
OPAQUE = 1  # anything that is no pointer to a known object: narrow results, sums, what calls leave behind
STACK = 2  # the stack pointer at the function's entry
FIRST = 3

OPAQUE_VALUE = OPAQUE << SHIFT | _BIAS
STACK_VALUE = STACK << SHIFT | _BIAS
ZERO_VALUE = _BIAS


def value(symbol: int, constant: int = 0) -> int:
    """A symbol plus a constant. Constants that are too large to be anything near an object make the value opaque."""
    return (symbol << SHIFT | _BIAS) + constant if -_BIAS <= constant < _BIAS else OPAQUE_VALUE


def symbol_of(number: int) -> int:
    """The symbol of a value."""
    return number >> SHIFT


def constant_of(number: int) -> int:
    """The constant of a value."""
    return (number & _LOW) - _BIAS


# Kinds of symbols: what ``infer`` makes a type from. ``a`` and ``b`` are their operands.
UNKNOWN = 0
ARGUMENT = 1  # a: which
LOADED = 2  # a: the address, a value; b: (value of the index, scale) or None
RESULT = 3  # of a direct call; a: the callee's address
RESULT_INDIRECT = 4  # a: the value called
JOIN = 5  # a: list of values
SUM = 6  # a: a value, b: (value added, scale)
MASKED = 7  # a: a value, b: the mask
SCALED = 8  # a: a value, b: the factor
FILLED = 9  # a slot of what a call was given the address of; a: the callee's address, b: (which argument, offset)
NARROW = 10  # 32 bits loaded that may be a distance within an object; a: the address, a value


class Values:
    """The symbols of one function. ``kind[s]``, ``a[s]``, ``b[s]`` describe symbol ``s``.

    Keys: (offset of the instruction, register) of what instructions make, (~offset of the block, location) of joins.
    """

    __slots__ = ("_by_key", "a", "b", "kind", "made_at")

    def __init__(self) -> None:
        self.kind: list[int] = [UNKNOWN] * FIRST
        self.a: list[object] = [None] * FIRST
        self.b: list[object] = [None] * FIRST
        self.made_at: list[int] = [0] * FIRST
        self._by_key: dict[Hashable, int] = {}

    def new(self, key: Hashable, at: int, kind: int = UNKNOWN, a: object = None, b: object = None) -> int:
        """The value of the symbol that is made under a key, at an offset of the text; its description is replaced."""
        symbol = self._by_key.get(key)
        if symbol is None:
            symbol = len(self.kind)
            self._by_key[key] = symbol
            self.kind.append(kind)
            self.a.append(a)
            self.b.append(b)
            self.made_at.append(at)
        else:
            self.kind[symbol] = kind
            self.a[symbol] = a
            self.b[symbol] = b
        return symbol << SHIFT | _BIAS

    def known(self, key: Hashable) -> int | None:
        """The value made under a key, if it was."""
        symbol = self._by_key.get(key)
        return None if symbol is None else symbol << SHIFT | _BIAS


if TYPE_CHECKING:
    Slots = dict[int, int]  # by the distance from STACK, in bytes
    State = tuple[list[int], Slots]


def entry_state(values: Values, at: int, known: bool) -> State:
    """The registers at a function's entry; ``known`` False: at code that is reached no one knows how."""
    registers = [OPAQUE_VALUE] * 16
    if known:
        for place, register in enumerate((d.DI, d.SI, d.DX, d.CX, 8, 9)):
            registers[register] = values.new(("argument", place), at, ARGUMENT, place)
        for register in (d.BX, d.BP, d.AX, 10, 11, 12, 13, 14, 15):
            registers[register] = values.new(("entry", register), at)
    registers[d.SP] = STACK_VALUE
    return registers, {}


def merge(values: Values, block: int, into: State, other: State) -> bool:
    """Let a state be what both are, at the beginning of a block; whether that changed it.

    A register in which they differ becomes a symbol of the block's own, the join; an opaque one stays opaque.
    Associative and commutative up to those symbols' names; every register changes at most twice, so a fixpoint exists.
    """
    changed = False
    mine, theirs = into[0], other[0]
    if mine != theirs:
        for register in range(16):
            first, second = mine[register], theirs[register]
            if first != second and first >> SHIFT != OPAQUE:
                join = values.known((~block, register))
                if first != join:
                    mine[register] = _join(values, block, register, second)
                    changed = True
                elif second >> SHIFT == OPAQUE:
                    mine[register] = OPAQUE_VALUE
                    changed = True
    slots, others = into[1], other[1]
    if slots != others:
        for place in slots.keys() | others.keys():
            here, there = slots.get(place), others.get(place)
            if here == there or (here is not None and here >> SHIFT == OPAQUE):
                continue
            location = place - (1 << 32)
            if here is None or here != values.known((~block, location)):
                # Who reads it behind finds what was put there: on the way of which nothing is known as on the other.
                slots[place] = _join(values, block, location, ZERO_VALUE if there is None else there)
                changed = True
            elif there is not None and there >> SHIFT == OPAQUE:
                slots[place] = OPAQUE_VALUE
                changed = True
    return changed


def _join(values: Values, block: int, location: int, second: int) -> int:
    if second >> SHIFT == OPAQUE:
        return OPAQUE_VALUE
    return values.new((~block, location), block, JOIN, [])


def collect_joins(values: Values, block: int, into: State, incoming: list[State]) -> None:
    """Note, after the fixpoint, what the joins of a block join."""
    for register, number in enumerate(into[0]):
        symbol = number >> SHIFT
        if values.kind[symbol] == JOIN and values.known((~block, register)) == number:
            values.a[symbol] = list({state[0][register] for state in incoming})
    for place, number in into[1].items():
        symbol = number >> SHIFT
        if values.kind[symbol] == JOIN and values.known((~block, place - (1 << 32))) == number:
            values.a[symbol] = list({state[1][place] for state in incoming if place in state[1]})
