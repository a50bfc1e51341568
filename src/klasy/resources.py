"""Where the files that ship with klasy are: the grammar and the ready aspects. Nothing else knows."""

from __future__ import annotations

import os

# importlib.resources would do the same, for a twentieth of a weave's time.
_HERE = os.path.dirname(os.path.abspath(__file__))


def grammar_text() -> str:
    """The text of the language's only grammar."""
    return _text(os.path.join(_HERE, "grammar", "klasy.lark"))


def aspects_folder() -> str | None:
    """The real path of the folder of the ready aspects; None where there is none."""
    folder = os.path.realpath(os.path.join(_HERE, "aspects"))
    return folder if os.path.isdir(folder) else None


def shipped_path(name: str) -> str | None:
    """The file of a ready aspect; None if none is called so."""
    path = os.path.join(_HERE, "aspects", f"{name}.asp")
    return path if name.isidentifier() and os.path.isfile(path) else None


def shipped_aspects() -> dict[str, str]:
    """Name (without ``.asp``) and text of every ready aspect."""
    folder = os.path.join(_HERE, "aspects")
    names = sorted(file.removesuffix(".asp") for file in os.listdir(folder) if file.endswith(".asp"))
    return {name: _text(os.path.join(folder, f"{name}.asp")) for name in names}


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
