"""Single operations at their edges, where random programs seldom come."""

from __future__ import annotations

import struct

import pytest
from support.backend import Runner, argument_registers, generate, plan, probe, registers

from klasy.compiler import ir, ireval
from klasy.compiler.builder import Builder
from klasy.compiler.ireval import World
from klasy.match.mechanism import Context
from klasy.match.plan import Argument
from klasy.record import HEADER_SIZE

PROBE = probe(Context.SITE)
TEXT = 0xFFFF_8880_0000_1000


class Program:
    """Builds one program that logs some values, and runs it in both interpreters."""

    def __init__(self) -> None:
        self.program = ir.Program(PROBE.name, 0)
        self.build = Builder(self.program)
        self.build.begin(self.build.block())

    def argument(self, index: int) -> ir.Value:
        """An argument."""
        value = self.build.value()
        self.build.add(ir.Argument(value, Argument(index)))
        return value

    def log(self, *values: ir.Operand, sizes: tuple[int, ...] = (), faults: ir.Var | None = None) -> None:
        """Log 8 bytes of each value."""
        parts = tuple(
            ir.StoreField(HEADER_SIZE + 8 * i, sizes[i] if sizes else 8, value) for i, value in enumerate(values)
        )
        self.build.add(ir.Emit(0, HEADER_SIZE + 8 * len(parts), 0, parts, faults))

    def run(self, world: World) -> list[list[int]]:
        """The values of each record, its faults first."""
        self.build.add(ir.Return())
        runner = Runner(generate([self.program], plan(PROBE)), world)
        got = runner.run(registers(**argument_registers(world.arguments), sp=TEXT))
        assert got.logged == ireval.run(self.program, world).logged
        return [
            [each.faults, *struct.unpack(f"<{len(each.data) // 8 - 6}Q", each.data[HEADER_SIZE:])]
            for each in got.logged
        ]


def text(content: bytes) -> World:
    """A world with some bytes at TEXT and nothing behind them."""

    def read(address: int, size: int) -> bytes | None:
        start = address - TEXT
        return content[start : start + size] if start >= 0 and start + size <= len(content) else None

    return World(read, (TEXT, 3, 4), comm=b"abcdefgh")


# --- arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["sub", "udiv", "umod", "shl", "lshr", "ashr", "add", "xor"])
@pytest.mark.parametrize("width", [32, 64])
def test_the_result_takes_the_register_of_the_right_operand(op: str, width: int) -> None:
    """Where the left operand lives on and the right one ends, the result may come to lie in its place."""
    p = Program()
    left, right = p.argument(1), p.argument(2)
    result = p.build.binary(op, left, right, width)
    other = p.build.binary("sub", 1000, left)
    last = p.build.binary("sub", other, result)
    p.log(result, last, left)
    p.run(text(b""))


@pytest.mark.parametrize("op", ["eq", "ult", "slt", "sge"])
def test_a_comparison_takes_the_register_of_an_operand(op: str) -> None:
    """1 and 0 do not overwrite what is compared before it is."""
    for swap in (False, True):
        p = Program()
        pair = p.argument(1), p.argument(2)
        keep, end = pair if swap else pair[::-1]
        result = p.build.compare(op, *pair)
        sums = p.build.binary("add", keep, result)
        p.log(p.build.binary("mul", sums, 3), result)
        p.run(text(b""))
        del end


# --- strings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "literal", "limit", "equal"),
    [
        (b"abc\0xyz", b"abc", 16, 1),
        (b"abcd\0xyz", b"abc", 16, 0),
        (b"ab\0xyzabc", b"abc", 16, 0),
        (b"abd\0xyzabc", b"abc", 16, 0),
        (b"abcdefgh", b"abcd", 4, 1),  # an array that is full has no NUL
        (b"abce....", b"abcd", 4, 0),
        (b"abcde...", b"abcd", 5, 0),
        (b"abcd\0...", b"abcd", 5, 1),
        (b"abcdefghijkl\0", b"abcdefghijkl", 16, 1),
        (b"abcdefghijkL\0", b"abcdefghijkl", 16, 0),
        (b"\0abcdefgh", b"", 16, 1),
        (b"abcdefgh", b"", 16, 0),
        (b"abcdefgh", b"", 0, 1),
    ],
)
@pytest.mark.parametrize("branches", [False, True])
def test_string_comparison(content: bytes, literal: bytes, limit: int, equal: int, branches: bool) -> None:
    """Equal up to the NUL or the limit, as a value and as a condition."""
    p = Program()
    dst, address = p.build.value(), p.argument(0)
    p.build.add(ir.StringEqual(dst, address, 0, limit, literal))
    if not branches:
        p.log(dst)
        assert p.run(text(content + bytes(8))) == [[0, equal]]
        return
    for relation, wanted in (("ne", equal), ("eq", 1 - equal)):
        p = Program()
        dst, address = p.build.value(), p.argument(0)
        yes, no = p.build.block(), p.build.block()
        p.build.add(ir.StringEqual(dst, address, 0, limit, literal))
        p.build.branch(relation, dst, 0, yes, no)
        p.build.begin(yes)
        p.log(7)
        p.build.jump(no)
        p.build.begin(no)
        assert p.run(text(content + bytes(8))) == [[0, 7]] * wanted


@pytest.mark.parametrize("literal", [b"", b"abc"])
def test_a_string_that_cannot_be_read_is_empty(literal: bytes) -> None:
    """And its fault is noted."""
    p = Program()
    dst, faults = p.build.value(), p.build.var("faults")
    p.build.set(faults, 0)
    p.build.add(ir.StringEqual(dst, 0x10, 0, 16, literal, faults, 6))
    p.log(dst, faults=faults)
    assert p.run(text(b"")) == [[6, int(not literal)]]


@pytest.mark.parametrize("literal", [b"", b"abcdefgh", b"abcdefg", b"abcdefghi", b"abcdefghijklmno"])
def test_comm_comparison(literal: bytes) -> None:
    """The task's name, whole."""
    p = Program()
    dst = p.build.value()
    p.build.add(ir.CommEqual(dst, literal))
    p.log(dst)
    assert p.run(text(b"")) == [[0, int(literal == b"abcdefgh")]]


# --- loads that become copies ---------------------------------------------------------------------------------------


def fault_words(p: Program) -> ir.Var:
    """A fault word, 0."""
    faults = p.build.var("faults")
    p.build.set(faults, 0)
    return faults


def test_a_load_whose_fault_was_cleared_is_no_copy() -> None:
    """Where the fault word is set to 0 between load and log, the log does not show the load's fault."""
    p = Program()
    faults = fault_words(p)
    value = p.build.load(0x10, 0, 8, faults, 1)
    p.build.set(faults, 0)
    p.log(value, faults=faults)
    assert p.run(text(b"")) == [[0, 0]]


def test_a_load_whose_fault_was_kept_is_no_copy() -> None:
    """Where the fault word is read between load and log, what is read has the load's fault."""
    p = Program()
    faults = fault_words(p)
    value = p.build.load(0x10, 0, 8, faults, 1)
    seen = p.build.get(faults)
    p.log(value, seen, faults=faults)
    assert p.run(text(b"")) == [[1, 0, 1]]


def test_a_load_that_stands_for_several_values_sets_all_their_bits() -> None:
    """A mask of two bits is no single bit of a copy."""
    p = Program()
    faults = fault_words(p)
    p.log(p.build.load(0x10, 0, 8, faults, 5), faults=faults)
    assert p.run(text(b"")) == [[5, 0]]


@pytest.mark.parametrize("bits", [5, 8, 16, 31, 32, 33])
@pytest.mark.parametrize("signed", [False, True])
def test_a_load_that_is_narrowed_is_no_copy(bits: int, signed: bool) -> None:
    """An extension from fewer bits than the field has is not passed over, one from as many is."""
    p = Program()
    faults = fault_words(p)
    value = p.build.load(p.argument(0), 0, 4, faults, 1)
    p.log(p.build.extend(value, bits, signed), sizes=(4,), faults=faults)
    p.run(text(b"\xff\xfe\xfd\xfc" * 2))


def test_a_load_from_elsewhere_than_the_fault_word_of_the_log_is_no_copy() -> None:
    """Two logs with a fault word each: the first's load is not moved to the second's record."""
    p = Program()
    one, other = fault_words(p), p.build.var("other")
    p.build.set(other, 0)
    value = p.build.load(0x10, 0, 8, one, 1)
    p.log(value, faults=other)
    p.log(0, faults=one)
    assert p.run(text(b"")) == [[0, 0], [1, 0]]
