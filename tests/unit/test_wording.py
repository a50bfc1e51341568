"""What messages have in common, whoever says them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import klasy

SOURCES = sorted(Path(klasy.__file__).parent.rglob("*.py"))


def _texts(tree: ast.AST) -> list[ast.Constant]:
    """The strings of a module, but for docstrings."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [node for node in nodes if id(node) not in documentation]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCES[0].parent)))
def test_names_stand_in_straight_quotes(path: Path) -> None:
    """No message sets a name off by backquotes: all use 'name'."""
    if path.name == "generate.py":  # writes the documentation of a module
        return
    wrong = [(node.lineno, node.value) for node in _texts(ast.parse(path.read_text())) if "`" in str(node.value)]
    assert wrong == []
