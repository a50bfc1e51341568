"""``buf(p, n)``: bytes of memory as they are."""

from __future__ import annotations

from klasy.compiler import tree
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.formats import MAX_RECORD
from klasy.compiler.types import POINTER_SIZE, Integer, Pointer, Shown, Struct
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.lang import ast

BYTES = Shown(0, "a row of bytes")
MAX_UNBOUNDED = 256  # bytes taken where nothing in the program bounds the length


def _check_buf(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    start, length = start_of(checker, call.args[0], "buf(p, n)"), checker.value(call.args[1])
    if start is None or length is None:
        return None
    if not isinstance(length.type, Integer):
        checker.error(
            "bad-argument", f"a length must be an integer, and this is {checker.describe(length)}", length.span
        )
        return None
    if not isinstance(length, tree.Constant):
        return tree.Memory(BYTES, call.span, "buffer", start, _bound(length), length)
    if length.value <= 0:
        checker.error("bad-argument", f"a length of {length.value} bytes: there is nothing to log", length.span)
        return None
    if length.value > MAX_RECORD:
        checker.error("bad-argument", f"a record holds at most {MAX_RECORD} bytes", length.span)
        return None
    return tree.Memory(BYTES, call.span, "bytes", start, length.value)


def start_of(checker: ExprChecker, node: ast.Expr, form: str) -> tree.Expr | None:
    """The address that a function whose ``form`` is given is called with; an array stands for its own."""
    operand = checker.any(node)
    if operand is None:
        return None
    if isinstance(operand, tree.Place) and isinstance(operand.type, Struct):
        checker.error(
            "not-an-address",
            f"'{node.span.text}' is {checker.describe(operand)}: {form} takes an address",
            node.span,
            f"&{node.span.text} is its address",
        )
        return None
    value = checker.value(node) if isinstance(operand, tree.JoinPointAttribute) else checker.value_of(operand)
    if value is None:
        return None
    if isinstance(value.type, Pointer) or (isinstance(value.type, Integer) and value.type.size == POINTER_SIZE):
        return value
    checker.error(
        "not-an-address", f"'{node.span.text}' is {checker.describe(value)}: {form} takes an address", node.span
    )
    return None


def _bound(length: tree.Expr) -> int:
    """The most bytes that an expression can ask for, as far as its form tells."""
    most = _largest(length)
    return most if most is not None and most <= MAX_RECORD else MAX_UNBOUNDED


def _largest(expr: tree.Expr) -> int | None:
    """The largest value of an integer expression; None where it may be anything."""
    kind = expr.type
    if isinstance(expr, tree.Constant):
        return expr.value
    if isinstance(expr, tree.Convert) and isinstance(kind, Integer):
        inner = _largest(expr.operand)
        return inner if inner is not None and kind.holds(inner) else _of_type(kind)
    if isinstance(expr, tree.Read) and expr.place.bits:
        return (1 << expr.place.bits) - 1
    if isinstance(expr, tree.Arithmetic) and expr.op == "&":
        masks = [m for m in (_largest(expr.left), _largest(expr.right)) if m is not None and m >= 0]
        return min(masks, default=None)
    if isinstance(expr, tree.Arithmetic) and expr.op == "%" and isinstance(expr.right, tree.Constant):
        return abs(expr.right.value) - 1 if expr.right.value else None
    if isinstance(expr, tree.Conditional):
        both = [_largest(expr.then), _largest(expr.otherwise)]
        return None if None in both else max(m for m in both if m is not None)
    return _of_type(kind)


def _of_type(kind: object) -> int | None:
    """Narrow types bound their values by themselves."""
    return (1 << kind.bits) - 1 if isinstance(kind, Integer) and kind.size == 1 else None


FUNCTIONS = (Builtin("buf", _check_buf),)
