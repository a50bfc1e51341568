"""What a "maybe" leaves to run time: a condition over what is bound, as an expression of the language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.lang.ast import (
    Apply,
    Assign,
    Binary,
    Cast,
    Conditional,
    ContainerOf,
    Expr,
    IncDec,
    Index,
    Member,
    Name,
    SizeOf,
    Unary,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def negated(guard: Expr) -> Expr:
    """``!guard``; two of them cancel, for only the truth of a guard counts."""
    if isinstance(guard, Unary) and guard.op == "!":
        return guard.operand
    return Unary(guard.span, "!", guard)


def both(left: Expr | None, right: Expr | None) -> Expr | None:
    """``left && right``; None is always true."""
    if left is None:
        return right
    if right is None or left == right:
        return left
    return Binary(left.span.to(right.span), "&&", left, right)


def either(left: Expr | None, right: Expr | None) -> Expr | None:
    """``left || right``; None is always true."""
    if left is None or right is None:
        return None
    if left == right:
        return left
    return Binary(left.span.to(right.span), "||", left, right)


def names_in(expr: Expr) -> Iterator[str]:
    """The plain names that an expression uses, in order, with repetitions."""
    if isinstance(expr, Name):
        yield expr.name
    elif isinstance(expr, Member):
        yield from names_in(expr.object)
    elif isinstance(expr, Index):
        yield from names_in(expr.object)
        for key in expr.keys:
            yield from names_in(key)
    elif isinstance(expr, Unary | Cast):
        yield from names_in(expr.operand)
    elif isinstance(expr, Binary):
        yield from names_in(expr.left)
        yield from names_in(expr.right)
    elif isinstance(expr, Conditional):
        yield from names_in(expr.condition)
        yield from names_in(expr.then)
        yield from names_in(expr.otherwise)
    elif isinstance(expr, Assign):
        yield from names_in(expr.target)
        yield from names_in(expr.value)
    elif isinstance(expr, IncDec):
        yield from names_in(expr.target)
    elif isinstance(expr, SizeOf):
        if isinstance(expr.operand, Expr):
            yield from names_in(expr.operand)
    elif isinstance(expr, ContainerOf):
        yield from names_in(expr.pointer)
    elif isinstance(expr, Apply):
        yield from names_in(expr.callee)
        for arg in expr.args:
            yield from names_in(arg)
