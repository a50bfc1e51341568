"""Variants that take turns, and what their samples come to."""

from __future__ import annotations

import math
import statistics
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from klasy.errors import KlasyError
from klasy.plain import NamedTuple, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")


class Missing(KlasyError):
    """A variant cannot be measured here: its tool is not installed, or does not know this kernel."""


class Variant(NamedTuple):
    """One way to do what a group of an experiment compares.

    ``attach()`` puts it in place for one round and yields the function that measures one value, in the group's unit;
    it may raise :class:`Missing`. ``role`` tells what a variant is compared for: ``floor``, ``reference``, ``klasy``,
    ``peer`` (another tool) or ``contrast`` (klasy where it must show).
    """

    group: str
    name: str
    role: str
    attach: Callable[[], AbstractContextManager[Callable[[], float]]]


class Limit(NamedTuple):
    """What is to hold: the ratio ``name`` of a row is at most ``most`` (or at least ``least``)."""

    name: str
    most: float | None = None
    least: float | None = None

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is within it."""
        return (self.most is None or ratio <= self.most) and (self.least is None or ratio >= self.least)

    def text(self) -> str:
        """``at most 1.10``."""
        return f"at most {self.most:.2f}" if self.most is not None else f"at least {self.least:.2f}"


@dataclass(frozen=True, slots=True)
class Row:
    """What one variant came to. ``samples`` has one value for each round; ``ratios`` compare medians by name, and
    ``bounds`` tell of some of them between what they lie by :func:`median_bounds`.
    """

    group: str
    name: str
    role: str
    samples: tuple[float, ...]
    ratios: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half of what the middle half of the samples spans, as a share of the median: how far the rounds differ."""
        if len(self.samples) < 2 or not self.median:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return abs((high - low) / 2 / self.median)

    def to_json(self) -> dict[str, object]:
        """As a row of the document."""
        return {
            "group": self.group,
            "name": self.name,
            "role": self.role,
            "median": self.median,
            "spread": self.spread,
            "samples": list(self.samples),
            "ratios": dict(self.ratios),
            "bounds": {name: [low, None if math.isinf(high) else high] for name, (low, high) in self.bounds.items()},
            "note": self.note,
        }


def median_bounds(samples: Sequence[float]) -> tuple[float, float]:
    """Two of the samples between which the median of all that might have been taken lies, 95 times of 100, whatever
    way they scatter; of fewer than 6, the least and the most, which is less sure (3: 75, 5: 94 times).
    """
    ordered, number = sorted(samples), len(samples)
    place, below = 0, 2 / 2**number  # how often the median lies outside of what is between place and its mirror
    while (more := below + 2 * math.comb(number, place + 1) / 2**number) <= 0.05:
        place, below = place + 1, more
    return ordered[place], ordered[number - 1 - place]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of an experiment. ``unit`` is that of the samples. ``missing`` names variants that could not be
    measured, each with the reason. ``over``: where rows are named by numbers, over which they are drawn as lines, what
    the numbers are."""

    experiment: str
    title: str
    unit: str
    rows: tuple[Row, ...]
    missing: Mapping[str, str]
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()
    over: str = ""

    def to_json(self, machine: Mapping[str, object]) -> dict[str, object]:
        """The document of ``klasy bench --json`` (docs/json.md)."""
        return {
            "experiment": self.experiment,
            "title": self.title,
            "unit": self.unit,
            "machine": dict(machine),
            "rows": [row.to_json() for row in self.rows],
            "missing": dict(self.missing),
            "limits": [{"ratio": limit.name, "most": limit.most, "least": limit.least} for limit in self.limits],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: rounds, and how long one sample lasts, in seconds (0: as the experiment has it). ``only``:
    parts of the experiment. ``peers``: whether other tools are measured too."""

    rounds: int = 5
    seconds: float = 0.0
    only: tuple[str, ...] = ()
    peers: bool = True

    def wanted(self, part: str) -> bool:
        """Whether a part of the experiment is to be measured."""
        return not self.only or any(word in part for word in self.only)


def rotated(variants: Sequence[T], number: int) -> Iterable[T]:
    """The variants in the order of a round: each round begins one further."""
    at = number % len(variants) if variants else 0
    return [*variants[at:], *variants[:at]]


def run(
    variants: Sequence[Variant], scale: Scale, *, each: int = 1
) -> tuple[dict[tuple[str, str], list[float]], dict[str, str]]:
    """Samples of each variant by group and name, one a round (the least of ``each``), and what was missing.

    Variants of one group take turns; the groups come one after the other.
    """
    samples: dict[tuple[str, str], list[float]] = {}
    missing: dict[str, str] = {}
    variants = [variant for variant in variants if scale.peers or variant.role != "peer"]
    for group in dict.fromkeys(variant.group for variant in variants):
        members = [variant for variant in variants if variant.group == group]
        for number in range(scale.rounds):
            for variant in rotated(members, number):
                key = f"{group}: {variant.name}"
                if key in missing:
                    continue
                try:
                    with variant.attach() as sample:
                        value = min(sample() for _ in range(each))
                except Missing as reason:
                    missing[key] = reason.message
                    samples.pop((group, variant.name), None)
                    continue
                samples.setdefault((group, variant.name), []).append(value)
                tell(f"{group}: {variant.name}, round {number + 1} of {scale.rounds}: {value:.4g}")
    return samples, missing


def tell(line: str) -> None:
    """Say how far the measurement is, to who watches a terminal (or asked for it: see ``--verbose``)."""
    if _Progress.shown:
        print(line, file=sys.stderr, flush=True)


class _Progress:
    shown = False


def show_progress(shown: bool) -> None:
    """Whether :func:`tell` says anything."""
    _Progress.shown = shown


def rows(variants: Sequence[Variant], samples: Mapping[tuple[str, str], Sequence[float]]) -> list[Row]:
    """The rows of what was measured, in the order of the variants."""
    return [
        Row(variant.group, variant.name, variant.role, tuple(samples[variant.group, variant.name]))
        for variant in variants
        if (variant.group, variant.name) in samples
    ]
