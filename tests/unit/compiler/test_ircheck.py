"""Every invariant of the IR has a program that breaks it, and is told so."""

from __future__ import annotations

import pytest
from support.irtext import emit, program

from klasy.compiler import ir, ircheck
from klasy.compiler.irprint import render
from klasy.match.plan import Argument
from klasy.record import HEADER_SIZE


def _ended(change):
    made, build = program()
    change(made, build)
    if not build.ended:
        build.add(ir.Return())
    return made


def _twice(made, build):
    value = build.binary("add", 1, 2)
    build.add(ir.Copy(value, 3))


def _before(made, build):
    value = build.value()
    emit(build, value)
    build.add(ir.Copy(value, 3))


def _one_path(made, build):
    value = build.value()
    a, b = build.block(), build.block()
    build.branch("eq", 1, 2, a, b)
    build.begin(a)
    build.add(ir.Copy(value, 1))
    build.jump(b)
    build.begin(b)
    emit(build, value)


def _unset(made, build):
    var = build.var("x")
    a, b = build.block(), build.block()
    build.branch("eq", 1, 2, a, b)
    build.begin(a)
    build.set(var, 1)
    build.jump(b)
    build.begin(b)
    emit(build, build.get(var))


def _located_elsewhere(made, build):
    found, missing = build.block(), build.block()
    build.add(ir.Locate(value := build.value(), 0, found, missing))
    build.begin(found)
    build.jump(missing)
    build.begin(missing)
    build.add(ir.CountHit(value))


def _shared_found(made, build):
    found, missing = build.block(), build.block()
    build.add(ir.Locate(build.value(), 0, found, missing))
    build.begin(missing)
    build.jump(found)
    build.begin(found)


def _foreign_block(made, build):
    build.jump(ir.Block(77))


def _entry_target(made, build):
    build.jump(made.entry)


def _late_mark(made, build):
    build.add(ir.CountHit(0))
    build.add(ir.Mark("take"))


def _overlap(made, build):
    build.add(ir.Emit(0, 64, 0, (ir.StoreField(48, 8, 1), ir.StoreField(52, 4, 2))))


def _outside(made, build):
    build.add(ir.Emit(0, 56, 0, (ir.StoreField(48, 8, 1), ir.StoreField(56, 4, 2))))


def _inside_header(made, build):
    build.add(ir.Emit(0, 56, 0, (ir.StoreField(40, 8, 1),)))


BROKEN = {
    "assigned twice": _twice,
    "not assigned on every path": _before,
    "%0 is not assigned on every path": _one_path,
    "never assigned": lambda made, build: emit(build, ir.Value(5)),
    "$x is not set on every path": _unset,
    "is not assigned on every path to here": _located_elsewhere,
    "has another predecessor": _shared_found,
    "b77 is not of the program": _foreign_block,
    "entry is a target": _entry_target,
    "mark is not the first": _late_mark,
    "overlaps": _overlap,
    "parts end at 60": _outside,
    "the part at 40 overlaps": _inside_header,
    "cannot have 50 bytes": lambda made, build: build.add(ir.Emit(0, 50, 0, ())),
    "no store of 3 bytes": lambda made, build: build.add(ir.Emit(0, 56, 0, (ir.StoreField(HEADER_SIZE, 3, 1),))),
    "no fault bit 64": lambda made, build: build.add(ir.Emit(0, 56, 0, (ir.CopyField(HEADER_SIZE, 8, 1, 0, 64),))),
    "does not fit 64 bits": lambda made, build: emit(build, 1 << 63),
    "no operator pow": lambda made, build: build.binary("pow", 1, 2),
    "no width 16": lambda made, build: build.binary("add", 1, 2, 16),
    "signed division was to be expanded": lambda made, build: build.binary("sdiv", 1, 2),
    "no comparison lt": lambda made, build: build.compare("lt", 1, 2),
    "cannot extend from 64 bits": lambda made, build: build.add(ir.Extend(build.value(), 1, 64, False)),
    "no context value time": lambda made, build: build.context("time"),
    "no load of 3 bytes": lambda made, build: build.load(1, 0, 3),
    "no mask of faults 0x1": lambda made, build: build.load(1, 0, 4, None, 1),
    "the literal does not fit": lambda made, build: build.add(ir.CommEqual(build.value(), b"x" * 16)),
    "the literal does not": lambda made, build: build.add(ir.StringEqual(build.value(), 1, 0, 2, b"abc")),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_invariant_is_told(message):
    """The checker names what is broken, and shows it beside the operation."""
    made = _ended(BROKEN[message])
    assert any(message in fault for _, fault in ircheck.check(made))
    with pytest.raises(AssertionError, match="Internal error: broken IR"):
        ircheck.require(made)


def test_shape_of_blocks():
    """A block without an end, an operation in two places, two blocks of one label, no blocks at all."""
    made, build = program()
    assert "b0 has no terminator" in str(ircheck.check(made))
    op = ir.Return()
    build.add(op)
    other = ir.Block(0)
    other.ops = [op]
    made.blocks.append(other)
    faults = str(ircheck.check(made))
    assert "two blocks of one label" in faults
    assert "stands in two places" in faults
    assert ircheck.check(ir.Program("empty", 0)) == [(None, "no blocks")]


def test_sound_program_has_no_faults():
    """A program that keeps every rule is not complained of, signed division before its expansion included."""
    made, build = program()
    build.add(ir.Argument(value := build.value(), Argument(0)))
    emit(build, build.binary("sdiv", value, 3))
    build.add(ir.Return())
    assert ircheck.check(made, lowered=False) == []


def test_printing_numbers_values_by_definition():
    """The printed form does not depend on the numbers values were made with."""
    texts = []
    for skipped in (0, 7):
        made, build = program()
        for _ in range(skipped):
            build.value()
        build.add(ir.Argument(value := build.value(), Argument(2)))
        emit(build, build.binary("add", value, 1 << 40), -1)
        build.add(ir.Return())
        texts.append(render(made))
    assert texts[0] == texts[1]
    assert "%1 = %0 + 0x10000000000" in texts[0]


def test_notes_stand_below_their_operation():
    """What is wrong with an operation is printed under it."""
    made, build = program()
    build.add(op := ir.CountHit(1))
    build.add(ir.Return())
    assert render(made, {op: ["too early"]}).splitlines()[2:4] == ["    count hit of 1", "      ^ too early"]
