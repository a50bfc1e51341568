"""What the aspects of a file can name of each other's, and which parts of the file errors of its syntax touched."""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.walk import transform
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeVar

    from klasy.diag import DiagnosticBag
    from klasy.lang.functions import Functions
    from klasy.source import SourceFile

    N = TypeVar("N", bound=ast.Node)


def broken_places(bag: DiagnosticBag) -> list[int]:
    """The offsets of the errors in a bag."""
    return [d.span.start for d in bag.errors if d.span is not None]


def is_broken(node: ast.Node, broken: Sequence[int]) -> bool:
    """Whether one of the errors is in a node, or right behind it, where something is missing."""
    return any(node.span.start <= place <= node.span.end for place in broken)


class Scope:
    """The aspects that those of a file can name: the file's own and those it imports."""

    def __init__(
        self,
        visible: Mapping[str, ast.AspectDecl],
        everything: Mapping[str, ast.AspectDecl],
        *,
        source: SourceFile,
        broken: Sequence[int],
        lame: bool,
        whole: bool,
    ) -> None:
        self.visible = visible
        self.everything = everything
        self.source = source
        self.broken = broken
        self.lame = lame
        self.whole = whole
        self._foreign: dict[str, ast.PointcutDecl] | None = None
        self.functions: Functions | None = None
        if any(aspect.functions for aspect in self.everything.values()):
            from klasy.lang.functions import Functions  # few aspects have any

            self.functions = Functions(self.everything)

    def is_broken(self, node: ast.Node) -> bool:
        """Whether an error of the syntax touched a part of the file."""
        return node.span.file is self.source and is_broken(node, self.broken)

    def settled(self, node: N, aspect: ast.AspectDecl) -> N:
        """A part of an aspect in which functions are called by their whole names."""
        if self.functions is None:
            return node
        from klasy.lang.functions import settled

        return settled(node, aspect, self.everything)

    def foreign(self) -> dict[str, ast.PointcutDecl]:
        """The named pointcuts of all aspects, as ``aspect.name``; and so do they refer to others."""
        if self._foreign is None:
            self._foreign = {
                f"{aspect.name}.{declaration.name}": self.settled(_qualified(declaration, aspect.name), aspect)
                for aspect in self.everything.values()
                for declaration in aspect.pointcuts
                if declaration.name is not None
            }
        return self._foreign

    def visible_pointcuts(self) -> list[str]:
        """All that could be written as ``aspect.name``."""
        return [f"{a.name}.{p.name}" for a in self.visible.values() for p in a.pointcuts if p.name is not None]


def _qualified(declaration: ast.PointcutDecl, aspect: str) -> ast.PointcutDecl:
    """A pointcut as it is seen from another aspect."""

    def change(node: ast.Node) -> ast.Node:
        if isinstance(node, ast.PointcutRef) and "." not in node.name:
            return replace(node, name=f"{aspect}.{node.name}")
        return node

    return transform(declaration, change)
