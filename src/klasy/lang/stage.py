"""What can be written but is not built yet: refused here, each with the same kind of error.

An entry goes when its construct works from parsing to the log. The list is the whole of what is missing.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.resolve import is_broken
from klasy.lang.walk import nodes
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.diag import DiagnosticBag

# Node of the tree: how the construct is called.
_NODES: dict[type[ast.Node], str] = {}  # none by now

FUNCTIONS: frozenset[str] = frozenset()  # of the language; none by now


def check_built(tree: ast.File, bag: DiagnosticBag, broken: Sequence[int] = ()) -> None:
    """Report everything in a file that is not built yet, but for the parts in which the syntax is ``broken``."""
    said = {d.span.start for d in bag.errors if d.span is not None}
    for aspect in tree.aspects:
        for part in (*aspect.pointcuts, *aspect.state, *aspect.functions, *aspect.advice):
            if not is_broken(part, broken):
                _check_part(part, bag, said)


def _check_part(part: ast.Node, bag: DiagnosticBag, said: set[int]) -> None:
    for node in nodes(part):
        what = _NODES.get(type(node))
        span = node.span
        if isinstance(node, ast.Apply) and isinstance(node.callee, ast.Name) and node.callee.name in FUNCTIONS:
            what = f"'{node.callee.name}'"
        if what and span.start not in said:  # what is wrong besides is said first
            bag.error("not-built-yet", f"{what} is not built yet", span)
