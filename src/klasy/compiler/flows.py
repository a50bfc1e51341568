"""Control flows on their way to the IR: the condition ``cflow``, and the steps that keep a flow."""

from __future__ import annotations

from klasy.compiler import irflow, tree
from klasy.compiler.types import INT
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.check import AdviceChecker
    from klasy.compiler.ir import Operand, Value
    from klasy.compiler.lower import Body
    from klasy.compiler.lowerexpr import ExpressionLowering
    from klasy.lang import ast
    from klasy.match.plan import Kept


def check_condition(node: ast.InFlow) -> tree.InFlow:
    """The typed condition."""
    return tree.InFlow(INT, node.span, node.flow)


def check_step(checker: AdviceChecker, node: ast.FlowStep) -> tree.FlowStep:
    """The typed step."""
    values = []
    for name in node.names if node.step == "enter" else ():
        variable = checker.parameters[name]
        variable.used = True
        values.append(tree.Local(variable.type, node.span, variable))
    return tree.FlowStep(node.span, node.step, node.flow, tuple(values))


def lower_condition(low: ExpressionLowering, node: tree.InFlow) -> Operand:
    """Ask."""
    dst = low.build.value()
    low.build.add(irflow.InFlow(node.flow, dst))
    return dst


def lower_step(body: Body, node: tree.FlowStep) -> None:
    """Do it."""
    if node.step == "enter":
        values = tuple([body.value(value) for value in node.values])
        body.build.add(irflow.EnterFlow(node.flow, body.joinpoint, values))
    elif node.step == "leave":
        body.build.add(irflow.LeaveFlow(node.flow))
    else:
        body.build.add(irflow.EndFlow(node.flow))


def lower_kept(body: Body, dst: Value, source: Kept) -> None:
    """``dst`` = a parameter that a flow keeps."""
    body.build.add(irflow.KeptInFlow(source.flow, dst, source.place))
