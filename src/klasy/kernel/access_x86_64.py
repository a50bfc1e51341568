"""Whether an x86-64 instruction reads or writes the memory that its operand names.

For data watched by a debug register: the processor tells that an instruction accessed it, not how. Only operands in
memory count; what an instruction does to the stack by the way (``push``, ``call``, ``ret``) does not. Intel SDM volume
2; tests compare with capstone over the text of whole kernels.
"""

from __future__ import annotations

from klasy.kernel.insn_x86_64 import LEGACY_PREFIXES, opcode_offset
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

READ, WRITE = 1, 2
TWO_PLACES = 4  # movs: reads one place and writes another; which of them is meant the instruction does not tell
_BOTH = READ | WRITE

_REPEATS = frozenset((0xF2, 0xF3))
_STRINGS = {
    **dict.fromkeys((0xA4, 0xA5), _BOTH | TWO_PLACES),  # movs
    **dict.fromkeys((0xA6, 0xA7, 0xAC, 0xAD, 0xAE, 0xAF, 0x6E, 0x6F), READ),  # cmps, lods, scas, outs
    **dict.fromkeys((0xAA, 0xAB, 0x6C, 0x6D), WRITE),  # stos, ins
}


def _table(read: Iterable[int], write: Iterable[int], both: Iterable[int]) -> bytes:
    """What each of 256 opcodes does, 0 for nothing."""
    table = bytearray(256)
    for opcodes, kind in ((read, READ), (write, WRITE), (both, _BOTH)):
        for opcode in opcodes:
            table[opcode] = kind
    return bytes(table)


_ROWS = range(0x00, 0x40, 8)  # add or adc sbb and sub xor cmp
_ONE = _table(
    read=(
        *(row + form for row in _ROWS for form in (2, 3)),
        *(0x38, 0x39, 0x63, 0x69, 0x6B, 0x84, 0x85, 0x8A, 0x8B, 0x8E),
        *(0xD8, 0xDA, 0xDC, 0xDE),
    ),
    write=(0x88, 0x89, 0x8C, 0x8F, 0xC6, 0xC7),
    both=(*(row + form for row in _ROWS if row != 0x38 for form in (0, 1)), 0x86, 0x87, 0xC0, 0xC1, *range(0xD0, 0xD4)),
)
_STORES = (0x11, 0x13, 0x17, 0x29, 0x2B, 0x7E, 0x7F, 0xD6, 0xE7)  # of vectors, in the map 0F
_TWO = _table(
    read=(
        *(0x02, 0x03, 0x10, 0x12, 0x14, 0x15, 0x16, 0x28, 0x2A, *range(0x2C, 0x30), *range(0x40, 0x80), 0xA3, 0xAF),
        *(0xB2, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xBC, 0xBD, 0xBE, 0xBF, 0xC2, 0xC4, 0xC6, *range(0xD0, 0xFF)),
    ),
    write=(*_STORES, 0x78, *range(0x90, 0xA0), 0xC3),
    both=(0xA4, 0xA5, 0xAB, 0xAC, 0xAD, 0xB0, 0xB1, 0xB3, 0xBB, 0xC0, 0xC1),
)
# Opcodes whose ModRM says which of eight instructions it is.
_GROUPS = {
    **dict.fromkeys((0x80, 0x81, 0x83), (_BOTH,) * 7 + (READ,)),
    0xD9: (READ, 0, WRITE, WRITE, READ, READ, WRITE, WRITE),
    0xDB: (READ, WRITE, WRITE, WRITE, 0, READ, 0, WRITE),
    0xDD: (READ, WRITE, WRITE, WRITE, READ, 0, WRITE, WRITE),
    0xDF: (READ, WRITE, WRITE, WRITE, READ, READ, WRITE, WRITE),
    **dict.fromkeys((0xF6, 0xF7), (READ, READ, _BOTH, _BOTH, READ, READ, READ, READ)),
    0xFE: (_BOTH, _BOTH, 0, 0, 0, 0, 0, 0),
    0xFF: (_BOTH, _BOTH, READ, READ, READ, READ, READ, 0),
}
_GROUPS_0F = {
    0x00: (WRITE, WRITE, READ, READ, READ, READ, 0, 0),
    0x01: (WRITE, WRITE, READ, READ, WRITE, 0, READ, 0),  # the last: invlpg
    0xAE: (WRITE, READ, READ, WRITE, _BOTH, READ, _BOTH, 0),  # fxsave .. xsave, xrstor, xsaveopt, clflush
    0xBA: (0, 0, 0, 0, READ, _BOTH, _BOTH, _BOTH),
    0xC7: (0, _BOTH, 0, READ, WRITE, WRITE, READ, WRITE),  # cmpxchg8b, -, xrstors, xsavec, xsaves, vmptrld, vmptrst
}


def access(code: bytes, at: int = 0) -> int:
    """What the instruction at ``at`` does to its operand in memory: READ, WRITE, both, or 0 where it has none.

    With TWO_PLACES if it reads one place and writes another.
    """
    start, at = at, opcode_offset(code, at)
    prefixes, opcode = frozenset(code[start:at]), code[at]
    if opcode in (0xC4, 0xC5, 0x62):
        return _vector(code, at)
    if opcode == 0x0F:
        return _two(code, at + 1, prefixes)
    if opcode in _STRINGS:
        return _STRINGS[opcode]
    if opcode == 0xD7:  # xlat
        return READ
    if 0xA0 <= opcode < 0xA4:  # mov with the whole address in the instruction
        return READ if opcode < 0xA2 else WRITE
    group = _GROUPS.get(opcode)
    if group is None and not _ONE[opcode]:
        return 0
    modrm = code[at + 1]
    if modrm >= 0xC0:
        return 0
    return group[modrm >> 3 & 7] if group else _ONE[opcode]


def _two(code: bytes, at: int, prefixes: frozenset[int]) -> int:
    """Of an instruction whose opcode begins with 0F; ``at`` is behind that."""
    opcode = code[at]
    if opcode in (0x38, 0x3A):
        inner, modrm = code[at + 1], code[at + 2]
        if modrm >= 0xC0:
            return 0
        if opcode == 0x3A:
            return WRITE if 0x14 <= inner <= 0x17 else READ
        if inner == 0xF1:  # crc32 with F2, else movbe
            return READ if 0xF2 in prefixes else WRITE
        if inner == 0xF6:  # adcx and adox with a prefix, else wrss
            return READ if prefixes & {0x66, 0xF3} else WRITE
        return WRITE if inner in (0xF5, 0xF9) else READ
    modrm = code[at + 1] if at + 1 < len(code) else 0xC0
    if modrm >= 0xC0:
        return 0
    if opcode in _GROUPS_0F:
        reg = modrm >> 3 & 7
        if opcode == 0xAE and reg == 6 and 0x66 in prefixes:  # clwb
            return 0
        return _GROUPS_0F[opcode][reg]
    if opcode == 0x7E and 0xF3 in prefixes:
        return READ
    return _TWO[opcode]


_SCATTERS = frozenset((0xA0, 0xA1, 0xA2, 0xA3, 0x2E, 0x2F, 0x8E))  # and masked stores, in the map 0F 38
_EXTRACTS = frozenset((*range(0x14, 0x18), 0x19, 0x1B, 0x1D, 0x39, 0x3B))  # in the map 0F 3A


def _vector(code: bytes, at: int) -> int:
    """Of an instruction with VEX or EVEX prefix."""
    first = code[at]
    if first == 0xC5:
        opcodes, pp, at = 1, code[at + 1] & 3, at + 2
    elif first == 0xC4:
        opcodes, pp, at = code[at + 1] & 0x1F, code[at + 2] & 3, at + 3
    else:
        opcodes, pp, at = code[at + 1] & 7, code[at + 2] & 3, at + 4
    opcode, modrm = code[at], code[at + 1] if at + 1 < len(code) else 0xC0
    if modrm >= 0xC0:
        return 0
    if opcodes == 2:
        return WRITE if opcode in _SCATTERS else READ
    if opcodes == 3:
        return WRITE if opcode in _EXTRACTS else READ
    if opcode == 0x7E:
        return READ if pp == 2 else WRITE
    if opcode == 0xAE:
        return WRITE if modrm >> 3 & 7 == 3 else READ  # vstmxcsr, vldmxcsr
    return WRITE if opcode in _STORES else READ


def is_repeated_string(code: bytes, at: int) -> bool:
    """Whether a string instruction with a repeat prefix begins at ``at``: one that a trap may interrupt on its way."""
    repeats = False
    while at < len(code) and code[at] in LEGACY_PREFIXES:
        repeats |= code[at] in _REPEATS
        at += 1
    if at < len(code) and 0x40 <= code[at] < 0x50:
        at += 1
    return repeats and at < len(code) and code[at] in _STRINGS
