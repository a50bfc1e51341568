"""Turns, medians, ratios, and what is said of them."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest

from klasy.bench.hits import compared
from klasy.bench.measure import Limit, Missing, Report, Row, Scale, Variant, median_bounds, rotated, rows, run
from klasy.cli import benchtext as present
from klasy.plain import replace


def variants(order, values):
    """One for each name, that notes its turns and gives its values."""

    def variant(name):
        @contextmanager
        def attach():
            order.append(name)
            given = iter(values[name])
            yield lambda: next(given)

        return Variant("g", name, "klasy", attach)

    return [variant(name) for name in values]


def test_each_round_begins_with_another():
    """So that what comes first has no advantage."""
    order: list[str] = []
    run(variants(order, {"a": [1.0], "b": [2.0], "c": [3.0]}), Scale(rounds=3))
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert list(rotated([], 3)) == []


def test_a_turn_gives_its_least_sample():
    """What disturbs a load only makes it longer; of the rounds the median counts."""
    made = variants([], {"a": [5.0, 2.0, 9.0]})
    samples, missing = run(made, Scale(rounds=3), each=3)
    (row,) = rows(made, samples)
    assert (row.samples, row.median, row.spread, missing) == ((2.0, 2.0, 2.0), 2.0, 0.0, {})


def test_spread_is_half_of_the_middle_half():
    """As a share of the median."""
    assert Row("g", "a", "klasy", (90.0, 95.0, 100.0, 105.0, 110.0)).spread == pytest.approx(0.05)
    assert Row("g", "a", "klasy", (7.0,)).spread == 0


def test_who_is_missing_is_named_and_asked_once():
    """With the reason; the others are measured."""
    asked = []

    @contextmanager
    def attach():
        asked.append(1)
        raise Missing("bpftrace is not installed")
        yield

    other = variants([], {"a": [1.0]})
    samples, missing = run([*other, Variant("g", "b", "peer", attach)], Scale(rounds=3))
    assert missing == {"g: b": "bpftrace is not installed"}
    assert list(samples) == [("g", "a")]
    assert asked == [1]


def test_own_code_is_what_lies_above_the_empty_program():
    """Ratios of a hit: whole, and without the mechanism."""
    group = [
        Row("g", "empty program", "floor", (100.0,)),
        Row("g", "by hand", "reference", (200.0,)),
        Row("g", "klasy", "klasy", (210.0,)),
        Row("g", "bpftrace", "peer", (400.0,)),
    ]
    floor, by_hand, klasy, bpftrace = compared(group)
    assert klasy.ratios == pytest.approx({"of by hand": 1.05, "own code": 1.1})
    assert bpftrace.ratios == {"of by hand": 2.0}
    assert (floor.ratios["of by hand"], by_hand.ratios["of by hand"]) == (0.5, 1.0)
    assert compared(group[2:])[0].ratios == {}  # nothing to compare with


def test_own_code_is_compared_within_rounds():
    """A machine that is slower in some rounds changes nothing, while the medians alone would tell of another ratio."""
    group = [
        Row("g", "empty program", "floor", (100.0, 300.0, 100.0)),
        Row("g", "by hand", "reference", (140.0, 340.0, 340.0)),
        Row("g", "klasy", "klasy", (142.0, 342.0, 142.0)),
    ]
    assert compared(group)[2].ratios["own code"] == pytest.approx(1.05)


def test_between_what_own_code_lies():
    """By the rounds' differences; without an end where the one by hand was as quick as the empty one in some."""
    rounds = {"empty program": (100.0, 100.0, 100.0), "by hand": (120.0, 140.0, 150.0), "klasy": (90.0, 130.0, 160.0)}
    roles = ("floor", "reference", "klasy")
    made = [Row("g", name, role, samples) for (name, samples), role in zip(rounds.items(), roles, strict=True)]
    assert compared(made)[2].bounds == {"own code": (0.0, 1.2)}
    made[1] = replace(made[1], samples=(100.0, 140.0, 150.0))
    assert compared(made)[2].bounds == {"own code": (0.0, math.inf)}
    assert compared(made)[2].to_json()["bounds"] == {"own code": [0.0, None]}


@pytest.mark.parametrize(("number", "outside"), [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (100, 39)])
def test_bounds_of_a_median(number, outside):
    """As tables of the sign test have them: of 9 the second least and the second most, of 12 the third."""
    samples = [float((7 * n) % number if number % 7 else n) for n in range(number)]
    assert median_bounds(samples) == (outside, number - 1 - outside)


REPORT = Report(
    "hits",
    "cost of a hit",
    "ns",
    (
        Row("fentry", "by hand", "reference", (20.0, 20.0), {"own code": 9.0}),
        Row("fentry", "klasy", "klasy", (40.0, 40.0), {"own code": 1.25}),
        Row("fexit", "klasy", "klasy", (10.0, 12.0), {"own code": 1.2}, bounds={"own code": (0.95, 1.4)}),
        Row("kprobe", "klasy", "klasy", (10.0, 10.0), {"own code": 1.0}, bounds={"own code": (0.9, 1.1)}),
    ),
    {"kprobe: perf stat": "perf is not installed"},
    (Limit("own code", most=1.1),),
)
MACHINE = {"kernel": "6.1", "cpus": 2, "processor": "some \x1b[31m processor"}


def test_a_limit_is_klasys_and_says_where_it_is_broken():
    """Other rows' ratios are not judged, nor is what the rounds leave open."""
    assert present.verdict(REPORT) == [
        "own code at most 1.10: does not hold for fentry (1.25); more rounds must tell for fexit (0.95 to 1.40); "
        "holds for the others"
    ]
    assert Limit("x", least=2.0).holds(2.5)
    assert not Limit("x", least=2.0).holds(1.5)


def test_the_table_has_all():
    """Rows, ratios, bars by their group's longest, what is missing; nothing that commands the terminal."""
    text = present.text(REPORT, MACHINE, 2)
    assert "\x1b" not in text
    assert "medians of 2 rounds" in text
    assert f"{'█' * 40}" in text
    assert "kprobe: perf stat: perf is not installed" in text


@pytest.mark.parametrize(("value", "shown"), [(0, ""), (-3, ""), (8, "█"), (4, "▌"), (9, "█▏"), (64, "█" * 8)])
def test_bars(value, shown):
    """In eighths of a character."""
    assert present.bar(value, 64, width=8) == shown


def test_json_has_every_sample():
    """And the machine, the limits and what is missing."""
    document = REPORT.to_json(MACHINE)
    assert document["machine"] == MACHINE
    assert document["rows"][1]["samples"] == [40.0, 40.0]
    assert document["limits"] == [{"ratio": "own code", "most": 1.1, "least": None}]
