"""Source texts and places in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from klasy.source import SourceFile, Span


def test_positions() -> None:
    """Lines and columns count from 1; a line's end belongs to the line."""
    file = SourceFile("a.asp", "ab\n\ncd")
    assert [file.position(i) for i in range(7)] == [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2), (3, 3)]


def test_lines() -> None:
    """A line comes without its end; behind a final line end there is one more, empty."""
    file = SourceFile("a.asp", "ab\n\ncd\n")
    assert [file.line(i) for i in range(1, 5)] == ["ab", "", "cd", ""]


def test_empty_text() -> None:
    """An empty text has one empty line."""
    file = SourceFile("a.asp", "")
    assert file.position(0) == (1, 1)
    assert file.line(1) == ""


@given(st.text(alphabet="ab\n"), st.data())
def test_position_leads_back(text: str, data: st.DataObject) -> None:
    """Line and column of an offset name the same character."""
    file = SourceFile("a.asp", text)
    offset = data.draw(st.integers(0, len(text)))
    line, column = file.position(offset)
    assert file.line_starts[line - 1] + column - 1 == offset
    assert "\n" not in file.line(line)
    assert (file.line(line) + "\n")[column - 1] == (text + "\n")[offset]


def test_spans() -> None:
    """A span knows its text and place, and reaches to another in either order."""
    file = SourceFile("a.asp", "one\ntwo three")
    two, three = Span(file, 4, 7), Span(file, 8, 13)
    assert (two.text, two.line, two.column) == ("two", 2, 1)
    assert two.to(three).text == three.to(two).text == "two three"
    assert repr(three) == "a.asp:2:5"
