"""What one x86-64 instruction does to registers and memory, as far as the flow of pointers is concerned.

An instruction becomes an ``Op``, a plain tuple. A kernel's text has 4.5 million instructions but only 0.3 million
different ones, so each encoding is decoded once and remembered (``decode``). No disassembler is used here: measured
over those encodings, capstone's Python objects take 74 us each (850 us in an emulated guest, and 6 s to import), this
module 4 us. What is decided here, tests compare with capstone over whole kernels. ``disasm`` has its text.

Only what matters is told apart: moves, address arithmetic, loads, stores. Every other instruction is ``OTHER``: the
registers it writes, and its operand in memory. Whether that is read or written, ``kernel.access_x86_64`` tells.
Encodings: Intel SDM volume 2, appendix A.
"""

from __future__ import annotations

from functools import cache

from klasy.kernel.access_x86_64 import READ, WRITE, access
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.flow.opcodes import Decoder

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

AX, CX, DX, BX, SP, BP, SI, DI = range(8)
IP = 16  # as a base: the address behind the instruction
NONE = -1
GS, FS = 1, 2  # segments

REGISTERS = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", *(f"r{n}" for n in range(8, 16)))

if TYPE_CHECKING:
    Memory = tuple[int, int, int, int, int]  # base, index (or NONE), scale, displacement, segment (or 0)
    Effect = tuple[int, int, int, int, Memory | None, int]  # kind, width of the operand in bytes, d, s, m, immediate
    Op = tuple[int, int, int, int, Memory | None, int, int]  # the same, and READ | WRITE of m

NO_EFFECT: Effect = (NOTHING, 0, NONE, NONE, None, 0)
NO_OP: Op = (*NO_EFFECT, 0)

_FAR, _FAR_IF = 5, 6  # bytes of calls and jumps by a distance of 32 bits
_CALL, _JUMP, _ESCAPE = 0xE8, 0xE9, 0x0F

known: dict[bytes, Op] = {}  # what ``decode`` found: who asks for millions looks here first
_MOST_KNOWN = 1 << 16  # some 30 MB; the most frequent are soon known again


@cache
def _decoder() -> type[Decoder]:
    from klasy.flow.opcodes import Decoder

    return Decoder


def decode(code: bytes) -> Op:
    """What one instruction does. ``code`` holds it wholly and nothing else."""
    found = known.get(code)
    if found is None:
        # Calls and jumps by 32 bits are a seventh of a kernel's instructions, and hardly one is like another.
        if len(code) == _FAR and code[0] in (_CALL, _JUMP):
            kind = CALL if code[0] == _CALL else JUMP
            return kind, 0, NONE, NONE, None, int.from_bytes(code[1:], "little", signed=True), 0
        if len(code) == _FAR_IF and code[0] == _ESCAPE and code[1] & 0xF0 == 0x80:
            return BRANCH, 0, code[1] & 15, NONE, None, int.from_bytes(code[2:], "little", signed=True), 0
        effect = _decoder()(code).op()
        touched = access(code) & (READ | WRITE) if effect[4] is not None else 0
        # What names a place and leaves all as it is: nop, prefetch, clflush ..
        found = NO_OP if effect[0] == OTHER and not effect[5] and not touched else (*effect, touched)
        if len(known) >= _MOST_KNOWN:
            known.clear()
        if found[4] is None or found[4][0] != IP:  # each address that code names would be remembered for itself
            known[code] = found
    return found
