"""Each pass alone, on programs made by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.irtext import emit, emitted, program

from klasy.compiler import ir, ircheck
from klasy.compiler.ireval import World
from klasy.compiler.irprint import render
from klasy.compiler.passes import pipeline
from klasy.compiler.passes.control import straighten
from klasy.compiler.passes.dead import remove_dead_code
from klasy.compiler.passes.division import expand_signed_division
from klasy.compiler.passes.fold import fold
from klasy.compiler.passes.pipeline import Pass, faults_of
from klasy.compiler.passes.reuse import reuse
from klasy.compiler.passes.variables import remove_variables
from klasy.compiler.semantics import binary, compare, signed
from klasy.match.plan import Argument

WORD = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**31, -(2**31)])
OPS = [op for op in ir.BINARY_OPS if op not in ir.SIGNED_DIVISIONS]


def argument(build, index=0):
    value = build.value()
    build.add(ir.Argument(value, Argument(index)))
    return value


def kinds(made):
    """The classes of a program's operations, by name."""
    return [type(op).__name__ for op in made.ops()]


# --- division


def c_divide(a: int, b: int) -> tuple[int, int]:
    """C's quotient and remainder, and what the language says of a divisor 0."""
    if b == 0:
        return 0, a
    quotient = abs(a) // abs(b)
    quotient = -quotient if (a < 0) != (b < 0) else quotient
    return signed(quotient, 64), signed(a - quotient * b, 64)


@given(a=WORD, b=WORD, constant=st.booleans())
def test_signed_division(a, b, constant):
    """Expanded division truncates towards zero, whatever the signs, for known and unknown divisors, 0 included."""
    made, build = program()
    left = argument(build)
    right = b if constant else argument(build, 1)
    emit(build, build.binary("sdiv", left, right), build.binary("smod", left, right))
    build.add(ir.Return())
    expand_signed_division(made)
    ircheck.require(made)
    quotient, remainder = c_divide(a, b)
    ((got_quotient, got_remainder),) = emitted(made, World(arguments=(a, b)))
    assert (signed(got_quotient, 64), signed(got_remainder, 64)) == (quotient, remainder)


@pytest.mark.parametrize("power", [0, 1, 5, 31, 62])
def test_division_by_a_power_of_two_divides_nothing(power):
    """A known power of two costs shifts, no division."""
    made, build = program()
    left = argument(build)
    emit(build, build.binary("sdiv", left, 1 << power), build.binary("smod", left, 1 << power))
    build.add(ir.Return())
    expand_signed_division(made)
    assert not [op for op in made.ops() if isinstance(op, ir.Binary) and op.op in ("udiv", "umod")]


# --- folding


@given(op=st.sampled_from(OPS), width=st.sampled_from([32, 64]), a=WORD, b=WORD)
def test_constants_fold_to_what_the_interpreter_computes(op, width, a, b):
    """An operation on constants becomes the constant that running it gives."""
    made, build = program()
    emit(build, build.binary(op, a, b, width))
    build.add(ir.Return())
    before = emitted(made)
    fold(made)
    remove_dead_code(made)
    assert kinds(made) == ["Emit", "Return"]
    assert emitted(made) == before == [[binary(op, width, a & ir.MASK64, b & ir.MASK64)]]


@given(op=st.sampled_from(OPS), width=st.sampled_from([32, 64]), a=WORD, b=WORD, left=st.booleans())
def test_identities_keep_the_value(op, width, a, b, left):
    """With one operand known, whatever the folding makes of the operation gives the same value."""
    made, build = program()
    unknown = argument(build)
    emit(build, build.binary(op, b, unknown, width) if left else build.binary(op, unknown, b, width))
    build.add(ir.Return())
    world = World(arguments=(a,))
    before = emitted(made, world)
    fold(made)
    ircheck.require(made)
    assert emitted(made, world) == before


@given(
    steps=st.lists(st.tuples(st.integers(1, 63), st.booleans()), min_size=1, max_size=4),
    load=st.sampled_from([1, 2, 4, 8]),
    data=st.binary(min_size=8, max_size=8),
)
def test_needless_extensions_vanish_without_harm(steps, load, data):
    """Extensions of extensions and of loads give the same value, folded or not."""
    made, build = program()
    value = build.load(argument(build), 0, load)
    for bits, sign in steps:
        value = build.extend(value, bits, sign)
    emit(build, value)
    build.add(ir.Return())
    world = World(read=lambda address, size: data[:size], arguments=(0,))
    before = emitted(made, world)
    fold(made)
    assert emitted(made, world) == before


def test_extension_of_a_narrow_load_vanishes():
    """A byte that was loaded is zero-extended already."""
    made, build = program()
    emit(build, build.extend(build.load(argument(build), 0, 1), 8, False))
    build.add(ir.Return())
    fold(made)
    assert "Extend" not in kinds(made)


@given(op=st.sampled_from(ir.COMPARISONS), a=WORD, b=WORD, negated=st.booleans(), known=st.booleans())
def test_branch_on_a_comparison(op, a, b, negated, known):
    """A branch on a comparison's value becomes one on the comparison, its sense kept."""
    made, build = program()
    left = argument(build)
    test = build.compare(op, left, b if known else argument(build, 1))
    yes, no = build.block(), build.block()
    build.branch("eq" if negated else "ne", test, 0, yes, no)
    for block, value in ((yes, 1), (no, 0)):
        build.begin(block)
        emit(build, value)
        build.add(ir.Return())
    fold(made)
    remove_dead_code(made)
    assert "Compare" not in kinds(made)
    assert emitted(made, World(arguments=(a, b))) == [[int(compare(op, a & ir.MASK64, b & ir.MASK64) != negated)]]


def test_address_takes_a_constant_in():
    """What is added to an address becomes the offset of the load."""
    made, build = program()
    base = argument(build)
    emit(build, build.load(build.binary("add", build.binary("add", base, 16), 8), 4, 8))
    build.add(ir.Return())
    fold(made)
    load = next(op for op in made.ops() if isinstance(op, ir.Load))
    assert (load.address, load.offset) == (base, 28)


def test_far_address_stays_an_addition():
    """An offset that no instruction can hold is not taken in."""
    made, build = program()
    emit(build, build.load(build.binary("add", argument(build), 1 << 40), 0, 8))
    build.add(ir.Return())
    fold(made)
    assert next(op for op in made.ops() if isinstance(op, ir.Load)).offset == 0


# --- reuse


def test_equal_operations_and_loads_are_done_once():
    """The second of two equal loads, and of what is computed from them, is the first; it watches for both faults."""
    made, build = program()
    faults = build.var("faults")
    build.set(faults, 0)
    base = argument(build)
    first = build.load(base, 8, 4, faults, 1)
    second = build.load(base, 8, 4, faults, 2)
    emit(build, build.binary("add", first, 1), build.binary("add", second, 1), faults=faults)
    build.add(ir.Return())
    reuse(made)
    assert kinds(made).count("Load") == 1
    assert kinds(made).count("Binary") == 1
    assert next(op for op in made.ops() if isinstance(op, ir.Load)).mask == 3


def test_loads_that_watch_in_different_words_stay():
    """A load that reports its fault elsewhere is made again."""
    made, build = program()
    one, two = build.var("one"), build.var("two")
    build.set(one, 0)
    build.set(two, 0)
    base = argument(build)
    build.load(base, 0, 8, one, 1)
    build.load(base, 0, 8, two, 1)
    build.load(base, 0, 8)
    build.add(ir.Return())
    reuse(made)
    assert kinds(made).count("Load") == 2


def test_now_is_asked_each_time():
    """Time goes on between two uses of now; the rest of the context stays."""
    made, build = program()
    emit(build, build.context("now"), build.context("now"), build.context("cpu"), build.context("cpu"))
    build.add(ir.Return())
    reuse(made)
    assert kinds(made).count("Context") == 3


def test_what_is_known_ends_where_paths_meet():
    """Behind an if, a variable that one branch set is read again."""
    made, build = program()
    var = build.var("x")
    build.set(var, 1)
    then, behind = build.block(), build.block()
    build.branch("eq", argument(build), 0, then, behind)
    build.begin(then)
    build.set(var, 2)
    build.jump(behind)
    build.begin(behind)
    emit(build, build.get(var))
    build.add(ir.Return())
    reuse(made)
    assert "Get" in kinds(made)
    assert emitted(made, World(arguments=(0,))) == [[2]]
    assert emitted(made, World(arguments=(5,))) == [[1]]


def test_overwritten_assignment_is_dropped():
    """Of two assignments with no read between them, the first goes; with one, it stays."""
    made, build = program()
    var = build.var("x")
    build.set(var, 1)
    build.set(var, 2)
    build.add(ir.StringEqual(build.value(), 0, 0, 4, b"a", var, 4))
    build.set(var, 3)
    build.add(ir.Return())
    reuse(made)
    assert [op.source for op in made.ops() if isinstance(op, ir.Set)] == [2, 3]


# --- variables, dead code, control


def test_variable_of_one_constant_vanishes():
    """A variable that only ever holds one constant is that constant; one that nobody reads is nothing."""
    made, build = program()
    same, unread = build.var("same"), build.var("unread")
    build.set(same, 7)
    build.set(unread, build.get(same))
    build.load(0, 0, 8, unread, 1)
    emit(build, build.get(same))
    build.add(ir.Return())
    remove_variables(made)
    assert "Set" not in kinds(made)
    assert "Get" not in kinds(made)
    assert emitted(made) == [[7]]


def test_fault_word_that_nothing_can_set_vanishes():
    """A record whose values cannot fault carries no fault word."""
    made, build = program()
    faults = build.var("faults")
    build.set(faults, 0)
    emit(build, 1, faults=faults)
    build.add(ir.Return())
    remove_variables(made)
    assert next(op for op in made.ops() if isinstance(op, ir.Emit)).faults is None


def test_dead_code_goes_live_code_stays():
    """Only what a record, a variable or a branch depends on stays."""
    made, build = program()
    base = argument(build)
    dead = build.binary("add", build.load(base, 0, 8), 1)
    build.binary("mul", dead, 2)
    emit(build, build.load(base, 8, 8))
    build.add(ir.CountHit(0))
    build.add(ir.Return())
    remove_dead_code(made)
    assert kinds(made) == ["Argument", "Load", "Emit", "CountHit", "Return"]


def test_control_is_straightened():
    """Blocks that only jump, chains and what is never reached disappear; labels count from 0."""
    made, build = program()
    a, b, c, never = (build.block() for _ in range(4))
    build.jump(a)
    for block, target in ((a, b), (b, c), (never, c)):
        build.begin(block)
        build.jump(target)
    build.begin(c)
    build.add(ir.CountHit(3))
    build.add(ir.Return())
    straighten(made)
    ircheck.require(made)
    assert render(made) == "program test (probe 0)\nb0:\n    count hit of 3\n    return"


def test_a_decision_that_changes_nothing_is_not_made():
    """A tree of branches that all lead to one place goes in one run: so does what asks which of many places this is."""
    made, build = program()
    behind = build.block()
    number = argument(build)

    def search(first: int, end: int) -> None:
        if end - first == 1:
            leaf = build.block()
            build.jump(leaf)
            build.begin(leaf)
            build.jump(behind)
            return
        low, high = build.block(), build.block()
        build.branch("ult", number, (first + end) // 2, low, high)
        build.begin(low)
        search(first, (first + end) // 2)
        build.begin(high)
        search((first + end) // 2, end)

    search(0, 100)
    build.begin(behind)
    build.add(ir.CountHit(3))
    build.add(ir.Return())
    straighten(made)
    ircheck.require(made)
    assert kinds(made) == ["Argument", "CountHit", "Return"]


def test_found_block_keeps_its_only_predecessor():
    """The block a Locate finds its join point in stays its own, even where it only jumps."""
    made, build = program()
    found, behind = build.block(), build.block()
    build.add(ir.Locate(build.value(), 0, found, behind))
    build.begin(found)
    build.jump(behind)
    build.begin(behind)
    build.add(ir.Return())
    straighten(made)
    ircheck.require(made)


def test_endless_jumps_are_no_trouble():
    """Blocks that jump in a circle are left as they are."""
    made, build = program()
    a, b, out = build.block(), build.block(), build.block()
    build.branch("eq", argument(build), 0, a, out)
    build.begin(a)
    build.jump(b)
    build.begin(b)
    build.jump(a)
    build.begin(out)
    build.add(ir.Return())
    straighten(made)
    ircheck.require(made)
    assert emitted(made, World(arguments=(1,))) == []


# --- pipeline


def test_order_of_passes_is_checked():
    """A pass before the one that makes what it needs, or a result that nothing makes, is a fault of the order."""
    assert faults_of(pipeline.PIPELINE) == []
    wrong = faults_of((Pass(remove_dead_code, needs="straight"), Pass(straighten, makes="straight")))
    assert wrong[0] == "remove_dead_code needs 'straight', which no pass before it makes so"
    assert "nothing makes 'unsigned division' so in the end" in wrong


def test_pipeline_checks_what_it_is_given():
    """A broken program is refused before any pass sees it."""
    made, build = program()
    emit(build, ir.Value(99))
    build.add(ir.Return())
    with pytest.raises(AssertionError, match="never assigned"):
        pipeline.run(made)


def test_the_page_tells_the_order():
    """docs/compiler.md lists the passes as they run."""
    page = (Path(__file__).parents[3] / "docs" / "compiler.md").read_text()
    told = re.findall(r"`(\w+)`", page[page.index("## The passes") : page.index("## What C")])
    assert told == [one.run.__name__ for one in pipeline.PIPELINE]
