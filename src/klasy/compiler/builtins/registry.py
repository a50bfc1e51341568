"""What an entry of the table of functions looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.plain import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.compiler import tree
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.lang import ast


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function of the language.

    ``usage`` is shown where it is used wrongly. It takes ``least`` to ``most`` (None: any number) arguments. ``check``
    gives the typed form of a call whose number of arguments is right, or None after it has reported an error; a
    statement for a function that gives no value.
    """

    name: str
    usage: str
    least: int
    most: int | None
    check: Callable[[ExprChecker, ast.Apply], tree.Expr | tree.Stmt | None]
    gives_value: bool = True
