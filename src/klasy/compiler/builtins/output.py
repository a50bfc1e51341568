"""``log`` and ``logging``: what each value becomes in a record, and a template against its values."""

from __future__ import annotations

from klasy import printf
from klasy.compiler import ir, tree
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.builtins.strings import as_string, string_at
from klasy.compiler.convert import rvalue
from klasy.compiler.formats import MAX_RECORD, Layout
from klasy.compiler.types import (
    Array,
    Bool,
    Char,
    Enum,
    Function,
    Incomplete,
    Integer,
    Opaque,
    Pointer,
    String,
    Struct,
)
from klasy.lang import ast
from klasy.plain import TYPE_CHECKING
from klasy.record import CALL_SIZE, MOST_TEXTS, TEXT_BYTES

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.printf import Directive


def _check_log(checker: ExprChecker, call: ast.Apply) -> tree.Stmt | None:
    layout = Layout(checker.types)
    if checker.data is not None:
        checker.data.lay_out(layout, call.span)
    first = call.args[0]
    template = first.value if isinstance(first, ast.StringLiteral) else None
    if isinstance(first, ast.StringLiteral):
        sound = _fill(checker, layout, first, call)
    else:
        sound = all([_lay_out(checker, layout, argument) for argument in call.args])
    if not sound:
        return None
    if not layout.close():
        checker.error("joinpoint-twice", "the whole join point can be logged once in a record", call.span)
        return None
    if not layout.whole:
        checker.error(
            "record-too-large",
            f"this logs {layout.size} bytes at once, and a record holds at most {MAX_RECORD}",
            call.span,
            "log the members that matter instead of the whole",
        )
        return None
    form = checker.formats.new(checker.advice_index, call.span.line, template, layout)
    return tree.Log(call.span, form, tuple(layout.items))


# --- without a template: by the value's type --------------------------------------------------------------------------


def _lay_out(checker: ExprChecker, layout: Layout, node: ast.Expr) -> bool:
    expr = checker.any(node)
    if expr is None:
        return False
    kind = expr.type
    if isinstance(expr, tree.JoinPointAttribute):
        _add_attribute(layout, expr)
    elif isinstance(expr, tree.Literal):
        checker.error("string-literal", "a format string must come first", node.span, "or leave the text out")
        return False
    elif isinstance(expr, tree.Shown):
        _add_shown(layout, expr)
    elif (string := as_string(expr if isinstance(kind, Array) else rvalue(expr))) is not None:
        _add_string(layout, string)
    elif isinstance(kind, Integer):
        _add_integer(layout, rvalue(expr))
    elif isinstance(kind, Pointer):
        if not _add_pointer(checker, layout, rvalue(expr)):
            return False
    elif isinstance(kind, Struct | Array | Opaque) and isinstance(expr, tree.Place) and kind.size:
        # An array that BTF does not have, of a global whose type was written, is shown as the bytes it is.
        shown_as = "bytes" if isinstance(kind, Array) and kind.btf is None else "object"
        layout.add(shown_as, kind.size, tree.AddressOf(Pointer(kind), node.span, expr), kind)
    else:
        checker.error(
            "bad-value", f"'{node.span.text}' is {checker.describe(expr)}: there is nothing to log", node.span
        )
        return False
    layout.next_value()
    return True


def _add_attribute(layout: Layout, value: tree.JoinPointAttribute) -> None:
    if value.is_whole:
        layout.add_last("call", CALL_SIZE + MOST_TEXTS * TEXT_BYTES, value)
    else:
        layout.add("joinpoint", 0, value)


def _add_string(layout: Layout, string: tree.Expr) -> None:
    if isinstance(string, tree.Comm):
        layout.add("string", ir.COMM_SIZE, string)
        return
    assert isinstance(string, tree.StringAt)
    size = string.limit + (not string.whole)
    if string.user and not string.whole:
        layout.add("ustring", size + 1, string)
    else:
        layout.add("string", size, string)


def _add_shown(layout: Layout, value: tree.Shown) -> None:
    size = value.size if isinstance(value, tree.Memory) else value.type.size
    if value.kind == "buffer":
        size = 8 + -(-size // 8) * 8  # the number of bytes that were asked for, then they
    layout.add(value.kind, size, value)


def _add_integer(layout: Layout, value: tree.Expr) -> None:
    kind = tree.integer(value)
    name = "bool" if isinstance(kind, Bool) else "char" if isinstance(kind, Char) else "int"
    if isinstance(kind, Enum):
        name = "enum"
    layout.add(name, kind.size, value, kind, signed=kind.signed)


def _add_pointer(checker: ExprChecker, layout: Layout, value: tree.Expr) -> bool:
    target = tree.pointer(value).target
    if isinstance(target, Incomplete):
        target = checker.types.complete(target) or target
    if isinstance(target, Function):
        layout.add("symbol", 8, value, value.type)
    elif isinstance(target, Struct) and target.size:
        layout.add("address", 8, value, value.type)
        layout.add("object", target.size, value, target)
    else:
        layout.add("pointer", 8, value, value.type)
    return True


# --- with a template: by its directives -----------------------------------------------------------------------------


def _fill(checker: ExprChecker, layout: Layout, template: ast.StringLiteral, call: ast.Apply) -> bool:
    """Check a template and its values, and lay the values out."""
    arguments = call.args[1:]
    values = [checker.any(argument) for argument in arguments]
    try:
        pieces = printf.parse(template.value)
    except printf.TemplateError:
        for error in printf.faults(template.value):
            checker.error("bad-format", error.message, template.span, error.hint)
        return False
    wanted = printf.directives(pieces)
    if len(wanted) != len(arguments):
        have = f"{len(arguments)} value{'s' * (len(arguments) != 1)}"
        text = f"the format has {len(wanted)} conversion{'s' * (len(wanted) != 1)}, and {have} follow"
        span = arguments[len(wanted)].span if len(arguments) > len(wanted) else template.span
        checker.error("format-arguments", text + "s" * (len(arguments) == 1), span)
        return False
    sound = True
    for directive, value in zip(wanted, values, strict=True):
        if value is None:
            sound = False
            continue
        fits = _FILLERS[directive.kind[0] if directive.kind[0] in "sp" else "d"](layout, directive, value)
        layout.next_value()
        if not fits:
            sound = False
            _mismatch(checker, directive, value)
    return sound


def _fill_integer(layout: Layout, directive: Directive, expr: tree.Expr) -> bool:
    if isinstance(expr, tree.JoinPointAttribute):
        layout.add("joinpoint", 0, expr)
        return expr.attribute == "line" or (expr.attribute == "address" and directive.kind in "xX")
    value = rvalue(expr)
    if isinstance(value.type, Integer):
        layout.add("int", value.type.size, value, value.type, signed=value.type.signed)
        return True
    if isinstance(value.type, Pointer) and directive.kind in "xX":
        layout.add("pointer", 8, value, value.type)
        return True
    return False


def _fill_string(layout: Layout, directive: Directive, expr: tree.Expr) -> bool:
    if isinstance(expr, tree.JoinPointAttribute):
        _add_attribute(layout, expr)
        return True
    if isinstance(expr, tree.Literal):
        return False
    if isinstance(expr, tree.Shown):
        _add_shown(layout, expr)
        return True
    value = rvalue(expr)
    string = as_string(expr if isinstance(expr.type, Array) else value)
    if string is None and isinstance(value.type, Pointer) and isinstance(value.type.target, Integer):
        string = string_at(value)  # as in C, unsigned char * will do where %s says what it is
    if string is not None:
        _add_string(layout, string)
        return True
    if isinstance(value.type, Enum | Bool):
        _add_integer(layout, value)
        return True
    if isinstance(value.type, Pointer) and isinstance(value.type.target, Function):
        layout.add("symbol", 8, value, value.type)
        return True
    return False


def _fill_pointer(layout: Layout, directive: Directive, expr: tree.Expr) -> bool:
    if isinstance(expr, tree.JoinPointAttribute):
        layout.add("joinpoint", 0, expr)
        return expr.attribute == "address"
    value = rvalue(expr)
    # An address is often kept in an unsigned long.
    if isinstance(value.type, Pointer) or (isinstance(value.type, Integer) and value.type.size == 8):
        layout.add("symbol" if directive.is_symbol else "pointer", 8, value, value.type)
        return True
    return False


_FILLERS = {"d": _fill_integer, "s": _fill_string, "p": _fill_pointer}


def _mismatch(checker: ExprChecker, directive: Directive, expr: tree.Expr) -> None:
    wants = "an integer" if directive.is_integer else "a string" if directive.kind == "s" else "a pointer"
    kind = expr.type
    hint = ""
    if isinstance(expr, tree.JoinPointAttribute | tree.Shown) or isinstance(kind, String):
        hint = "%s shows it" if not isinstance(expr, tree.Literal) else "write the text into the format"
    elif as_string(expr if isinstance(kind, Array) else rvalue(expr)) is not None:
        hint = "%s shows it, %p its address"
    elif isinstance(kind, Integer):
        hint = "%d, %u or %x shows it"
    elif isinstance(kind, Pointer | Array):
        hint = "%p shows the address, %pS the kernel's symbol there"
        if isinstance(kind, Pointer) and isinstance(kind.target, Struct | Incomplete):
            hint += f"; log({expr.span.text}) without a format shows the whole {kind.target.name}"
        elif directive.kind == "s" and string_at(expr) is not None:
            hint += f", str({expr.span.text}) reads a string there"
    elif isinstance(kind, Struct):
        hint = f"log({expr.span.text}) without a format shows the whole of it"
    checker.error(
        "format-type",
        f"'{directive.text}' needs {wants}, and '{expr.span.text}' is {checker.describe(expr)}",
        expr.span,
        hint,
    )


FUNCTIONS = (Builtin("log", _check_log), Builtin("logging", _check_log))
