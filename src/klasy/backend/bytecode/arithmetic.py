"""Arithmetic, comparisons and branches: operations that touch registers only."""

from __future__ import annotations

from klasy.backend.bytecode.emitter import fits_immediate
from klasy.backend.bytecode.frame import Slot
from klasy.bpf.insn import R0, R1, R10, Reg, alu, and_, arsh, jump_if, load_imm, lsh, mov, rsh, store_imm, to_be
from klasy.compiler import ir
from klasy.compiler.semantics import compare
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.backend.bytecode.emitter import Emitter

_ALU = {
    "add": "+=",
    "sub": "-=",
    "mul": "*=",
    "udiv": "/=",
    "umod": "%=",
    "and": "&=",
    "or": "|=",
    "xor": "^=",
    "shl": "<<=",
    "lshr": ">>=",
    "ashr": "s>>=",
}
_COMMUTES = frozenset({"add", "mul", "and", "or", "xor"})
_SHIFTS = frozenset({"shl", "lshr", "ashr"})
_DIVISIONS = frozenset({"udiv", "umod"})

_JUMPS = {
    "eq": "==",
    "ne": "!=",
    "ult": "<",
    "ule": "<=",
    "ugt": ">",
    "uge": ">=",
    "slt": "s<",
    "sle": "s<=",
    "sgt": "s>",
    "sge": "s>=",
}
_SWAPPED = {
    "eq": "eq",
    "ne": "ne",
    "ult": "ugt",
    "ule": "uge",
    "ugt": "ult",
    "uge": "ule",
    "slt": "sgt",
    "sle": "sge",
    "sgt": "slt",
    "sge": "sle",
}
_NEGATED = {
    "eq": "ne",
    "ne": "eq",
    "ult": "uge",
    "ule": "ugt",
    "ugt": "ule",
    "uge": "ult",
    "slt": "sge",
    "sle": "sgt",
    "sgt": "sle",
    "sge": "slt",
}


def copy(e: Emitter, op: ir.Copy | ir.Get | ir.Set) -> None:
    """``dst = source`` in all its forms."""
    source: ir.Operand | ir.Var = op.var if isinstance(op, ir.Get) else op.source
    target = op.var if isinstance(op, ir.Set) else op.dst
    place = e.place(target)
    if isinstance(source, int) and isinstance(place, Slot) and fits_immediate(source):
        return e.asm.emit(store_imm(R10, place.offset, source))
    register = e.result(target)
    if register is R0 and not isinstance(source, int):
        register = e.register(source, R0)
    else:
        e.into(register, source)
    return e.keep(target, register)


def swap(e: Emitter, op: ir.Swap) -> None:
    """``dst`` = source with its bytes swapped: on a little-endian machine what "to big-endian" does."""
    register = e.result(op.dst)
    e.into(register, op.source)
    e.asm.emit(to_be(register, op.bits))
    e.keep(op.dst, register)


def binary(e: Emitter, op: ir.Binary) -> None:
    """``dst = left op right``."""
    left, right = op.left, op.right
    if op.op in _COMMUTES and isinstance(left, int):
        left, right = right, left
    if isinstance(right, int):
        right = _constant(op.op, op.width, right)
        if op.op in _DIVISIONS and right == 0:  # the verifier refuses it; the IR says what it gives
            return _divide_by_zero(e, op)
    register = e.result(op.dst)
    if not isinstance(right, int) and e.place(right) == register and right != left:
        if op.op in _COMMUTES:
            left, right = right, left
        else:
            register = R0
    symbol = _ALU[op.op]
    source = e.source(right, R1)
    e.into(register, left)
    e.asm.emit(alu(symbol, register, source, op.width))
    e.keep(op.dst, register)
    return None


def _constant(op: str, width: int, value: int) -> int:
    """The right operand as the instruction takes it: a count within the width, 32 bits of it where that is all."""
    if op in _SHIFTS:
        return value % width
    if width == 32:
        value &= 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value
    return value


def _divide_by_zero(e: Emitter, op: ir.Binary) -> None:
    register = e.result(op.dst)
    if op.op == "udiv":
        e.asm.emit(mov(register, 0))
    else:
        e.into(register, op.left)
        if op.width == 32:
            e.asm.emit(mov(register, register, width=32))
    e.keep(op.dst, register)


def extend(e: Emitter, op: ir.Extend) -> None:
    """``dst`` = low bits of ``source``."""
    register = e.result(op.dst)
    if not op.signed and op.bits == 32:
        source = e.register(op.source, register)
        e.asm.emit(mov(register, source, width=32))
        return e.keep(op.dst, register)
    e.into(register, op.source)
    if not op.signed and op.bits < 32:
        e.asm.emit(and_(register, (1 << op.bits) - 1))
    else:
        count = 64 - op.bits
        e.asm.emit(lsh(register, count), arsh(register, count) if op.signed else rsh(register, count))
    return e.keep(op.dst, register)


def comparison(e: Emitter, op: ir.Compare) -> None:
    """``dst`` = 1 or 0."""
    left, right, relation = _ordered(op.op, op.left, op.right)
    register = e.result(op.dst)
    if isinstance(left, int) and isinstance(right, int):
        e.asm.emit(mov(register, int(compare(relation, left & ir.MASK64, right & ir.MASK64))))
        return e.keep(op.dst, register)
    a = e.register(left, R0)
    b = e.source(right, R1)
    end = e.asm.fresh_label("compared")
    if register in {a, b}:
        yes = e.asm.fresh_label("true")
        e.asm.emit(jump_if(a, _JUMPS[relation], b, yes), mov(register, 0))
        e.go(end)
        e.asm.label(yes)
        e.asm.emit(mov(register, 1))
    else:
        e.asm.emit(mov(register, 1), jump_if(a, _JUMPS[relation], b, end), mov(register, 0))
    e.asm.label(end)
    return e.keep(op.dst, register)


def branch(e: Emitter, op: ir.Branch, then: str, otherwise: str, following: str | None) -> None:
    """Go to ``then`` or ``otherwise``; ``following`` is the label of the code that comes next."""
    left, right, relation = _ordered(op.op, op.left, op.right)
    if isinstance(left, int) and isinstance(right, int):
        return e.go(then if compare(relation, left & ir.MASK64, right & ir.MASK64) else otherwise)
    if then == following:
        then, otherwise, relation = otherwise, then, _NEGATED[relation]
    a = e.register(left, R0)
    e.asm.emit(jump_if(a, _JUMPS[relation], e.source(right, R1), then))
    return e.go(otherwise)


def _ordered(op: str, left: ir.Operand, right: ir.Operand) -> tuple[ir.Operand, ir.Operand, str]:
    """A constant to the right."""
    if isinstance(left, int) and not isinstance(right, int):
        return right, left, _SWAPPED[op]
    return left, right, op


def compare_constant(e: Emitter, condition: tuple[Reg, str, int], target: str, spare: Reg = R1) -> None:
    """``if register symbol constant goto target``, for an unsigned 64-bit constant.

    Kernel text lies in the topmost 2 GiB, so that its addresses are sign-extended 32-bit constants.
    """
    register, symbol, constant = condition
    value = constant - (1 << 64) if constant >> 63 else constant
    if fits_immediate(value):
        e.asm.emit(jump_if(register, symbol, value, target))
    else:
        e.asm.emit(load_imm(spare, constant), jump_if(register, symbol, spare, target))
