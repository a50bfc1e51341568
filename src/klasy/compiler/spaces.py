"""Whose memory an address lies in: the kernel's, or that of the process whose system call it is.

The arguments of a system call are the process's own addresses, and so is what is found at them. Elsewhere the kernel's
types do not tell; an aspect does by the word that the kernel's source has for it, ``__user``.
"""

from __future__ import annotations

from klasy.compiler import tree
from klasy.compiler.types import Pointer, Void
from klasy.lang.typenames import USER
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.compiler.statetree import StateVariable
    from klasy.source import Span


def of_process(address: tree.Expr) -> bool:
    """Whether an address, or a number that is taken for one, is the process's."""
    match address:
        case tree.Local():
            return bool(address.variable.user)
        case tree.Read() | tree.AddressOf():
            return of_process(address.place.base)
        case tree.Convert():
            return address.user or of_process(address.operand)
        case tree.PointerAdd():
            return of_process(address.pointer)
        case tree.Arithmetic():
            return of_process(address.left)
        case tree.Conditional():
            return of_process(address.then) or of_process(address.otherwise)
        case tree.Assign() | tree.Comma():
            return of_process(address.value)
        case tree.Call():
            return address.result is not None and bool(address.result.user)
        case _:
            return False


def _fits_both(value: tree.Expr) -> bool:
    """Whether it is a constant, NULL say, that does not say whose address it is."""
    while isinstance(value, tree.Convert) and not value.user:
        value = value.operand
    return isinstance(value, tree.Constant)


def choice(checker: ExprChecker, chosen: tree.Conditional) -> None:
    """Refuse ``?:`` between an address of the process's and one of the kernel's."""
    parts = chosen.then, chosen.otherwise
    if isinstance(chosen.type, Pointer) and not any(map(_fits_both, parts)) and len(set(map(of_process, parts))) > 1:
        checker.error(
            "two-memories",
            "one branch of '?:' is an address of the process's memory, the other one of the kernel's",
            chosen.span,
            "choose between the values that lie there",
        )


def given(checker: ExprChecker, variable: tree.Variable, value: tree.Expr, span: Span, each: str = "variable") -> None:
    """Note whose addresses a variable holds by its first value, and refuse other ones later."""
    if _fits_both(value):
        return
    found = of_process(value)
    if variable.user is None:
        variable.user = found
    elif isinstance(variable.type, Pointer) and found != variable.user:
        _refuse(checker, variable.name, span, found, f"take a {each} for each")


def kept(checker: ExprChecker, state: StateVariable, value: tree.Expr, span: Span) -> None:
    """Refuse to keep an address where it would be taken for one of the other memory."""
    kind, found = state.type, of_process(value)
    if (
        isinstance(kind, Pointer)
        and not isinstance(kind.target, Void)
        and not _fits_both(value)
        and found != state.user
    ):
        words = [kind.target.name, *([USER] if found else []), "*"]
        _refuse(checker, state.name, span, found, f"declare it with '{' '.join(words)}'")


def _refuse(checker: ExprChecker, name: str, span: Span, found: bool, hint: str) -> None:
    words = ("the kernel's memory", "the process's memory")
    its, this = words if found else reversed(words)
    checker.error("two-memories", f"'{name}' is for addresses of {its}, and this is one of {this}", span, hint)
