"""What to do at a syntax error: say it, and find a place to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.source import SourceFile, Span

if TYPE_CHECKING:
    from klasy.diag import DiagnosticBag
    from klasy.lang.lalr import Failure, Machine


def report(file: SourceFile, bag: DiagnosticBag, failure: Failure, start: str, end: int) -> None:
    """Say what is wrong inside quotes."""
    bag.error(
        "syntax", "syntax error", Span(file, failure.token.start, max(failure.token.end, failure.token.start + 1))
    )


def recover(machine: Machine, file: SourceFile, bag: DiagnosticBag, failure: Failure) -> int | None:
    """Say what is wrong, change the failure's stack so that parsing can go on, and return where; None to give up."""
    bag.error(
        "syntax", "syntax error", Span(file, failure.token.start, max(failure.token.end, failure.token.start + 1))
    )
    return None
