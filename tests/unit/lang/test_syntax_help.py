"""The table of wrong inputs: each does what it is there for."""

from __future__ import annotations

import re

import pytest
from golden.harness import Case, cases

from klasy.errors import InputError
from klasy.lang import parse_file
from klasy.lang.lalr import END, Machine
from klasy.lang.syntax_help import MARK, NAMED, Named, SyntaxHelp
from klasy.source import SourceFile

_CASES = [(named, example) for named in NAMED for example in named.examples]


def _codes(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_file(SourceFile("test.asp", text))
    return [d.code for d in caught.value.diagnostics]


@pytest.mark.parametrize(("named", "example"), _CASES, ids=[e for _, e in _CASES])
def test_examples_get_their_message(named: Named, example: str) -> None:
    """An example of a named error, as a text of its own, is told that error."""
    before, found = example.split(MARK)
    found = {"string": '"text"', "number": "1"}.get(found, found)
    assert named.code in _codes(before + found + " ")


@pytest.mark.parametrize("case", cases("parse", "good_*.test"), ids=str)
def test_what_is_expected_is_said_in_the_users_terms(case: Case) -> None:
    """Wherever a program may break off, what could follow is named as the user knows it, and something could."""
    known = re.compile(r"an? [a-z]+|'[^'A-Z]+'|'%\{ C %\}'|a text in quotes")
    machine = Machine()
    help_ = SyntaxHelp(machine)
    stack, position = machine.start("file"), 0
    while True:
        expected = help_.expected(stack.states)
        assert expected
        assert [part for part in expected if not known.fullmatch(part)] == []
        token = machine.lex(case.input, position, len(case.input), stack.states[-1])
        if token.kind == END:
            break
        assert machine.advance(stack, token, None)
        position = token.end
