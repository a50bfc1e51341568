"""The layout of states in maps: words, extremes, buckets, what CPUs make together."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.record import Field
from klasy.state import State, bucket_range, decode_extreme, encode_extreme, join, lhist_steps, signed

S64 = st.integers(-(1 << 63), (1 << 63) - 1)


def state(kind: str, *, bounds: tuple[int, int, int] | None = None, keys: tuple[Field, ...] = ()) -> State:
    return State(0, "s", kind, 1, None, keys, sum(f.size for f in keys), bounds, False)


@given(S64, S64)
def test_the_larger_word_is_the_extreme_to_keep(a: int, b: int) -> None:
    """Words of a max are ordered as their numbers are, those of a min the other way round."""
    assert (encode_extreme("max", a) < encode_extreme("max", b)) == (a < b)
    assert (encode_extreme("min", a) < encode_extreme("min", b)) == (a > b)
    for kind in ("min", "max"):
        assert decode_extreme(kind, encode_extreme(kind, a)) == a


def test_nothing_is_the_least_word() -> None:
    """The word 0, which a slot begins with, stands for the number that any other supersedes."""
    assert decode_extreme("max", 0) == -(1 << 63)
    assert decode_extreme("min", 0) == (1 << 63) - 1


@given(st.lists(st.lists(S64, min_size=1, max_size=5), min_size=1, max_size=4))
def test_cpus_together(each: list[list[int]]) -> None:
    """What CPUs keep apart is joined as if one had kept it all."""
    every = [number for numbers in each for number in numbers]
    rows = [[len(numbers), sum(numbers) % (1 << 64)] for numbers in each]
    number, total = join("avg", rows)
    assert number == len(every)
    assert (total - sum(every)) % (1 << 64) == 0
    for kind, what in (("min", min), ("max", max)):
        rows = [[encode_extreme(kind, what(numbers))] for numbers in each]
        assert decode_extreme(kind, join(kind, [*rows, [0]])[0]) == what(every)


def test_buckets_of_powers_of_two_cover_all_numbers() -> None:
    """Each bucket begins where the one before ends; together they hold every signed number."""
    made = state("hist")
    ranges = [bucket_range(made, n) for n in range(made.words)]
    assert ranges[0] == (None, 0)
    assert ranges[1:4] == [(0, 1), (1, 2), (2, 4)]
    assert ranges[-1] == (1 << 62, 1 << 63)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("bounds", "steps", "last"),
    [((0, 100, 10), 10, (90, 100)), ((5, 6, 1), 1, (5, 6)), ((0, 100, 30), 4, (90, 100)), ((7, 9, 100), 1, (7, 9))],
)
def test_buckets_of_steps(bounds: tuple[int, int, int], steps: int, last: tuple[int, int]) -> None:
    """A step for every ``step`` numbers, the last as long as is left, and one bucket at either side."""
    made = state("lhist", bounds=bounds)
    assert lhist_steps(bounds) == steps
    ranges = [bucket_range(made, n) for n in range(made.words)]
    assert len(ranges) == steps + 2
    assert ranges[0] == (None, bounds[0])
    assert ranges[-1] == (bounds[1], None)
    assert ranges[-2] == last
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))


def test_a_state_survives_the_registry() -> None:
    """What is written to the registry entry as JSON is read back as it was."""
    keys = (Field("tid", "int", 0, 4, True, "int"), Field("comm", "string", 8, 16))
    for made in (
        State(3, "x", "lhist", 7, None, keys, 24, (0, 10, 2), True),
        State(0, "y", "scalar", 1, Field("u64", "int", 0, 8, False, "u64", "nf_nat", 5), (), 0, None, False),
    ):
        assert State.from_json(json.loads(json.dumps(made.to_json()))) == made


@given(S64)
def test_signed(number: int) -> None:
    """A word is a number modulo 2**64."""
    assert signed(number % (1 << 64)) == number
