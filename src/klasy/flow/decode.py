"""What one x86-64 instruction does to registers and memory, as far as the flow of pointers is concerned.

An instruction becomes an ``Op``, a plain tuple. A kernel's text has 4.5 million instructions but only 0.3 million
different ones, so each encoding is decoded once and remembered (``decode``). No disassembler is used here: measured
over those encodings, capstone's Python objects take 74 us each (850 us in an emulated guest, and 6 s to import), this
module 4 us. What is decided here, tests compare with capstone over whole kernels. ``disasm`` has its text.

Only what matters is told apart: moves, address arithmetic, loads, stores. Every other instruction is ``OTHER``: the
registers it writes, and the memory it reads or writes. Encodings: Intel SDM volume 2, appendix A.
"""

from __future__ import annotations

from klasy.kernel import insn_x86_64 as insn
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Kinds of Op. ``d`` and ``s`` are registers, ``m`` is a memory operand.
NOTHING = 0  # neither registers nor memory; d: a register that is compared with zero, or NONE
MOVE = 1  # d = s, 64 bits
CONST = 2  # d = immediate
LEA = 3  # d = address of m
LOAD = 4  # d = 64 or 32 bits of m
STORE = 5  # m = s, or an immediate where s is -1
ADD_CONST = 6  # d += immediate, 64 bits
ADD = 7  # d += s, 64 bits
ADD_LOAD = 8  # d += 64 bits of m
MASK = 9  # d &= immediate, 64 bits
CHOOSE = 10  # d = d or s (cmov), 64 bits
CHOOSE_LOAD = 11  # d = d or 64 bits of m
XCHG = 12  # d and m exchanged, 64 bits
SWAP = 13  # d and s exchanged, 64 bits
PUSH = 14  # s, or an immediate where s is -1
PUSH_LOAD = 15
POP = 16
LEAVE = 17
STRING = 18  # movs, stos, cmps, scas, lods: ``imm`` is the opcode, ``d`` 1 with a repeat prefix
OTHER = 19  # writes the registers of the bit mask ``imm``, reads or writes m
SCALE = 20  # d = s * immediate, 64 bits (shl, imul)
# Transfers of control
CALL = 24  # by a distance, which is ``imm``
CALL_INDIRECT = 25  # through register s, or m where s is -1
JUMP = 26  # by a distance
BRANCH = 27  # by a distance, or on; d: the condition
JUMP_INDIRECT = 28
RETURN = 29
TRAP = 30  # ud2: a warning, behind which it goes on, or a bug
STOP = 31  # int3, hlt, iret ..: nothing flows on

FIRST_TRANSFER = CALL
IF_ZERO, IF_NOT_ZERO = 4, 5  # conditions

READ, WRITE = 1, 2

AX, CX, DX, BX, SP, BP, SI, DI = range(8)
IP = 16  # as a base: the address behind the instruction
NONE = -1
GS, FS = 1, 2  # segments

REGISTERS = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", *(f"r{n}" for n in range(8, 16)))

if TYPE_CHECKING:
    Memory = tuple[int, int, int, int, int]  # base, index (or NONE), scale, displacement, segment (or 0)
    Op = tuple[int, int, int, int, Memory | None, int, int]
    # kind, width of the operand in bytes, d, s, m, immediate, READ | WRITE of m

NO_OP: Op = (NOTHING, 0, NONE, NONE, None, 0, 0)

_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
_SSE_STORES = frozenset((0x11, 0x13, 0x17, 0x29, 0x2B, 0x7E, 0x7F, 0xC5, 0xD6, 0xE7))
_FPU_STORES = {  # by the opcode, which values of ModRM.reg store to memory
    0xD9: (2, 3, 6, 7),
    0xDB: (1, 2, 3, 7),
    0xDD: (1, 2, 3, 6, 7),
    0xDF: (1, 2, 3, 6, 7),
}


def _op(kind: int, width: int, d: int = NONE, s: int = NONE, m: Memory | None = None, imm: int = 0, rw: int = 0) -> Op:
    return kind, width, d, s, m, imm, rw


def _other(registers: Sequence[int], m: Memory | None = None, rw: int = 0, width: int = 0) -> Op:
    mask = 0
    for register in registers:
        mask |= 1 << register
    if not mask and (m is None or not rw):
        return NO_OP
    return OTHER, width, NONE, NONE, m, mask, rw


_known: dict[bytes, Op] = {}


def decode(code: bytes) -> Op:
    """What one instruction does. ``code`` holds it wholly and nothing else."""
    found = _known.get(code)
    if found is None:
        found = _Decoder(code).op()
        if found[4] is None or found[4][0] != IP:  # each address that code names would be remembered for itself
            _known[code] = found
    return found


def length(code: bytes, at: int) -> int | None:
    """Length of the instruction at an offset of ``code``, or None where there is none."""
    return insn.length(code, at)


class _Decoder:
    """One instruction while it is decoded."""

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
        while (byte := code[at]) in _PREFIXES:
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

    # --- the instruction

    def op(self) -> Op:
        """What it does."""
        byte = self.code[self.at]
        if byte == 0x0F:
            return self._two_byte(self.code[self.at + 1], self.at + 2)
        if byte in (0xC4, 0xC5, 0x62):
            return self._vector(byte)
        if byte < 0x40:
            return self._arithmetic(byte >> 3, byte & 7, self.at + 1)
        return self._one_byte(byte, self.at + 1)

    def _arithmetic(self, what: int, form: int, at: int) -> Op:
        """add, or, adc, sbb, and, sub, xor, cmp."""
        if form >= 4:
            width = 1 if form == 4 else self.width
            return self._with_immediate(what, AX, None, width, self._signed(1) if form == 4 else self._immediate())
        m = self._modrm(at)
        width = self.width if form & 1 else 1
        reg, rm = (self.reg, self.rm) if width > 1 else (self._byte_register(self.reg), self._byte_register(self.rm))
        if m is not None:
            if what == 7:
                return _other((), m, READ, width)
            if form < 2:
                return _other((), m, READ | WRITE, width)
            if what == 0 and width == 8:
                return _op(ADD_LOAD, 8, reg, m=m, rw=READ)
            return _other((reg,), m, READ, width)
        d, s = (rm, reg) if form < 2 else (reg, rm)
        if what == 7:
            return NO_OP
        if what in (5, 6) and d == s and width >= 4:
            return _op(CONST, width, d)
        if what == 0 and width == 8:
            return _op(ADD, 8, d, s)
        return _other((d,))

    def _with_immediate(self, what: int, rm: int, m: Memory | None, width: int, value: int) -> Op:
        if m is not None:
            return _other((), m, READ if what == 7 else READ | WRITE, width)
        if what == 7:
            return NO_OP
        if width == 8:
            if what == 0:
                return _op(ADD_CONST, 8, rm, imm=value)
            if what == 5:
                return _op(ADD_CONST, 8, rm, imm=-value)
            if what == 4:
                return _op(MASK, 8, rm, imm=value)
        if what == 1 and value == -1 and width >= 4:
            return _op(CONST, width, rm, imm=-1 if width == 8 else 0xFFFF_FFFF)
        return _other((rm if width > 1 else self._byte_register(rm),))

    def _one_byte(self, byte: int, at: int) -> Op:
        row = byte & 0xF8
        if row == 0x50:
            return _op(PUSH, 8, s=(byte & 7) | (self.rex & 1) << 3)
        if row == 0x58:
            return _op(POP, 8, (byte & 7) | (self.rex & 1) << 3)
        if byte & 0xF0 == 0x70 or 0xE0 <= byte < 0xE4:
            return _op(BRANCH, 0, byte & 15 if byte < 0x80 else NONE, imm=self._signed(1))
        if row == 0xB8:
            d = (byte & 7) | (self.rex & 1) << 3
            if self.rex & 8:
                return _op(CONST, 8, d, imm=self._signed(8))
            return _op(CONST, 4, d, imm=self._signed(4) & 0xFFFF_FFFF) if not self.operand16 else _other((d,))
        if row == 0xB0:
            return _other((self._byte_register((byte & 7) | (self.rex & 1) << 3),))
        if row == 0x90:
            return self._exchange_with_ax(byte)
        if 0xA4 <= byte < 0xA8 or 0xAA <= byte < 0xB0:
            return _op(STRING, self.width if byte & 1 else 1, int(bool(self.repeat)), imm=byte & 0xFE)
        if 0xD8 <= byte < 0xE0:
            m = self._modrm(at)
            if m is None:
                return _other((AX,)) if byte == 0xDF else NO_OP  # fnstsw ax
            return _other((), m, WRITE if self.reg & 7 in _FPU_STORES.get(byte, ()) else READ, 8)
        method = _ONE_BYTE.get(byte)
        return method(self, byte, at) if method else NO_OP

    def _exchange_with_ax(self, byte: int) -> Op:
        other = (byte & 7) | (self.rex & 1) << 3
        if other == AX:
            return NO_OP  # nop, pause
        return _op(SWAP, 8, AX, other) if self.rex & 8 else _other((AX, other))

    def _movsxd(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        return _other((self.reg,), m, READ if m else 0, 4)

    def _push_immediate(self, byte: int, at: int) -> Op:
        return _op(PUSH, 8, imm=self._signed(1) if byte == 0x6A else self._immediate())

    def _imul(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        if m is None and self.rex & 8:
            return _op(SCALE, 8, self.reg, self.rm, imm=self._signed(1) if byte == 0x6B else self._immediate())
        return _other((self.reg,), m, READ if m else 0, self.width)

    def _group1(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        return self._with_immediate(
            self.reg & 7, self.rm, m, width, self._immediate() if byte == 0x81 else self._signed(1)
        )

    def _test(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        if m is None and byte == 0x85 and self.rex & 8 and self.reg == self.rm:
            return _op(NOTHING, 8, self.reg)
        return _other((), m, READ if m else 0, self.width if byte & 1 else 1)

    def _xchg(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        if width == 8:
            if m is not None:
                return _op(XCHG, 8, self.reg, m=m, rw=READ | WRITE)
            return _op(SWAP, 8, self.reg, self.rm)
        if width == 1:
            self.reg, self.rm = self._byte_register(self.reg), self._byte_register(self.rm)
        return _other((self.reg,), m, READ | WRITE, width) if m else _other((self.reg, self.rm))

    def _mov_to(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        reg = self.reg if width > 1 else self._byte_register(self.reg)
        if m is not None:
            return _op(STORE, width, s=reg, m=m, rw=WRITE)
        return self._register_move(self.rm, reg, width)

    def _mov_from(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        if m is None:
            return self._register_move(self.reg, self.rm, width)
        if width >= 4:
            return _op(LOAD, width, self.reg, m=m, rw=READ)
        return _other((self.reg if width > 1 else self._byte_register(self.reg),), m, READ, width)

    def _register_move(self, d: int, s: int, width: int) -> Op:
        if width == 8:
            return _op(MOVE, 8, d, s) if d != s else NO_OP
        if width == 4:
            return _op(MOVE, 4, d, s)
        return _other((d if width > 1 else self._byte_register(d),))

    def _mov_segment(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        if byte == 0x8C:
            return _other((), m, WRITE, 2) if m else _other((self.rm,))
        return _other((), m, READ if m else 0, 2)

    def _lea(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        assert m is not None
        return _op(LEA, 8, self.reg, m=(*m[:4], 0)) if self.rex & 8 else _other((self.reg,))

    def _pop_memory(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        return _op(POP, 8, NONE if m else self.rm, m=m, rw=WRITE if m else 0)

    def _extend_ax(self, byte: int, at: int) -> Op:
        return _other((AX if byte == 0x98 else DX,))

    def _flags(self, byte: int, at: int) -> Op:
        if byte == 0x9C:
            return _op(PUSH, 8, imm=0, d=0)
        if byte == 0x9D:
            return _op(POP, 8)
        return _other((AX,))  # lahf

    def _far_memory(self, byte: int, at: int) -> Op:
        """mov between AX and a 64-bit address."""
        width = self.width if byte & 1 else 1
        m = (NONE, NONE, 1, self._signed(8), self.segment)
        return _other((AX,), m, READ, width) if byte < 0xA2 else _op(STORE, width, s=AX, m=m, rw=WRITE)

    def _shift(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        if m is not None:
            return _other((), m, READ | WRITE, width)
        if width == 8 and self.reg & 7 in (4, 6) and byte in (0xC1, 0xD1):
            return _op(SCALE, 8, self.rm, self.rm, imm=1 << (self.code[-1] & 63 if byte == 0xC1 else 1))
        return _other((self.rm if width > 1 else self._byte_register(self.rm),))

    def _return(self, byte: int, at: int) -> Op:
        return _op(RETURN, 0)

    def _mov_immediate(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        value = self._immediate() if byte & 1 else self._signed(1)
        if m is not None:
            return _op(STORE, width, m=m, imm=value, rw=WRITE)
        if width >= 4:
            return _op(CONST, width, self.rm, imm=value if width == 8 else value & 0xFFFF_FFFF)
        return _other((self.rm if width > 1 else self._byte_register(self.rm),))

    def _leave(self, byte: int, at: int) -> Op:
        return _op(LEAVE, 8)

    def _stop(self, byte: int, at: int) -> Op:
        return _op(STOP, 0)

    def _to_ax(self, byte: int, at: int) -> Op:
        """xlat, in: AX alone."""
        return _other((AX,))

    def _ports(self, byte: int, at: int) -> Op:
        """ins and outs, whose memory no kernel types."""
        return _other((DI if byte < 0x6E else SI, CX))

    def _direct(self, byte: int, at: int) -> Op:
        if byte == 0xEB:
            return _op(JUMP, 0, imm=self._signed(1))
        return _op(CALL if byte == 0xE8 else JUMP, 0, imm=self._signed(4))

    def _group3(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        what = self.reg & 7
        rm = self.rm if width > 1 else self._byte_register(self.rm)
        if what < 2:
            return _other((), m, READ if m else 0, width)
        if what < 4:
            return _other((), m, READ | WRITE, width) if m else _other((rm,))
        return _other((AX,) if width == 1 else (AX, DX), m, READ if m else 0, width)

    def _group4_5(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        what = self.reg & 7
        if what < 2:
            if m is not None:
                return _other((), m, READ | WRITE, width)
            if width == 8:
                return _op(ADD_CONST, 8, self.rm, imm=1 - 2 * what)
            return _other((self.rm if width > 1 else self._byte_register(self.rm),))
        if what == 6:
            return _op(PUSH_LOAD, 8, m=m, rw=READ) if m else _op(PUSH, 8, s=self.rm)
        kind = CALL_INDIRECT if what in (2, 3) else JUMP_INDIRECT
        return _op(kind, 8, s=NONE if m else self.rm, m=m, rw=READ if m else 0)

    # --- behind 0F

    def _two_byte(self, byte: int, at: int) -> Op:
        if byte & 0xF0 == 0x80:
            return _op(BRANCH, 0, byte & 15, imm=self._signed(4))
        if byte & 0xF0 == 0x40:
            m = self._modrm(at)
            if self.rex & 8:
                if m is None:
                    return _op(CHOOSE, 8, self.reg, self.rm)
                return _op(CHOOSE_LOAD, 8, self.reg, m=m, rw=READ)
            return _other((self.reg,), m, READ if m else 0, self.width)
        if byte & 0xF0 == 0x90:
            m = self._modrm(at)
            return _other((), m, WRITE, 1) if m else _other((self._byte_register(self.rm),))
        if byte & 0xF8 == 0xC8:
            return _other(((byte & 7) | (self.rex & 1) << 3,))
        method = _TWO_BYTE.get(byte)
        if method:
            return method(self, byte, at)
        if byte in _PLAIN_0F:
            return _other(_PLAIN_0F[byte])
        if byte in (0x38, 0x3A):
            return self._three_byte(byte, at)
        return self._sse(byte, at)

    def _group6_7(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        what = self.reg & 7
        if m is not None:
            if byte == 1 and what in (2, 3):
                return _other((), m, READ, 10)
            if byte == 1 and what == 7:
                return NO_OP  # invlpg
            if byte == 1 and what < 2:
                return _other((), m, WRITE, 10)
            return _other((), m, WRITE if (byte, what) in ((0, 0), (0, 1), (1, 4)) else READ, 2)
        if byte == 1 and self.code[at] not in range(0xE0, 0xE8):
            # rdtscp, xgetbv, rdpkru and the calls of hypervisors; not smsw, which has a register of its own
            return NO_OP if self.code[at] in (0xCA, 0xCB, 0xF8) else _other((AX, CX, DX))
        return _other((self.rm,))

    def _load_rights(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        return _other((self.reg,), m, READ if m else 0, 2)

    def _trap(self, byte: int, at: int) -> Op:
        return _op(TRAP, 0)

    def _hint(self, byte: int, at: int) -> Op:
        """prefetch, nop with operands, endbr; rdsspq too is written so, which the kernel's own text has not."""
        return NO_OP

    def _control_register(self, byte: int, at: int) -> Op:
        self._modrm(at)
        return _other((self.rm,)) if byte < 0x22 else NO_OP

    def _bit(self, byte: int, at: int) -> Op:
        """bt, bts, btr, btc with a register: of memory, the bit may lie anywhere behind the address."""
        m = self._modrm(at)
        only_test = byte == 0xA3
        if m is not None:
            return _other((), m, READ if only_test else READ | WRITE, self.width)
        return NO_OP if only_test else _other((self.rm,))

    def _bit_immediate(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        only_test = self.reg & 7 == 4
        if m is not None:
            return _other((), m, READ if only_test else READ | WRITE, self.width)
        return NO_OP if only_test else _other((self.rm,))

    def _double_shift(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        return _other((), m, READ | WRITE, self.width) if m else _other((self.rm,))

    def _group15(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        what = self.reg & 7
        if m is None:
            if self.repeat == 0xF3 and what < 2:
                return _other((self.rm,))  # rdfsbase, rdgsbase
            return NO_OP
        if what == 7 or (what == 6 and self.operand16):
            return NO_OP  # clflush, clflushopt, clwb
        sizes = {0: 512, 1: 512, 2: 4, 3: 4}
        return _other((), m, WRITE if what in (0, 3, 4, 6) else READ, sizes.get(what, 512))

    def _read_register(self, byte: int, at: int) -> Op:
        """imul, popcnt, bsf, bsr: a register from a register or memory."""
        m = self._modrm(at)
        return _other((self.reg,), m, READ if m else 0, self.width)

    def _cmpxchg(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        rm = self.rm if width > 1 else self._byte_register(self.rm)
        return _other((AX,), m, READ | WRITE, width) if m else _other((AX, rm))

    def _extend(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        return _other((self.reg,), m, READ if m else 0, 2 if byte & 1 else 1)

    def _xadd(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        width = self.width if byte & 1 else 1
        reg, rm = self.reg, self.rm
        if width == 1:
            reg, rm = self._byte_register(reg), self._byte_register(rm)
        return _other((reg,), m, READ | WRITE, width) if m else _other((reg, rm))

    def _movnti(self, byte: int, at: int) -> Op:
        return _op(STORE, self.width, m=self._modrm(at), s=self.reg, rw=WRITE)

    def _group9(self, byte: int, at: int) -> Op:
        m = self._modrm(at)
        what = self.reg & 7
        if m is None:
            return _other((self.rm,))  # rdrand, rdseed, rdpid
        if what == 1:
            return _other((AX, DX), m, READ | WRITE, 16 if self.rex & 8 else 8)
        return _other((), m, READ if what == 3 else WRITE, 512)  # xsave, xrstor

    def _three_byte(self, byte: int, at: int) -> Op:
        opcode = self.code[at]
        m = self._modrm(at + 1)
        if byte == 0x38 and opcode in (0xF0, 0xF1):
            if self.repeat == 0xF2:
                return _other((self.reg,), m, READ if m else 0, self.width if opcode & 1 else 1)  # crc32
            if m is not None:  # movbe
                return _other((self.reg,), m, READ, self.width) if opcode == 0xF0 else _other((), m, WRITE, self.width)
        if byte == 0x38 and opcode in (0x80, 0x81, 0x82):
            return _other((), m, READ, 16) if m else NO_OP
        stores = byte == 0x3A and 0x14 <= opcode <= 0x17
        if m is not None:
            return _other((), m, WRITE if stores else READ, 16)
        if stores:
            return _other((self.rm,))
        return _other((self.reg,)) if byte == 0x38 and opcode == 0xF6 else NO_OP  # adcx, adox

    def _sse(self, byte: int, at: int) -> Op:
        if byte == 0x77:
            return NO_OP
        m = self._modrm(at)
        if m is not None:
            store = byte in _SSE_STORES and not (byte == 0x7E and self.repeat) and byte != 0xC5
            return _other((), m, WRITE if store else READ, 16)
        if byte == 0x7E and not self.repeat:
            return _other((self.rm,))
        return _other((self.reg,)) if byte in (0x2C, 0x2D, 0x50, 0xC5, 0xD7) else NO_OP

    def _vector(self, byte: int) -> Op:
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
            return NO_OP
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
        elif m is None and space == 1 and opcode == 0x7E and pp == 1:
            written = (self.rm,)
        elif m is None and space == 3 and 0x14 <= opcode <= 0x17:
            written = (self.rm,)
        elif m is None and space == 1 and opcode in (0x2C, 0x2D, 0x50, 0x93, 0xC5, 0xD7):
            written = (self.reg,)
        stores = opcode in (_SSE_STORES if space == 1 else range(0x14, 0x1A) if space == 3 else ())
        if space == 3 and opcode in (0x19, 0x39, 0x3B, 0x1B):
            stores = True
        if space == 1 and opcode == 0x7E and pp == 2:
            stores = False
        return _other(written, m, (WRITE if stores else READ) if m else 0, 16)


_ONE_BYTE = {
    0x63: _Decoder._movsxd,
    **dict.fromkeys((0x68, 0x6A), _Decoder._push_immediate),
    **dict.fromkeys((0x69, 0x6B), _Decoder._imul),
    **dict.fromkeys(range(0x6C, 0x70), _Decoder._ports),
    **dict.fromkeys((0x80, 0x81, 0x83), _Decoder._group1),
    **dict.fromkeys((0x84, 0x85), _Decoder._test),
    **dict.fromkeys((0x86, 0x87), _Decoder._xchg),
    **dict.fromkeys((0x88, 0x89), _Decoder._mov_to),
    **dict.fromkeys((0x8A, 0x8B), _Decoder._mov_from),
    **dict.fromkeys((0x8C, 0x8E), _Decoder._mov_segment),
    0x8D: _Decoder._lea,
    0x8F: _Decoder._pop_memory,
    **dict.fromkeys((0x98, 0x99), _Decoder._extend_ax),
    **dict.fromkeys((0x9C, 0x9D, 0x9F), _Decoder._flags),
    **dict.fromkeys(range(0xA0, 0xA4), _Decoder._far_memory),
    **dict.fromkeys((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3), _Decoder._shift),
    **dict.fromkeys((0xC2, 0xC3, 0xCA, 0xCB), _Decoder._return),
    **dict.fromkeys((0xC6, 0xC7), _Decoder._mov_immediate),
    0xC9: _Decoder._leave,
    **dict.fromkeys((0xCC, 0xCF, 0xF4), _Decoder._stop),
    **dict.fromkeys((0xD7, 0xE4, 0xE5, 0xEC, 0xED), _Decoder._to_ax),
    **dict.fromkeys((0xE8, 0xE9, 0xEB), _Decoder._direct),
    **dict.fromkeys((0xF6, 0xF7), _Decoder._group3),
    **dict.fromkeys((0xFE, 0xFF), _Decoder._group4_5),
}

_TWO_BYTE = {
    **dict.fromkeys((0x00, 0x01), _Decoder._group6_7),
    **dict.fromkeys((0x02, 0x03), _Decoder._load_rights),
    **dict.fromkeys((0x0B, 0xB9, 0xFF), _Decoder._trap),
    **dict.fromkeys((0x0D, *range(0x18, 0x20)), _Decoder._hint),
    **dict.fromkeys(range(0x20, 0x24), _Decoder._control_register),
    **dict.fromkeys((0xA3, 0xAB, 0xB3, 0xBB), _Decoder._bit),
    **dict.fromkeys((0xA4, 0xA5, 0xAC, 0xAD), _Decoder._double_shift),
    0xAE: _Decoder._group15,
    **dict.fromkeys((0xAF, 0xB8, 0xBC, 0xBD), _Decoder._read_register),
    **dict.fromkeys((0xB0, 0xB1), _Decoder._cmpxchg),
    **dict.fromkeys((0xB6, 0xB7, 0xBE, 0xBF), _Decoder._extend),
    0xBA: _Decoder._bit_immediate,
    **dict.fromkeys((0xC0, 0xC1), _Decoder._xadd),
    0xC3: _Decoder._movnti,
    0xC7: _Decoder._group9,
}

# Two-byte opcodes without operands: the registers they write
_PLAIN_0F: dict[int, tuple[int, ...]] = {
    0x05: (CX, 11),  # syscall
    **dict.fromkeys((0x06, 0x07, 0x08, 0x09, 0x0E, 0x30, 0x34, 0x35, 0x37, 0xAA), ()),
    **dict.fromkeys((0x31, 0x32, 0x33), (AX, DX)),  # rdtsc, rdmsr, rdpmc
    0xA2: (AX, BX, CX, DX),  # cpuid
    **dict.fromkeys((0xA0, 0xA1, 0xA8, 0xA9), (SP,)),  # push and pop of a segment
}
