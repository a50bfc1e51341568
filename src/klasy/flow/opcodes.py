"""The one-byte opcodes of x86-64. Intel SDM volume 2, appendix A."""

from __future__ import annotations

from klasy.flow.decode import (
    ADD,
    ADD_CONST,
    ADD_LOAD,
    AX,
    BRANCH,
    CALL,
    CALL_INDIRECT,
    CONST,
    CX,
    DI,
    DX,
    JUMP,
    JUMP_INDIRECT,
    LEA,
    LEAVE,
    LOAD,
    MASK,
    MOVE,
    NO_EFFECT,
    NONE,
    NOTHING,
    POP,
    PUSH,
    PUSH_LOAD,
    RETURN,
    SCALE,
    SI,
    STOP,
    STORE,
    STRING,
    SWAP,
    XCHG,
)
from klasy.flow.opcodes_0f import TwoByte
from klasy.flow.operands import op, other
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.flow.decode import Effect, Memory


class Decoder(TwoByte):
    """One instruction; ``op`` is what it does to registers, and where in memory."""

    __slots__ = ()

    def op(self) -> Effect:
        """Its parts but for what it does to memory."""
        byte = self.code[self.at]
        if byte == 0x0F:
            return self._two_byte(self.code[self.at + 1], self.at + 2)
        if byte in (0xC4, 0xC5, 0x62):
            return self._vector(byte)
        if byte < 0x40:
            return self._arithmetic(byte >> 3, byte & 7, self.at + 1)
        return self._one_byte(byte, self.at + 1)

    def _arithmetic(self, what: int, form: int, at: int) -> Effect:
        """add, or, adc, sbb, and, sub, xor, cmp."""
        if form >= 4:
            width = 1 if form == 4 else self.width
            return self._with_immediate(what, AX, None, width, self._signed(1) if form == 4 else self._immediate())
        m = self._modrm(at)
        width = self.width if form & 1 else 1
        reg, rm = (self.reg, self.rm) if width > 1 else (self._byte_register(self.reg), self._byte_register(self.rm))
        if m is not None:
            if what == 7:
                return other((), m, width)
            if form < 2:
                return other((), m, width)
            if what == 0 and width == 8:
                return op(ADD_LOAD, 8, reg, m=m)
            return other((reg,), m, width)
        d, s = (rm, reg) if form < 2 else (reg, rm)
        if what == 7:
            return NO_EFFECT
        if what in (5, 6) and d == s and width >= 4:
            return op(CONST, width, d)
        if what == 0 and width == 8:
            return op(ADD, 8, d, s)
        return other((d,))

    def _with_immediate(self, what: int, rm: int, m: Memory | None, width: int, value: int) -> Effect:
        if m is not None:
            return other((), m, width)
        if what == 7:
            return NO_EFFECT
        if width == 8:
            if what == 0:
                return op(ADD_CONST, 8, rm, imm=value)
            if what == 5:
                return op(ADD_CONST, 8, rm, imm=-value)
            if what == 4:
                return op(MASK, 8, rm, imm=value)
        if what == 1 and value == -1 and width >= 4:
            return op(CONST, width, rm, imm=-1 if width == 8 else 0xFFFF_FFFF)
        return other((rm if width > 1 else self._byte_register(rm),))

    def _one_byte(self, byte: int, at: int) -> Effect:
        row = byte & 0xF8
        if row == 0x50:
            return op(PUSH, 8, s=(byte & 7) | (self.rex & 1) << 3)
        if row == 0x58:
            return op(POP, 8, (byte & 7) | (self.rex & 1) << 3)
        if byte & 0xF0 == 0x70 or 0xE0 <= byte < 0xE4:
            return op(BRANCH, 0, byte & 15 if byte < 0x80 else NONE, imm=self._signed(1))
        if row == 0xB8:
            d = (byte & 7) | (self.rex & 1) << 3
            if self.rex & 8:
                return op(CONST, 8, d, imm=self._signed(8))
            return op(CONST, 4, d, imm=self._signed(4) & 0xFFFF_FFFF) if not self.operand16 else other((d,))
        if row == 0xB0:
            return other((self._byte_register((byte & 7) | (self.rex & 1) << 3),))
        if row == 0x90:
            return self._exchange_with_ax(byte)
        if 0xA4 <= byte < 0xA8 or 0xAA <= byte < 0xB0:
            return op(STRING, self.width if byte & 1 else 1, int(bool(self.repeat)), imm=byte & 0xFE)
        if 0xD8 <= byte < 0xE0:
            m = self._modrm(at)
            if m is None:
                return other((AX,)) if byte == 0xDF else NO_EFFECT  # fnstsw ax
            return other((), m, 8)
        method = _ONE_BYTE.get(byte)
        return method(self, byte, at) if method is not None else NO_EFFECT

    def _exchange_with_ax(self, byte: int) -> Effect:
        second = (byte & 7) | (self.rex & 1) << 3
        if second == AX:
            return NO_EFFECT  # nop, pause
        return op(SWAP, 8, AX, second) if self.rex & 8 else other((AX, second))

    def _movsxd(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        return other((self.reg,), m, 4)

    def _push_immediate(self, byte: int, at: int) -> Effect:
        return op(PUSH, 8, imm=self._signed(1) if byte == 0x6A else self._immediate())

    def _imul(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        if m is None and self.rex & 8:
            return op(SCALE, 8, self.reg, self.rm, imm=self._signed(1) if byte == 0x6B else self._immediate())
        return other((self.reg,), m, self.width)

    def _group1(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        return self._with_immediate(
            self.reg & 7, self.rm, m, width, self._immediate() if byte == 0x81 else self._signed(1)
        )

    def _test(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        if m is None and byte == 0x85 and self.rex & 8 and self.reg == self.rm:
            return op(NOTHING, 8, self.reg)
        return other((), m, self.width if byte & 1 else 1)

    def _xchg(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        if width == 8:
            if m is not None:
                return op(XCHG, 8, self.reg, m=m)
            return op(SWAP, 8, self.reg, self.rm)
        if width == 1:
            self.reg, self.rm = self._byte_register(self.reg), self._byte_register(self.rm)
        return other((self.reg,), m, width) if m else other((self.reg, self.rm))

    def _mov_to(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        reg = self.reg if width > 1 else self._byte_register(self.reg)
        if m is not None:
            return op(STORE, width, s=reg, m=m)
        return self._register_move(self.rm, reg, width)

    def _mov_from(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        if m is None:
            return self._register_move(self.reg, self.rm, width)
        if width >= 4:
            return op(LOAD, width, self.reg, m=m)
        return other((self.reg if width > 1 else self._byte_register(self.reg),), m, width)

    def _register_move(self, d: int, s: int, width: int) -> Effect:
        if width == 8:
            return op(MOVE, 8, d, s) if d != s else NO_EFFECT
        if width == 4:
            return op(MOVE, 4, d, s)
        return other((d if width > 1 else self._byte_register(d),))

    def _mov_segment(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        if byte == 0x8C:
            return other((), m, 2) if m else other((self.rm,))
        return other((), m, 2)

    def _lea(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        assert m is not None
        return op(LEA, 8, self.reg, m=(*m[:4], 0)) if self.rex & 8 else other((self.reg,))

    def _pop_memory(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        return op(POP, 8, NONE if m else self.rm, m=m)

    def _extend_ax(self, byte: int, at: int) -> Effect:
        return other((AX if byte == 0x98 else DX,))

    def _flags(self, byte: int, at: int) -> Effect:
        if byte == 0x9C:
            return op(PUSH, 8, imm=0, d=0)
        if byte == 0x9D:
            return op(POP, 8)
        return other((AX,))  # lahf

    def _far_memory(self, byte: int, at: int) -> Effect:
        """mov between AX and a 64-bit address."""
        width = self.width if byte & 1 else 1
        m = (NONE, NONE, 1, self._signed(8), self.segment)
        return other((AX,), m, width) if byte < 0xA2 else op(STORE, width, s=AX, m=m)

    def _shift(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        if m is not None:
            return other((), m, width)
        if width == 8 and self.reg & 7 in (4, 6) and byte in (0xC1, 0xD1):
            return op(SCALE, 8, self.rm, self.rm, imm=1 << (self.code[-1] & 63 if byte == 0xC1 else 1))
        return other((self.rm if width > 1 else self._byte_register(self.rm),))

    def _return(self, byte: int, at: int) -> Effect:
        return op(RETURN, 0)

    def _mov_immediate(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        value = self._immediate() if byte & 1 else self._signed(1)
        if m is not None:
            return op(STORE, width, m=m, imm=value)
        if width >= 4:
            return op(CONST, width, self.rm, imm=value if width == 8 else value & 0xFFFF_FFFF)
        return other((self.rm if width > 1 else self._byte_register(self.rm),))

    def _leave(self, byte: int, at: int) -> Effect:
        return op(LEAVE, 8)

    def _stop(self, byte: int, at: int) -> Effect:
        return op(STOP, 0)

    def _to_ax(self, byte: int, at: int) -> Effect:
        """xlat, in: AX alone."""
        return other((AX,))

    def _ports(self, byte: int, at: int) -> Effect:
        """ins and outs, whose memory no kernel types."""
        return other((DI if byte < 0x6E else SI, CX))

    def _direct(self, byte: int, at: int) -> Effect:
        if byte == 0xEB:
            return op(JUMP, 0, imm=self._signed(1))
        return op(CALL if byte == 0xE8 else JUMP, 0, imm=self._signed(4))

    def _group3(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        what = self.reg & 7
        rm = self.rm if width > 1 else self._byte_register(self.rm)
        if what < 2:
            return other((), m, width)
        if what < 4:
            return other((), m, width) if m else other((rm,))
        return other((AX,) if width == 1 else (AX, DX), m, width)

    def _group4_5(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        what = self.reg & 7
        if what < 2:
            if m is not None:
                return other((), m, width)
            if width == 8:
                return op(ADD_CONST, 8, self.rm, imm=1 - 2 * what)
            return other((self.rm if width > 1 else self._byte_register(self.rm),))
        if what == 6:
            return op(PUSH_LOAD, 8, m=m) if m else op(PUSH, 8, s=self.rm)
        kind = CALL_INDIRECT if what in (2, 3) else JUMP_INDIRECT
        return op(kind, 8, s=NONE if m else self.rm, m=m)


_ONE_BYTE: dict[int, Callable[[Decoder, int, int], Effect]] = {
    0x63: Decoder._movsxd,
    **dict.fromkeys((0x68, 0x6A), Decoder._push_immediate),
    **dict.fromkeys((0x69, 0x6B), Decoder._imul),
    **dict.fromkeys(range(0x6C, 0x70), Decoder._ports),
    **dict.fromkeys((0x80, 0x81, 0x83), Decoder._group1),
    **dict.fromkeys((0x84, 0x85), Decoder._test),
    **dict.fromkeys((0x86, 0x87), Decoder._xchg),
    **dict.fromkeys((0x88, 0x89), Decoder._mov_to),
    **dict.fromkeys((0x8A, 0x8B), Decoder._mov_from),
    **dict.fromkeys((0x8C, 0x8E), Decoder._mov_segment),
    0x8D: Decoder._lea,
    0x8F: Decoder._pop_memory,
    **dict.fromkeys((0x98, 0x99), Decoder._extend_ax),
    **dict.fromkeys((0x9C, 0x9D, 0x9F), Decoder._flags),
    **dict.fromkeys(range(0xA0, 0xA4), Decoder._far_memory),
    **dict.fromkeys((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3), Decoder._shift),
    **dict.fromkeys((0xC2, 0xC3, 0xCA, 0xCB), Decoder._return),
    **dict.fromkeys((0xC6, 0xC7), Decoder._mov_immediate),
    0xC9: Decoder._leave,
    **dict.fromkeys((0xCC, 0xCF, 0xF4), Decoder._stop),
    **dict.fromkeys((0xD7, 0xE4, 0xE5, 0xEC, 0xED), Decoder._to_ax),
    **dict.fromkeys((0xE8, 0xE9, 0xEB), Decoder._direct),
    **dict.fromkeys((0xF6, 0xF7), Decoder._group3),
    **dict.fromkeys((0xFE, 0xFF), Decoder._group4_5),
}
