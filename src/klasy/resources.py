"""Where the files that ship with klasy are: the grammar and the ready aspects. Nothing else knows."""

from __future__ import annotations

from importlib import resources


def grammar_text() -> str:
    """The text of the language's only grammar."""
    return resources.files("klasy").joinpath("grammar", "klasy.lark").read_text(encoding="utf-8")


def shipped_aspects() -> dict[str, str]:
    """Name (without ``.asp``) and text of every ready aspect."""
    folder = resources.files("klasy").joinpath("aspects")
    return {
        entry.name.removesuffix(".asp"): entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".asp")
    }
