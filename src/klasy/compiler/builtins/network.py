"""The words of the network: addresses shown as such, and numbers from its byte order to the machine's."""

from __future__ import annotations

from klasy.compiler import tree
from klasy.compiler.builtins.memory import start_of
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.convert import convert
from klasy.compiler.types import U16, U32, Array, Integer, Pointer, Shown, Struct, Void
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.lang import ast

IP4_SIZE, IP6_SIZE, MAC_SIZE = 4, 16, 6
IP4 = Shown(IP4_SIZE, "an IPv4 address")
IP6 = Shown(IP6_SIZE, "an IPv6 address")
MAC = Shown(MAC_SIZE, "a MAC address")


def _check_ip4(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    """``ip4(x)``: a 32-bit number in network order, as the kernel's __be32; or a struct of that size, in_addr."""
    (node,) = call.args
    operand = checker.any(node)
    if operand is None:
        return None
    if isinstance(operand, tree.Place) and isinstance(operand.type, Struct) and operand.type.size == IP4_SIZE:
        start = tree.AddressOf(Pointer(operand.type), node.span, operand)
        return tree.Memory(IP4, call.span, "ip4", start, IP4_SIZE)
    value = checker.value(node) if isinstance(operand, tree.JoinPointAttribute) else checker.value_of(operand)
    if value is None:
        return None
    if isinstance(value.type, Integer) and value.type.size == IP4_SIZE:
        return tree.Formatted(IP4, call.span, "ip4", value)
    hint = ""
    if isinstance(value.type, Pointer):
        text = node.span.text
        hint = f"ip4(*{text}) is of what it points to" if value.type.target.size == IP4_SIZE else ""
    elif isinstance(value.type, Integer):
        hint = "a cast says that it is meant: (__be32)"
    checker.error(
        "not-an-address",
        f"'{node.span.text}' is {checker.describe(value)}: ip4() takes 32 bits in network byte order",
        node.span,
        hint,
    )
    return None


def _check_ip6(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    return _at(checker, call, IP6, "ip6", "ip6(p)")


def _check_mac(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    return _at(checker, call, MAC, "mac", "mac(p)")


def _at(checker: ExprChecker, call: ast.Apply, shown: Shown, kind: str, form: str) -> tree.Expr | None:
    """The address of the network at an address of memory: of bytes, of numbers in a row, of a struct of that size."""
    (node,) = call.args
    start = start_of(checker, node, form)
    if start is None:
        return None
    target = start.type.target if isinstance(start.type, Pointer) else None
    if isinstance(start, tree.AddressOf) and isinstance(start.place.type, Array):
        target = start.place.type
    fits = target is None or isinstance(target, Void | Integer)
    if isinstance(target, Struct):
        fits = target.size == shown.size
    elif isinstance(target, Array):
        fits = isinstance(target.element, Integer) and (not target.count or target.size >= shown.size)
    if not fits:
        assert target is not None
        there = f"{target.size} bytes, '{target.name}'" if target.size else f"'{target.name}'"
        checker.error(
            "not-an-address",
            f"'{node.span.text}' leads to {there}, and {shown.name} has {shown.size} bytes",
            node.span,
        )
        return None
    return tree.Memory(shown, call.span, kind, start, shown.size)


def _check_ntohs(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    return _swapped(checker, call, U16)


def _check_ntohl(checker: ExprChecker, call: ast.Apply) -> tree.Expr | None:
    return _swapped(checker, call, U32)


def _swapped(checker: ExprChecker, call: ast.Apply, kind: Integer) -> tree.Expr | None:
    """The argument is converted as C converts an argument."""
    (node,) = call.args
    value = checker.value(node)
    if value is None:
        return None
    if not isinstance(value.type, Integer):
        name = call.callee.span.text
        hint = "ip4(x), ip6(p) show addresses" if isinstance(value.type, Pointer) else ""
        checker.error(
            "bad-argument",
            f"{name}() takes a number, and '{node.span.text}' is {checker.describe(value)}",
            node.span,
            hint,
        )
        return None
    return tree.SwapBytes(kind, call.span, convert(value, kind))


FUNCTIONS = (
    Builtin("ip4", _check_ip4),
    Builtin("ip6", _check_ip6),
    Builtin("mac", _check_mac),
    Builtin("ntohs", _check_ntohs),
    Builtin("ntohl", _check_ntohl),
)
