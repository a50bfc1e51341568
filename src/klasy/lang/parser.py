"""From the text of an aspect file to its tree, with all the syntax errors of the file in one go."""

from __future__ import annotations

from klasy.diag import Diagnostic, Severity
from klasy.lang.build import AstBuilder
from klasy.lang.lalr import MAX_DEPTH, Failure, Machine, TooDeep
from klasy.plain import TYPE_CHECKING
from klasy.source import SourceFile, Span

if TYPE_CHECKING:
    from typing import Any

    from klasy.diag import DiagnosticBag
    from klasy.lang import ast
    from klasy.lang.recover import Recovery

_machine: Machine | None = None


def machine() -> Machine:
    """The parser's tables, decoded once."""
    global _machine  # noqa: PLW0603  # one set of tables serves the process
    if _machine is None:
        _machine = Machine()
    return _machine


# How a text between quotes is called, by its start symbol.
_INNER = {
    "signature": "signature",
    "data": "data pattern",
    "event_name": "event",
    "instruction": "place",
}


def parse(file: SourceFile, bag: DiagnosticBag) -> ast.File | None:
    """The tree of a file. Errors go into the bag; what they spoilt is missing from the tree, or replaced.

    None where nothing could be made of it.
    """
    return _FileParser(file, bag).parse()


class ExtraBrace(Exception):
    """A ``}`` at the offset ``brace`` closed an aspect too early: a member of one follows it. Read on without it."""

    def __init__(self, brace: int, start: int, end: int) -> None:
        super().__init__("a closing brace too many")
        self.brace = brace
        self.start = start
        self.end = end


class _FileParser:
    """Parses one file."""

    def __init__(self, file: SourceFile, bag: DiagnosticBag) -> None:
        self.file = file
        self.bag = bag
        self.text = file.text
        self.builder = AstBuilder(file, bag, self._inner)
        self._recovery: Recovery | None = None

    def parse(self) -> ast.File | None:
        kept = len(self.bag.items)
        extra: list[Diagnostic] = []
        while True:
            try:
                tree: ast.File | None = machine().parse(
                    self.text, "file", self.builder, lambda failure: self._recover().handle(failure)
                )
            except TooDeep as problem:
                place = Span(self.file, problem.start, problem.start + 1)
                hint = f"of operators in a row each stands in the next, too: more than {MAX_DEPTH} must be split"
                self.bag.error("too-deep", "this is nested too deeply to be read", place, hints=[hint])
                tree = None
            except ExtraBrace as problem:
                # Read all of it again without that brace; what was found before is found again.
                extra.append(self._extra_brace(problem))
                self.text = self.text[: problem.brace] + " " + self.text[problem.brace + 1 :]
                del self.bag.items[kept:]
                self._recovery = None
                continue
            self.bag.items += extra
            return tree

    def _extra_brace(self, problem: ExtraBrace) -> Diagnostic:
        place = Span(self.file, problem.start, problem.end)
        brace = Span(self.file, problem.brace, problem.brace + 1)
        message = f"'{place.text}' must stand in an aspect"
        return Diagnostic(
            Severity.ERROR, "outside-aspect", message, place, related=((brace, "this closed the aspect"),)
        )

    def _recover(self) -> Recovery:
        if self._recovery is None:
            from klasy.lang.recover import Recovery

            self._recovery = Recovery(machine(), self.file, self.text, self.bag, self.builder)
        return self._recovery

    def _inner(self, start: str, begin: int, end: int) -> Any:
        """What stands between quotes, read as another start; None where it is wrong."""

        def handle(failure: Failure) -> None:
            self._recover().report_inner(failure, _INNER[start], end)

        return machine().parse(self.text, start, self.builder, handle, begin=begin, end=end)
