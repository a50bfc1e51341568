"""A line that tells how far something long has come: on a terminal all the while; elsewhere, as in a script's log,
once, when it has taken some seconds. It goes to standard error: what is printed as the result stays as it is."""

from __future__ import annotations

import os
import time

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 5.0  # seconds in which nothing is said where there is no terminal
_STDERR = 2


def line(what: str) -> Callable[[int, int], None]:
    """What is to be told how much is done, of how much; on a terminal the line goes away when all is."""
    return _on_terminal(what) if os.isatty(_STDERR) else _once(what)


def _on_terminal(what: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        text = "" if done >= total else f"{what}: {done} of {total}"
        os.write(_STDERR, f"\r\x1b[K{text}".encode())

    return show


def _once(what: str) -> Callable[[int, int], None]:
    patient_until = time.monotonic() + PATIENCE
    said = False

    def show(done: int, total: int) -> None:
        nonlocal said
        if not said and done < total and time.monotonic() >= patient_until:
            said = True
            os.write(_STDERR, f"klasy: {what}: {done} of {total} done so far\n".encode())

    return show
