"""No text makes the parser do anything but read it or say what is wrong with it."""

from __future__ import annotations

import time

from golden.harness import cases
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from klasy.diag import Diagnostic, render
from klasy.errors import InputError
from klasy.lang import load
from klasy.lang.recover import MAX_ERRORS
from klasy.source import SourceFile

_SEEDS = [case.input for case in cases("parse")]
_PIECES = [
    "{", "}", "(", ")", "[", "]", ";", ",", ":", '"', "'", "/*", "*/", "//", "%{", "%}", "*", "..", "...", "&&", "||",
    "!", "=", "->", ".", "aspect", "pointcut", "before", "after", "around", "returning", "call(", "if", "else", "for",
    "struct", "u32 ", "log(", "0x", "\\", "\n", "\t", "“", "é", "\0", "\x1b", "#", "import", "delete", "x",
]  # fmt: skip


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """A good or bad program with some pieces cut out, doubled, swapped or put in."""
    text = draw(st.sampled_from(_SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        change = draw(st.sampled_from(["cut", "double", "put", "move"]))
        if change == "cut":
            text = text[:start] + text[end:]
        elif change == "double":
            text = text[:end] + text[start:]
        elif change == "put":
            text = text[:start] + draw(st.sampled_from(_PIECES)) + text[end:]
        else:
            text = text[:start] + text[end:] + text[start:end]
    return text


def _check(text: str) -> None:
    begin = time.process_time()  # whatever else the machine does
    diagnostics: tuple[Diagnostic, ...] = ()
    try:
        load(SourceFile("fuzzed.asp", text))
    except InputError as error:
        diagnostics = error.diagnostics
    assert len([d for d in diagnostics if d.code in ("unexpected", "too-many-errors")]) <= MAX_ERRORS + 1
    for diagnostic in diagnostics:
        assert diagnostic.span is not None
        assert 0 <= diagnostic.span.start <= diagnostic.span.end <= len(text)
        assert "\x1b" not in render(diagnostic)
        for name in ("LPAR", "RBRACE", "$END", "CBODY", "__", "ERROR"):
            assert name not in diagnostic.message or name in text, diagnostic.message
    assert time.process_time() - begin < 5  # one second


_SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@_SETTINGS
@given(_mutated())
def test_mutated_programs(text: str) -> None:
    """A damaged program is read, or refused with errors that have a place and speak the language's own terms."""
    _check(text)


@_SETTINGS
@given(st.lists(st.sampled_from(_PIECES), max_size=40).map(" ".join))
@example("aspect a { " + "before() { " * 30)
@example("aspect a { before() { " + "(" * 5000)
@example("aspect a { before() { x = " + "a + " * 3000 + "a; } }")
@example("aspect a { pointcut " + "!" * 3000 + "call(x); }")
@example("aspect a { before() { " + "if (x) " * 3000 + "; } }")
@example("}" * 3000)
@example("aspect a { " + "x " * 3000)
@example("aspect a { before() {" + "log(1) " * 500 + "} }")
@example("aspect a { before() { log(" + "9" * 10000 + "); } }")
@example("/*" * 3000)
@example("\0" * 100)
@example("aspect a { }}}}}}} before() {}")
def test_heaps_of_tokens(text: str) -> None:
    """The same for texts that were never a program, and for absurd ones."""
    _check(text)
