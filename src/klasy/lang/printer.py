"""From the tree back to source. What is printed parses to the same tree; layout and comments are not kept."""

from __future__ import annotations

import re

from klasy.lang import ast
from klasy.lang.literals import write_integer, write_string
from klasy.lang.typenames import USER
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_INDENT = "    "

# How tightly an operator binds: C's levels, higher is tighter.
_COMMA, _ASSIGN, _CONDITIONAL, _CAST, _UNARY, _POSTFIX, _PRIMARY = 0, 1, 2, 13, 14, 15, 16
_BINARY = {
    ",": _COMMA, "||": 3, "&&": 4, "|": 5, "^": 6, "&": 7, "==": 8, "!=": 8, "<": 9, ">": 9, "<=": 9, ">=": 9,
    "<<": 10, ">>": 10, "+": 11, "-": 11, "*": 12, "/": 12, "%": 12,
}  # fmt: skip
_POINTCUT_OR, _POINTCUT_AND, _POINTCUT_NOT = 0, 1, 2

# Read at the start of a statement this would be a declaration.
_LIKE_DECLARATION = re.compile(r"[A-Za-z_]\w* *\*")


def print_file(tree: ast.File) -> str:
    """A whole file."""
    parts = [f"import {write_string(i.path)};\n" for i in tree.imports]
    parts += [f"precedence {', '.join(p.names)};\n" for p in tree.precedence]
    parts += [print_aspect(aspect) for aspect in tree.aspects]
    return "\n".join(parts)


def print_aspect(aspect: ast.AspectDecl) -> str:
    """One aspect, its parts by kind: pointcuts, state, functions, advice."""
    members = [print_pointcut_declaration(p) for p in aspect.pointcuts]
    members += [f"abstract pointcut {p.name}({_params(p.params)});" for p in aspect.open]
    members += [print_state(s) for s in aspect.state]
    members += [print_function(f) for f in aspect.functions]
    members += [print_advice(a) for a in aspect.advice]
    return "\n".join([f"{_head(aspect)} {{", *(_INDENT + m for m in members), "}"]) + "\n"


def _head(aspect: ast.AspectDecl) -> str:
    text = f"{'abstract ' if aspect.abstract else ''}aspect {aspect.name}"
    if aspect.params:
        parts = [p.name if isinstance(p, ast.NameParam) else print_declaration(p.type, p.name) for p in aspect.params]
        text += f"({', '.join(parts)})"
    if aspect.extends is not None:
        arguments = [
            " ".join(a.words) if isinstance(a, ast.NameArgument) else f"({print_expr(a)})"
            for a in aspect.extends.arguments
        ]
        text += f" extends {aspect.extends.name}" + (f"({', '.join(arguments)})" if arguments else "")
    return text


# --- types ----------------------------------------------------------------------------------------------------------


def print_type(type_: ast.TypeRef) -> str:
    """A type without a name: ``const struct sk_buff *``. Dimensions are shown behind it."""
    return print_declaration(type_, "")


def _base(type_: ast.TypeRef) -> str:
    words = ["const"] * type_.const + ["volatile"] * type_.volatile
    words += [USER] * (type_.user and not type_.pointers)
    words += [type_.tag.value] if type_.tag is not ast.TagKind.NONE else []
    return " ".join([*words, type_.name, *([USER] * (type_.user and type_.pointers > 0))])


def _declarator(type_: ast.TypeRef, name: str) -> str:
    return "*" * type_.pointers + name + "".join(f"[{d}]" for d in type_.array)


def print_declaration(type_: ast.TypeRef, name: str) -> str:
    """A type with the name that it declares: ``struct sk_buff *skb``, ``char name[16]``."""
    declarator = _declarator(type_, name)
    return f"{_base(type_)} {declarator}" if declarator else _base(type_)


def _params(params: Iterable[ast.Param]) -> str:
    return ", ".join(print_declaration(p.type, p.name) for p in params)


# --- pointcuts ------------------------------------------------------------------------------------------------------


def print_pointcut_declaration(declaration: ast.PointcutDecl) -> str:
    """``pointcut [name(params):] expr;``."""
    expr = print_pointcut(declaration.expr)
    if declaration.name is None:
        return f"pointcut {expr};"
    return f"pointcut {declaration.name}({_params(declaration.params)}): {expr};"


def print_pointcut(pointcut: ast.Pointcut) -> str:
    """A pointcut expression."""
    return _pointcut(pointcut, _POINTCUT_OR)


def _pointcut(pointcut: ast.Pointcut, level: int) -> str:
    if isinstance(pointcut, ast.Or):
        text, own = (
            f"{_pointcut(pointcut.left, _POINTCUT_OR)} || {_pointcut(pointcut.right, _POINTCUT_AND)}",
            _POINTCUT_OR,
        )
    elif isinstance(pointcut, ast.And):
        text, own = (
            f"{_pointcut(pointcut.left, _POINTCUT_AND)} && {_pointcut(pointcut.right, _POINTCUT_NOT)}",
            _POINTCUT_AND,
        )
    elif isinstance(pointcut, ast.Not):
        text, own = f"!{_pointcut(pointcut.operand, _POINTCUT_NOT)}", _POINTCUT_NOT
    else:
        return _designator(pointcut)
    return f"({text})" if own < level else text


def _designator(pointcut: ast.Pointcut) -> str:
    match pointcut:
        case ast.Call():
            return f"call({print_signature(pointcut.signature)})"
        case ast.User():
            return f"user({write_string(pointcut.file)}: execution({print_signature(pointcut.signature)}))"
        case ast.Execution():
            return f"execution({print_signature(pointcut.signature)})"
        case ast.Within():
            return f"within({print_signature(pointcut.signature)})"
        case ast.Access():
            return f"{pointcut.kind.value}({print_data(pointcut.data)})"
        case ast.Syscall():
            return f"syscall({pointcut.name})"
        case ast.Event():
            return f"event({pointcut.category}:{pointcut.name})"
        case ast.At():
            if pointcut.file is not None:
                return f'at("{pointcut.file}:{pointcut.line}")'
            return f"at({pointcut.function}+{pointcut.offset:#x})"
        case ast.WithinFile():
            return f'withinfile("{pointcut.glob}")'
        case ast.WithinModule():
            return f'withinmodule("{pointcut.glob}")'
        case ast.Cflow():
            return f"{'cflowbelow' if pointcut.below else 'cflow'}({print_pointcut(pointcut.operand)})"
        case ast.Args():
            return f"args({', '.join(_param_pattern(p) for p in pointcut.params)})"
        case ast.Target():
            return f"target({pointcut.name})"
        case ast.If():
            return f"if({print_expr(pointcut.condition)})"
        case ast.PointcutRef():
            return f"{pointcut.name}({', '.join(pointcut.args)})"
    raise TypeError(f"no designator: {pointcut!r}")


def print_signature(signature: ast.Signature) -> str:
    """A signature, in its first reading."""
    text = print_declaration(signature.result, signature.name) if signature.result else signature.name
    if signature.params is None:
        return text
    return f"{text}({', '.join(_param_pattern(p) for p in signature.params)})"


def _param_pattern(param: ast.ParamPattern) -> str:
    if param.type is not None:
        return print_declaration(param.type, param.name or "")
    return f"{param.kind.value} {param.name}" if param.name else param.kind.value


def print_data(data: ast.DataPattern) -> str:
    """What ``get``, ``set`` and ``access`` take."""
    path = data.text
    if data.watched:
        return f"watched {print_type(data.type)}.{path}" if data.type is not None else f"watched {data.name}->{path}"
    if data.declared is not None:
        return f'"{print_declaration(data.declared, path)}"'
    if data.type is None:
        return path
    return f"{print_type(data.type)}.{path}" if path else print_declaration(data.type, data.name or "")


# --- advice and state -----------------------------------------------------------------------------------------------


def print_advice(advice: ast.AdviceDecl) -> str:
    """An advice with its body, as a member of an aspect: its lines but the first are indented. C is left as it is."""
    text = f"{advice.kind.value}({_params(advice.params)})"
    if advice.returning:
        text += f" returning ({_params([advice.returning])})"
    if advice.pointcut:
        text += f": {print_pointcut(advice.pointcut)}"
    if isinstance(advice.body, ast.CBody):
        return f"{text} %{{{advice.body.text}%}}"
    return f"{text} {print_statement(advice.body)}".replace("\n", "\n" + _INDENT)


def print_function(function: ast.FunctionDecl) -> str:
    """A function, as a member of an aspect."""
    text = f"{print_declaration(function.result, function.name)}({_params(function.params)})"
    return f"{text} {print_statement(function.body)}".replace("\n", "\n" + _INDENT)


def _print_key(key: ast.Expr | ast.TypeRef) -> str:
    return _expr(key, _ASSIGN) if isinstance(key, ast.Expr) else print_declaration(key, "")


def print_state(state: ast.StateDecl) -> str:
    """A state declaration."""
    keys = f"[{', '.join(map(_print_key, state.keys))}]" if state.keys else ""
    if state.type is not None:
        return f"{print_declaration(state.type, state.name)}{keys};"
    bounds = f"({', '.join(map(str, state.bounds))})" if state.bounds else ""
    return f"{state.kind.value}{bounds} {state.name}{keys};"


# --- statements -----------------------------------------------------------------------------------------------------


def print_statement(statement: ast.Stmt) -> str:
    """A statement, its lines indented from the first column."""
    match statement:
        case ast.Block():
            if not statement.body:
                return "{}"
            lines = [_INDENT + line for s in statement.body for line in print_statement(s).split("\n")]
            return "\n".join(["{", *lines, "}"])
        case ast.Declare():
            return _declarations([statement]) + ";"
        case ast.ExprStmt():
            return _expression_statement(statement.expr) + ";"
        case ast.IfStmt():
            text = f"if ({print_expr(statement.condition)}) {print_statement(statement.then)}"
            if statement.otherwise is None:
                return text
            gap = " " if isinstance(statement.then, ast.Block) else "\n"
            return f"{text}{gap}else {print_statement(statement.otherwise)}"
        case ast.For():
            parts = [
                _for_init(statement.init),
                *(f" {print_expr(e)}" if e else "" for e in (statement.condition, statement.step)),
            ]
            return f"for ({';'.join(parts)}) {print_statement(statement.body)}"
        case ast.While():
            return f"while ({print_expr(statement.condition)}) {print_statement(statement.body)}"
        case ast.Return():
            return f"return {print_expr(statement.value)};" if statement.value is not None else "return;"
        case ast.Break():
            return "break;"
        case ast.Continue():
            return "continue;"
        case ast.Delete():
            return f"delete {print_expr(statement.target)};"
    raise TypeError(f"no statement: {statement!r}")


def _declarations(statements: Sequence[ast.Declare]) -> str:
    """Declarations on one line: they share their base type."""
    parts = []
    for statement in statements:
        value = f" = {_expr(statement.value, _ASSIGN)}" if statement.value is not None else ""
        parts.append(_declarator(statement.type, statement.name) + value)
    return f"{_base(statements[0].type)} {', '.join(parts)}"


def _for_init(init: Sequence[ast.Stmt]) -> str:
    declarations = [s for s in init if isinstance(s, ast.Declare)]
    if declarations:
        return _declarations(declarations)
    return "".join(_expression_statement(s.expr) for s in init if isinstance(s, ast.ExprStmt))


def _expression_statement(expr: ast.Expr) -> str:
    text = print_expr(expr)
    return f"({text})" if _LIKE_DECLARATION.match(text) else text


# --- expressions ----------------------------------------------------------------------------------------------------


def print_expr(expr: ast.Expr) -> str:
    """An expression, with the parentheses that it needs."""
    return _expr(expr, _COMMA)


def _list(exprs: Iterable[ast.Expr]) -> str:
    return ", ".join(_expr(e, _ASSIGN) for e in exprs)


def _expr(expr: ast.Expr, level: int) -> str:
    text, own = _with_level(expr)
    return f"({text})" if own < level else text


def _with_level(expr: ast.Expr) -> tuple[str, int]:
    """The text of an expression and how tightly its outermost operator binds."""
    match expr:
        case ast.IntLiteral():
            return write_integer(expr), _PRIMARY
        case ast.StringLiteral():
            return write_string(expr.value), _PRIMARY
        case ast.Name():
            return expr.name, _PRIMARY
        case ast.InFlow():
            return f"cflow#{expr.flow}", _PRIMARY
        case ast.Member():
            return f"{_expr(expr.object, _POSTFIX)}{'->' if expr.arrow else '.'}{expr.name}", _POSTFIX
        case ast.Index():
            return f"{_expr(expr.object, _POSTFIX)}[{_list(expr.keys)}]", _POSTFIX
        case ast.Apply():
            return f"{_expr(expr.callee, _POSTFIX)}({_list(expr.args)})", _POSTFIX
        case ast.Unary():
            operand = _expr(expr.operand, _CAST)
            if operand[0] in "+-&" and operand[0] == expr.op:  # two would be one other operator
                operand = f"({operand})"
            return expr.op + operand, _UNARY
        case ast.IncDec():
            if expr.prefix:
                return expr.op + _expr(expr.target, _UNARY), _UNARY
            return _expr(expr.target, _POSTFIX) + expr.op, _POSTFIX
        case ast.Binary():
            own = _BINARY[expr.op]
            gap = "" if expr.op == "," else " "
            return f"{_expr(expr.left, own)}{gap}{expr.op} {_expr(expr.right, own + 1)}", own
        case ast.Conditional():
            condition, then = _expr(expr.condition, _CONDITIONAL + 1), print_expr(expr.then)
            return f"{condition} ? {then} : {_expr(expr.otherwise, _CONDITIONAL)}", _CONDITIONAL
        case ast.Assign():
            return f"{_expr(expr.target, _CONDITIONAL)} {expr.op} {_expr(expr.value, _ASSIGN)}", _ASSIGN
        case ast.Cast():
            operand = _expr(expr.operand, _CAST)
            if operand[0] in "+-*&":  # behind `(name)` these would be binary
                operand = f"({operand})"
            return f"({print_type(expr.type)}){operand}", _CAST
        case ast.SizeOf():
            if isinstance(expr.operand, ast.TypeRef):
                return f"sizeof({print_type(expr.operand)})", _UNARY
            return f"sizeof {_expr(expr.operand, _UNARY)}", _UNARY
        case ast.ContainerOf():
            pointer = _expr(expr.pointer, _ASSIGN)
            return f"container_of({pointer}, {print_type(expr.type)}, {'.'.join(expr.path)})", _PRIMARY
    raise TypeError(f"no expression: {expr!r}")
