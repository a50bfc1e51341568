"""A line on a terminal that tells how far something long has come. Nothing where standard error is no terminal."""

from __future__ import annotations

import os

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_STDERR = 2


def line(what: str) -> Callable[[int, int], None] | None:
    """What is to be told how much is done, of how much; the line goes away when all is."""
    if not os.isatty(_STDERR):
        return None

    def show(done: int, total: int) -> None:
        text = "" if done >= total else f"{what}: {done} of {total}"
        os.write(_STDERR, f"\r\x1b[K{text}".encode())

    return show
