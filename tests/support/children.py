"""Processes that act when they are told to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def child(act: Callable[[], object]) -> tuple[int, int]:
    """Fork a process that waits for a byte, acts and ends; its number, and where to write the byte."""
    entry, go = os.pipe()
    number = os.fork()
    if not number:
        os.close(go)
        os.read(entry, 1)
        act()
        os._exit(0)
    os.close(entry)
    return number, go


def let_go(number: int, go: int) -> None:
    """Let it act, and wait until it has ended."""
    os.write(go, b"x")
    os.close(go)
    os.waitpid(number, 0)
