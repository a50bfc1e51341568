"""What an instruction leaves in the memory that it writes, told before it runs: a register, a number, or what it makes
of what is there.

Only what needs neither the flags nor a shift is told. Encodings: Intel SDM volume 2, appendix A.
"""

from __future__ import annotations

from klasy.flow import decode as d
from klasy.kernel import insn_x86_64 as insn
from klasy.plain import NamedTuple

# Operations by the three bits of a ModRM byte that extend the opcode; None: needs the carry flag, or writes nothing.
_GROUP1 = ("add", "or", None, None, "and", "sub", "xor", None)
_ARITHMETIC = {0x00: "add", 0x08: "or", 0x20: "and", 0x28: "sub", 0x30: "xor"}  # op r/m, r: opcode without its low bit
_BITS = {5: "or", 6: "andnot", 7: "xor"}  # bts, btr, btc with an immediate
_REGISTER = {0x88: "store", 0x86: "store"}  # mov, xchg
_TWO_BYTES = {0xB0: "cmpxchg", 0xC0: "add"}  # xadd leaves the sum in memory


class Stored(NamedTuple):
    """``op``: store, add, sub, and, andnot, or, xor, not, neg of what is there and the operand; cmpxchg: the operand,
    if what is there is equal to ax. copy: what lies as far from the register as the member does from di; fill: the
    register's bits from bit ``immediate`` on; fill bytes: its lowest byte, again and again.

    The operand is the ``register`` (a number as in ``decode``), its second byte where ``high``; else the ``immediate``.
    """

    op: str
    register: int = d.NONE
    high: bool = False
    immediate: int = 0


def stored(code: bytes, width: int) -> Stored | None:
    """What an instruction that writes ``width`` bytes of memory leaves there; None where that cannot be told."""
    at = insn.opcode_offset(code, 0)
    rex = code[at - 1] if at and code[at - 1] & 0xF0 == 0x40 else 0
    two = code[at] == 0x0F
    at += two
    opcode = code[at]
    if at + 1 >= len(code) or code[at + 1] >> 6 == 3:
        return None
    what = code[at + 1] >> 3 & 7
    if two:
        if opcode == 0xBA and what in _BITS:
            return Stored(_BITS[what], immediate=1 << (code[-1] & (8 * width - 1)))
        if opcode == 0xC3:  # movnti
            return _of_register("store", what, rex, 4)
        op = _TWO_BYTES.get(opcode & 0xFE)
        return _of_register(op, what, rex, width if opcode & 1 else 1) if op else None
    wide = bool(opcode & 1)
    size = width if wide else 1
    op = _REGISTER.get(opcode & 0xFE) or (_ARITHMETIC.get(opcode & 0xFE) if opcode < 0x40 else None)
    if op is not None:
        return _of_register(op, what, rex, size)
    if opcode in (0x80, 0x81, 0x83) and _GROUP1[what]:
        return Stored(str(_GROUP1[what]), immediate=_immediate(code, min(size, 4) if opcode == 0x81 else 1))
    if opcode & 0xFE == 0xC6 and what == 0:
        return Stored("store", immediate=_immediate(code, min(size, 4)))
    if opcode & 0xFE == 0xFE and what < 2:
        return Stored("sub" if what else "add", immediate=1)
    if opcode & 0xFE == 0xF6 and what in (2, 3):
        return Stored("neg" if what == 3 else "not")
    return None


def string_stored(code: bytes, at: int, size: int) -> Stored | None:
    """What a string instruction leaves in ``size`` bytes, ``at`` bytes from di; None where that cannot be told."""
    op = d.decode(code)
    if op[0] != d.STRING or op[5] not in (0xA4, 0xAA) or at < 0:
        return None
    if op[5] == 0xA4:
        return Stored("copy", d.SI)
    if op[1] == 1:
        return Stored("fill bytes", d.AX)
    place = at % op[1]
    return Stored("fill", d.AX, immediate=8 * place) if place + size <= op[1] else None


def _of_register(op: str, number: int, rex: int, width: int) -> Stored:
    if width == 1 and not rex and number >= 4:  # ah, ch, dh, bh
        return Stored(op, number - 4, True)
    return Stored(op, number | (rex & 4) << 1)


def _immediate(code: bytes, size: int) -> int:
    return int.from_bytes(code[-size:], "little", signed=True)
