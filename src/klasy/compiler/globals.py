"""The kernel's variables and functions, named in advice: a variable is a place of its type, a function its address.

``&name`` is good for any variable, also where nobody knows its type. Those that each CPU has of its own are
:mod:`klasy.compiler.builtins.percpu`'s.
"""

from __future__ import annotations

from klasy.btf.types import Func
from klasy.compiler import tree
from klasy.compiler.types import VOID, pointer_to
from klasy.match.globals import type_of
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.compiler.types import CType
    from klasy.kernel.model import DataSymbol, Kernel
    from klasy.lang import ast
    from klasy.source import Span


def is_global(kernel: Kernel, name: str) -> bool:
    """Whether the kernel has a variable or a function of a name."""
    return bool(kernel.data_symbols(name)) or any(f.name == name for f in kernel.functions(name))


def check(checker: ExprChecker, node: ast.Name) -> tree.Expr | None:
    """What the name of one of them means; None where an error was reported."""
    checker.kernel_memory = True
    symbol = find(checker, node)
    if symbol is None:
        return None if checker.types.kernel.data_symbols(node.name) else _function(checker, node)
    if symbol.percpu:
        checker.error(
            "per-cpu",
            f"'{node.name}' is a per-CPU variable: each CPU has its own",
            node.span,
            f"per_cpu({node.name}, cpu) is this CPU's",
        )
        return None
    return place(checker, node, symbol)


def address(checker: ExprChecker, node: ast.Name, span: Span) -> tree.Expr | None:
    """``&name`` of a variable whose type is not known, as a ``void *``; None where it is, or that is no variable."""
    name = node.name
    kernel = checker.types.kernel
    if checker.has_meaning(name) or not (symbols := kernel.data_symbols(name)) or len(symbols) > 1:
        return None
    (symbol,) = symbols
    if symbol.percpu or type_of(kernel, symbol) is not None:
        return None
    checker.kernel_memory = True
    return tree.Constant(pointer_to(VOID), span, symbol.address)


def find(checker: ExprChecker, node: ast.Name) -> DataSymbol | None:
    """The variable of a name; None where there is none, or an error was reported: there are several."""
    found = checker.types.kernel.data_symbols(node.name)
    if len({symbol.address for symbol in found}) > 1:
        where = ", ".join(f"{s.address:#x}" + (f" [{s.module}]" if s.module else "") for s in found[:5])
        checker.error(
            "ambiguous-data",
            f"{len(found)} variables are named '{node.name}': {where}",
            node.span,
            "static variables of one name cannot be told apart by it; an address can be written as a number",
        )
        return None
    return found[0] if found else None


def place(checker: ExprChecker, node: ast.Name, symbol: DataSymbol) -> tree.Place | None:
    """A variable, of its type; of a per-CPU variable what its copies are reckoned from."""
    data = type_of(checker.types.kernel, symbol)
    if data is None:
        name, size = node.name, symbol.size
        example = {8: "unsigned long", 4: "int", 2: "short", 1: "char"}.get(size, "struct TYPE")
        variable = f"*per_cpu_ptr(({example} *)&{name}, cpu)" if symbol.percpu else f"*({example} *)&{name}"
        checker.error(
            "unknown-data-type",
            f"of what type '{name}' is, the kernel's type information does not say ({size} bytes)",
            node.span,
            f"a cast says it, as its source declares it: {variable}",
        )
        return None
    kind = checker.types.of_data(data)
    return tree.Place(kind, node.span, tree.Constant(pointer_to(kind), node.span, symbol.address), 0)


def _function(checker: ExprChecker, node: ast.Name) -> tree.Expr | None:
    """A function's address, as C has it: to be compared with what a pointer to a function holds."""
    kernel = checker.types.kernel
    found = [function for function in kernel.functions(node.name) if function.name == node.name]
    if len({function.address for function in found}) > 1:
        where = ", ".join(f"{f.address:#x}" + (f" [{f.module}]" if f.module else "") for f in found[:5])
        checker.error("ambiguous-data", f"{len(found)} functions are named '{node.name}': {where}", node.span)
        return None
    function = found[0]
    kind: CType = VOID
    if function.btf is not None and function.proto is not None:
        described = function.btf.type(function.proto)
        assert isinstance(described, Func)
        kind = checker.types.of(function.btf, described.type_id)
    return tree.Constant(pointer_to(kind), node.span, function.address)
