"""``str(p)`` and ``ustr(p)``: the string at an address in the kernel's memory, and in the process's."""

from __future__ import annotations

from klasy.compiler import ir, tree
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.spaces import of_process
from klasy.compiler.types import POINTER_SIZE, STRING, Array, Char, Integer, Pointer, String, Void
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.compiler.types import CType
    from klasy.lang import ast


def as_string(expr: tree.Expr) -> tree.Expr | None:
    """A value that C's conventions make a string (a ``char *``, a ``char`` array, a string) as one, else None."""
    if isinstance(expr.type, String):
        return expr
    if isinstance(expr, tree.Place) and isinstance(expr.type, Array) and isinstance(expr.type.element, Char):
        return string_at(expr)
    if isinstance(expr.type, Pointer) and isinstance(expr.type.target, Char):
        return tree.StringAt(STRING, expr.span, expr, ir.MAX_STRING - 1, user=of_process(expr))
    return None


def string_at(expr: tree.Expr) -> tree.Expr | None:
    """What is at an address, or an array of bytes, as a string; None where that is no address of bytes."""
    if isinstance(expr, tree.Place) and isinstance(expr.type, Array):
        if not _of_bytes(expr.type.element):
            return None
        start = tree.AddressOf(Pointer(expr.type.element, "char *"), expr.span, expr)
        count, user = expr.type.count, of_process(start)
        if count > 0:
            return tree.StringAt(STRING, expr.span, start, count, whole=True, user=user)
        return tree.StringAt(STRING, expr.span, start, ir.MAX_STRING - 1, user=user)
    if isinstance(expr.type, Pointer) and (_of_bytes(expr.type.target) or isinstance(expr.type.target, Void)):
        return tree.StringAt(STRING, expr.span, expr, ir.MAX_STRING - 1, user=of_process(expr))
    return None


def _of_bytes(kind: CType) -> bool:
    return isinstance(kind, Integer) and kind.size == 1


def _check_str(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    operand = checker.any(call.args[0])
    if operand is None:
        return None
    string = string_at(operand if isinstance(operand.type, Array) else checker.value_of(operand))
    if string is None:
        checker.error(
            "not-a-string",
            f"'{call.args[0].span.text}' is {checker.describe(operand)}: str() takes the address of a string",
            call.args[0].span,
        )
        return None
    string.span = call.span
    return string


def _check_ustr(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    operand = checker.value(call.args[0])
    if operand is None:
        return None
    kind = operand.type
    points_to_bytes = isinstance(kind, Pointer) and (_of_bytes(kind.target) or isinstance(kind.target, Void))
    # The kernel often keeps an address of user space in an unsigned long: registers, mm->arg_start.
    if not points_to_bytes and not (isinstance(kind, Integer) and kind.size == POINTER_SIZE):
        checker.error(
            "not-a-string",
            f"'{call.args[0].span.text}' is {checker.describe(operand)}: ustr() takes a user space address",
            call.args[0].span,
        )
        return None
    return tree.StringAt(STRING, call.span, operand, ir.MAX_STRING - 1, user=True)


FUNCTIONS = (Builtin("str", _check_str), Builtin("ustr", _check_ustr))
