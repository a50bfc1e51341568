"""Expands signed division, which eBPF below v4 lacks, into unsigned division and the signs."""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.ir import Block, Operand, Program, Value


def expand_signed_division(program: Program) -> None:
    """Leave no ``sdiv`` and ``smod``.

    C truncates towards zero: the quotient of the absolute values takes the sign of left ^ right, the remainder that
    of left. A number's sign word s is 0 or -1, its absolute value (x ^ s) - s, and the same puts a sign back on.
    """
    maker = _Maker(program)
    for block in program.blocks:
        if any(isinstance(op, ir.Binary) and op.op in ir.SIGNED_DIVISIONS for op in block.ops):
            maker.expand(block)


class _Maker:
    def __init__(self, program: Program) -> None:
        self.next = 1 + max((op.result.id for op in program.ops() if op.result is not None), default=-1)
        self.ops: list[ir.Op] = []
        self.current: ir.Op | None = None

    def expand(self, block: Block) -> None:
        self.ops = []
        for op in block.ops:
            if isinstance(op, ir.Binary) and op.op in ir.SIGNED_DIVISIONS:
                assert op.width == 64, "canonical operands make signed division 64 bits wide"
                self.current = op
                self.divide(op)
            else:
                self.ops.append(op)
        block.ops = self.ops

    def add(self, op: ir.Op) -> None:
        assert self.current is not None
        op.span = self.current.span
        self.ops.append(op)

    def binary(self, op: str, left: Operand, right: Operand) -> Value:
        dst = Value(self.next)
        self.next += 1
        self.add(ir.Binary(dst, op, 64, left, right))
        return dst

    def divide(self, op: ir.Binary) -> None:
        if isinstance(op.right, int) and op.right > 0 and op.right & (op.right - 1) == 0:
            self.by_power_of_two(op, op.right)
            return
        left_sign, right_sign = self.binary("ashr", op.left, 63), self.binary("ashr", op.right, 63)
        left, right = self.signed(op.left, left_sign), self.signed(op.right, right_sign)
        result = self.binary("udiv" if op.op == "sdiv" else "umod", left, right)
        sign = self.binary("xor", left_sign, right_sign) if op.op == "sdiv" else left_sign
        self.add(ir.Binary(op.dst, "sub", 64, self.binary("xor", result, sign), sign))

    def signed(self, value: Operand, sign: Value) -> Value:
        return self.binary("sub", self.binary("xor", value, sign), sign)

    def by_power_of_two(self, op: ir.Binary, divisor: int) -> None:
        """A shift rounds down; adding divisor - 1 to a negative number first makes it round towards zero."""
        bias = self.binary("and", self.binary("ashr", op.left, 63), divisor - 1)
        biased = self.binary("add", op.left, bias)
        if op.op == "sdiv":
            self.add(ir.Binary(op.dst, "ashr", 64, biased, divisor.bit_length() - 1))
        else:
            self.add(ir.Binary(op.dst, "sub", 64, op.left, self.binary("and", biased, -divisor)))
