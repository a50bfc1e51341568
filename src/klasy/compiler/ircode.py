"""The operation of the IR that runs advice which is not klasy's own: a function of a C compiler's making."""

from __future__ import annotations

from klasy.compiler.ir import Op, Operand
from klasy.plain import dataclass


@dataclass(eq=False)
class CallCode(Op):
    """Run the C function of the advice ``advice``, with the join point's id and the values of its parameters."""

    advice: int
    joinpoint: Operand
    arguments: tuple[Operand, ...]
    mnemonic = "call_code"
    operand_fields = ("joinpoint",)
    operand_list = "arguments"
