"""What an entry of the table of functions looks like."""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.compiler import tree
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.lang import ast


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function of the language, of which lang.vocabulary says how many arguments it takes.

    ``check`` gives the typed form of a call, or None after it has reported an error; a statement for a function that
    gives no value.
    """

    name: str
    check: Callable[[ExprChecker, ast.Apply], tree.Expr | tree.Stmt | None]
