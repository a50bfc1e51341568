"""``log(joinpoint)``: a system call as a whole, with what it was given and what became of it."""

from __future__ import annotations

from klasy.compiler import ir, tree
from klasy.compiler.types import STRING
from klasy.lang import ast
from klasy.match.plan import Argument
from klasy.match.pointcut import outside_flows
from klasy.plain import TYPE_CHECKING
from klasy.record import CALL_SIZE

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.compiler.lower import Body
    from klasy.record import Field

_OTHERS = (ast.Call, ast.Execution, ast.Access, ast.Event, ast.At, ast.User)


def check_whole(checker: ExprChecker, node: ast.Name) -> tree.Expr | None:
    """The expression; None where an error was reported."""
    advice: ast.Advice | None = getattr(checker, "advice", None)
    if advice is None:
        checker.error(
            "bare-joinpoint", "a function has no join point: its caller has", node.span, "log it in the advice itself"
        )
        return None
    parts = [*outside_flows(advice.pointcut)]
    if not any(isinstance(part, ast.Syscall) for part in parts) or any(isinstance(part, _OTHERS) for part in parts):
        checker.error(
            "bare-joinpoint",
            "only of system calls the whole join point can be logged, and this advice runs at others",
            node.span,
            "joinpoint.function, joinpoint.kind .. can be logged anywhere",
        )
        return None
    after = advice.kind is ast.AdviceKind.AFTER
    return tree.JoinPointAttribute(STRING, node.span, tree.WHOLE_AFTER if after else tree.WHOLE_BEFORE)


def call_field(body: Body, field: Field, value: tree.JoinPointAttribute) -> ir.CallField:
    """How the call gets into the record."""
    build = body.build
    registers = build.value()
    build.add(ir.Argument(registers, Argument(0)))
    result: ir.Operand = 0
    if value.attribute == tree.WHOLE_AFTER:
        result = build.value()
        build.add(ir.Result(result))
    contents = body.arm.contents or ()
    return ir.CallField(
        field.offset, CALL_SIZE + sum(content.room for content in contents), registers, result, contents
    )
