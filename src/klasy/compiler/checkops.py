"""Checks operators, by C's conversions: arithmetic, comparison, casts, assignment."""

from __future__ import annotations

from klasy.compiler import spaces, tree
from klasy.compiler.builtins.strings import as_string
from klasy.compiler.checkmemory import address_of, dereference
from klasy.compiler.convert import assignable, balance, convert, is_null, merged, promote, word
from klasy.compiler.ir import COMM_SIZE, MAX_STRING
from klasy.compiler.types import INT, LONG, Array, Integer, Pointer, String, Struct, Void, same
from klasy.compiler.wording import operand_text
from klasy.lang import ast
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.compiler.checkexpr import ExprChecker
    from klasy.source import Span

_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_TURNS = {"__be16": "ntohs", "__be32": "ntohl"}  # what gives the number of a type of the network's byte order


def _unary(checker: ExprChecker, node: ast.Unary) -> tree.Expr | None:
    if node.op == "&":
        return address_of(checker, node)
    operand = checker.value(node.operand)
    if operand is None:
        return None
    if node.op == "*":
        return dereference(checker, node, operand)
    if node.op == "!":
        if not checker.is_scalar(operand, "the operand of '!' must be a number or a pointer"):
            return None
        return tree.LogicalNot(INT, node.span, operand)
    if not isinstance(operand.type, Integer):
        _bad_operand(checker, node.op, operand, node.operand.span)
        return None
    operand = promote(operand)
    kind = tree.integer(operand)
    if isinstance(operand, tree.Constant):
        value = {"-": -operand.value, "+": operand.value, "~": ~operand.value}[node.op]
        return tree.Constant(kind, node.span, kind.wrap(value))
    if node.op == "+":
        return operand
    return (tree.Negate if node.op == "-" else tree.Complement)(kind, node.span, operand)


def _binary(checker: ExprChecker, node: ast.Binary) -> tree.Expr | None:
    if node.op == ",":
        return _comma(checker, node)
    left, right = checker.value(node.left), checker.value(node.right)
    if left is None or right is None:
        return None
    op = node.op
    if op in ("&&", "||"):
        rule = f"the operands of '{op}' must be numbers or pointers"
        # Both, so that both are reported
        sound = [checker.is_scalar(operand, rule) for operand in (left, right)]
        return tree.Logical(INT, node.span, op, left, right) if all(sound) else None
    if op in _COMPARISONS:
        return _comparison(checker, node, left, right)
    return arithmetic(checker, op, left, right, node.span)


def _comma(checker: ExprChecker, node: ast.Binary) -> tree.Expr | None:
    first = checker.effect(node.left)
    value = checker.value(node.right)
    if first is None or value is None:
        return None
    if not checker.is_scalar(value, "what ',' gives must be a number or a pointer"):
        return None
    return tree.Comma(value.type, node.span, first, value)


def arithmetic(checker: ExprChecker, op: str, left: tree.Expr, right: tree.Expr, span: Span) -> tree.Expr | None:
    """``left op right`` with an operator of arithmetic, of two values."""
    if op in ("+", "-") and (isinstance(left.type, Pointer) or isinstance(right.type, Pointer)):
        return _pointer_arithmetic(checker, op, left, right, span)
    bad = [operand for operand in (left, right) if not isinstance(operand.type, Integer)]
    for operand in bad:
        _bad_operand(checker, op, operand, operand.span)
    if bad:
        return None
    if op in ("<<", ">>"):
        left, right = promote(left), promote(right)
        width = tree.integer(left).bits
        if isinstance(right, tree.Constant) and not 0 <= right.value < width:
            checker.bag.warning(
                "shift-count",
                f"a shift of '{left.type.name}' by {right.value}: the count is taken modulo {width}",
                right.span,
            )
        return tree.Shift(left.type, span, op, left, right)
    left, right, kind = balance(left, right)
    if op in ("/", "%") and isinstance(right, tree.Constant) and right.value == 0:
        checker.bag.warning("division-by-zero", "a division by zero gives 0, a remainder the dividend", span)
    return tree.Arithmetic(kind, span, op, left, right)


def _bad_operand(checker: ExprChecker, op: str, expr: tree.Expr, span: Span) -> None:
    hint = ""
    if isinstance(expr.type, Pointer) and op not in ("+", "-"):
        hint = "a cast makes a number of it: (unsigned long)" + span.text
    checker.error("bad-operand", f"'{op}' needs integers, and '{span.text}' is {checker.describe(expr)}", span, hint)


def _pointer_arithmetic(
    checker: ExprChecker, op: str, left: tree.Expr, right: tree.Expr, span: Span
) -> tree.Expr | None:
    if op == "-" and isinstance(left.type, Pointer) and isinstance(right.type, Pointer):
        if not same(left.type, right.type):
            checker.error(
                "bad-operand",
                f"'-' of pointers to different types: {checker.describe(left)} and {checker.describe(right)}",
                span,
            )
            return None
        scale = checker.element_size(left.type.target, span)
        return None if scale is None else tree.PointerDifference(LONG, span, left, right, scale)
    if op == "+" and isinstance(left.type, Integer):
        left, right = right, left
    if not isinstance(left.type, Pointer) or not isinstance(right.type, Integer):
        wrong = f"{checker.describe(left)} and {checker.describe(right)}"
        checker.error("bad-operand", f"'{op}' cannot be applied to {wrong}", span)
        return None
    scale = checker.element_size(left.type.target, span)
    if scale is None:
        return None
    return tree.PointerAdd(left.type, span, left, word(right), scale, op == "-")


def _comparison(checker: ExprChecker, node: ast.Binary, left: tree.Expr, right: tree.Expr) -> tree.Expr | None:
    op = node.op
    if isinstance(left, tree.Literal | tree.Comm) or isinstance(right, tree.Literal | tree.Comm):
        return _string_comparison(checker, node, left, right)
    if isinstance(left.type, String) or isinstance(right.type, String):
        return _string_comparison(checker, node, left, right)
    if isinstance(left.type, Integer) and isinstance(right.type, Integer):
        _byte_order(checker, node, left, right)
        left, right, _ = balance(left, right)
        return tree.Comparison(INT, node.span, op, left, right)
    bad = [operand for operand in (left, right) if not isinstance(operand.type, Integer | Pointer)]
    for operand in bad:
        checker.error(
            "bad-operand",
            f"'{operand.span.text}' is {checker.describe(operand)}, which '{op}' cannot compare",
            operand.span,
        )
    if bad:
        return None
    if isinstance(left.type, Pointer) != isinstance(right.type, Pointer):
        number = right if isinstance(left.type, Pointer) else left
        if not is_null(number):
            checker.bag.warning(
                "pointer-comparison",
                f"a pointer is compared with a number: {checker.describe(left)} and {checker.describe(right)}",
                node.span,
            )
    return tree.Comparison(INT, node.span, op, word(left), word(right))


def _byte_order(checker: ExprChecker, node: ast.Binary, left: tree.Expr, right: tree.Expr) -> None:
    """Warn of a number of the network's byte order that is compared with a constant of the machine's."""
    for value, constant in ((left, right), (right, left)):
        turn = _TURNS.get(value.type.name.removeprefix("const "))
        if turn is None or not isinstance(constant, tree.Constant) or constant.type.name in _TURNS:
            continue
        low = constant.value & ((1 << 8 * value.type.size) - 1)
        if low != int.from_bytes(low.to_bytes(value.type.size, "little"), "big"):
            text, number = value.span.text, constant.span.text
            checker.bag.warning(
                "byte-order",
                f"'{text}' is in the network's byte order, {number} in the machine's",
                node.span,
                hints=[f"its number is {turn}({text}); where {number} is meant as it stands, a cast says so"],
            )


def _string_comparison(checker: ExprChecker, node: ast.Binary, left: tree.Expr, right: tree.Expr) -> tree.Expr | None:
    if isinstance(left, tree.Literal) and not isinstance(right, tree.Literal):
        left, right = right, left
    string = as_string(_undecayed(left))
    if node.op not in ("==", "!="):
        checker.error("bad-operand", f"strings compare by == and != only, not '{node.op}'", node.span)
        return None
    if string is None:
        checker.error(
            "bad-operand", f"'{left.span.text}' is {checker.describe(left)}, not a string", left.span,
            f"str({left.span.text}) makes a string of what it points to" if isinstance(left.type, Pointer) else "",
        )  # fmt: skip
        return None
    if not isinstance(right, tree.Literal) or isinstance(string, tree.Literal):
        checker.error("bad-operand", "a string compares with a string literal only", node.span)
        return None
    literal = right.value.encode()
    longest = COMM_SIZE - 1 if isinstance(string, tree.Comm) else MAX_STRING - 1
    if isinstance(string, tree.StringAt):
        longest = min(longest, string.limit)
    if len(literal) > longest or b"\0" in literal:
        what = f"'{string.span.text}' has at most {longest} bytes" if b"\0" not in literal else "a string ends at \\0"
        checker.error("string-too-long", f"{what}, so it is never this", right.span)
        return None
    return tree.StringComparison(INT, node.span, string, literal, node.op == "!=")


def _undecayed(expr: tree.Expr) -> tree.Expr:
    """A char array that became a pointer, as the array again: it knows how long it is."""
    if isinstance(expr, tree.AddressOf) and isinstance(expr.place.type, Array):
        target = tree.pointer(expr).target
        return expr.place if not isinstance(target, Array) else expr
    return expr


def _conditional(checker: ExprChecker, node: ast.Conditional) -> tree.Expr | None:
    condition, then, otherwise = (
        checker.condition(node.condition),
        checker.value(node.then),
        checker.value(node.otherwise),
    )
    if condition is None or then is None or otherwise is None:
        return None
    kind = merged(then, otherwise)
    if kind is None:
        checker.error(
            "bad-operand",
            f"the branches of '?:' do not go together: {checker.describe(then)} and {checker.describe(otherwise)}",
            node.span,
            _choice_of_strings(then, otherwise),
        )
        return None
    chosen = tree.Conditional(kind, node.span, condition, convert(then, kind), convert(otherwise, kind))
    spaces.choice(checker, chosen)
    return chosen


def _choice_of_strings(then: tree.Expr, otherwise: tree.Expr) -> str:
    """What to write where one of two strings is to be chosen; empty where the branches are something else."""
    if any(as_string(_undecayed(branch)) is None for branch in (then, otherwise)):
        return ""
    if all(isinstance(branch, tree.StringAt) for branch in (then, otherwise)):
        return "choose the pointer: str(condition ? p : q)"
    return "a string is no value to choose: if (condition) log(..); else log(..);"


def _cast(checker: ExprChecker, node: ast.Cast) -> tree.Expr | None:
    return cast(checker, node, checker.value(node.operand))


def cast(checker: ExprChecker, node: ast.Cast, operand: tree.Expr | None) -> tree.Expr | None:
    """What a cast makes of its operand; None where an error was reported, by this or for the operand."""
    kind = checker.type_of(node.type)
    if kind is None or operand is None:
        return None
    if not isinstance(kind, Integer | Pointer):
        hint = ""
        if isinstance(kind, Struct) and isinstance(operand.type, Pointer):
            hint = f"to read one at that address: *({kind.name} *){operand_text(node.operand)}"
        checker.error("bad-cast", f"a cast to '{kind.name}' is not possible", node.span, hint)
        return None
    if not isinstance(operand.type, Integer | Pointer):
        checker.error("bad-cast", f"{checker.describe(operand)} cannot be cast to '{kind.name}'", node.span)
        return None
    made = convert(operand, kind)
    if node.type.user:
        return tree.Convert(kind, node.span, made, user=True)
    # A cast has its own place and is no bit-field any more, so it may not vanish.
    return tree.Convert(kind, node.span, made) if made is operand else _placed(made, node.span)


def _assign(checker: ExprChecker, node: ast.Assign) -> tree.Expr | None:
    if _is_state(checker, node.target):
        from klasy.compiler import checkstate

        return checkstate.change(checker, node)
    variable = _assigned(checker, node.target)
    if variable is None:
        checker.value(node.value)  # for its errors
        return None
    if node.op == "=":
        value = checker.initial(node.value, variable.type, f"'{variable.name}'")
    else:
        operand = checker.value(node.value)
        now = tree.Local(variable.type, node.target.span, variable)
        value = None if operand is None else arithmetic(checker, node.op[:-1], now, operand, node.span)
        if value is not None and not assignable(value, variable.type):
            checker.error("bad-operand", f"'{node.op}' makes {checker.describe(value)} of '{variable.name}'", node.span)
            return None
        value = value and convert(value, variable.type)
    if value is None:
        return None
    spaces.given(checker, variable, value, node.value.span)
    return tree.Assign(variable.type, node.span, variable, value)


def _is_state(checker: ExprChecker, target: ast.Expr) -> bool:
    if not checker.states:
        return False
    from klasy.compiler import checkstate

    return checkstate.state_of(checker, target) is not None


def _inc_dec(checker: ExprChecker, node: ast.IncDec) -> tree.Expr | None:
    if _is_state(checker, node.target):
        from klasy.compiler import checkstate

        return checkstate.change(checker, node)
    variable = _assigned(checker, node.target)
    if variable is None:
        return None
    now = tree.Local(variable.type, node.target.span, variable)
    one = tree.Constant(INT, node.span, 1)
    value = arithmetic(checker, node.op[0], now, one, node.span)
    if value is None:
        return None
    return tree.Assign(variable.type, node.span, variable, convert(value, variable.type), old=not node.prefix)


def _assigned(checker: ExprChecker, target: ast.Expr) -> tree.Variable | None:
    """The variable that is assigned to."""
    if isinstance(target, ast.Name):
        variable = checker.lookup(target.name)
        assert variable is not None, "lang knows what is declared"
        variable.assigned = True
        return None if isinstance(variable.type, Void) else variable
    # What begins with a variable's name lang leaves open, for only its type tells whether this is memory.
    if checker.any(target) is not None:
        checker.error(
            "kernel-memory",
            f"'{target.span.text}' lies in the kernel's memory, which advice may read but not change",
            target.span,
        )
    return None


def _placed(expr: tree.Expr, span: Span) -> tree.Expr:
    expr.span = span
    return expr


CHECKS: Mapping[type[ast.Expr], Callable[..., tree.Expr | None]] = {
    ast.Unary: _unary,
    ast.Binary: _binary,
    ast.Conditional: _conditional,
    ast.Cast: _cast,
    ast.Assign: _assign,
    ast.IncDec: _inc_dec,
}
