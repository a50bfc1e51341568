"""The parts of an x86-64 instruction: prefixes, ModRM, immediate values. What they mean, ``opcodes`` says."""

from __future__ import annotations

from klasy.flow.decode import (
    FS,
    GS,
    IP,
    NO_EFFECT,
    NONE,
    OTHER,
)
from klasy.kernel.insn_x86_64 import LEGACY_PREFIXES
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.flow.decode import Effect, Memory


def op(kind: int, width: int, d: int = NONE, s: int = NONE, m: Memory | None = None, *, imm: int = 0) -> Effect:
    """An Effect from those of its parts that are needed."""
    return kind, width, d, s, m, imm


def other(registers: Sequence[int], m: Memory | None = None, width: int = 0) -> Effect:
    """Of an instruction of which no more is told than the registers it writes and its operand in memory."""
    mask = 0
    for register in registers:
        mask |= 1 << register
    return (OTHER, width, NONE, NONE, m, mask) if mask or m else NO_EFFECT


class Operands:
    """One instruction while it is decoded: its prefixes, and its operands as they are read."""

    __slots__ = (
        "at",
        "base",
        "code",
        "lock",
        "mod",
        "operand16",
        "reg",
        "repeat",
        "rex",
        "rm",
        "rm_register",
        "segment",
    )

    def __init__(self, code: bytes) -> None:
        self.code = code
        self.segment = self.rex = self.repeat = 0
        self.operand16 = self.lock = False
        at = 0
        while (byte := code[at]) in LEGACY_PREFIXES:
            if byte == 0x65:
                self.segment = GS
            elif byte == 0x64:
                self.segment = FS
            elif byte == 0x66:
                self.operand16 = True
            elif byte in (0xF2, 0xF3):
                self.repeat = byte
            elif byte == 0xF0:
                self.lock = True
            at += 1
        if code[at] & 0xF0 == 0x40:
            self.rex = code[at]
            at += 1
        self.at = at

    # --- operands

    @property
    def width(self) -> int:
        """The operand's width in bytes, of an instruction with the usual three widths."""
        return 8 if self.rex & 8 else 2 if self.operand16 else 4

    def _signed(self, size: int) -> int:
        """The last ``size`` bytes: an immediate or a distance."""
        return int.from_bytes(self.code[-size:], "little", signed=True)

    def _immediate(self) -> int:
        return self._signed(2 if self.operand16 and not self.rex & 8 else 4)

    def _modrm(self, at: int) -> Memory | None:
        """Read ModRM and what belongs to it. The memory operand, or None where it is a register, ``rm``."""
        code, rex = self.code, self.rex
        byte = code[at]
        mod, rm = byte >> 6, byte & 7
        self.mod = mod
        self.reg = (byte >> 3 & 7) | (rex & 4) << 1
        self.rm = rm | (rex & 1) << 3
        if mod == 3:
            return None
        base, index, scale = self.rm, NONE, 1
        at += 1
        if rm == 4:
            sib = code[at]
            at += 1
            base = (sib & 7) | (rex & 1) << 3
            index = (sib >> 3 & 7) | (rex & 2) << 2
            scale = 1 << (sib >> 6)
            if index == 4:
                index = NONE
            if sib & 7 == 5 and mod == 0:
                base = NONE
                mod = 2
        elif rm == 5 and mod == 0:
            base = IP
            mod = 2
        if mod == 1:
            shift = (code[at] ^ 0x80) - 0x80
        elif mod == 2:
            shift = int.from_bytes(code[at : at + 4], "little", signed=True)
        else:
            shift = 0
        return base, index, scale, shift, self.segment

    def _byte_register(self, register: int) -> int:
        """The register of an 8-bit operand: without REX, 4 to 7 are the second bytes of the first four."""
        return register & 3 if not self.rex and 4 <= register < 8 else register
