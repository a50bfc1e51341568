"""The two-byte opcodes of x86-64, behind 0F, and those with vector prefixes. Intel SDM volume 2, appendix A."""

from __future__ import annotations

from klasy.flow.decode import (
    AX,
    BRANCH,
    BX,
    CHOOSE,
    CHOOSE_LOAD,
    CX,
    DX,
    NO_EFFECT,
    SP,
    STORE,
    TRAP,
)
from klasy.flow.operands import Operands, op, other
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.flow.decode import Effect


class TwoByte(Operands):
    """The opcodes behind 0F, and the vector prefixes."""

    __slots__ = ()

    def _two_byte(self, byte: int, at: int) -> Effect:
        if byte & 0xF0 == 0x80:
            return op(BRANCH, 0, byte & 15, imm=self._signed(4))
        if byte & 0xF0 == 0x40:
            m = self._modrm(at)
            if self.rex & 8:
                if m is None:
                    return op(CHOOSE, 8, self.reg, self.rm)
                return op(CHOOSE_LOAD, 8, self.reg, m=m)
            return other((self.reg,), m, self.width)
        if byte & 0xF0 == 0x90:
            m = self._modrm(at)
            return other((), m, 1) if m else other((self._byte_register(self.rm),))
        if byte & 0xF8 == 0xC8:
            return other(((byte & 7) | (self.rex & 1) << 3,))
        method = _TWO_BYTE.get(byte)
        if method:
            return method(self, byte, at)
        if byte in _PLAIN_0F:
            return other(_PLAIN_0F[byte])
        if byte in (0x38, 0x3A):
            return self._three_byte(byte, at)
        return self._sse(byte, at)

    def _group6_7(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        what = self.reg & 7
        if m is not None:
            return other((), m, 10 if byte == 1 and what < 4 else 2)
        if byte == 1 and self.code[at] not in range(0xE0, 0xE8):
            # rdtscp, xgetbv, rdpkru and the calls of hypervisors; not smsw, which has a register of its own
            return NO_EFFECT if self.code[at] in (0xCA, 0xCB, 0xF8) else other((AX, CX, DX))
        return other((self.rm,))

    def _load_rights(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        return other((self.reg,), m, 2)

    def _trap(self, byte: int, at: int) -> Effect:
        return op(TRAP, 0)

    def _hint(self, byte: int, at: int) -> Effect:
        """prefetch, nop with operands, endbr; rdsspq too is written so, which the kernel's own text has not."""
        return NO_EFFECT

    def _control_register(self, byte: int, at: int) -> Effect:
        self._modrm(at)
        return other((self.rm,)) if byte < 0x22 else NO_EFFECT

    def _bit(self, byte: int, at: int) -> Effect:
        """bt, bts, btr, btc with a register: of memory, the bit may lie anywhere behind the address."""
        m = self._modrm(at)
        only_test = byte == 0xA3
        if m is not None:
            return other((), m, self.width)
        return NO_EFFECT if only_test else other((self.rm,))

    def _bit_immediate(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        only_test = self.reg & 7 == 4
        if m is not None:
            return other((), m, self.width)
        return NO_EFFECT if only_test else other((self.rm,))

    def _double_shift(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        return other((), m, self.width) if m else other((self.rm,))

    def _group15(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        what = self.reg & 7
        if m is None:
            if self.repeat == 0xF3 and what < 2:
                return other((self.rm,))  # rdfsbase, rdgsbase
            return NO_EFFECT
        return other((), m, 4 if what in (2, 3) else 512)

    def _read_register(self, byte: int, at: int) -> Effect:
        """imul, popcnt, bsf, bsr: a register from a register or memory."""
        m = self._modrm(at)
        return other((self.reg,), m, self.width)

    def _cmpxchg(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        rm = self.rm if width > 1 else self._byte_register(self.rm)
        return other((AX,), m, width) if m else other((AX, rm))

    def _extend(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        return other((self.reg,), m, 2 if byte & 1 else 1)

    def _xadd(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        reg, rm = self.reg, self.rm
        if width == 1:
            reg, rm = self._byte_register(reg), self._byte_register(rm)
        return other((reg,), m, width) if m else other((reg, rm))

    def _movnti(self, byte: int, at: int) -> Effect:
        return op(STORE, self.width, m=self._modrm(at), s=self.reg)

    def _group9(self, byte: int, at: int) -> Effect:
        m = self._modrm(at)
        what = self.reg & 7
        if m is None:
            return other((self.rm,))  # rdrand, rdseed, rdpid
        if what == 1:
            return other((AX, DX), m, 16 if self.rex & 8 else 8)
        return other((), m, 512)  # xsave, xrstor

    def _three_byte(self, byte: int, at: int) -> Effect:
        opcode = self.code[at]
        m = self._modrm(at + 1)
        if byte == 0x38 and opcode in (0xF0, 0xF1):
            if self.repeat == 0xF2:
                return other((self.reg,), m, self.width if opcode & 1 else 1)  # crc32
            if m is not None:  # movbe
                return other((self.reg,), m, self.width) if opcode == 0xF0 else other((), m, self.width)
        if byte == 0x38 and opcode in (0x80, 0x81, 0x82):
            return other((), m, 16) if m else NO_EFFECT
        stores = byte == 0x3A and 0x14 <= opcode <= 0x17
        if m is not None:
            return other((), m, 16)
        if stores:
            return other((self.rm,))
        return other((self.reg,)) if byte == 0x38 and opcode == 0xF6 else NO_EFFECT  # adcx, adox

    def _sse(self, byte: int, at: int) -> Effect:
        if byte == 0x77:
            return NO_EFFECT
        m = self._modrm(at)
        if m is not None:
            return other((), m, 16)
        if byte == 0x7E and not self.repeat:
            return other((self.rm,))
        return other((self.reg,)) if byte in (0x2C, 0x2D, 0x50, 0xC5, 0xD7) else NO_EFFECT

    def _vector(self, byte: int) -> Effect:
        """VEX and EVEX: memory is read or written; the general registers are those that BMI and moves write."""
        code, at = self.code, self.at
        if byte == 0xC5:
            self.rex = (~code[at + 1] >> 5) & 4
            space, opcode, at, pp, vvvv = 1, code[at + 2], at + 3, code[at + 1] & 3, code[at + 1]
        elif byte == 0xC4:
            self.rex = (~code[at + 1] >> 5) & 7
            space, opcode, at, pp, vvvv = code[at + 1] & 31, code[at + 3], at + 4, code[at + 2] & 3, code[at + 2]
        else:
            self.rex = (~code[at + 1] >> 5) & 7
            space, opcode, at, pp, vvvv = code[at + 1] & 7, code[at + 4], at + 5, code[at + 2] & 3, code[at + 2]
        if space == 1 and opcode == 0x77:
            return NO_EFFECT
        m = self._modrm(at)
        if m is not None and byte == 0x62 and self.mod == 1:
            m = None  # a compressed displacement: nothing that BTF types is accessed so
        written: tuple[int, ...] = ()
        if space == 2 and opcode in (0xF2, 0xF5, 0xF6, 0xF7):
            written = (self.reg, ~vvvv >> 3 & 15) if opcode == 0xF6 else (self.reg,)
        elif space == 2 and opcode == 0xF3:
            written = (~vvvv >> 3 & 15,)
        elif space == 3 and opcode == 0xF0:
            written = (self.reg,)
        elif m is None and ((space, opcode, pp) == (1, 0x7E, 1) or (space == 3 and 0x14 <= opcode <= 0x17)):
            written = (self.rm,)
        elif m is None and space == 1 and opcode in (0x2C, 0x2D, 0x50, 0x93, 0xC5, 0xD7):
            written = (self.reg,)
        return other(written, m, 16)


_TWO_BYTE = {
    **dict.fromkeys((0x00, 0x01), TwoByte._group6_7),
    **dict.fromkeys((0x02, 0x03), TwoByte._load_rights),
    **dict.fromkeys((0x0B, 0xB9, 0xFF), TwoByte._trap),
    **dict.fromkeys((0x0D, *range(0x18, 0x20)), TwoByte._hint),
    **dict.fromkeys(range(0x20, 0x24), TwoByte._control_register),
    **dict.fromkeys((0xA3, 0xAB, 0xB3, 0xBB), TwoByte._bit),
    **dict.fromkeys((0xA4, 0xA5, 0xAC, 0xAD), TwoByte._double_shift),
    0xAE: TwoByte._group15,
    **dict.fromkeys((0xAF, 0xB8, 0xBC, 0xBD), TwoByte._read_register),
    **dict.fromkeys((0xB0, 0xB1), TwoByte._cmpxchg),
    **dict.fromkeys((0xB6, 0xB7, 0xBE, 0xBF), TwoByte._extend),
    0xBA: TwoByte._bit_immediate,
    **dict.fromkeys((0xC0, 0xC1), TwoByte._xadd),
    0xC3: TwoByte._movnti,
    0xC7: TwoByte._group9,
}

# Two-byte opcodes without operands: the registers they write
_PLAIN_0F: dict[int, tuple[int, ...]] = {
    0x05: (CX, 11),  # syscall
    **dict.fromkeys((0x06, 0x07, 0x08, 0x09, 0x0E, 0x30, 0x34, 0x35, 0x37, 0xAA), ()),
    **dict.fromkeys((0x31, 0x32, 0x33), (AX, DX)),  # rdtsc, rdmsr, rdpmc
    0xA2: (AX, BX, CX, DX),  # cpuid
    **dict.fromkeys((0xA0, 0xA1, 0xA8, 0xA9), (SP,)),  # push and pop of a segment
}
