"""The order of aspects: what follows from declarations, and which orders the kernel cannot give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakekernel import FakeKernel

from klasy.errors import InputError
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.source import SourceFile
from klasy.weaver.precedence import Order

KERNEL = FakeKernel("int f(int n); int g(int n);")


@given(st.permutations("abcdef"), st.data())
def test_sorted(order, data):
    """Whatever pairs of an order are declared, the sorted names agree with all that follows from them."""
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda p: p[0] < p[1])))
    declared = Order([(order[i], order[j]) for i, j in pairs])
    for start in ("abcdef", "fedcba"):
        found = declared.sorted(list(start))
        assert sorted(found) == list("abcdef")
        assert all(found.index(first) < found.index(second) for first, second in declared.pairs)


def test_contradiction():
    """Declarations of several files that contradict each other are refused, also by way of a third aspect."""
    with pytest.raises(InputError, match="cannot each go before the other"):
        Order([("a", "b"), ("b", "c"), ("c", "a")])


def plans(text: str) -> dict:
    return {a.name: plan_aspect(a, KERNEL) for a in load(SourceFile("test.asp", text))}


def test_nothing_shared():
    """Aspects that meet nowhere, or not in the same kind of advice, have no order to be had."""
    made = plans(
        "aspect a { before(): execution(f) {} } aspect b { before(): execution(g) {} after(): execution(f) {} }"
    )
    Order([("b", "a")]).check(made, {})


def test_the_declarations_of_a_file():
    """A line of several names gives every pair, and lines work together."""
    (first, *_) = load(SourceFile("test.asp", "precedence a, b; precedence b, c;"
                       + "".join(f"aspect {n} {{ before(): call(f) {{}} }}" for n in "abc")))  # fmt: skip
    assert set(first.order) == {("a", "b"), ("b", "c"), ("a", "c")}
