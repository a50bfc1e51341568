"""What ``klasy status`` says of an aspect beside its counts."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from klasy.cli.status import _notes
from klasy.cli.stopped import how_stopped


def test_switched_off_from_outside():
    """Klasy cannot tell a hand at the aspect's switch from a klasy that was killed before it switched it on."""
    aspect: dict[str, Any] = defaultdict(lambda: None, aspect="a", filter_ended=(), stillborn=True, active=False)
    (note,) = _notes(aspect)
    assert note == "is switched off, by hand or because klasy was killed while it wove it; klasy unweave a takes it out"


def test_stopped_and_what_it_keeps():
    """An aspect that has stopped goes when its log has been read, but not if it keeps what klasy stat shows."""
    aspect: dict[str, Any] = defaultdict(
        lambda: None, aspect="a", filter_ended=(), stopped="has stopped itself", active=False, states=0
    )
    assert _notes(aspect) == ["has stopped itself; klasy log a shows the rest of its log, and takes it out"]
    aspect["states"] = 2
    assert _notes(aspect) == [
        "has stopped itself; klasy log a shows the rest of its log, klasy stat a what it has kept; klasy unweave a "
        "takes it out"
    ]


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (None, "has stopped itself"),
        (
            (25_100_000, 900_000_000),
            "was over its budget (25.1 ms of processor time within 900 ms) and has stopped itself",
        ),
        ((58_700, 0), "was over its budget (0.0587 ms of processor time at once) and has stopped itself"),
    ],
)
def test_how_it_stopped(over: tuple[int, int] | None, said: str):
    """A budget that a single run exceeds is not told to be so within no time."""
    assert how_stopped(SimpleNamespace(over_budget=lambda: over)) == said  # type: ignore[arg-type]
