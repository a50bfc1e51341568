"""Where the files that ship with klasy are: the grammar and the ready aspects. Nothing else knows."""

from __future__ import annotations

import os

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def aspects_folder() -> str | None:
    """The real path of the folder of the ready aspects; None where there is none."""
    folder = os.path.realpath(os.path.join(os.path.dirname(__file__), "aspects"))
    return folder if os.path.isdir(folder) else None


def _files() -> Traversable:
    from importlib import resources  # large, and an import needs the folder alone

    return resources.files("klasy")


def grammar_text() -> str:
    """The text of the language's only grammar."""
    return _files().joinpath("grammar", "klasy.lark").read_text(encoding="utf-8")


def shipped_aspects() -> dict[str, str]:
    """Name (without ``.asp``) and text of every ready aspect."""
    folder = _files().joinpath("aspects")
    return {
        entry.name.removesuffix(".asp"): entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".asp")
    }
