"""The operations of the IR on control flows: enter, leave, end with the task, ask, and what was kept at the entry.

What a flow is, and the map that keeps it, is for the backend (:mod:`klasy.backend.bytecode.flows`).
"""

from __future__ import annotations

from klasy.compiler.ir import FlowOp, Operand, Value
from klasy.plain import dataclass


@dataclass(eq=False)
class EnterFlow(FlowOp):
    """The flow begins, unless this is within it already. ``values`` are kept until it is left here.

    Where it cannot be noted, that is counted as unmarked of the join point.
    """

    joinpoint: Operand
    values: tuple[Operand, ...]
    mnemonic = "enter_flow"
    operand_fields = ("joinpoint",)
    operand_list = "values"


@dataclass(eq=False)
class LeaveFlow(FlowOp):
    """The flow is over if it began at this call of this function; nothing if it did not."""

    mnemonic = "leave_flow"


@dataclass(eq=False)
class EndFlow(FlowOp):
    """The flow is over for this task."""

    mnemonic = "end_flow"


@dataclass(eq=False)
class InFlow(FlowOp):
    """``dst`` = 1 in the flow, else 0."""

    dst: Value
    mnemonic = "in_flow"


@dataclass(eq=False)
class KeptInFlow(FlowOp):
    """``dst`` = the value ``place`` that was kept at the innermost entry; 0 where there is none."""

    dst: Value
    place: int
    mnemonic = "kept_in_flow"
