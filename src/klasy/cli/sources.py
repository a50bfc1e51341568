"""Reading aspect files that the user named."""

from __future__ import annotations

import sys

from klasy.errors import InputError, UsageError, one_line
from klasy.plain import TYPE_CHECKING
from klasy.source import MAX_SIZE, SourceFile, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

STDIN = "-"


def read_source(name: str) -> SourceFile:
    """The text of a file; ``-`` is standard input, a bare word a ready aspect that klasy brings along.

    Raises InputError where it cannot be read or is no text.
    """
    if name.isidentifier():
        name = _ready(name) or name
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(MAX_SIZE + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_SIZE + 1)
    except OSError as error:
        shown = "standard input" if name == STDIN else name or "''"
        message, hint = f"cannot read {one_line(shown)}: {error.strerror}", None
        if name.isidentifier():
            message, hint = f"{message}, nor is there a ready aspect of that name", _near(name)
        raise InputError(message, hint=hint) from None
    except ValueError:
        raise InputError(f"cannot read {name!r}: there is a NUL in the name") from None
    shown = "standard input" if name == STDIN else one_line(name)
    try:
        text = decode(data)
    except ValueError as error:
        raise InputError(f"{shown} {error}") from None
    return SourceFile("<stdin>", text) if name == STDIN else SourceFile(name, text, name)


def _ready(name: str) -> str | None:
    from klasy.resources import shipped_path

    return shipped_path(name)


def _near(name: str) -> str:
    """Which ready aspect was perhaps meant."""
    from klasy.diag import did_you_mean, suggest
    from klasy.resources import shipped_aspects

    return did_you_mean(suggest(name, shipped_aspects())) or "klasy aspects lists the ready ones"


def read_sources(names: Sequence[str]) -> list[SourceFile]:
    """The texts of several files. Raises InputError that names all that cannot be read."""
    if names.count(STDIN) > 1:
        raise UsageError("- (standard input) can be given once")
    sources: list[SourceFile] = []
    errors: list[InputError] = []
    for name in names:
        try:
            sources.append(read_source(name))
        except InputError as error:
            errors.append(error)
    if errors:
        hints = list(dict.fromkeys(error.hint for error in errors if error.hint))
        raise InputError("\n".join(error.message for error in errors), hint="; ".join(hints) or None)
    return sources
