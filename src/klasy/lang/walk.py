"""Walking the tree: the children of a node, the names in an expression, copies with parts changed."""

from __future__ import annotations

from klasy.lang import ast
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, TypeVar

    N = TypeVar("N", bound=ast.Node)


def children(node: ast.Node) -> Iterator[ast.Node]:
    """The nodes directly below one, in the order of its fields."""
    for value in vars(node).values():
        if isinstance(value, ast.Node):
            yield value
        elif isinstance(value, tuple):
            for item in value:
                if isinstance(item, ast.Node):
                    yield item


def nodes(node: ast.Node) -> Iterator[ast.Node]:
    """A node and all below it, from the top."""
    left = [node]
    while left:
        node = left.pop()
        yield node
        left += reversed([*children(node)])


def free_names(expr: ast.Expr) -> Iterator[ast.Name]:
    """All names in an expression, in its order. (A member's name is none.)"""
    for node in nodes(expr):
        if isinstance(node, ast.Name):
            yield node


def transform(node: N, change: Callable[[ast.Node], ast.Node]) -> N:
    """A copy in which ``change`` has been applied to every node, the lowest first. Shares what did not change."""

    def value_of(value: Any) -> Any:
        if isinstance(value, ast.Node):
            return transform(value, change)
        if isinstance(value, tuple):
            items = tuple(value_of(item) for item in value)
            return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
        return value

    old = vars(node)
    new = {name: value_of(value) for name, value in old.items()}
    changed = {name: value for name, value in new.items() if value is not old[name]}
    result: Any = change(replace(node, **changed) if changed else node)
    return result  # type: ignore[no-any-return]  # a change keeps the kind of node where the field demands it


def rename(expr: ast.Expr, names: Mapping[str, str]) -> ast.Expr:
    """A copy of an expression with its names changed."""

    def change(node: ast.Node) -> ast.Node:
        return replace(node, name=names[node.name]) if isinstance(node, ast.Name) and node.name in names else node

    return transform(expr, change)
