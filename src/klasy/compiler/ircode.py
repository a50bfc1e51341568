"""The operation of the IR that runs advice which is not klasy's own: a function of a C compiler's making."""

from __future__ import annotations

from klasy.compiler.ir import Op, Operand, Value
from klasy.plain import dataclass


@dataclass(eq=False)
class CallCode(Op):
    """Run the C function of the advice ``advice``, with the join point's id and the values of its parameters."""

    advice: int
    joinpoint: Operand
    arguments: tuple[Operand, ...]
    mnemonic = "call_code"

    def operands(self) -> tuple[Operand, ...]:
        """The join point, then the arguments."""
        return (self.joinpoint, *self.arguments)

    def substitute(self, known: dict[Value, Operand]) -> None:
        """As :meth:`Op.substitute`."""

        def new(operand: Operand) -> Operand:
            return known.get(operand, operand) if isinstance(operand, Value) else operand

        self.joinpoint = new(self.joinpoint)
        self.arguments = tuple(new(operand) for operand in self.arguments)
