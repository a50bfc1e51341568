"""C's implicit conversions on typed expressions: lvalue to value, promotion, usual arithmetic conversions, decay.

Each function takes checked expressions and gives one; none reports an error.
"""

from __future__ import annotations

from klasy.compiler import tree
from klasy.compiler.types import (
    LONG,
    ULONG,
    Array,
    Bool,
    CType,
    Enum,
    Integer,
    Pointer,
    Void,
    common,
    pointer_to,
    promoted,
    same,
)


def rvalue(expr: tree.Expr) -> tree.Expr:
    """The value of an expression: the content of a place, or for an array the address of its first element."""
    if not isinstance(expr, tree.Place):
        return expr
    kind = expr.type
    if isinstance(kind, Array):
        return tree.AddressOf(pointer_to(kind.element), expr.span, expr)
    if isinstance(kind, Integer | Pointer):
        return tree.Read(kind, expr.span, expr)
    return expr  # a struct: its users take it as a place


def bitfield_width(expr: tree.Expr) -> int:
    """Width of the bit-field that an expression is the value of, else 0."""
    return expr.place.bits if isinstance(expr, tree.Read) else 0


def convert(expr: tree.Expr, to: CType) -> tree.Expr:
    """The value converted to an integer or pointer type."""
    if isinstance(expr, tree.Constant) and isinstance(to, Integer):
        return tree.Constant(to, expr.span, to.wrap(expr.value))
    if isinstance(to, Integer) and isinstance(expr.type, Integer) and same(expr.type, to):
        # Its bits are right already; only the name of the type changes, which the result shall have.
        return expr if expr.type is to else tree.Convert(to, expr.span, expr)
    return tree.Convert(to, expr.span, expr)


def promote(expr: tree.Expr) -> tree.Expr:
    """The integer promotions."""
    kind = tree.integer(expr)
    to = promoted(kind, bitfield_width(expr))
    return expr if to is kind else convert(expr, to)


def balance(left: tree.Expr, right: tree.Expr) -> tuple[tree.Expr, tree.Expr, Integer]:
    """The usual arithmetic conversions: both operands in their common type, and that type."""
    left, right = promote(left), promote(right)
    to = common(tree.integer(left), tree.integer(right))
    return _as(left, to), _as(right, to), to


def _as(expr: tree.Expr, to: Integer) -> tree.Expr:
    return expr if expr.type is to else convert(expr, to)


def word(expr: tree.Expr) -> tree.Expr:
    """An integer as a 64-bit one, as an index or a pointer's numeric value is taken."""
    if isinstance(expr.type, Pointer):
        return convert(expr, ULONG)
    promotion = promote(expr)
    return _as(promotion, LONG if tree.integer(promotion).signed else ULONG)


def is_null(expr: tree.Expr) -> bool:
    """Whether it is C's null pointer constant: a constant 0, or that cast to ``void *``."""
    if isinstance(expr, tree.Convert) and isinstance(expr.type, Pointer) and isinstance(expr.type.target, Void):
        expr = expr.operand
    return isinstance(expr, tree.Constant) and expr.value == 0


def merged(left: tree.Expr, right: tree.Expr) -> CType | None:
    """The type of ``c ? left : right`` for two values, or None where C allows none."""
    a, b = left.type, right.type
    if isinstance(a, Integer) and isinstance(b, Integer):
        if isinstance(a, Enum | Bool) and same(a, b) and a.btf is b.btf and a.type_id == b.type_id:
            return a  # C says int; but the value stays one of the enumeration, and log can name it
        return common(promoted(a, bitfield_width(left)), promoted(b, bitfield_width(right)))
    if isinstance(a, Pointer) and isinstance(b, Pointer):
        if same(a, b) or is_null(right):
            return a
        if is_null(left):
            return b
        return next((p for p in (a, b) if isinstance(p.target, Void)), None)
    if isinstance(a, Pointer) and is_null(right):
        return a
    if isinstance(b, Pointer) and is_null(left):
        return b
    return None


def assignable(value: tree.Expr, to: CType) -> bool:
    """Whether C lets a value be assigned to a variable of a type without a cast."""
    source = value.type
    if isinstance(to, Integer):
        return isinstance(source, Integer) or (isinstance(to, Bool) and isinstance(source, Pointer))
    if isinstance(to, Pointer):
        if is_null(value):
            return True
        if not isinstance(source, Pointer):
            return False
        return same(source, to) or isinstance(source.target, Void) or isinstance(to.target, Void)
    return False
