"""Properties of the meets: of places, and of states at joins."""

from __future__ import annotations

import functools

from hypothesis import given
from hypothesis import strategies as st
from support.fakekernel import CTypes

from klasy.flow import lattice, state
from klasy.flow.members import Types


@functools.cache
def types():
    """Structs that begin with, and hold, one another."""
    return Types(
        CTypes(
            "struct a { int x; int y; }; struct b { struct a a; long l; };"
            "struct c { long l; struct b b; struct a a2; };"
            "struct d { struct c c; }; struct e { int x; int y; };"
        ).btf
    )


@functools.cache
def structs():
    return [found for name in "abcde" for found in types().btf.find(name)]


places = st.one_of(
    st.none(),
    st.just(lattice.NOT_YET),
    st.tuples(st.sampled_from(range(5)).map(lambda i: structs()[i]), st.integers(-8, 40)),
)


def below(first, second):
    """Whether a place says no more than another: it is nothing, the same, or a part of it."""
    if first is None or second in (lattice.NOT_YET, first):
        return True
    if second is None or first == lattice.NOT_YET:
        return False
    return types().holds(second[0], second[1] - first[1], first[0])


@given(places, places)
def test_meet_commutes(first, second):
    """The order of two values at a join does not matter."""
    assert lattice.meet(types(), first, second) == lattice.meet(types(), second, first)


@given(places, places)
def test_meet_is_below_both(first, second):
    """What a join has in common says no more than either value."""
    found = lattice.meet(types(), first, second)
    assert below(found, first)
    assert below(found, second)


@given(places)
def test_meet_is_idempotent(place):
    """A value joined with itself is itself."""
    assert lattice.meet(types(), place, place) == place


@given(places, places, places)
def test_meet_is_monotone(first, second, third):
    """Knowing less of a value, one knows no more of the join; unless both are parts of the other at once."""
    if below(first, second):
        assert below(lattice.meet(types(), first, third), lattice.meet(types(), second, third))


def new_values():
    values = state.Values()
    return values, [values.new(("made", n), 0) for n in range(4)]


@st.composite
def states(draw):
    """Registers and slots, of four symbols and constants; the numbers are the same for every ``Values``."""
    _, symbols = new_values()
    numbers = st.one_of(
        st.just(state.OPAQUE_VALUE), st.sampled_from(symbols), st.sampled_from(symbols).map(lambda n: n + 8)
    )
    registers = draw(st.lists(numbers, min_size=16, max_size=16))
    slots = draw(st.dictionaries(st.sampled_from([-8, -16, -24]), numbers))
    return registers, slots


def merged(first, second):
    values, _ = new_values()
    into = (first[0].copy(), dict(first[1]))
    changed = state.merge(values, 0x40, into, second)
    return values, into, changed


def shape(number):
    """A value up to the name of the join."""
    return "join" if number not in _given() else number


@functools.cache
def _given():
    _, symbols = new_values()
    return frozenset([state.OPAQUE_VALUE, *symbols, *(n + 8 for n in symbols)])


@given(states(), states())
def test_merge_commutes(first, second):
    """A join is the same from either side, up to the names of the symbols it makes."""
    (_, one, _), (_, other, _) = merged(first, second), merged(second, first)
    assert [shape(n) for n in one[0]] == [shape(n) for n in other[0]]
    assert {p: shape(n) for p, n in one[1].items()} == {p: shape(n) for p, n in other[1].items()}


@given(states(), states())
def test_merge_ends(first, second):
    """Merging the same state again changes nothing, and whether anything changed is said truly."""
    values, into, changed = merged(first, second)
    assert changed == (into != first)
    assert not state.merge(values, 0x40, into, second)


@given(states(), states())
def test_opaque_stays(first, second):
    """A register of which nothing is known on one way is not known behind the join."""
    _, into, _ = merged(first, second)
    for mine, theirs, after in zip(first[0], second[0], into[0], strict=True):
        assert (state.OPAQUE_VALUE in (mine, theirs)) == (after == state.OPAQUE_VALUE)


@given(st.integers(3, 1000), st.integers(-(1 << 40), 1 << 40), st.integers(-(1 << 40), 1 << 40))
def test_values(symbol, constant, more):
    """A value gives back its symbol and constant, and adding to it adds to the constant."""
    number = state.value(symbol, constant) + more
    assert state.symbol_of(number) == symbol
    assert state.constant_of(number) == constant + more
