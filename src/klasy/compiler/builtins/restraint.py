"""``sample(1/100)``, ``limit(100/s)``, ``stop()``: to log less, and to be done. And ``deny(EPERM)``: to refuse."""

from __future__ import annotations

from klasy.compiler import tree
from klasy.compiler.builtins.registry import Builtin
from klasy.lang import ast
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker

_RANGE = 1 << 32  # of a random number
_UNITS = {"ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}
_MOST = 1_000_000_000  # tokens in a unit: the interval is at least 1 ns where the unit is a second


def _check_sample(checker: ExprChecker, call: ast.Apply) -> tree.Stmt | None:
    match call.args[0]:
        case ast.Binary(op="/", left=ast.IntLiteral(value=part), right=ast.IntLiteral(value=whole)):
            if 0 < part <= whole <= _RANGE:
                return tree.Sample(call.span, _RANGE * part // whole)
            why = "0 of them would be none" if not part else "that is more than all" if part > whole else "too many"
        case _:
            why = "it takes a fraction"
    checker.error(
        "bad-rate", f"'{call.span.text}' cannot sample: {why}", call.args[0].span, "sample(1/100) is one in a hundred"
    )
    return None


def _check_limit(checker: ExprChecker, call: ast.Apply) -> tree.Stmt | None:
    match call.args[0]:
        case ast.Binary(op="/", left=ast.IntLiteral(value=number), right=ast.Name(name=unit)) if unit in _UNITS:
            if 0 < number <= min(_MOST, _UNITS[unit]):
                slot = checker.formats.limits.setdefault(call.span, len(checker.formats.limits))
                # Rounded up: never more than was asked for.
                return tree.Limit(call.span, slot, -(-_UNITS[unit] // number), number)
            why = "0 would be none" if not number else "too many"
        case _:
            why = f"it takes a number a time: /{', /'.join(_UNITS)}"
    checker.error(
        "bad-rate", f"'{call.span.text}' cannot limit: {why}", call.args[0].span, "limit(100/s) is a hundred a second"
    )
    return None


def _check_stop(checker: ExprChecker, call: ast.Apply) -> tree.Stmt:
    return tree.Stop(call.span)


def _check_deny(checker: ExprChecker, call: ast.Apply) -> tree.Stmt | None:
    """An error by its name, or by its number: of those that programs know, not the kernel's own from 512 on."""
    import errno

    hints: list[str] = ["deny(EPERM), deny(EACCES)"]
    match call.args[0]:
        case ast.Name(name=name):
            names = {each: number for number, each in errno.errorcode.items()}
            number = getattr(errno, name, None) if name.startswith("E") else None  # EAGAIN is EWOULDBLOCK too
            if isinstance(number, int):
                return tree.Deny(call.span, number)
            from klasy.diag import did_you_mean, suggest

            why = f"there is no error '{name}'"
            near = suggest(name.upper(), names)
            hints = [did_you_mean(near)] if near else hints
        case ast.IntLiteral(value=number) if number in errno.errorcode:
            return tree.Deny(call.span, number)
        case ast.IntLiteral(value=number):
            why = f"{number} is no error's number"
        case ast.Unary(op="-", operand=operand):
            why = "the sign is not written"
            hints = [f"deny({operand.span.text})"]
        case _:
            why = "it takes the name of an error"
    checker.error("bad-errno", f"'{call.span.text}' cannot deny: {why}", call.args[0].span, *hints)
    return None


FUNCTIONS = (
    Builtin("sample", _check_sample),
    Builtin("limit", _check_limit),
    Builtin("stop", _check_stop),
    Builtin("deny", _check_deny),
)
