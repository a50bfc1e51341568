"""``stack()`` and ``ustack()``: the functions that led to the join point, the kernel's and the process's own."""

from __future__ import annotations

from klasy.compiler import tree
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.types import Shown
from klasy.plain import TYPE_CHECKING
from klasy.record import STACK_SIZE, USER_STACK_SIZE

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.lang import ast

KERNEL = Shown(STACK_SIZE, "a stack")
USER = Shown(USER_STACK_SIZE, "a stack of the process")


def _check_stack(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    if checker.in_program:
        checker.error(
            "kernel-stack-in-program", "in a user program there is no stack of the kernel's", call.span,
            "ustack() is the program's own",
        )  # fmt: skip
        return None
    return tree.Stack(KERNEL, call.span, "stack", False)


def _check_ustack(checker: ExprChecker, call: ast.Apply) -> tree.Expr:
    return tree.Stack(USER, call.span, "ustack", True)


FUNCTIONS = (Builtin("stack", _check_stack), Builtin("ustack", _check_ustack))
