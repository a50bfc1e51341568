"""What a "maybe" leaves to run time: a condition over what is bound, as an expression of the language."""

from __future__ import annotations

from klasy.lang.ast import Binary, Expr, Unary


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
