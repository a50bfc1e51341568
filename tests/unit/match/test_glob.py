"""Wildcards in names."""

from __future__ import annotations

import fnmatch
import re

from hypothesis import given
from hypothesis import strategies as st

from klasy.match.glob import is_glob, matches, star


@given(st.text("ab_*", max_size=8), st.text("ab_", max_size=8))
def test_agrees_with_the_standard_library(pattern: str, name: str) -> None:
    """A pattern matches what the same pattern as a regular expression matches."""
    assert matches(pattern, name) == bool(re.match(fnmatch.translate(pattern), name))


def test_percent_is_a_wildcard_too() -> None:
    """``%`` stands for any run of characters, like ``*``."""
    assert matches("tcp_%ack", "tcp_send_ack")
    assert star("a%*b") == "a*b"
    assert is_glob("a%")
    assert not is_glob("a_b")
