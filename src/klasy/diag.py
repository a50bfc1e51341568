"""Diagnostics: what is wrong, where, and how to mend it; and how that is shown.

A stage adds to a :class:`DiagnosticBag` and goes on; the pipeline stops at the end of the first stage that
found an error, so that all errors of a file come in one go.
"""

from __future__ import annotations

import difflib
import enum
from typing import TYPE_CHECKING

from klasy.errors import InputError
from klasy.plain import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klasy.source import Span


class Severity(enum.Enum):
    """How bad a diagnostic is. Only errors stop a weave."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Diagnostic:
    """One finding. ``code`` is a stable kebab-case name, ``hints`` say how to mend it."""

    severity: Severity
    code: str
    message: str
    span: Span | None = None
    hints: tuple[str, ...] = ()
    related: tuple[tuple[Span, str], ...] = ()


@dataclass()
class DiagnosticBag:
    """Collects the findings of a stage."""

    items: list[Diagnostic] = field(default_factory=list)

    def error(
        self,
        code: str,
        message: str,
        span: Span | None = None,
        *,
        hints: Sequence[str] = (),
        related: Sequence[tuple[Span, str]] = (),
    ) -> None:
        """Add an error."""
        self.items.append(Diagnostic(Severity.ERROR, code, message, span, tuple(hints), tuple(related)))

    def warning(self, code: str, message: str, span: Span | None = None, *, hints: Sequence[str] = ()) -> None:
        """Add a warning (a lint): the weave goes on."""
        self.items.append(Diagnostic(Severity.WARNING, code, message, span, tuple(hints)))

    @property
    def errors(self) -> list[Diagnostic]:
        """The errors among the findings."""
        return [d for d in self.items if d.severity is Severity.ERROR]

    def raise_if_errors(self) -> None:
        """End the stage: raise :class:`InputError` with everything found if any of it is an error."""
        errors = self.errors
        if errors:
            items = sorted(self.items, key=_source_order)
            raise InputError(f"{len(errors)} error{'s' if len(errors) != 1 else ''}", items)


def _source_order(diagnostic: Diagnostic) -> tuple[str, int]:
    span = diagnostic.span
    return (span.file.name, span.start) if span else ("", 0)


def suggest(word: str, candidates: Iterable[str], limit: int = 3) -> list[str]:
    """Names near ``word``, best first: what was probably meant."""
    return difflib.get_close_matches(word, list(candidates), n=limit, cutoff=0.7)


_COLOURS = {Severity.ERROR: "\x1b[1;31m", Severity.WARNING: "\x1b[1;35m", Severity.NOTE: "\x1b[1;36m"}


def render(diagnostic: Diagnostic, *, colour: bool = False) -> str:
    """The diagnostic as text: place, message, the source line with the place marked, hints."""
    kind = diagnostic.severity.value
    if colour:
        kind = f"{_COLOURS[diagnostic.severity]}{kind}\x1b[0m"
    lines = []
    span = diagnostic.span
    head = f"{kind}: {diagnostic.message} [{diagnostic.code}]"
    if span is None:
        lines.append(head)
    else:
        lines.append(f"{span.file.name}:{span.line}:{span.column}: {head}")
        lines += _excerpt(span)
    for related_span, text in diagnostic.related:
        lines.append(f"{related_span.file.name}:{related_span.line}:{related_span.column}: note: {text}")
        lines += _excerpt(related_span)
    lines += [f"  hint: {hint}" for hint in diagnostic.hints]
    return "\n".join(lines)


def _excerpt(span: Span) -> list[str]:
    line = span.line
    text = span.file.line(line)
    column = span.column
    width = max(1, min(span.end - span.start, len(text) - column + 1))
    # Tabs are kept in the margin, so that the mark stands under its place in any terminal.
    margin = "".join(c if c == "\t" else " " for c in text[: column - 1])
    return [f"{line:5} | {text}", f"      | {margin}{'^' * width}"]
