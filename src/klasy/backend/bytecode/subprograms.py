"""Advice in C as functions of a BPF program: how it is called, and how its code comes behind the program's own.

The function gets in r1 the address of words on the caller's stack: the join point's id, then the parameters' values.
"""

from __future__ import annotations

from klasy.bpf.insn import R0, R1, R10, call_subprogram, load_imm, store
from klasy.compiler.ircode import CallCode
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.bpf.insn import Instruction
    from klasy.compiler import ir


def call_code(e: Emitter, op: ir.Op) -> None:
    """Emit a call."""
    assert isinstance(op, CallCode)
    words = op.operands()
    for number, operand in enumerate(words):
        offset = 8 * (number - len(words))
        if isinstance(operand, int):
            e.asm.emit(load_imm(R0, operand), store(R10, offset, R0))
        else:
            e.asm.emit(store(R10, offset, e.register(operand, R0)))
    e.stack_address(R1, -8 * len(words))
    e.asm.emit(call_subprogram(_label(op.advice)))


def code_of(program: ir.Program, c_code: Mapping[int, Sequence[Instruction]]) -> list[Instruction]:
    """The functions that a program calls, one behind the other; their source is the whole body of the advice."""
    found: list[Instruction] = []
    for advice, span in {op.advice: op.span for op in program.ops() if isinstance(op, CallCode)}.items():
        first, *rest = (instruction.at(span) for instruction in c_code[advice])
        found += [first.labelled(_label(advice)), *rest]
    return found


def _label(advice: int) -> str:
    return f"c_advice{advice}"
