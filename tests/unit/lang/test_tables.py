"""The tracked tables are those of the grammar, and our automaton reads what lark's own parser reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden.harness import cases
from hypothesis import HealthCheck, given, settings
from support import astgen

from klasy import resources
from klasy.lang import _tables, ast, generate
from klasy.lang.lalr import Failure, Machine, Token
from klasy.lang.printer import print_file


class _TreeBuilder:
    """Makes the tree that lark makes."""

    def build(self, name: str, children: list[Any], start: int, end: int) -> Any:
        return name, [c.text if isinstance(c, Token) else c for c in children]


def _refuse(failure: Failure) -> None:
    return None


@pytest.fixture(scope="module")
def oracle() -> Any:
    return generate.build_lark(resources.grammar_text())


def _ours(text: str) -> Any:
    return Machine().parse(text, "file", _TreeBuilder(), _refuse)


def _larks(oracle: Any, text: str) -> Any:
    from lark import Tree
    from lark.exceptions import LarkError

    def plain(node: Any) -> Any:
        return (str(node.data), [plain(c) for c in node.children]) if isinstance(node, Tree) else str(node)

    try:
        return plain(oracle.parse(text, start="file"))
    except LarkError:
        return None


def test_tables_are_up_to_date() -> None:
    """Generating the tables again gives the tracked file. If not: python -m klasy.lang.generate."""
    tracked = Path(_tables.__file__).read_text(encoding="utf-8")
    assert generate.generate(resources.grammar_text()) == tracked


# Lark knows no limit of depth.
@pytest.mark.parametrize("case", [c for c in cases("parse") if c.name != "too_deep"], ids=str)
def test_same_reading_as_lark(case: Any, oracle: Any) -> None:
    """Right or wrong, a text is to us what it is to lark: the same tree, or none."""
    assert _ours(case.input) == _larks(oracle, case.input)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(astgen.files)
def test_same_reading_of_anything(oracle: Any, tree: ast.File) -> None:
    """The same for whatever the grammar can produce."""
    text = print_file(tree)
    found = _ours(text)
    assert found is not None
    assert found == _larks(oracle, text)
