"""What is to be known of an instruction that accesses memory when a program runs behind it: the registers it wrote."""

from __future__ import annotations

from klasy.flow import decode as d
from klasy.kernel import insn_x86_64 as insn

_ONE_WRITTEN = frozenset((d.LOAD, d.ADD_LOAD, d.CHOOSE_LOAD, d.XCHG))
_STRINGS = 1 << d.SI | 1 << d.DI | 1 << d.CX | 1 << d.AX
_OPERAND16 = 0x66
_WORD = 8


def written(code: bytes) -> int | None:
    """The registers that an instruction writes, as bits; None if what lies behind it need not be what runs next."""
    op = d.decode(code)
    if op[0] >= d.FIRST_TRANSFER:
        return None
    if op[0] in _ONE_WRITTEN:
        return 1 << op[2]
    if op[0] == d.STRING:
        return _STRINGS
    if op[0] in (d.PUSH_LOAD, d.POP):
        return 1 << d.SP
    return op[5] if op[0] == d.OTHER else 0


def stack_shift(code: bytes) -> int | None:
    """By how many bytes an instruction moves the stack pointer; None where that is not known."""
    op = d.decode(code)
    if op[0] in (d.PUSH_LOAD, d.POP) and op[4] is not None:
        short = _OPERAND16 in code[: insn.opcode_offset(code, 0)]
        return None if short else _WORD if op[0] == d.POP else -_WORD
    registers = written(code)
    return None if registers is None or registers & 1 << d.SP else 0


def loaded(code: bytes) -> int | None:
    """The register that holds afterwards what an instruction read, all of its operand; None where none does."""
    op = d.decode(code)
    return op[2] if op[0] == d.LOAD else None
