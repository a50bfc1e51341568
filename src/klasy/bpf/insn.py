"""One eBPF instruction as a value, and constructors that read as prose.

    mov(R6, R1)                      r6 = r1
    load(R1, R6, 112)                r1 = *(u64 *)(r6 +112)
    store_imm(R10, -8, 0)            *(u64 *)(r10 -8) = 0
    add(R2, -8)                      r2 += -8
    load_map(R1, "events")           r1 = map[events]
    call("probe_read_kernel")        call bpf_probe_read_kernel#113
    jump_if(R0, "==", 0, "out")      if r0 == 0x0 goto out
    exit_().labelled("out")          out: exit

Jump targets, subprograms and maps are named, never numbered: :mod:`klasy.bpf.asm` turns names into offsets, and
whoever loads the program turns map names into descriptors. What the verifier would say about a program is not
checked here; an operand that does not fit its field raises :class:`EncodingError`, a fault of the caller.

Instruction set versions 1 to 3, which every kernel from 5.12 on accepts. Version 4 (6.6: signed division,
sign-extending moves and loads, ``gotol``, ``bswap``) is left out on purpose: 6.1 refuses it.
"""

from __future__ import annotations

import struct

from klasy.bpf import uapi as u
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final


class EncodingError(ValueError):
    """An operand does not fit the instruction. Whoever generated the instruction is at fault, not the user."""


class Reg(int):
    """A register. A subclass of int so that ``mov(R1, R2)`` and ``mov(R1, 2)`` can be told apart."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"r{int(self)}"

    __str__ = __repr__


R0: Final = Reg(0)  #: result of calls, and of the program
R1: Final = Reg(1)  #: first argument of calls; the context at the program's start
R2: Final = Reg(2)
R3: Final = Reg(3)
R4: Final = Reg(4)
R5: Final = Reg(5)  #: fifth and last argument; calls destroy r1 to r5
R6: Final = Reg(6)  #: kept across calls, as are r7 to r9
R7: Final = Reg(7)
R8: Final = Reg(8)
R9: Final = Reg(9)
R10: Final = Reg(10)  #: frame pointer, read only; the stack is the 512 bytes below it

REGISTERS: Final = (R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10)

_ALU = {
    "+=": u.BPF_ADD,
    "-=": u.BPF_SUB,
    "*=": u.BPF_MUL,
    "/=": u.BPF_DIV,
    "|=": u.BPF_OR,
    "&=": u.BPF_AND,
    "<<=": u.BPF_LSH,
    ">>=": u.BPF_RSH,
    "%=": u.BPF_MOD,
    "^=": u.BPF_XOR,
    "=": u.BPF_MOV,
    "s>>=": u.BPF_ARSH,
}
#: Printed operator of each arithmetic operation; ``BPF_NEG`` and ``BPF_END`` have none.
ALU_SYMBOLS: Final = {code: symbol for symbol, code in _ALU.items()}

_JUMPS = {
    "==": u.BPF_JEQ,
    ">": u.BPF_JGT,
    ">=": u.BPF_JGE,
    "&": u.BPF_JSET,
    "!=": u.BPF_JNE,
    "s>": u.BPF_JSGT,
    "s>=": u.BPF_JSGE,
    "<": u.BPF_JLT,
    "<=": u.BPF_JLE,
    "s<": u.BPF_JSLT,
    "s<=": u.BPF_JSLE,
}
#: Printed operator of each conditional jump.
JUMP_SYMBOLS: Final = {code: symbol for symbol, code in _JUMPS.items()}

_SIZES = {1: u.BPF_B, 2: u.BPF_H, 4: u.BPF_W, 8: u.BPF_DW}
_BYTES = {code: size for size, code in _SIZES.items()}

_ATOMICS = {"add": u.BPF_ADD, "or": u.BPF_OR, "and": u.BPF_AND, "xor": u.BPF_XOR}
#: Name of each atomic operation that may or may not fetch; by its code without ``BPF_FETCH``.
ATOMIC_NAMES: Final = {code: name for name, code in _ATOMICS.items()}

_LD_IMM64 = u.BPF_LD | u.BPF_IMM | u.BPF_DW
_CALL = u.BPF_JMP | u.BPF_CALL
_EXIT = u.BPF_JMP | u.BPF_EXIT
_JA = u.BPF_JMP | u.BPF_JA
#: Whatever is of a class of jumps but neither call nor exit, known operations or not.
_JUMP_OPCODES = {jumps | code for jumps in (u.BPF_JMP, u.BPF_JMP32) for code in range(0, 256, 8)} - {
    jumps | source | code
    for jumps in (u.BPF_JMP, u.BPF_JMP32)
    for source in (u.BPF_K, u.BPF_X)
    for code in (u.BPF_CALL, u.BPF_EXIT)
}

_pack = struct.Struct("<BBhi").pack
_unpack = struct.Struct("<BBhi").iter_unpack


class Instruction(NamedTuple):
    """One instruction; immutable.

    ``imm`` is signed, 32 bits; for a 64-bit constant (:attr:`is_wide`) unsigned, 64 bits. ``target`` names what the
    instruction refers to: a label for a jump, a subprogram for a call, a map for a load of a map. While it does,
    ``off`` (``imm`` for a call) holds nothing of meaning. ``labels`` name this place. ``metadata`` is whatever the
    generator wants to find again when the verifier complains about the instruction, as a rule a source Span.
    Neither it nor ``labels`` change the encoding.
    """

    opcode: int
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0
    target: str | None = None
    labels: tuple[str, ...] = ()
    metadata: object = None

    # -- making a variant --------------------------------------------------------------------------------------

    def labelled(self, *names: str) -> Instruction:
        """The same instruction with further labels on it."""
        return self._replace(labels=self.labels + names)

    def at(self, metadata: object) -> Instruction:
        """The same instruction with this metadata."""
        return self._replace(metadata=metadata)

    # -- asking ------------------------------------------------------------------------------------------------

    @property
    def klass(self) -> int:
        """Instruction class: ``BPF_LD`` .. ``BPF_ALU64``."""
        return self.opcode & 0x07

    @property
    def operation(self) -> int:
        """Operation of an arithmetic or jump instruction: ``BPF_ADD`` .., ``BPF_JEQ`` ..."""
        return self.opcode & 0xF0

    @property
    def from_register(self) -> bool:
        """Whether the second operand of an arithmetic or jump instruction is a register."""
        return bool(self.opcode & u.BPF_X)

    @property
    def size(self) -> int:
        """Bytes that a load or store moves."""
        return _BYTES[self.opcode & 0x18]

    @property
    def is_wide(self) -> bool:
        """Whether this is the 64-bit constant load, the one instruction that takes two slots."""
        return self.opcode == _LD_IMM64

    @property
    def slots(self) -> int:
        """Places of 8 bytes the instruction takes: 2 for a 64-bit constant, else 1."""
        return 2 if self.opcode == _LD_IMM64 else 1

    @property
    def is_call(self) -> bool:
        """Whether it calls: a helper, a subprogram or a kernel function."""
        return self.opcode == _CALL

    @property
    def is_subprogram_call(self) -> bool:
        """Whether it calls a function of this program."""
        return self.opcode == _CALL and self.src == u.BPF_PSEUDO_CALL

    @property
    def is_exit(self) -> bool:
        """Whether it ends the function."""
        return self.opcode == _EXIT

    @property
    def is_jump(self) -> bool:
        """Whether it goes, perhaps on a condition, to another place of the same function."""
        return self.opcode in _JUMP_OPCODES

    @property
    def is_map_load(self) -> bool:
        """Whether it loads the address of a map, or of the value of an array of one element."""
        return self.opcode == _LD_IMM64 and self.src in {u.BPF_PSEUDO_MAP_FD, u.BPF_PSEUDO_MAP_VALUE}

    @property
    def is_function_load(self) -> bool:
        """Whether it loads the address of a function of the program."""
        return self.opcode == _LD_IMM64 and self.src == u.BPF_PSEUDO_FUNC

    # -- encoding ----------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """The 8 or 16 bytes the kernel takes. ``target`` is not looked at: the assembler resolves it first."""
        try:
            registers = self.src << 4 | self.dst
            if self.dst > 15:
                raise EncodingError(f"no register r{self.dst}: {self!r}")
            if self.opcode == _LD_IMM64:
                low, high = _signed32(self.imm & 0xFFFFFFFF), _signed32(self.imm >> 32)
                return _pack(self.opcode, registers, self.off, low) + _pack(0, 0, 0, high)
            return _pack(self.opcode, registers, self.off, self.imm)
        except struct.error as error:
            raise EncodingError(f"operand out of range ({error}): {self!r}") from None


def decode(code: bytes) -> list[Instruction]:
    """The instructions in ``code``, the inverse of encoding one after the other.

    Unknown opcodes are kept as they are, for printing. EncodingError if ``code`` is cut off.
    """
    if len(code) % 8:
        raise EncodingError(f"{len(code)} bytes are no whole number of instructions")
    instructions = []
    fields = _unpack(code)
    for opcode, registers, off, imm in fields:
        if opcode == _LD_IMM64:
            second = next(fields, None)
            if second is None:
                raise EncodingError("the second half of a 64-bit constant is missing")
            if second[:3] != (0, 0, 0):
                raise EncodingError("the second half of a 64-bit constant holds more than the constant")
            imm = (second[3] & 0xFFFFFFFF) << 32 | imm & 0xFFFFFFFF  # noqa: PLW2901
        instructions.append(Instruction(opcode, Reg(registers & 15), Reg(registers >> 4), off, imm))
    return instructions


# --- arithmetic -----------------------------------------------------------------------------------------------


def alu(symbol: str, dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst symbol src``, with the operator as it is printed: ``+= -= *= /= %= |= &= ^= <<= >>= s>>= =``.

    ``/=``, ``%=`` and ``>>=`` are unsigned. Division by zero gives 0, modulo by zero leaves dst. Of a 64-bit
    operation the constant is sign-extended from 32 bits; a 32-bit operation (``width=32``) clears the upper half of
    dst, and takes its constant signed or unsigned.
    """
    opcode = _ALU[symbol] | (u.BPF_ALU64 if width == 64 else u.BPF_ALU)
    if isinstance(src, Reg):
        return Instruction(opcode | u.BPF_X, dst, src)
    return Instruction(opcode | u.BPF_K, dst, imm=_immediate(src, width))


def mov(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst = src``. A constant that needs more than 32 bits: :func:`load_imm`."""
    return alu("=", dst, src, width)


def add(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst += src``."""
    return alu("+=", dst, src, width)


def sub(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst -= src``."""
    return alu("-=", dst, src, width)


def mul(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst *= src``."""
    return alu("*=", dst, src, width)


def div(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst /= src``, unsigned."""
    return alu("/=", dst, src, width)


def mod(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst %= src``, unsigned."""
    return alu("%=", dst, src, width)


def or_(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst |= src``."""
    return alu("|=", dst, src, width)


def and_(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst &= src``."""
    return alu("&=", dst, src, width)


def xor(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst ^= src``."""
    return alu("^=", dst, src, width)


def lsh(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst <<= src``. The machine takes the count modulo the width."""
    return alu("<<=", dst, src, width)


def rsh(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst >>= src``, filling with zeros."""
    return alu(">>=", dst, src, width)


def arsh(dst: Reg, src: Reg | int, width: int = 64) -> Instruction:
    """``dst s>>= src``, filling with the sign."""
    return alu("s>>=", dst, src, width)


def neg(dst: Reg, width: int = 64) -> Instruction:
    """``dst = -dst``."""
    return Instruction(u.BPF_NEG | (u.BPF_ALU64 if width == 64 else u.BPF_ALU), dst)


def to_be(dst: Reg, width: int) -> Instruction:
    """Low ``width`` (16, 32 or 64) bits of dst from the host's order to big endian or back; the rest is cleared."""
    return Instruction(u.BPF_ALU | u.BPF_END | u.BPF_TO_BE, dst, imm=_one_of(width, (16, 32, 64)))


def to_le(dst: Reg, width: int) -> Instruction:
    """Low ``width`` bits of dst to little endian: on x86-64 this only clears the rest."""
    return Instruction(u.BPF_ALU | u.BPF_END | u.BPF_TO_LE, dst, imm=_one_of(width, (16, 32, 64)))


# --- constants and maps ---------------------------------------------------------------------------------------


def load_imm(dst: Reg, value: int) -> Instruction:
    """``dst = value``, any value of 64 bits, signed or unsigned; two slots only when it needs them."""
    signed = value - (1 << 64) if value >= 1 << 63 else value
    if -(1 << 31) <= signed < 1 << 31:
        return mov(dst, signed)
    return load_imm64(dst, value)


def load_imm64(dst: Reg, value: int) -> Instruction:
    """``dst = value``, in the two-slot form whatever the value."""
    if not -(1 << 63) <= value < 1 << 64:
        raise EncodingError(f"{value:#x} does not fit 64 bits")
    return Instruction(_LD_IMM64, dst, imm=value & 0xFFFFFFFFFFFFFFFF)


def load_map(dst: Reg, name: str) -> Instruction:
    """``dst`` = the map called ``name``, for a helper's argument."""
    return Instruction(_LD_IMM64, dst, u.BPF_PSEUDO_MAP_FD, target=name)


def load_map_value(dst: Reg, name: str, offset: int = 0) -> Instruction:
    """``dst`` = address of the value of ``name``, an array map of one element, plus ``offset``; no lookup, no check."""
    if not 0 <= offset < 1 << 29:
        raise EncodingError(f"offset {offset} in a map value")
    return Instruction(_LD_IMM64, dst, u.BPF_PSEUDO_MAP_VALUE, imm=offset << 32, target=name)


def load_function(dst: Reg, name: str) -> Instruction:
    """``dst`` = the function of this program whose first instruction bears the label ``name``, as a helper's callback.

    Only a program whose functions have types may do so: :mod:`klasy.bpf.functypes`.
    """
    return Instruction(_LD_IMM64, dst, u.BPF_PSEUDO_FUNC, target=name)


# --- memory ---------------------------------------------------------------------------------------------------


def load(dst: Reg, base: Reg, offset: int = 0, size: int = 8) -> Instruction:
    """``dst = *(base + offset)``, ``size`` bytes, zero-extended."""
    return Instruction(u.BPF_LDX | u.BPF_MEM | _size(size), dst, base, offset)


def store(base: Reg, offset: int, src: Reg, size: int = 8) -> Instruction:
    """``*(base + offset) = src``, its low ``size`` bytes."""
    return Instruction(u.BPF_STX | u.BPF_MEM | _size(size), base, src, offset)


def store_imm(base: Reg, offset: int, value: int, size: int = 8) -> Instruction:
    """``*(base + offset) = value``, ``size`` bytes; of 8 bytes the value is sign-extended from 32 bits."""
    return Instruction(u.BPF_ST | u.BPF_MEM | _size(size), base, off=offset, imm=_immediate(value, min(size * 8, 64)))


def atomic(name: str, base: Reg, offset: int, src: Reg, size: int = 8, *, fetch: bool = False) -> Instruction:
    """``*(base + offset) op= src`` in one step, ``name`` one of add, or, and, xor; with ``fetch`` src = old value.

    Size 4 or 8. ``add`` without fetch works on every kernel, the rest from 5.12.
    """
    operation = _ATOMICS[name] | (u.BPF_FETCH if fetch else 0)
    return Instruction(u.BPF_STX | u.BPF_ATOMIC | _atomic_size(size), base, src, offset, operation)


def atomic_add(base: Reg, offset: int, src: Reg, size: int = 8) -> Instruction:
    """``lock *(base + offset) += src``."""
    return atomic("add", base, offset, src, size)


def atomic_fetch_add(base: Reg, offset: int, src: Reg, size: int = 8) -> Instruction:
    """``src = *(base + offset)`` while ``*(base + offset) += src``."""
    return atomic("add", base, offset, src, size, fetch=True)


def atomic_xchg(base: Reg, offset: int, src: Reg, size: int = 8) -> Instruction:
    """``src`` and ``*(base + offset)`` change places."""
    return Instruction(u.BPF_STX | u.BPF_ATOMIC | _atomic_size(size), base, src, offset, u.BPF_XCHG)


def atomic_cmpxchg(base: Reg, offset: int, src: Reg, size: int = 8) -> Instruction:
    """If ``*(base + offset)`` equals r0 it becomes ``src``; r0 becomes the old value either way."""
    return Instruction(u.BPF_STX | u.BPF_ATOMIC | _atomic_size(size), base, src, offset, u.BPF_CMPXCHG)


# --- control --------------------------------------------------------------------------------------------------


def jump(target: str) -> Instruction:
    """``goto target``."""
    return Instruction(_JA, target=target)


def jump_if(left: Reg, symbol: str, right: Reg | int, target: str, width: int = 64) -> Instruction:
    """``if left symbol right goto target``.

    ``== != > >= < <=`` compare unsigned, ``s> s>= s< s<=`` signed; ``&`` holds when there is a bit in common. With
    ``width=32`` the low halves are compared. A constant is sign-extended from 32 bits for 64-bit comparisons.
    """
    opcode = _JUMPS[symbol] | (u.BPF_JMP if width == 64 else u.BPF_JMP32)
    if isinstance(right, Reg):
        return Instruction(opcode | u.BPF_X, left, right, target=target)
    return Instruction(opcode | u.BPF_K, left, imm=_immediate(right, width), target=target)


def call(helper: str | int) -> Instruction:
    """Call a helper of the kernel, by name (``bpf_`` may be left out) or number; KeyError for an unknown name."""
    number = u.helper_number(helper) if isinstance(helper, str) else helper
    return Instruction(_CALL, imm=number)


def call_subprogram(name: str) -> Instruction:
    """Call the function of this program whose first instruction bears the label ``name``."""
    return Instruction(_CALL, src=u.BPF_PSEUDO_CALL, imm=-1, target=name)


def exit_() -> Instruction:
    """Return r0."""
    return Instruction(_EXIT)


# --- operands -------------------------------------------------------------------------------------------------


def _signed32(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


def _immediate(value: int, width: int) -> int:
    """``value`` as the field holds it: signed, 32 bits. Narrower operations may also give it unsigned."""
    if -(1 << 31) <= value < 1 << 31:
        return value
    if width <= 32 and 1 << 31 <= value < 1 << 32:
        return value - (1 << 32)
    raise EncodingError(f"constant {value:#x} does not fit the 32 bits of the field")


def _one_of(value: int, allowed: tuple[int, ...]) -> int:
    if value not in allowed:
        raise EncodingError(f"{value} is none of {allowed}")
    return value


def _size(size: int) -> int:
    return _SIZES[_one_of(size, (1, 2, 4, 8))]


def _atomic_size(size: int) -> int:
    return _SIZES[_one_of(size, (4, 8))]
