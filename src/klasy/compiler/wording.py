"""Words for messages: types with their articles, expressions as the user may write them."""

from __future__ import annotations

from klasy.compiler.types import Array, CType, Opaque, Shown, String, Struct, Void
from klasy.lang import ast


def quoted(node: ast.Expr) -> str:
    """An expression as written, in quotes."""
    return f"'{node.span.text}'"


def operand_text(node: ast.Expr) -> str:
    """The text of an expression as the operand of a cast or ``*``: in parentheses where it needs them."""
    text = node.span.text
    simple = isinstance(node, ast.Name | ast.Member | ast.Index | ast.IntLiteral | ast.Apply)
    return text if simple or text.startswith("(") else f"({text})"


def tag_word(kind: CType) -> str:
    """``struct`` or ``union``."""
    return "union" if kind.name.startswith("union") or (isinstance(kind, Struct) and kind.is_union) else "struct"


def a_type(kind: CType) -> str:
    """A type with its article, for messages."""
    if isinstance(kind, String):
        return "a string"
    if isinstance(kind, Void):
        return "void"
    if isinstance(kind, Shown):
        return kind.name
    if isinstance(kind, Array):
        return f"an array, '{kind.name}'"
    if isinstance(kind, Opaque):
        return f"'{kind.name}', which klasy does not compute with"
    return f"'{kind.name}'"
