"""Random typed C expressions over the members of a struct, each with what it must be worth.

The generator writes an expression as an aspect's author would; its oracle computes the value from the same bytes with
C's rules, in plain Python and without any of the compiler's code: integer types are (size, signed), memory is bytes.

    leaves = leaves_of(btf, struct_id, "p")
    expr = Generator(random.Random(1), leaves).expression(4)
    expr.text, expr.type.name, expr.value(memory)

``memory`` is what ``p`` points to, at least as long as the struct. Only integers are generated, of any width, sign and
place, bit-fields and array elements with run-time indices among them.

What C leaves undefined is given the language's meaning: arithmetic wraps, shift counts are taken modulo the width,
x / 0 is 0, x % 0 is x. With ``defined=True`` nothing but wrapping is generated, so that a C compiler (gcc -fwrapv) can
be asked too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from klasy.btf import types as t
from klasy.btf import walk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from klasy.btf.btf import Btf


@dataclass(frozen=True)
class IntType:
    """An integer type of C. ``bits`` is less than 8 * size for a bit-field's."""

    name: str
    size: int
    signed: bool
    boolean: bool = False
    bits: int = 0

    def wrap(self, value: int) -> int:
        """A number converted to the type."""
        if self.boolean:
            return int(value != 0)
        width = 8 * self.size
        value %= 1 << width
        return value - (1 << width) if self.signed and value >= 1 << (width - 1) else value


INT = IntType("int", 4, True)
UINT = IntType("unsigned int", 4, False)
LONG = IntType("long", 8, True)
ULONG = IntType("unsigned long", 8, False)
CASTS = (
    IntType("_Bool", 1, False, boolean=True),
    IntType("char", 1, True),
    IntType("signed char", 1, True),
    IntType("unsigned char", 1, False),
    IntType("short", 2, True),
    IntType("unsigned short", 2, False),
    INT,
    UINT,
    LONG,
    ULONG,
    IntType("long long", 8, True),
    IntType("unsigned long long", 8, False),
)


def casts(*, unsigned_char: bool) -> tuple[IntType, ...]:
    """The same where a plain ``char`` has the sign, or none, that the code was built with in which the advice runs."""
    return tuple([replace(kind, signed=not unsigned_char) if kind.name == "char" else kind for kind in CASTS])


def promoted(kind: IntType) -> IntType:
    """C11 6.3.1.1, by its own words: an int if that holds all values, else an unsigned int, else itself."""
    width = kind.bits or 8 * kind.size
    if width < 32 or (width == 32 and kind.signed):
        return INT
    if width == 32:
        return UINT
    return LONG if kind.signed else ULONG


def usual(a: IntType, b: IntType) -> IntType:
    """C11 6.3.1.8 of two promoted types."""
    if a.signed == b.signed:
        return a if a.size >= b.size else b
    unsigned, signed = (b, a) if a.signed else (a, b)
    return unsigned if unsigned.size >= signed.size else signed


@dataclass(frozen=True)
class Expression:
    """``text`` as in an aspect; ``value(memory)`` is a value of ``type``. ``text`` can stand as any operand."""

    text: str
    type: IntType
    value: Callable[[bytes], int]


@dataclass(frozen=True)
class Leaf:
    """An integer in memory. ``count`` above 0: the first of an array, ``text`` lacking its index."""

    text: str
    type: IntType
    bit_offset: int
    bits: int = 0
    count: int = 0

    def read(self, memory: bytes, index: int = 0) -> int:
        """The value its bytes hold."""
        start = self.bit_offset + 8 * self.type.size * index
        width = self.bits or 8 * self.type.size
        raw = int.from_bytes(memory, "little") >> start & (1 << width) - 1
        if self.type.boolean:
            return int(raw != 0)
        return raw - (1 << width) if self.type.signed and raw >> (width - 1) else raw


def leaves_of(btf: Btf, struct_id: int, pointer: str) -> list[Leaf]:
    """All integers that a struct holds, through nested structs, unions and arrays; ``pointer`` points to one."""
    return list(_leaves(btf, struct_id, pointer + "->", 0))


def _leaves(btf: Btf, struct_id: int, prefix: str, base: int) -> Iterator[Leaf]:
    for place in walk.members(btf, struct_id):
        text = prefix + place.name
        offset = base + place.bit_offset
        found = btf.resolved(place.type_id)
        count = 0
        if isinstance(found, t.Array):
            element = btf.resolved(found.type_id)
            count, found = found.count, element
            if not count:
                continue  # what a flexible array holds lies outside the struct
        if isinstance(found, t.Struct) and not count:
            yield from _leaves(btf, place.type_id, text + ".", offset)
        elif isinstance(found, t.Int) and found.size <= 8:
            kind = IntType(found.name, found.size, found.signed, boolean=found.is_bool, bits=place.bitfield_size)
            yield Leaf(text, kind, offset, place.bitfield_size, count)
        elif isinstance(found, t.Enum):
            kind = IntType("enum", found.size, found.signed, bits=place.bitfield_size)
            yield Leaf(text, kind, offset, place.bitfield_size, count)


class Generator:
    """Makes expressions from ``leaves`` with the choices of ``rng``.

    ``defined``: nothing whose value C does not say, division by anything but a small positive number included; and no
    bit-field wider than an int, of whose promotion gcc and clang think differently. ``casts``: to which types.
    """

    def __init__(
        self, rng: random.Random, leaves: list[Leaf], *, defined: bool = False, casts: Sequence[IntType] = CASTS
    ) -> None:
        self.rng = rng
        self.casts = casts
        self.leaves = [leaf for leaf in leaves if not (defined and leaf.bits > 32)]
        self.defined = defined

    def expression(self, depth: int) -> Expression:
        """An expression with at most ``depth`` levels of operators."""
        if depth == 0 or self.rng.random() < 0.1:
            return self._leaf() if self.leaves and self.rng.random() < 0.75 else self._literal()
        return self.rng.choice(self._MAKERS)(self, depth - 1)

    # --- leaves

    def _leaf(self) -> Expression:
        leaf = self.rng.choice(self.leaves)
        if not leaf.count:
            return Expression(leaf.text, leaf.type, leaf.read)
        if leaf.count & (leaf.count - 1) == 0 and self.rng.random() < 0.7:
            index = self.expression(1)
            mask = leaf.count - 1
            text = f"{leaf.text}[{index.text} & {mask}]"
            return Expression(text, leaf.type, lambda memory: leaf.read(memory, index.value(memory) & mask))
        place = self.rng.randrange(leaf.count)
        return Expression(f"{leaf.text}[{place}]", leaf.type, lambda memory: leaf.read(memory, place))

    def _literal(self) -> Expression:
        rng = self.rng
        value = rng.choice((rng.randrange(10), rng.randrange(1 << 16), 1 << rng.randrange(64), rng.getrandbits(64)))
        value = min(max(0, value - rng.randrange(2)), (1 << 64) - 1)
        form = rng.choice("dxuUlLc")
        if form == "c":
            value = rng.randrange(32, 127)
            text = {39: "'\\''", 92: "'\\\\'"}.get(value, f"'{chr(value)}'")
            return Expression(text, INT, lambda _: value)
        suffix = {"u": "u", "U": "UL", "l": "L", "L": "ull"}.get(form, "")
        candidates = [LONG, ULONG] if "l" in suffix.lower() else [INT, UINT, LONG, ULONG]
        hexadecimal = form == "x" or value >= 1 << 63
        if "u" in suffix.lower():
            candidates = [kind for kind in candidates if not kind.signed]
        elif not hexadecimal:
            candidates = [kind for kind in candidates if kind.signed]
        kind = next(kind for kind in candidates if kind.wrap(value) == value)
        return Expression((hex(value) if hexadecimal else str(value)) + suffix, kind, lambda _: value)

    # --- operators

    def _unary(self, depth: int) -> Expression:
        operand = self.expression(depth)
        kind = promoted(operand.type)
        op = self.rng.choice("-~+!")
        if op == "!":
            return Expression(f"(!{operand.text})", INT, lambda m: int(operand.value(m) == 0))
        change = {"-": lambda x: -x, "~": lambda x: ~x, "+": lambda x: x}[op]
        return Expression(f"({op} {operand.text})", kind, lambda m: kind.wrap(change(kind.wrap(operand.value(m)))))

    def _arithmetic(self, depth: int) -> Expression:
        left, right = self.expression(depth), self.expression(depth)
        op = self.rng.choice("+-*&|^")
        kind = usual(promoted(left.type), promoted(right.type))
        compute: Callable[[int, int], int] = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "*": lambda a, b: a * b,
            "&": lambda a, b: a & b,
            "|": lambda a, b: a | b,
            "^": lambda a, b: a ^ b,
        }[op]
        return Expression(
            f"({left.text} {op} {right.text})",
            kind,
            lambda m: kind.wrap(compute(kind.wrap(left.value(m)), kind.wrap(right.value(m)))),
        )

    def _division(self, depth: int) -> Expression:
        left, right = self.expression(depth), self._divisor(depth)
        op = self.rng.choice("/%")
        kind = usual(promoted(left.type), promoted(right.type))

        def value(memory: bytes) -> int:
            a, b = kind.wrap(left.value(memory)), kind.wrap(right.value(memory))
            quotient = abs(a) // abs(b) if b else 0
            if (a < 0) != (b < 0):
                quotient = -quotient
            return kind.wrap(quotient if op == "/" else a - quotient * b)

        return Expression(f"({left.text} {op} {right.text})", kind, value)

    def _divisor(self, depth: int) -> Expression:
        if self.defined:
            inner = self.expression(depth)
            kind = promoted(inner.type)
            return Expression(f"(({inner.text} & 127) + 1)", kind, lambda m: kind.wrap((inner.value(m) & 127) + 1))
        if self.rng.random() < 0.4:
            value = self.rng.choice((0, 1, 2, 3, 7, 8, 10, 64, 1000, 1 << 31, 1 << 40))
            kind = INT if value < 1 << 31 else LONG
            if self.rng.random() < 0.3:
                return Expression(f"(-{value})", kind, lambda _: -value)
            return Expression(str(value), kind, lambda _: value)
        return self.expression(depth)

    def _shift(self, depth: int) -> Expression:
        left, count = self.expression(depth), self.expression(depth)
        kind = promoted(left.type)
        width = 8 * kind.size
        op = self.rng.choice(("<<", ">>"))
        right = f"({count.text} & {width - 1})" if self.defined else count.text

        def value(memory: bytes) -> int:
            number, by = kind.wrap(left.value(memory)), count.value(memory) % width
            return kind.wrap(number << by if op == "<<" else number >> by)

        return Expression(f"({left.text} {op} {right})", kind, value)

    def _comparison(self, depth: int) -> Expression:
        left, right = self.expression(depth), self.expression(depth)
        op = self.rng.choice(("==", "!=", "<", "<=", ">", ">="))
        kind = usual(promoted(left.type), promoted(right.type))
        holds: Callable[[int, int], bool] = {
            "==": lambda a, b: a == b,
            "!=": lambda a, b: a != b,
            "<": lambda a, b: a < b,
            "<=": lambda a, b: a <= b,
            ">": lambda a, b: a > b,
            ">=": lambda a, b: a >= b,
        }[op]
        return Expression(
            f"({left.text} {op} {right.text})",
            INT,
            lambda m: int(holds(kind.wrap(left.value(m)), kind.wrap(right.value(m)))),
        )

    def _logical(self, depth: int) -> Expression:
        left, right = self.expression(depth), self.expression(depth)
        if self.rng.random() < 0.5:
            both = lambda m: int(left.value(m) != 0 and right.value(m) != 0)  # noqa: E731  # a pair of one-liners
            return Expression(f"({left.text} && {right.text})", INT, both)
        either = lambda m: int(left.value(m) != 0 or right.value(m) != 0)  # noqa: E731
        return Expression(f"({left.text} || {right.text})", INT, either)

    def _conditional(self, depth: int) -> Expression:
        condition, then, otherwise = self.expression(depth), self.expression(depth), self.expression(depth)
        kind = usual(promoted(then.type), promoted(otherwise.type))
        return Expression(
            f"({condition.text} ? {then.text} : {otherwise.text})",
            kind,
            lambda m: kind.wrap((then if condition.value(m) else otherwise).value(m)),
        )

    def _cast(self, depth: int) -> Expression:
        operand, kind = self.expression(depth), self.rng.choice(self.casts)
        return Expression(f"(({kind.name}){operand.text})", kind, lambda m: kind.wrap(operand.value(m)))

    def _size(self, depth: int) -> Expression:
        if self.rng.random() < 0.5:
            kind = self.rng.choice(self.casts)
            return Expression(f"sizeof({kind.name})", ULONG, lambda _: kind.size)
        operand = self.expression(depth)
        # C gives sizeof of a bit-field no meaning; a sum has a type
        size = usual(promoted(operand.type), INT).size
        return Expression(f"sizeof({operand.text} + 0)", ULONG, lambda _: size)

    _MAKERS = (
        _unary, _arithmetic, _arithmetic, _arithmetic, _division, _shift, _shift, _comparison, _logical, _conditional,
        _cast, _cast, _size,
    )  # fmt: skip
