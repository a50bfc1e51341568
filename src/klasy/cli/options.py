"""Reads right command lines as argparse would, without argparse: importing and feeding it costs a third of a weave.

A command declares its arguments once, by calls of ``add_argument``. :class:`Options` keeps of them what it takes to
read a line that is plainly right. What is not (``--help``, a mistake, anything rare) is left to argparse, which gets
the same declarations from the same function, and has the last word on what is right.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    class Parser(Protocol):
        """What a command declares its arguments to: :class:`Options`, or an ``argparse.ArgumentParser``."""

        def add_argument(self, *names: str, **how: Any) -> object:
            """Declare one argument, in the words of argparse."""


_COUNTS = {None: (1, 1), "?": (0, 1), "*": (0, None), "+": (1, None)}  # how many words a positional argument takes


class Arguments:
    """What a command line says: an attribute for each argument."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Options:
    """The arguments of one command."""

    def __init__(self) -> None:
        self._flags: dict[str, str] = {}  # the names of options without a value, with their attributes
        self._valued: dict[str, str] = {}
        self._repeated: set[str] = set()  # the attributes of those that can be given several times
        self._positional: tuple[str, str | None] | None = None
        self._defaults: dict[str, object] = {}
        self._plain = True

    def add_argument(
        self,
        *names: str,
        dest: str = "",
        action: str = "store",
        nargs: str | None = None,
        metavar: str = "",
        help: str = "",
        **rare: object,
    ) -> None:
        """Note an argument. With ``rare`` ones (types, choices) all is left to argparse."""
        if rare or nargs not in _COUNTS or action not in ("store", "store_true", "append"):
            self._plain = False
        elif names[0][0] != "-":
            self._plain = self._plain and self._positional is None
            self._positional = names[0], nargs
        else:
            long = next((name for name in names if name.startswith("--")), names[0])
            name = dest or long.lstrip("-").replace("-", "_")
            self._defaults[name] = False if action == "store_true" else None
            if action == "append":
                self._repeated.add(name)
            (self._flags if action == "store_true" else self._valued).update(dict.fromkeys(names, name))

    def read(self, words: Sequence[str]) -> Arguments | None:
        """What the words say, or None where argparse is to be asked."""
        if not self._plain:
            return None
        values = dict(self._defaults)
        own: list[str] = []
        last = -1  # the place of the last word that is no option's
        rest = iter(enumerate(words))
        for place, word in rest:
            name, equals, value = word.partition("=")
            if not word.startswith("-") or word == "-":
                if own and place != last + 1:
                    return None
                own.append(word)
                last = place
            elif word in self._flags:
                values[self._flags[word]] = True
            elif word in self._valued:
                _, value = next(rest, (0, "-"))
                if value.startswith("-"):
                    return None
                self._put(values, self._valued[word], value)
            elif equals and name.startswith("--") and name in self._valued:
                self._put(values, self._valued[name], value)
            else:
                return None
        if not self._place(own, values):
            return None
        arguments = Arguments()
        arguments.__dict__.update(values)
        return arguments

    def _put(self, values: dict[str, object], name: str, value: str) -> None:
        if name not in self._repeated:
            values[name] = value
            return
        before = values[name]
        values[name] = [*before, value] if isinstance(before, list) else [value]

    def _place(self, words: list[str], values: dict[str, object]) -> bool:
        """Put the words that are no options' where they belong; whether their number is right."""
        if self._positional is None:
            return not words
        name, nargs = self._positional
        least, most = _COUNTS[nargs]
        if len(words) < least or (most is not None and len(words) > most):
            return False
        values[name] = words if most is None else next(iter(words), None)
        return True
