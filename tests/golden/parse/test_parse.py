"""What is said of wrong aspects, as the user reads it, and how right ones are read."""

from __future__ import annotations

import pytest
from golden.harness import Case, cases, check
from support.asttext import dump

from klasy.diag import render
from klasy.errors import InputError
from klasy.lang import load, parse_file
from klasy.source import SourceFile


def _errors(text: str) -> str:
    with pytest.raises(InputError) as caught:
        load(SourceFile("test.asp", text))
    return "\n".join(render(diagnostic) for diagnostic in caught.value.diagnostics)


@pytest.mark.parametrize("case", cases("parse", "bad_*.test"), ids=str)
def test_errors(case: Case, update_golden: bool) -> None:
    """A wrong aspect is refused with these messages, all in one go."""
    check(case, _errors(case.input), update_golden)


@pytest.mark.parametrize("case", cases("parse", "good_*.test"), ids=str)
def test_reading(case: Case, update_golden: bool) -> None:
    """A right file becomes this tree."""
    check(case, dump(parse_file(SourceFile("test.asp", case.input))), update_golden)
