"""Which functions can hold an access of a member: those whose code has a displacement that leads there.

Only bytes are searched first, no instruction is decoded from a function's start: where a wanted displacement stands
behind an opcode and a ModRM byte, and the operand is wide enough to reach the member, something may access it; so may a
repeated string instruction that does not fill the stack. Bytes may be read from the middle of an instruction: what is
found is looked at again when it is decoded (``has_operand``). Of 10,745 sites of 207 members in functions that ran on
6.1 it misses 7: accesses from a node a little before the member, or at an address that is the sum of several constants.
"""

from __future__ import annotations

import re
import struct
from itertools import chain

from klasy.flow import decode as d
from klasy.flow.transfer import ALIGNED
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from klasy.flow.cfg import Unit
    from klasy.flow.engine import Engine
    from klasy.flow.members import Types
    from klasy.flow.sites import Member
_MANY = 2000  # structs around it; where a struct is a part of more, all functions are looked at
_MANY_NODES = 64  # of them, if all their nodes are to count as what a pointer may point to
_LONGEST = 4096  # bytes: what is longer is accessed at too many displacements
_FEW = 100  # large displacements that are sought one by one
_SMALL = range(-128, 128)
_WIDEST = 8  # bytes of an operand that is no vector's


def _set(values: Iterable[int]) -> bytes:
    """A set of bytes, for a regular expression."""
    return b"[" + b"".join(re.escape(bytes((value,))) for value in sorted(values)) + b"]"


# Opcodes of one byte that have a ModRM byte. Intel SDM volume 2, appendix A.
_OPCODES = frozenset(
    (
        *(row + column for row in range(0, 0x40, 8) for column in range(4)),
        *(0x63, 0x69, 0x6B, 0x80, 0x81, 0x83, *range(0x84, 0x8C), 0x8D, 0x8F),
        *(0xC0, 0xC1, 0xC6, 0xC7, 0xD0, 0xD1, 0xD2, 0xD3, 0xF6, 0xF7, 0xFE, 0xFF),
    )
)
_LEA = 0x8D
_BYTES = frozenset(
    (
        *(row + column for row in range(0, 0x40, 8) for column in (0, 2)),
        *(0x80, 0x84, 0x86, 0x88, 0x8A, 0xC0, 0xC6, 0xD0, 0xD2, 0xF6, 0xFE),
    )
)
_NO_PREFIX_NEEDED = frozenset((0xFF, 0x8F))  # call, jmp, push, pop: 64 bits always
_BYTES_0F = frozenset((*range(0x90, 0xA0), 0xB0, 0xB6, 0xBE, 0xC0))
_WORDS_0F = frozenset((0xB7, 0xBF))
_VECTORS_0F = frozenset((*range(0x10, 0x18), *range(0x28, 0x30), *range(0x50, 0x80), 0xC7, *range(0xD0, 0x100)))
_OPCODE = _set(_OPCODES)
# ModRM bytes with a displacement of one byte: without a SIB byte behind them, and with one.
_PLAIN, _SIB = [_set(byte for byte in range(0x40, 0x80) if (byte & 7 == 4) is sib) for sib in (False, True)]
_ADD = rb"[\x48\x49]\x83[\xc0-\xc7]"  # add $shift,%register
# What must stand before such a displacement, which itself has been read.
_BEHIND = b"(?:" + b"|".join(
    b"(?<=" + opcode + way + b".)" for opcode in (_OPCODE, rb"\x0f.") for way in (_PLAIN, _SIB + b".")
) + b")"  # fmt: skip


def sought(engine: Engine, module: str | None, members: Iterable[Member]) -> dict[int, int] | None:
    """The displacements of operands that may access some members in an object's text, each with the least width; None:
    any may."""
    types = engine.seeds.types_of(module)
    wanted: dict[int, int] = {}
    for member in members:
        if member.module is not None and member.module != module:
            continue
        found = displacements(types, member)
        if found is None:
            return None
        for shift, width in found.items():
            _add(wanted, shift, width)
    return wanted


def units(
    engine: Engine,
    module: str | None,
    all_units: Sequence[int],
    members: Iterable[Member],
    wanted: dict[int, int] | None,
) -> Sequence[int]:
    """Of an object's units, those that may access one of some members; ``wanted``: as ``sought`` gives it."""
    if wanted is None:
        return all_units
    types = engine.seeds.types_of(module)
    text = engine.text(module)
    starts = [text.starts[index] for index in all_units]
    by_start = dict(zip(starts, all_units, strict=True))
    hits: set[int] = set()
    own = [member for member in members if member.module in (None, module)]
    least = min((member.offset for member in own), default=0)
    most = max((types.size(member.struct) for member in own), default=0)
    for place in chain(_places(text.code, wanted), _strings(text.code, least, most)):
        index = text.function_index(place)
        if index is None:
            continue
        start = text.starts[index]
        if start in by_start:
            hits.add(start)
        else:
            unit = engine.unit_of(module, index)
            if unit is not None:
                hits.add(text.starts[unit])
    return [by_start[start] for start in sorted(hits) if start in by_start]


def has_operand(unit: Unit, wanted: dict[int, int]) -> bool:
    """Whether one of a function's instructions has such an operand, or is a repeated string instruction: of what the
    bytes say, a third is something else once the instructions are decoded."""
    for op in unit.ops:
        kind, m = op[0], op[4]
        if m is not None:
            width = wanted.get(m[3])
            if width is not None and m[0] != d.SP and m[0] != d.IP and (kind == d.LEA or not op[1] or op[1] >= width):
                return True
        elif (kind == d.STRING and op[2]) or (kind == d.ADD_CONST and op[5] in wanted):
            return True
    return False


def displacements(types: Types, member: Member) -> dict[int, int] | None:
    """The displacements by which a member may be reached, each with the least width in bytes of an operand there that
    reaches it; None: too many, or none needed."""
    if member.end - member.offset > _LONGEST:
        return None
    holders = types.around(member.struct, _MANY)
    if holders is None:
        return None
    found: dict[int, int] = {}
    parts = {member.offset - inside for _, inside, _, _ in types.parts(member.struct, member.offset)} - {0}
    for place in {place for _, place in holders}:
        low, high = place + member.offset, place + member.end
        for shift in range(low - _WIDEST + 1, low):
            width = low - shift + 1
            # a wider access may begin at a neighbour: 8 bytes at any multiple of 4, 4 at any of 2
            if shift % 4 == 0 or (shift % 2 == 0 and width <= 4):
                _add(found, shift, width)
        for shift in range(low, high):
            _add(found, shift, 1)
        for part in parts:  # the address of a part, whose member it is
            _add(found, place + part, 1)
    if 0 in found:
        return None
    # From a pointer to a node in the object, back to the member: far back is rare, so that it costs little to look
    # there; near by only from nodes of the object itself. Forwards only where the scheduler's entities stand for it:
    # such displacements are as frequent as any others.
    for holder, place in holders if len(holders) <= _MANY_NODES else [(member.struct, 0)]:
        low, high = place + member.offset, place + member.end
        for part, own in types.nodes(holder).items():
            if low - part < _SMALL.start:
                for shift in range(low - part, high - part):
                    _add(found, shift, 1)
            elif low < part and own:
                _add(found, low - part, 1)
        if member.module is not None:  # modules find their own objects by the kernel's parts of them, as ext4 by inodes
            for _, part in types.structs_in(holder):
                for shift in range(low - part, high - part):
                    _add(found, shift, 1)
        for part in types.entities(holder):
            if low != part:
                _add(found, low - part, 1)
    return found


def _add(wanted: dict[int, int], shift: int, width: int) -> None:
    wanted[shift] = min(width, wanted.get(shift, width))


def _places(code: bytes, wanted: dict[int, int]) -> Iterator[int]:
    """Where such an operand's displacement may stand."""
    small = [shift for shift in wanted if shift in _SMALL]
    if small:
        pattern = re.compile(_set(shift & 0xFF for shift in small) + _BEHIND, re.DOTALL)
        for match in pattern.finditer(code):
            at = match.start()
            if _reaches(code, at, wanted[(code[at] ^ 0x80) - 0x80]):
                yield at
        for match in re.finditer(_ADD + _set(shift & 0xFF for shift in small), code, re.DOTALL):
            yield match.start()
    large = {struct.pack("<i", shift): width for shift, width in wanted.items()}
    if len(large) <= _FEW:
        for needle, width in large.items():
            at = code.find(needle)
            while at >= 0:
                if (
                    at > 1
                    and (code[at - 1] & 0xC0 == 0x80 or code[at - 2] & 0xC7 == 0x84)
                    and _reaches(code, at, width)
                ):
                    yield at
                at = code.find(needle, at + 1)
        return
    pattern = re.compile(rb"[\x80-\xbf](?=.?..(?:\x00\x00|\xff\xff))", re.DOTALL)
    for match in pattern.finditer(code):
        at = match.end()
        for place in (at, at + 1) if code[at - 1] & 7 == 4 else (at,):
            found = large.get(code[place : place + 4])
            if found is not None and _reaches(code, place, found):
                yield place


# mov $count,%ecx and, soon behind it, a repeated string instruction
_STEP = {bytes((*rex, op)): 1 + op % 2 * (7 if rex else 3) for rex in ((), (0x48,)) for op in (0xA4, 0xA5, 0xAA, 0xAB)}
_STRING = re.compile(rb"\xb9(..\x00\x00)(?=.{0,24}?\xf3(\x48?[\xa4\xa5\xaa\xab]))", re.DOTALL)


def _strings(code: bytes, least: int, most: int) -> Iterator[int]:
    """Where string instructions may clear or copy so many bytes of a struct."""
    for match in _STRING.finditer(code):
        size = int.from_bytes(match[1], "little") * _STEP[match[2]]
        if least < size <= most:
            yield match.start()
    for match in ALIGNED.finditer(code):
        if least < int.from_bytes(match[1] or match[2], "little", signed=True) <= most:
            yield match.start()


def _reaches(code: bytes, at: int, least: int) -> bool:
    """Whether an operand whose displacement stands at a place may have at least some width."""
    if at >= 2 and code[at - 1] & 7 != 4 and _width(code, at - 2) >= least:
        return True
    return at >= 3 and code[at - 2] & 7 == 4 and not _is_slot(code, at) and _width(code, at - 3) >= least


def _is_slot(code: bytes, at: int) -> bool:
    """Whether a SIB byte before a place makes an address on the stack: sp, not r12, is its base."""
    if code[at - 1] & 7 != 4:
        return False
    opcode = at - 3
    return not any(byte & 0xF1 == 0x41 for byte in code[max(0, opcode - 2) : opcode])


def _width(code: bytes, at: int) -> int:
    """The most bytes that the operand may have of an instruction whose opcode ends at a place; 0: it is none."""
    opcode = code[at]
    before, first = code[max(0, at - 2) : at].rjust(2, b"\0")[::-1]
    widest = 0
    if before == 0x0F:
        if opcode in _VECTORS_0F:
            widest = 16
        elif opcode in _BYTES_0F:
            widest = 1
        elif opcode in _WORDS_0F:
            widest = 2
        else:
            widest = 8 if first & 0xF8 == 0x48 else 4
    if opcode in _OPCODES:
        if opcode in _BYTES or opcode == _LEA:
            width = 1
        elif opcode in _NO_PREFIX_NEEDED:
            width = 8
        else:
            width = 8 if before & 0xF8 == 0x48 else 4
        widest = max(widest, width)
    return widest
