"""What people see, shared by the commands: tables, numbers with their nouns, diagnostics; safe for a terminal."""

from __future__ import annotations

import os
import sys

from klasy.errors import one_line
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from klasy.diag import Diagnostic


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under a head. Columns of numbers stand to the right, all else to the left; the last is not padded."""
    texts = [["" if cell is None else shown(str(cell)) for cell in row] for row in rows]
    right = [all(row[i][:1].isdigit() and " " not in row[i] for row in texts) and bool(rows) for i in range(len(head))]
    widths = [max(len(head[i]), *(len(row[i]) for row in texts), 0) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(list(head)), *(line(row) for row in texts)])


def shown(text: str) -> str:
    """Text that the user, a file's name say, may have brought: nothing in it commands the terminal."""
    return one_line(text)


def plural(number: int, noun: str) -> str:
    """``1 join point``, ``2 join points``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y')}ies" if noun.endswith("py") else f"{number} {noun}s"


def say(message: str, hint: str | None = None) -> None:
    """Say on standard error, as klasy, what is wrong or worth to know, and what can be done."""
    lines = [f"klasy: {shown(line)}" for line in message.splitlines()]
    if hint:
        lines.append(f"  hint: {shown(hint)}")
    print("\n".join(lines), file=sys.stderr)


def duration(seconds: float) -> str:
    """A time span in the two largest units that say something: ``3 min 5 s``."""
    whole = round(seconds)
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def coloured(stream: TextIO) -> bool:
    """Whether to use colour: only on a terminal whose user has not declined it."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show_diagnostics(diagnostics: Iterable[Diagnostic]) -> None:
    """Print warnings and errors for people."""
    from klasy.diag import render

    texts = [render(diagnostic, colour=coloured(sys.stderr)) for diagnostic in diagnostics]
    if texts:
        print("\n\n".join(texts), file=sys.stderr)
