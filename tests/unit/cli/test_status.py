"""What ``klasy status`` says of an aspect beside its counts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from klasy.cli.status import _notes


def test_switched_off_from_outside():
    """Klasy cannot tell a hand at the aspect's switch from a klasy that was killed before it switched it on."""
    aspect: dict[str, Any] = defaultdict(lambda: None, aspect="a", stillborn=True, active=False)
    (note,) = _notes(aspect)
    assert note == "is switched off, by hand or because klasy was killed while it wove it; klasy unweave a takes it out"


def test_stopped_and_what_it_keeps():
    """An aspect that has stopped goes when its log has been read, but not if it keeps what klasy stat shows."""
    aspect: dict[str, Any] = defaultdict(lambda: None, aspect="a", stopped="has stopped itself", active=False, states=0)
    assert _notes(aspect) == ["has stopped itself; klasy log a shows the rest of its log, and takes it out"]
    aspect["states"] = 2
    assert _notes(aspect) == [
        "has stopped itself; klasy log a shows the rest of its log, klasy stat a what it has kept; klasy unweave a "
        "takes it out"
    ]
