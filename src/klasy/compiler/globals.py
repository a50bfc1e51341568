"""The kernel's variables and functions, named in advice: a variable is a place of its type, a function its address.

``&name`` is good for any variable, also where nobody knows its type. Those that each CPU has of its own are
:mod:`klasy.compiler.builtins.percpu`'s.
"""

from __future__ import annotations

from klasy.btf.types import Func
from klasy.compiler import tree
from klasy.compiler.types import VOID, pointer_to
from klasy.kernel.model import Function
from klasy.match.globals import example_type, namesakes, type_of, untyped
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.compiler.checkexpr import ExprChecker
    from klasy.compiler.types import CType
    from klasy.kernel.model import DataSymbol
    from klasy.lang import ast
    from klasy.source import Span


def find(checker: ExprChecker, node: ast.Name) -> DataSymbol | Function | None:
    """The variable of a name, or else the function; None where an error was reported: there is none, or are several."""
    kernel = checker.types.kernel
    found: Sequence[DataSymbol | Function] = kernel.data_symbols(node.name)
    what = "variables"
    if not found:
        found = [function for function in kernel.functions(node.name) if function.name == node.name]
        what = "functions"
    if not found:
        checker.unknown_name(node)
        return None
    checker.kernel_memory = True
    if len({symbol.address for symbol in found}) > 1:
        message, hint = namesakes(what, node.name, found)
        checker.error("ambiguous-data", message, node.span, f"{hint}; an address can be written as a number")
        return None
    return found[0]


def check(checker: ExprChecker, node: ast.Name) -> tree.Expr | None:
    """What a name that has no other meaning means; None where an error was reported."""
    symbol = find(checker, node)
    if symbol is None:
        return None
    if isinstance(symbol, Function):
        return tree.Constant(pointer_to(_prototype(checker, symbol)), node.span, symbol.address)
    if symbol.percpu:
        _each_has_its_own(checker, node)
        return None
    return place(checker, node, symbol)


def address(checker: ExprChecker, node: ast.Name, span: Span, *, per_cpu: bool = False) -> tree.Expr | None:
    """``&name``: of a variable whose type is not known a ``void *``. None where an error was reported.

    ``per_cpu``: also of a per-CPU variable; it is what the addresses of its copies are reckoned from.
    """
    symbol = find(checker, node)
    if symbol is None:
        return None
    kind: CType = VOID
    if isinstance(symbol, Function):
        kind = _prototype(checker, symbol)
    elif symbol.percpu and not per_cpu:
        _each_has_its_own(checker, node)
        return None
    elif (data := type_of(checker.types.kernel, symbol)) is not None:
        kind = checker.types.of_data(data)
    return tree.Constant(pointer_to(kind), span, symbol.address)


def place(checker: ExprChecker, node: ast.Name, symbol: DataSymbol) -> tree.Place | None:
    """A variable, of its type; of a per-CPU variable what its copies are reckoned from."""
    data = type_of(checker.types.kernel, symbol)
    if data is None:
        example = f"({example_type(symbol)} *)&{symbol.name}"
        variable = f"*per_cpu_ptr({example}, cpu)" if symbol.percpu else f"*{example}"
        checker.error(*untyped(symbol), node.span, f"a cast says it, as its source declares it: {variable}")
        return None
    kind = checker.types.of_data(data)
    return tree.Place(kind, node.span, tree.Constant(pointer_to(kind), node.span, symbol.address), 0)


def _each_has_its_own(checker: ExprChecker, node: ast.Name) -> None:
    name = node.name
    message, hint = f"'{name}' is a per-CPU variable: each CPU has its own", f"per_cpu({name}, cpu) is this CPU's"
    checker.error("per-cpu", message, node.span, hint)


def _prototype(checker: ExprChecker, function: Function) -> CType:
    """A function's type, as C has it: its address is compared with what a pointer to a function holds."""
    if function.btf is None or function.proto is None:
        return VOID
    described = function.btf.type(function.proto)
    assert isinstance(described, Func)
    return checker.types.of(function.btf, described.type_id)
