"""Where x86-64 instructions begin and end, and which of them call.

Lengths only, as one regular expression: to confirm that a call is an instruction, all before it in its function must
be measured, hundreds of thousands of instructions for a function that is called from everywhere. The expression
measures one in 0.1 us; a disassembler's objects take tens of times that, and its import alone half a second in an
emulated guest. ``disasm`` has the real disassembler, and tests compare the two over whole kernels.

64-bit mode only; Intel SDM volume 2, appendix A, gives the opcode maps. What no kernel uses (3DNow!, XOP) is missing.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, cache

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Iterator


def _set(*members: int | Iterable[int]) -> bytes:
    """A character class of bytes."""
    values = sorted({v for m in members for v in ((m,) if isinstance(m, int) else m)})
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return b"[" + b"".join(_byte(low) if low == high else _byte(low) + b"-" + _byte(high) for low, high in runs) + b"]"


def _byte(value: int) -> bytes:
    """A byte as it is written in a character class."""
    return b"\\" + bytes([value]) if value in b"\\]^-[&~|" else bytes([value])


def _expression() -> bytes:
    """The expression for one instruction.

    No instruction's encoding is the beginning of another's, and no alternative here matches a part of what another
    one matches: so the expression fails at an instruction that is cut short, instead of taking less of it.
    """
    rows = range(0x00, 0x40, 8)  # the eight arithmetic instructions, each with the same six forms

    # ModRM, with SIB and displacement as its mod (two high bits) and rm (three low bits) ask for them
    sib_with_disp32, other_sib = _set(range(5, 0x100, 8)), _set(set(range(0x100)) - set(range(5, 0x100, 8)))
    modrm = b"(?:%s)" % b"|".join(
        (
            _set(range(0xC0, 0x100)),
            _set(set(range(0x40, 0x80)) - set(range(0x44, 0x80, 8))) + b".",
            _set(range(0x44, 0x80, 8)) + b"..",
            _set(set(range(0x80, 0xC0)) - set(range(0x84, 0xC0, 8)), range(0x05, 0x40, 8)) + b".{4}",
            _set(range(0x84, 0xC0, 8)) + b".{5}",
            _set(range(0x04, 0x40, 8)) + b"(?:%s.{4}|%s)" % (sib_with_disp32, other_sib),
            _set(set(range(0x40)) - set(range(0x04, 0x40, 8)) - set(range(0x05, 0x40, 8))),
        )
    )
    test = _set(
        *[range(mod | reg, mod + reg + 8) for mod in (0, 0x40, 0x80, 0xC0) for reg in (0, 8)]
    )  # F6 and F7 /0, /1

    # One-byte opcodes, by what follows
    with_modrm = _set(
        *[range(r, r + 4) for r in rows], 0x63, range(0x84, 0x90), range(0xD0, 0xD4), range(0xD8, 0xE0), 0xFE, 0xFF
    )
    alone = _set(
        *(range(0x50, 0x60), range(0x6C, 0x70), range(0x90, 0x9A), range(0x9B, 0xA0), range(0xA4, 0xA8)),
        *(
            range(0xAA, 0xB0),
            0xC3,
            0xC9,
            0xCB,
            0xCC,
            0xCF,
            0xD7,
            range(0xEC, 0xF0),
            0xF1,
            0xF4,
            0xF5,
            range(0xF8, 0xFE),
        ),
    )
    imm8 = _set(range(4, 0x40, 8), 0x6A, range(0x70, 0x80), 0xA8, range(0xB0, 0xB8), 0xCD, range(0xE0, 0xE8), 0xEB)
    modrm_imm8 = _set(0x6B, 0x80, 0x83, 0xC0, 0xC1, 0xC6)
    imm32 = _set(range(5, 0x40, 8), 0x68, 0xA9)  # 16 bits with the prefix 66; also B8 to BF, which with REX.W have 64
    modrm_imm32 = _set(0x69, 0x81, 0xC7)  # 16 bits with the prefix 66

    # Two-byte opcodes, behind 0F
    alone_0f = {
        *range(5, 10),
        0x0B,
        0x0E,
        *range(0x30, 0x38),
        0x77,
        0xA0,
        0xA1,
        0xA2,
        0xA8,
        0xA9,
        0xAA,
        *range(0xC8, 0xD0),
    }
    vector_imm8 = {*range(0x70, 0x74), 0xC2, *range(0xC4, 0xC7)}
    modrm_imm8_0f = {0xA4, 0xAC, 0xBA} | vector_imm8
    none_0f = {0x04, 0x0A, 0x0C, 0x0F, *range(0x24, 0x28), *range(0x38, 0x40)}
    with_modrm_0f = _set(set(range(0x100)) - alone_0f - modrm_imm8_0f - none_0f - set(range(0x80, 0x90)))

    body = b"(?:%s)" % b"|".join(
        (
            b"(?:%s|\x0f(?:%s|\x38.)|[\xf6\xf7](?!%s))%s" % (with_modrm, with_modrm_0f, test, modrm),
            alone,
            b"(?:%s|[\xe8\xe9]...|\\x0f[\x80-\x8f]...|%s...|[\xc2\xca].|\xc8..|[\xa0-\xa3].{7})." % (imm8, imm32),
            b"(?:%s|\xf6|\x0f(?:%s|\x3a.))%s." % (modrm_imm8, _set(modrm_imm8_0f), modrm),
            b"(?:%s|\xf7)%s.{4}" % (modrm_imm32, modrm),
            b"\x0f" + _set(alone_0f),
        )
    )
    prefix = _set(0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3)
    other_prefix = _set(0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x67, 0xF0, 0xF2, 0xF3)

    # Behind the prefix 66, unless REX.W follows: what has 16 bits of immediate value instead of 32
    short = (
        prefix
        + rb"(?:(?<=\x66)|(?=%s*+\x66))%s*+[\x40-\x47]?+" % (other_prefix, prefix)
        + b"(?:%s|[\xb8-\xbf]|(?:%s|\xf7(?=%s))%s).." % (imm32, modrm_imm32, test, modrm)
    )
    bare = b"[\x40-\x4f]?+" + body  # tried first of all, since most have no prefix
    usual = prefix + b"*+(?:[\x48-\x4f][\xb8-\xbf].{8}|[\x40-\x47]?+[\xb8-\xbf].{4}|%s)" % bare

    # VEX (C4, C5) and EVEX (62): the opcode's map stands in the low bits of the byte behind
    def maps(*numbers: int) -> bytes:
        vex = _set(*[range(m, 0x100, 0x20) for m in numbers])
        evex = _set(*[range(m, 0x100, 8) for m in numbers])
        return b"\\xc4%s.|\\x62%s.." % (vex, evex)

    plain = _set(set(range(0x100)) - vector_imm8 - {0x77})
    map1 = b"\xc5.|" + maps(1)
    vector = prefix + b"*+(?:%s)" % b"|".join(
        (
            b"(?:(?:%s)%s|(?:%s).)%s" % (map1, plain, maps(2, 5, 6), modrm),
            b"(?:(?:%s)%s|(?:%s).)%s." % (map1, _set(vector_imm8), maps(3), modrm),
            b"(?:%s)\x77" % map1,
        )
    )
    return b"(?>%s|%s|%s|%s)" % (bare, short, usual, vector)


@cache
def one_instruction() -> re.Pattern[bytes]:
    """What matches one whole instruction, and nothing where there is none."""
    import re  # here, for what probes entries only needs none of it

    return re.compile(_expression(), re.DOTALL)


@cache
def _many() -> re.Pattern[bytes]:
    import re

    return re.compile(b"(?:%s)*+" % _expression(), re.DOTALL)


@cache
def _each() -> re.Pattern[bytes]:
    import re

    return re.compile(b"%s|.+" % _expression(), re.DOTALL)


def whole(code: bytes, start: int, end: int) -> list[bytes]:
    """The bytes of the instructions from ``start`` up to ``end``, one after the other, up to the first that is none."""
    found = _each().findall(code, start, end)
    if found and not one_instruction().match(found[-1]):
        del found[-1]  # what is left where there is no instruction
    return found


def length(code: bytes, at: int) -> int | None:
    """Length of the instruction at an offset of ``code``, or None where there is no whole one."""
    found = one_instruction().match(code, at)
    return found.end() - at if found else None


def boundary(code: bytes, start: int, limit: int) -> int:
    """The last place up to ``limit`` where an instruction begins, counted from one that begins at ``start``.

    Bytes that are no instruction end the count where they begin.
    """
    found = _many().match(code, start, limit)
    return found.end() if found else start


def instructions(code: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the instructions from ``start`` up to ``end``, up to the first that is none."""
    match = one_instruction().match
    while start < end and (found := match(code, start, end)):
        yield start, found.end() - start
        start = found.end()


LEGACY_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
PREFIXES = LEGACY_PREFIXES | frozenset(range(0x40, 0x50))
"""All bytes that may stand before an opcode and change what it means."""


def opcode_offset(code: bytes, at: int) -> int:
    """The offset of the opcode of the instruction at ``at``: behind its prefixes."""
    while code[at] in LEGACY_PREFIXES:
        at += 1
    return at + 1 if 0x40 <= code[at] < 0x50 else at


def only_prefixes(code: bytes, start: int, end: int) -> bool:
    """Whether all bytes from ``start`` to ``end`` are prefixes."""
    return all(byte in PREFIXES for byte in code[start:end])
