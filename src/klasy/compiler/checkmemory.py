"""Checks the expressions that name memory: members, elements, ``*``, ``&``, sizeof, container_of."""

from __future__ import annotations

from klasy.compiler import tree
from klasy.compiler.convert import rvalue, word
from klasy.compiler.types import (
    LONG,
    STRING,
    ULONG,
    Array,
    Function,
    Incomplete,
    Integer,
    Pointer,
    Struct,
    Void,
    pointer_to,
    same,
)
from klasy.compiler.wording import a_type, operand_text, tag_word
from klasy.diag import did_you_mean
from klasy.lang import ast
from klasy.lang.vocabulary import JOINPOINT
from klasy.match.near import near
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.compiler.checkexpr import ExprChecker
    from klasy.compiler.types import CType, Member
    from klasy.source import Span


def _member(checker: ExprChecker, node: ast.Member) -> tree.Expr | None:
    if isinstance(node.object, ast.Name) and node.object.name == JOINPOINT and checker.lookup(JOINPOINT) is None:
        return tree.JoinPointAttribute(STRING, node.span, node.name)
    obj = checker.any(node.object)
    if obj is None:
        return None
    base = _arrow(checker, node, obj) if node.arrow else _dot(checker, node, obj)
    if base is None:
        return None
    struct = checker.completed(base.type, node.object.span)
    if struct is None:
        return None
    found = checker.types.member(struct, node.name)
    if found is None:
        _unknown_member(checker, node, struct)
        return None
    return _member_place(base, struct, found, node.span)


def _arrow(checker: ExprChecker, node: ast.Member, obj: tree.Expr) -> tree.Place | None:
    """What ``obj->`` leads into."""
    text = node.object.span.text
    if isinstance(obj.type, Struct | Incomplete):
        kind = tag_word(obj.type)
        checker.error(
            "needs-dot", f"'{text}' is a {kind}, not a pointer to one", node.span, f"write {text}.{node.name}"
        )
        return None
    pointer = rvalue(obj)
    if not isinstance(pointer.type, Pointer):
        checker.error(
            "not-a-pointer", f"'{text}' is {checker.describe(obj)}, not a pointer to a struct", node.object.span
        )
        return None
    target = pointer.type.target
    if isinstance(target, Struct | Incomplete):
        return tree.Place(target, node.span, pointer, 0)
    hint = ""
    if isinstance(target, Pointer) and isinstance(target.target, Struct | Incomplete):
        hint = f"write (*{operand_text(node.object)})->{node.name}"
    elif isinstance(target, Void):
        hint = f"a cast says what it points to: ((struct .. *){operand_text(node.object)})->{node.name}"
    checker.error(
        "not-a-struct", f"'{text}' is {a_type(pointer.type)}, not a pointer to a struct", node.object.span, hint
    )
    return None


def _dot(checker: ExprChecker, node: ast.Member, obj: tree.Expr) -> tree.Place | None:
    """What ``obj.`` leads into."""
    if isinstance(obj, tree.Place) and isinstance(obj.type, Struct | Incomplete):
        return obj
    text = node.object.span.text
    if isinstance(obj.type, Pointer) and isinstance(obj.type.target, Struct | Incomplete):
        checker.error(
            "needs-arrow", f"'{text}' is {a_type(obj.type)}: a pointer", node.span, f"write {text}->{node.name}"
        )
    else:
        checker.error("not-a-struct", f"'{text}' is {checker.describe(obj)}, and has no members", node.object.span)
    return None


def _unknown_member(checker: ExprChecker, node: ast.Member, struct: Struct) -> None:
    names = checker.types.member_names(struct)
    close = near(node.name, names) or [name for name in names if name[:3] == node.name[:3]][:3]
    hint = did_you_mean(close)
    if not close and len(names) <= 8:
        hint = f"its members are {', '.join(names)}" if names else "it has no members"
    start = node.span.end - len(node.name)
    span = type(node.span)(node.span.file, start, node.span.end)
    checker.error("unknown-member", f"'{struct.name}' has no member '{node.name}'", span, hint)


def _index(checker: ExprChecker, node: ast.Index) -> tree.Expr | None:
    if checker.states:
        from klasy.compiler import checkstate

        if checkstate.state_of(checker, node) is not None:
            return checkstate.read(checker, node)
    array = checker.any(node.object)
    keys = [checker.value(key) for key in node.keys]
    if array is None or any(key is None for key in keys):
        return None
    text = node.object.span.text
    index = keys[0]
    assert index is not None
    if not isinstance(index.type, Integer):
        checker.error("bad-index", f"an index must be an integer, and this is {checker.describe(index)}", index.span)
        return None
    if isinstance(array, tree.Place) and isinstance(array.type, Array):
        element, base, offset = array.type.element, array.base, array.offset
    else:
        pointer = rvalue(array)
        if not isinstance(pointer.type, Pointer):
            checker.error(
                "bad-index", f"'{text}' is {checker.describe(array)}, not an array or pointer", node.object.span
            )
            return None
        element, base, offset = pointer.type.target, pointer, 0
    scale = checker.element_size(element, node.span)
    if scale is None:
        return None
    if isinstance(element, Incomplete):
        element = checker.completed(element, node.span) or element
    if isinstance(index, tree.Constant):
        return tree.Place(element, node.span, base, offset + index.value * scale)
    moved = tree.PointerAdd(base.type, node.span, base, word(index), scale)
    return tree.Place(element, node.span, moved, offset)


def address_of(checker: ExprChecker, node: ast.Unary) -> tree.Expr | None:
    """``&operand``."""
    if isinstance(node.operand, ast.Name) and not checker.has_meaning(node.operand.name):
        from klasy.compiler import globals

        return globals.address(checker, node.operand, node.span)
    place = checker.any(node.operand)
    if place is None:
        return None
    text = node.operand.span.text
    if not isinstance(place, tree.Place):
        what = "a variable of the advice" if isinstance(place, tree.Local) else "a value"
        checker.error("no-address", f"'{text}' is {what} and has no address in the kernel", node.span)
        return None
    if place.bits:
        checker.error("no-address", f"'{text}' is a bit-field and has no address", node.span)
        return None
    return tree.AddressOf(pointer_to(place.type), node.span, place)


def dereference(checker: ExprChecker, node: ast.Unary, operand: tree.Expr) -> tree.Expr | None:
    """``*operand``."""
    if not isinstance(operand.type, Pointer):
        checker.error(
            "not-a-pointer",
            f"'*' needs a pointer, and '{node.operand.span.text}' is {checker.describe(operand)}",
            node.operand.span,
        )
        return None
    target = operand.type.target
    if isinstance(target, Void | Function):
        hint = "a cast says what it points to: *(u32 *)" + operand_text(node.operand)
        checker.error(
            "not-a-pointer",
            f"'{node.operand.span.text}' is {a_type(operand.type)}: what it points to has no value",
            node.span,
            hint if isinstance(target, Void) else "",
        )
        return None
    if isinstance(target, Incomplete):
        struct = checker.completed(target, node.span)
        if struct is None:
            return None
        target = struct
    return tree.Place(target, node.span, operand, 0)


def _size_of(checker: ExprChecker, node: ast.SizeOf) -> tree.Expr | None:
    if isinstance(node.operand, ast.TypeRef):
        kind: CType | None = checker.type_of(node.operand)
    else:
        operand = checker.any(node.operand)
        if isinstance(operand, tree.Place) and operand.bits:
            checker.error("no-size", f"'{node.operand.span.text}' is a bit-field and has no size", node.span)
            return None
        if isinstance(operand, tree.Literal):
            return tree.Constant(ULONG, node.span, len(operand.value.encode()) + 1)
        kind = operand.type if operand else None
    if isinstance(kind, Incomplete):
        kind = checker.completed(kind, node.span)
    if kind is None:
        return None
    if not kind.size and not isinstance(kind, Struct | Array):
        checker.error("no-size", f"{a_type(kind)} has no size", node.span)
        return None
    return tree.Constant(ULONG, node.span, kind.size)


def _container_of(checker: ExprChecker, node: ast.ContainerOf) -> tree.Expr | None:
    pointer, kind = checker.value(node.pointer), checker.type_of(node.type)
    if isinstance(kind, Incomplete):
        kind = checker.completed(kind, node.type.span)
    if kind is None or pointer is None:
        return None
    if not isinstance(kind, Struct):
        checker.error("not-a-struct", f"'{kind.name}' is not a struct", node.type.span)
        return None
    if not isinstance(pointer.type, Pointer):
        checker.error(
            "not-a-pointer",
            f"'{node.pointer.span.text}' is {checker.describe(pointer)}, not a pointer",
            node.pointer.span,
        )
        return None
    place: tree.Place = tree.Place(kind, node.span, pointer, 0)
    for name in node.path:
        struct = checker.completed(place.type, node.span) if isinstance(place.type, Struct | Incomplete) else None
        if struct is None:
            if not isinstance(place.type, Incomplete):
                checker.error("not-a-struct", f"'{place.type.name}' has no member '{name}'", node.span)
            return None
        found = checker.types.member(struct, name)
        if found is None:
            close = near(name, checker.types.member_names(struct))
            checker.error("unknown-member", f"'{struct.name}' has no member '{name}'", node.span, did_you_mean(close))
            return None
        place = _member_place(place, struct, found, node.span)
    if place.bits:
        checker.error("no-address", f"'{'.'.join(node.path)}' is a bit-field: nothing points to it", node.span)
        return None
    target = pointer.type.target
    element = place.type.element if isinstance(place.type, Array) else place.type
    if not (isinstance(target, Void) or same(target, place.type) or same(target, element)):
        checker.error(
            "bad-container",
            f"'{node.pointer.span.text}' is {checker.describe(pointer)}, "
            f"but '{'.'.join(node.path)}' of '{kind.name}' is {a_type(place.type)}",
            node.span,
        )
        return None
    back = tree.Constant(LONG, node.span, place.offset)
    return tree.PointerAdd(pointer_to(kind), node.span, pointer, back, 1, True)


def _member_place(base: tree.Place, struct: Struct, found: Member, span: Span) -> tree.Place:
    byte, shift = divmod(found.bit_offset, 8)
    place = tree.Place(found.type, span, base.base, base.offset + byte)
    if found.bits:
        place.bits, place.shift, place.struct = found.bits, shift, (base.offset, struct.size)
    return place


CHECKS: Mapping[type[ast.Expr], Callable[..., tree.Expr | None]] = {
    ast.Member: _member,
    ast.Index: _index,
    ast.SizeOf: _size_of,
    ast.ContainerOf: _container_of,
}
