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
