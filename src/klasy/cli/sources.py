"""Reading aspect files that the user named."""

from __future__ import annotations

import sys

from klasy.errors import InputError
from klasy.source import SourceFile

MAX_SIZE = 1 << 20  # bytes; an aspect is written by hand


def read_source(name: str) -> SourceFile:
    """The text of a file; ``-`` is standard input. Raises InputError where it cannot be read or is no text."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_SIZE + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    if len(data) > MAX_SIZE:
        raise InputError(f"{name} is larger than {MAX_SIZE} bytes: no aspect file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text (byte {error.start})") from None
    return SourceFile("<stdin>" if name == "-" else name, text)
