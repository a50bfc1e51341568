"""From the text of an aspect file to its tree, with all the syntax errors of the file in one go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klasy.lang.build import AstBuilder
from klasy.lang.lalr import Failure, Machine, TooDeep
from klasy.source import SourceFile, Span

if TYPE_CHECKING:
    from klasy.diag import DiagnosticBag
    from klasy.lang import ast

_machine: Machine | None = None


def machine() -> Machine:
    """The parser's tables, decoded once."""
    global _machine  # noqa: PLW0603  # one set of tables serves the process
    if _machine is None:
        _machine = Machine()
    return _machine


def parse(file: SourceFile, bag: DiagnosticBag) -> ast.File | None:
    """The tree of a file. Errors go into the bag; what they spoilt is missing from the tree, or replaced.

    None where nothing could be made of it.
    """
    from klasy.lang.ast import File

    def inner(start: str, begin: int, end: int) -> Any:
        def handle(failure: Failure) -> None:
            from klasy.lang import recover

            recover.report(file, bag, failure, start, end)

        return machine().parse(file.text, start, builder, handle, begin=begin, end=end)

    def handle(failure: Failure) -> int | None:
        from klasy.lang import recover

        return recover.recover(machine(), file, bag, failure)

    builder = AstBuilder(file, bag, inner)
    try:
        tree = machine().parse(file.text, "file", builder, handle)
    except TooDeep as problem:
        place = Span(file, problem.start, problem.end)
        bag.error("too-deep", "this is nested too deeply to be read", Span(file, place.start, place.start + 1))
        return None
    return tree if isinstance(tree, File) else None
