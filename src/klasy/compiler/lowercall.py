"""Calls of the user's functions to IR: the function's body in place of the call.

The body is lowered anew for each call. Its variables are those of the call alone: where an argument calls the same
function, what has been begun for the outer call must be there again afterwards.
"""

from __future__ import annotations

from klasy.compiler import tree
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.ir import Operand
    from klasy.compiler.lower import Body


def call(body: Body, node: tree.Call) -> Operand:
    """The function at its call; what it gives, or 0."""
    build = body.build
    outer = body.variables, body.tainted, body.fixed
    faults, bit, returns = body.faults, body.bit, body.returns
    body.variables, body.tainted, body.fixed = dict(outer[0]), dict(outer[1]), dict(outer[2])
    body.faults = None
    for variable, value in node.arguments:
        body.prepare(variable)
        body.begin(variable, body.keep(variable, value))
    if node.result is not None:
        body.prepare(node.result)
        body.begin(node.result, 0)
    behind = build.block()
    body.returns = node.result, behind
    body.statement(node.body)
    if not build.ended:
        build.jump(behind)
    build.begin(behind)
    build.span = node.span
    body.faults, body.bit, body.returns = faults, bit, returns
    given: Operand = 0
    if node.result is not None:
        given = body.value(tree.Local(node.result.type, node.span, node.result))
    body.variables, body.tainted, body.fixed = outer
    return given


def leave(body: Body, node: tree.Return) -> None:
    """``return`` in a function."""
    assert body.returns is not None
    result, behind = body.returns
    if node.value is not None:
        assert result is not None
        value = body.keep(result, node.value)
        body.build.set(body.variables[result], value)
    body.build.jump(behind)
