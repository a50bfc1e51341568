"""``per_cpu(variable, cpu)`` and ``per_cpu_ptr(pointer, cpu)``: what a CPU has of its own, as the kernel calls it."""

from __future__ import annotations

from klasy.compiler import globals, tree
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.checkops import cast
from klasy.compiler.convert import convert, rvalue, word
from klasy.compiler.types import INT, ULONG, Integer, Pointer, pointer_to
from klasy.errors import SystemRefusal
from klasy.kernel.model import Function
from klasy.lang import ast
from klasy.match.globals import NO_PER_CPU, most_cpus, no_such_cpu, per_cpu_areas
from klasy.plain import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.source import Span

_WORD = 8


def _check_per_cpu(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    """``per_cpu(variable, cpu)``."""
    variable, number = call.args
    checker.kernel_memory = True
    cpu = _cpu(checker, number)
    if not isinstance(variable, ast.Name) or checker.has_meaning(variable.name):
        checker.error(
            "not-per-cpu",
            f"'{variable.span.text}' is no per-CPU variable",
            variable.span,
            "per_cpu_ptr(pointer, cpu) is what a per-CPU pointer stands for",
        )
        return None
    symbol = globals.find(checker, variable)
    if symbol is None:
        return None
    if isinstance(symbol, Function) or not symbol.percpu:
        checker.error("not-per-cpu", f"'{variable.name}' is no per-CPU variable: there is one of it", variable.span)
        return None
    place = globals.place(checker, variable, symbol)
    if cpu is None or place is None:
        return None
    moved = _moved(checker, call.span, place.base, cpu)
    return moved and tree.Place(place.type, call.span, moved, 0)


def _check_per_cpu_ptr(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    """``per_cpu_ptr(pointer, cpu)``."""
    pointer, cpu = _pointer(checker, call.args[0]), _cpu(checker, call.args[1])
    checker.kernel_memory = True
    if pointer is None or cpu is None:
        return None
    if not isinstance(pointer.type, Pointer):
        checker.error(
            "not-a-pointer",
            f"'{call.args[0].span.text}' is {checker.describe(pointer)}: per_cpu_ptr() takes a per-CPU pointer",
            call.args[0].span,
        )
        return None
    return _moved(checker, call.span, pointer, cpu)


def _pointer(checker: ExprChecker, node: ast.Expr) -> tree.Expr | None:
    """The pointer that is to be moved; of a per-CPU variable ``&name``, whatever its type, also under casts."""
    operand = node
    while isinstance(operand, ast.Cast):
        operand = operand.operand
    if not (isinstance(operand, ast.Unary) and operand.op == "&" and isinstance(operand.operand, ast.Name)):
        return checker.value(node)
    if checker.has_meaning(operand.operand.name):
        return checker.value(node)
    if isinstance(node, ast.Cast):
        return cast(checker, node, _pointer(checker, node.operand))
    return globals.address(checker, operand.operand, node.span, per_cpu=True)


def _cpu(checker: ExprChecker, node: ast.Expr) -> tree.Expr | None:
    """The number of a CPU. An error where it is a constant that this machine has no CPU for."""
    value = checker.value(node)
    if value is None:
        return None
    if not isinstance(value.type, Integer):
        checker.error("bad-operand", f"'{node.span.text}' is {checker.describe(value)}, no CPU's number", node.span)
        return None
    if isinstance(value, tree.Constant):
        kernel = checker.types.kernel
        areas = per_cpu_areas(kernel)
        with suppress(SystemRefusal):  # who may not read memory may check an aspect all the same
            if areas is not None:
                count = most_cpus(kernel, areas[1])
                if not 0 <= value.value < count:
                    checker.error(*no_such_cpu(value.value, count), node.span)
                    return None
    return value


def _moved(checker: ExprChecker, span: Span, base: tree.Expr, cpu: tree.Expr) -> tree.Expr | None:
    """A pointer to a per-CPU variable, moved to a CPU's copy. Of a CPU that there is not, it leads nowhere."""
    areas = per_cpu_areas(checker.types.kernel)
    if areas is None:
        checker.error(*NO_PER_CPU, span)
        return None
    table, number = areas
    index = tree.Variable("per_cpu.cpu", ULONG, span, used=True)
    chosen = tree.Local(ULONG, span, index)
    start = tree.Constant(pointer_to(ULONG), span, table)
    offset = tree.Place(ULONG, span, tree.PointerAdd(start.type, span, start, chosen, _WORD), 0)
    limit = tree.Place(INT, span, tree.Constant(pointer_to(INT), span, number), 0)
    exists = tree.Comparison(INT, span, "<", chosen, word(convert(rvalue(limit), ULONG)))
    there = tree.Conditional(ULONG, span, exists, rvalue(offset), tree.Constant(ULONG, span, 0))
    moved = tree.PointerAdd(base.type, span, base, there, 1)
    return tree.Comma(base.type, span, tree.Declare(span, index, convert(cpu, ULONG)), moved)


FUNCTIONS = (Builtin("per_cpu", _check_per_cpu), Builtin("per_cpu_ptr", _check_per_cpu_ptr))
