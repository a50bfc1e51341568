"""Tables for people: columns as wide as what is in them, numbers to the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under a head. Numbers stand to the right, all else to the left; the last column is not padded."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    right = [all(isinstance(row[i], int) for row in rows) and bool(rows) for i in range(len(head))]
    widths = [max(len(head[i]), *(len(row[i]) for row in texts), 0) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(list(head)), *(line(row) for row in texts)])


def plural(number: int, noun: str) -> str:
    """``1 join point``, ``2 join points``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time span in the two largest units that say something: ``3 min 5 s``."""
    whole = round(seconds)
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
