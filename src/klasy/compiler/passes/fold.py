"""Folds constants, copies and needless extensions into the operations that use them."""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.ir import Operand, Program, Value
from klasy.compiler.ircheck import reachable
from klasy.compiler.semantics import binary, compare, signed, swap

_INVERSE = {
    "eq": "ne", "ne": "eq", "ult": "uge", "uge": "ult", "ule": "ugt", "ugt": "ule",
    "slt": "sge", "sge": "slt", "sle": "sgt", "sgt": "sle",
}  # fmt: skip
_SWAPPED = {
    "eq": "eq", "ne": "ne", "ult": "ugt", "ugt": "ult", "ule": "uge", "uge": "ule",
    "slt": "sgt", "sgt": "slt", "sle": "sge", "sge": "sle",
}  # fmt: skip
_COMMUTATIVE = ("add", "mul", "and", "or", "xor")
_MAX_OFFSET = (1 << 31) - 1


def fold(program: Program) -> None:
    """Replace what is known: operands by constants or by what they are copies of, operations by cheaper ones.

    Nothing is removed but operations whose value became known; ``dead`` removes the rest.
    """
    folder = _Folder()
    for block in reachable(program):  # a definition comes before its uses
        kept = []
        for op in block.ops:
            op.substitute(folder.known)
            folded = folder.fold(op)
            if folded.result is not None:
                if isinstance(folded, ir.Copy):
                    folder.known[folded.dst] = folded.source
                    continue
                folder.definitions[folded.result] = folded
            folded.span = op.span
            kept.append(folded)
        block.ops = kept


class _Folder:
    def __init__(self) -> None:
        self.known: dict[Value, Operand] = {}
        self.definitions: dict[Value, ir.Op] = {}

    def definition(self, operand: Operand) -> ir.Op | None:
        return self.definitions.get(operand) if isinstance(operand, Value) else None

    def fold(self, op: ir.Op) -> ir.Op:
        """What takes the place of an operation: a Copy where its value is known."""
        match op:
            case ir.Binary():
                return self.binary(op)
            case ir.Extend():
                return self.extend(op)
            case ir.Swap() if isinstance(op.source, int):
                return ir.Copy(op.dst, _immediate(swap(op.source, op.bits)))
            case ir.Compare():
                return self.compare(op)
            case ir.Branch():
                return self.branch(op)
            case ir.Load() | ir.StringEqual():
                self.address(op)
            case ir.Emit():
                self.emit(op)
        return op

    def binary(self, op: ir.Binary) -> ir.Op:
        if op.op in _COMMUTATIVE and isinstance(op.left, int):
            op.left, op.right = op.right, op.left
        left, right = op.left, op.right
        if not isinstance(right, int):
            return op
        if isinstance(left, int):
            return ir.Copy(op.dst, _immediate(binary(op.op, op.width, left, right)))
        if op.op in ("shl", "lshr", "ashr"):
            right = op.right = right % op.width
        if op.op == "sub" and right != ir.MIN_IMMEDIATE:
            op.op, right = "add", -right
            op.right = right
        if op.width != 64:
            return op
        if right == 0 and op.op in ("add", "or", "xor", "shl", "lshr", "ashr"):
            return ir.Copy(op.dst, left)
        if (right == 1 and op.op in ("mul", "udiv")) or (right == -1 and op.op == "and"):
            return ir.Copy(op.dst, left)
        if right == 0 and op.op in ("mul", "and", "udiv"):
            return ir.Copy(op.dst, 0)
        if right > 1 and right & (right - 1) == 0:
            power = right.bit_length() - 1
            if op.op in ("mul", "udiv"):
                op.op, op.right = ("shl" if op.op == "mul" else "lshr"), power
            elif op.op == "umod":
                op.op, op.right = "and", right - 1
        inner = self.definition(left)
        if op.op == "add" and isinstance(inner, ir.Binary) and inner.op == "add" and inner.width == 64:
            if isinstance(inner.right, int):
                op.left, op.right = inner.left, _immediate(inner.right + right)
        elif op.op == "and" and right >= 0 and self.unsigned_bits(left) <= _ones(right):
            return ir.Copy(op.dst, left)
        return op

    def extend(self, op: ir.Extend) -> ir.Op:
        if isinstance(op.source, int):
            low = op.source & (1 << op.bits) - 1
            return ir.Copy(op.dst, signed(low, op.bits) if op.signed else low)
        # Where the upper bits are known to be zero, so is the sign if there is one bit more.
        if self.unsigned_bits(op.source) <= op.bits - op.signed:
            return ir.Copy(op.dst, op.source)
        inner = self.definition(op.source)
        if isinstance(inner, ir.Extend):
            if inner.bits >= op.bits:
                op.source = inner.source
            elif inner.signed and op.signed:
                return ir.Copy(op.dst, op.source)
        return op

    def unsigned_bits(self, operand: Operand) -> int:
        """A number of bits that the value certainly fits, taken as unsigned."""
        if isinstance(operand, int):
            return operand.bit_length() if operand >= 0 else 64
        match self.definition(operand):
            case ir.Load() as load:
                return 8 * load.size
            case ir.Compare() | ir.StringEqual() | ir.CommEqual():
                return 1
            case ir.Extend() as inner if not inner.signed:
                return inner.bits
            case ir.Swap() as swapped:
                return swapped.bits
            case ir.Binary() as inner:
                bits = inner.width
                if isinstance(inner.right, int) and inner.right >= 0:
                    if inner.op == "and":
                        bits = min(bits, inner.right.bit_length())
                    elif inner.op == "lshr":
                        bits = max(0, min(bits, self.unsigned_bits(inner.left)) - inner.right % inner.width)
                return bits
        return 64

    def compare(self, op: ir.Compare) -> ir.Op:
        if isinstance(op.left, int) and isinstance(op.right, int):
            return ir.Copy(op.dst, int(compare(op.op, op.left & ir.MASK64, op.right & ir.MASK64)))
        if isinstance(op.left, int):
            op.left, op.right, op.op = op.right, op.left, _SWAPPED[op.op]
        if op.right == 0 and op.op in ("eq", "ne") and self.unsigned_bits(op.left) <= 1:
            if op.op == "ne":
                return ir.Copy(op.dst, op.left)
            inner = self.definition(op.left)
            if isinstance(inner, ir.Compare):
                op.op, op.left, op.right = _INVERSE[inner.op], inner.left, inner.right
        return op

    def branch(self, op: ir.Branch) -> ir.Op:
        if isinstance(op.left, int) and isinstance(op.right, int):
            holds = compare(op.op, op.left & ir.MASK64, op.right & ir.MASK64)
            return ir.Jump(op.then if holds else op.otherwise)
        if op.then is op.otherwise:
            return ir.Jump(op.then)
        if isinstance(op.left, int):
            op.left, op.right, op.op = op.right, op.left, _SWAPPED[op.op]
        inner = self.definition(op.left)
        if op.right == 0 and op.op in ("eq", "ne") and isinstance(inner, ir.Compare):
            op.op = inner.op if op.op == "ne" else _INVERSE[inner.op]
            op.left, op.right = inner.left, inner.right
        return op

    def emit(self, op: ir.Emit) -> None:
        """Only the low bytes of a value are stored: how it was extended does not matter."""
        for part in op.parts:
            if isinstance(part, ir.StoreField):
                while isinstance(inner := self.definition(part.value), ir.Extend) and inner.bits >= 8 * part.size:
                    part.value = inner.source

    def address(self, op: ir.Load | ir.StringEqual) -> None:
        """Take a constant that was added to the address into the offset."""
        inner = self.definition(op.address)
        if isinstance(inner, ir.Binary) and inner.op == "add" and inner.width == 64 and isinstance(inner.right, int):
            offset = op.offset + inner.right
            if abs(offset) <= _MAX_OFFSET:
                op.address, op.offset = inner.left, offset


def _immediate(value: int) -> int:
    return signed(value, 64)


def _ones(mask: int) -> int:
    """How many low bits a mask keeps, all of them."""
    return (~mask & mask + 1).bit_length() - 1
