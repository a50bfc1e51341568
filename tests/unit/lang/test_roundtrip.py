"""Printing a tree and reading it again gives the same tree."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from support import astgen

from klasy.lang import ast, parse_file
from klasy.lang.printer import print_expr, print_file, print_pointcut, print_statement
from klasy.lang.walk import transform
from klasy.plain import replace
from klasy.source import SourceFile


def _first_readings(tree: ast.File) -> ast.File:
    """Without the second readings of signatures, which follow from how the first is written."""
    return transform(tree, lambda n: replace(n, other=None) if isinstance(n, ast.Signature) else n)


def _read(text: str) -> ast.File:
    return _first_readings(parse_file(SourceFile("printed.asp", text)))


_QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@_QUICK
@given(astgen.files)
def test_files(tree: ast.File) -> None:
    """Whatever the grammar can produce is printed so that it is read as it was, and printed as it was."""
    text = print_file(tree)
    assert _read(text) == tree
    assert print_file(parse_file(SourceFile("printed.asp", text))) == text


@_QUICK
@given(astgen.expressions)
def test_expressions(expr: ast.Expr) -> None:
    """An expression gets the parentheses that it needs."""
    tree = _read(f"aspect a {{ before(): if({print_expr(expr)}) {{}} }}")
    pointcut = tree.aspects[0].advice[0].pointcut
    assert isinstance(pointcut, ast.If)
    assert pointcut.condition == expr


@_QUICK
@given(astgen.statements)
def test_statements(statement: ast.Stmt) -> None:
    """A statement is printed so that no expression is taken for a declaration, and no `else` goes astray."""
    tree = _read(f"aspect a {{ before() {{ {print_statement(statement)} }} }}")
    assert tree.aspects[0].advice[0].body == ast.Block(astgen.SPAN, (statement,))


@_QUICK
@given(astgen.pointcuts)
def test_pointcuts(pointcut: ast.Pointcut) -> None:
    """A pointcut gets the parentheses that it needs."""
    tree = _read(f"aspect a {{ pointcut {print_pointcut(pointcut)}; }}")
    assert tree.aspects[0].pointcuts[0].expr == pointcut
