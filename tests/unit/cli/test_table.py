"""Tables, numbers and times for people."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.cli.table import coloured, duration, plural, shown, table


def test_table():
    """Columns are as wide as their widest cell; numbers stand to the right; no blanks at line ends."""
    assert table(["NAME", "HITS", "WHERE"], [["a", 1, "here"], ["longer", 1000, None]]).splitlines() == [
        "NAME    HITS  WHERE",
        "a          1  here",
        "longer  1000",
    ]


def test_numbers_with_a_mark_stand_to_the_right_too():
    """A mark behind a number leaves it a number; words do not."""
    lines = table(["N", "T"], [["1+", "2 s"], ["100", "10 min"]]).splitlines()
    assert lines == ["  N  T", " 1+  2 s", "100  10 min"]


@given(st.text())
def test_shown_is_printable(text):
    """Nothing that is shown commands the terminal, and no character is lost."""
    assert shown(text).isprintable()
    assert len(shown(text)) == len(text)


@pytest.mark.parametrize(
    ("number", "noun", "text"), [(1, "hit", "1 hit"), (0, "hit", "0 hits"), (2, "copy", "2 copies")]
)
def test_plural(number, noun, text):
    """One is one, all else is several."""
    assert plural(number, noun) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (185, "3 min 5 s"), (3600, "1 h"), (90061, "1 d 1 h")],
)
def test_duration(seconds, text):
    """A time span in the two largest units that say something."""
    assert duration(seconds) == text


def test_colour(monkeypatch):
    """Colour only on a terminal, and only where it is welcome."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured(Terminal())
    assert not coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not coloured(Terminal())
