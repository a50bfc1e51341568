"""Diagnostics: what is wrong, where, and how to mend it; and how that is shown.

A stage adds to a :class:`DiagnosticBag` and goes on; the pipeline stops at the end of the first stage that
found an error. What is sound of the file is judged by the later ones all the same (``klasy.lang.remains``), so that all
errors of a file come in one go.
"""

from __future__ import annotations

from klasy.errors import InputError
from klasy.plain import TYPE_CHECKING, Enum, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klasy.source import Span


class Severity(Enum):
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
        """Add an error, unless the very same was found before: what several advice share is judged with each.

        Of ``hints`` the empty ones are left out.
        """
        diagnostic = Diagnostic(Severity.ERROR, code, message, span, tuple(h for h in hints if h), tuple(related))
        # Thousands of errors, each compared with all others, would take a minute: first what is quickly compared.
        where = span.start if span is not None else -1
        for other in self.items:
            if other.message == message and (other.span.start if other.span else -1) == where and other == diagnostic:
                return
        self.items.append(diagnostic)

    def warning(self, code: str, message: str, span: Span | None = None, *, hints: Sequence[str] = ()) -> None:
        """Add a warning (a lint): the weave goes on."""
        self.items.append(Diagnostic(Severity.WARNING, code, message, span, tuple(h for h in hints if h)))

    def add_unsaid(self, found: Iterable[Diagnostic]) -> None:
        """Add what another stage found, but for what the bag has of the same kind at the same place."""
        said = {(d.code, d.span) for d in self.items}
        self.items += [d for d in found if (d.code, d.span) not in said]

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
    """Names near ``word``, best first: what was probably meant.

    Near are names that resemble it as a whole, that differ by one slip of the fingers, or that it abbreviates. Meant
    for short lists: the names of a kernel have their own search.
    """
    import difflib  # only errors need it

    names = list(dict.fromkeys(candidates))
    found = difflib.get_close_matches(word, names, n=limit, cutoff=0.7)
    found += [name for name in names if name not in found and _one_slip(word, name)]
    if not found and len(word) >= 3:
        found = [name for name in names if name.startswith(word)]
    return found[:limit]


def _one_slip(one: str, other: str) -> bool:
    """Whether two words differ by one letter put in, left out, or replaced, or by two neighbours swapped."""
    if len(one) > len(other):
        one, other = other, one
    if one == other or len(one) < 2 or len(other) - len(one) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    rest, other_rest = one[start:], other[start:]
    if len(one) < len(other):
        return rest == other_rest[1:]
    swapped = other_rest[1::-1] + other_rest[2:]
    # Of a word of two letters, another one letter away is a different word.
    return rest == swapped or (rest[1:] == other_rest[1:] and len(one) > 2)


def did_you_mean(names: Sequence[str]) -> str:
    """The hint that names what was probably meant; empty where there is nothing."""
    return f"did you mean {' or '.join(repr(n) for n in names)}?" if names else ""


_COLOURS = {Severity.ERROR: "\x1b[1;31m", Severity.WARNING: "\x1b[1;35m", Severity.NOTE: "\x1b[1;36m"}


def render(diagnostic: Diagnostic, *, colour: bool = False) -> str:
    """The diagnostic as text: place, message, the source line with the place marked, hints.

    What it quotes of the user's text cannot command the terminal.
    """
    kind = diagnostic.severity.value
    if colour:
        kind = f"{_COLOURS[diagnostic.severity]}{kind}\x1b[0m"
    lines = []
    span = diagnostic.span
    head = f"{kind}: {_clean(diagnostic.message)} [{diagnostic.code}]"
    if span is None:
        lines.append(head)
    else:
        lines.append(f"{_clean(span.file.name)}:{span.line}:{span.column}: {head}")
        lines += _excerpt(span)
    for related_span, text in diagnostic.related:
        place = f"{_clean(related_span.file.name)}:{related_span.line}:{related_span.column}"
        lines.append(f"{place}: note: {_clean(text)}")
        lines += _excerpt(related_span)
    lines += [f"  hint: {_clean(hint)}" for hint in diagnostic.hints]
    return "\n".join(lines)


def _excerpt(span: Span) -> list[str]:
    """The line that a span begins in, and a mark below it. Of a long line, what is around the place."""
    number, column = span.file.position(span.start)
    text = span.file.line(number).rstrip("\r")
    before, marked = text[: column - 1], text[column - 1 : column - 1 + span.end - span.start]
    after = text[len(before) + len(marked) :]
    if len(text) > _LONGEST_LINE:
        before = before if len(before) <= _CONTEXT else ".." + before[-_CONTEXT:]
        if len(marked) > _LONGEST_LINE:
            marked, after = marked[:_LONGEST_LINE], ".."
        after = after if len(after) <= _CONTEXT else after[:_CONTEXT] + ".."
    shown = _clean(before + marked + after)
    # Tabs are kept in the margin, so that the mark stands under its place in any terminal.
    margin = "".join("\t" if c == "\t" else " " * _columns(c) for c in before)
    return [f"{number:5} | {shown}", f"      | {margin}{'^' * max(1, sum(map(_columns, marked)))}"]


_LONGEST_LINE = 160
_CONTEXT = 60


def _clean(text: str) -> str:
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(c: str) -> str:
    """A character as it can be put on a terminal: no control characters."""
    return c if c == "\t" or c.isprintable() else "\ufffd"


def _columns(c: str) -> int:
    """The columns that a character takes on a terminal."""
    if c.isascii():
        return 1
    import unicodedata  # only where it matters: it is large

    if unicodedata.combining(c):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1
