"""Diagnostics and how they are shown."""

from __future__ import annotations

import sys
import time

import pytest

from klasy.diag import Diagnostic, DiagnosticBag, Severity, render, suggest
from klasy.errors import InputError
from klasy.source import SourceFile, Span


def _span(text: str, marked: str, name: str = "a.asp") -> Span:
    start = text.index(marked)
    return Span(SourceFile(name, text), start, start + len(marked))


def _shown(text: str, marked: str) -> str:
    return render(Diagnostic(Severity.ERROR, "code", "message", _span(text, marked)))


def test_whole_form() -> None:
    """Place, kind, message, code; the line with its mark; related places; hints."""
    text = "one\ntwo three\nfour\n"
    file = SourceFile("a.asp", text)
    diagnostic = Diagnostic(
        Severity.WARNING, "some-code", "what is wrong", Span(file, 8, 13), ("how to mend it", "or so"),
        ((Span(file, 0, 3), "see here"),),
    )  # fmt: skip
    assert render(diagnostic) == (
        "a.asp:2:5: warning: what is wrong [some-code]\n"
        "    2 | two three\n"
        "      |     ^^^^^\n"
        "a.asp:1:1: note: see here\n"
        "    1 | one\n"
        "      | ^^^\n"
        "  hint: how to mend it\n"
        "  hint: or so"
    )


def test_without_a_place() -> None:
    """A finding about no particular text has no excerpt."""
    assert render(Diagnostic(Severity.ERROR, "code", "message")) == "error: message [code]"


def test_colour_is_only_in_the_kind() -> None:
    """Colour marks the severity and nothing else."""
    diagnostic = Diagnostic(Severity.ERROR, "code", "message")
    assert render(diagnostic, colour=True) == "\x1b[1;31merror\x1b[0m: message [code]"


@pytest.mark.parametrize(
    ("text", "marked", "lines"),
    [
        ("\tx = y;", "y", ["    1 | \tx = y;", "      | \t    ^"]),
        ("x = y;", ";", ["    1 | x = y;", "      |      ^"]),
        ("日本 = y", "y", ["    1 | 日本 = y", "      |        ^"]),
        (
            "e\u0301 = y",
            "y",
            ["    1 | e\N{REPLACEMENT CHARACTER} = y".replace("\N{REPLACEMENT CHARACTER}", "\u0301"), "      |     ^"],
        ),
        ("a\x1b[31m y", "y", ["    1 | a\N{REPLACEMENT CHARACTER}[31m y", "      |        ^"]),
        ("one\r\ntwo\r\n", "two", ["    2 | two", "      | ^^^"]),
    ],
)
def test_mark_stands_under_its_place(text: str, marked: str, lines: list[str]) -> None:
    """Tabs, wide and combining characters and control characters do not move the mark, nor reach the terminal."""
    assert _shown(text, marked).splitlines()[1:] == lines


def test_mark_of_an_empty_place() -> None:
    """A place between two characters, or at the end of the text, is marked by one caret."""
    file = SourceFile("a.asp", "ab")
    assert render(Diagnostic(Severity.ERROR, "c", "m", Span(file, 2, 2))).splitlines()[2] == "      |   ^"


def test_mark_of_several_lines() -> None:
    """Of a place that goes over several lines, the first is shown."""
    file = SourceFile("a.asp", "ab (\ncd)\n")
    assert render(Diagnostic(Severity.ERROR, "c", "m", Span(file, 3, 8))).splitlines()[1:] == [
        "    1 | ab (",
        "      |    ^",
    ]


def test_long_lines_are_cut() -> None:
    """Of a long line, what is around the place is shown, with the mark under it."""
    text = "x" * 1000 + "here" + "y" * 1000
    line, mark = _shown(text, "here").splitlines()[1:]
    assert len(line) < 160
    assert line[mark.index("^") :].startswith("here")
    assert line.count("..") == 2


def test_messages_cannot_command_the_terminal() -> None:
    """Control characters in what a message quotes are replaced."""
    assert "\x1b" not in render(Diagnostic(Severity.ERROR, "c", "bad \x1b[2J", hints=("\x07",)))


def test_bag_raises_with_everything_in_source_order() -> None:
    """A stage ends with all it found, sorted by place; warnings alone do not end it."""
    file = SourceFile("a.asp", "abc")
    bag = DiagnosticBag()
    bag.warning("late", "late", Span(file, 2, 3))
    bag.raise_if_errors()
    bag.error("middle", "middle", Span(file, 1, 2))
    bag.error("early", "early", Span(file, 0, 1))
    with pytest.raises(InputError, match="2 errors") as caught:
        bag.raise_if_errors()
    assert [d.code for d in caught.value.diagnostics] == ["early", "middle", "late"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("exection", ["execution"]),
        ("rvc", ["rcv"]),
        ("exec", ["execution"]),
        ("lst", ["list"]),
        ("buf", []),
        ("befor", ["before"]),
        ("zzz", []),
    ],
)
def test_suggestions(word: str, meant: list[str]) -> None:
    """Near names are found: misspelt, with neighbours swapped, abbreviated; others are not."""
    assert suggest(word, ["execution", "rcv", "list", "before", "pointcut"]) == meant


def test_suggestions_are_few_and_once() -> None:
    """No more than the limit, and none twice."""
    found = suggest("abcd", ["abcde", "abcdf", "abcdg", "abcdh", "abcde"], limit=3)
    assert len(found) == len(set(found)) == 3


def test_light_import() -> None:
    """Only an error needs difflib and unicodedata."""
    import subprocess

    code = "import sys, klasy.diag; sys.exit(bool({'difflib', 'unicodedata'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_thousands_of_errors() -> None:
    """Each is kept once, in no time that would be noticed."""
    bag = DiagnosticBag()
    file = SourceFile("a.asp", "x" * 4000)
    start = time.process_time()
    for _ in range(2):
        for at in range(2000):
            bag.error("unknown-name", f"'x{at}' is not known here", Span(file, at, at + 1))
    assert len(bag.items) == 2000
    assert time.process_time() - start < 5


def test_a_long_place_is_cut() -> None:
    """Of a long line marked as a whole the beginning is shown, and that it goes on."""
    file = SourceFile("a.asp", "aspect " + "x" * 500 + " {")
    text = render(Diagnostic(Severity.ERROR, "c", "m", Span(file, 7, 507)))
    assert text.splitlines()[1] == "    1 | aspect " + "x" * 160 + ".."
    assert text.splitlines()[2] == "      | " + " " * 7 + "^" * 160
