"""``per_cpu(variable, cpu)`` and ``per_cpu_ptr(pointer, cpu)``: what a CPU has of its own, as the kernel calls it."""

from __future__ import annotations

from klasy.compiler import globals, tree
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.convert import convert, rvalue, word
from klasy.compiler.types import INT, ULONG, VOID, Integer, Pointer, pointer_to
from klasy.errors import SystemRefusal
from klasy.lang import ast
from klasy.match.globals import type_of
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
        if not checker.types.kernel.data_symbols(variable.name):
            checker.any(variable)  # for its error
        return None
    if not symbol.percpu:
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
    """The pointer that is to be moved; of a per-CPU variable ``&name``, whatever its type, also under a cast."""
    if isinstance(node, ast.Cast):
        kind, inner = checker.type_of(node.type), _pointer(checker, node.operand)
        return convert(inner, kind) if inner is not None and isinstance(kind, Pointer) else checker.value(node)
    if isinstance(node, ast.Unary) and node.op == "&" and isinstance(node.operand, ast.Name):
        name = node.operand
        if not checker.has_meaning(name.name):
            symbol = globals.find(checker, name)
            if symbol is not None and symbol.percpu:
                data = type_of(checker.types.kernel, symbol)
                kind = VOID if data is None else checker.types.of_data(data)
                return tree.Constant(pointer_to(kind), node.span, symbol.address)
    return checker.value(node)


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
        with suppress(SystemRefusal):  # who may not read memory may check an aspect all the same
            for symbol in kernel.data_symbols("nr_cpu_ids"):
                count = int.from_bytes(kernel.read(symbol.address, INT.size), "little")
                if not 0 <= value.value < count:
                    message = f"this machine has no CPU {value.value}: they are 0 to {count - 1}"
                    checker.error("no-such-cpu", message, node.span)
                    return None
    return value


def _moved(checker: ExprChecker, span: Span, base: tree.Expr, cpu: tree.Expr) -> tree.Expr | None:
    """A pointer to a per-CPU variable, moved to a CPU's copy. Of a CPU that there is not, it leads nowhere."""
    kernel = checker.types.kernel
    table, number = kernel.data_symbols("__per_cpu_offset"), kernel.data_symbols("nr_cpu_ids")
    if not table or not number:
        checker.error("no-per-cpu", "this kernel does not tell where its per-CPU variables lie", span)
        return None
    index = tree.Variable("per_cpu.cpu", ULONG, span, used=True)
    chosen = tree.Local(ULONG, span, index)
    start = tree.Constant(pointer_to(ULONG), span, table[0].address)
    offset = tree.Place(ULONG, span, tree.PointerAdd(start.type, span, start, chosen, _WORD), 0)
    limit = tree.Place(INT, span, tree.Constant(pointer_to(INT), span, number[0].address), 0)
    exists = tree.Comparison(INT, span, "<", chosen, word(convert(rvalue(limit), ULONG)))
    there = tree.Conditional(ULONG, span, exists, rvalue(offset), tree.Constant(ULONG, span, 0))
    moved = tree.PointerAdd(base.type, span, base, there, 1)
    return tree.Comma(base.type, span, tree.Declare(span, index, convert(cpu, ULONG)), moved)


FUNCTIONS = (Builtin("per_cpu", _check_per_cpu), Builtin("per_cpu_ptr", _check_per_cpu_ptr))
