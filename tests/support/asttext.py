"""A tree as text: a node a line, its plain fields beside it, its children indented below. Defaults are left out."""

from __future__ import annotations

from typing import Any

from klasy.lang.ast import Node
from klasy.plain import Enum
from klasy.source import SourceFile, Span


def dump(node: Node, indent: int = 0, label: str = "") -> str:
    """The text of a node and all below it."""
    plain, below = [], []
    for field in node.__plain_fields__:  # type: ignore[attr-defined]
        name, value = field.name, getattr(node, field.name)
        if isinstance(value, Span | SourceFile) or value is None or value == field.default:
            continue
        if isinstance(value, Node) or (isinstance(value, tuple) and value and isinstance(value[0], Node)):
            below.append((name, value))
        elif value != () or name == "params":  # whose absence and emptiness differ
            plain.append(f"{name}={_plain(value)}")
    lines = ["  " * indent + label + " ".join([type(node).__name__, *plain])]
    for name, value in below:
        for item in value if isinstance(value, tuple) else (value,):
            lines.append(dump(item, indent + 1, f"{name}: "))
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return value.name if isinstance(value, Enum) else repr(value)
