"""Times on a command line."""

from __future__ import annotations

import pytest

from klasy.cli.times import seconds
from klasy.errors import UsageError


@pytest.mark.parametrize(
    ("text", "span"),
    [("500ms", 0.5), ("10s", 10), ("10", 10), ("1.5m", 90), ("2min", 120), ("1h", 3600), ("1d", 86400)],
)
def test_times(text, span):
    """Times as people write them."""
    assert seconds(text) == span


@pytest.mark.parametrize("text", ["", "s", "ten", "10x", "0", "-1s", "nan", "inf", "1e9h"])
def test_no_times(text):
    """What is no time, or none that can be waited for, is wrong usage."""
    with pytest.raises(UsageError):
        seconds(text)
