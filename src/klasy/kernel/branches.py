"""Finds the calls and jumps in machine code that lead to given places.

A branch holds the distance to its target, so the bytes that lead to one target differ from place to place. But over
each 64 KiB of code the upper half of the distance is the same two bytes, which can be searched for by ``bytes.find``:
all branches to one function are found in a kernel's 15 MB of text in some 0.03 s. What is found are candidates; that
each is an instruction, and not the inside of another, ``confirm`` tells.
"""

from __future__ import annotations

import re
import struct
from itertools import accumulate, compress, repeat
from operator import add

from klasy.kernel import insn_x86_64 as insn
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_DISTANCE = struct.Struct("<i")
_CALL, _JUMP, _SHORT_JUMP, _ESCAPE, _GROUP5 = 0xE8, 0xE9, 0xEB, 0x0F, 0xFF
_SIZES = {_CALL: 5, _JUMP: 5, _ESCAPE: 6}  # of branches, by the opcode's first byte; the others have 2
_WINDOW = 1 << 16
_HALF = 0xFFFF
_FULL = 1 << 32
_MANY_TARGETS = 16  # from here on one pass over all branches is quicker than a search for each target
_CHUNK = 1 << 20  # bytes searched at a time in such a pass
_ESCAPED = b"\x0f"
_FAR_OPCODES = (b"\xe8", b"\xe9", _ESCAPED)
_CONDITIONAL = frozenset(range(0x80, 0x90))  # their second bytes
_ONE, _FOUR = 1, 4  # bytes: of an opcode, of a distance
SHORT_REACH = 130  # bytes; a little more than a jump with an 8-bit distance can go
_SHORT_OPCODE = re.compile(rb"[\x70-\x7f\xeb]")
_A_FEW_INSTRUCTIONS = 40  # bytes: by then who began in the middle of one has fallen into step


class Branch(NamedTuple):
    """A call or jump: offset and length of the instruction, and of its opcode; the target's offset.

    ``call`` tells calls from jumps. ``target`` is None for a call through a register or memory.
    """

    at: int
    length: int
    call: bool
    target: int | None


def candidates(code: bytes, targets: Collection[int]) -> list[tuple[int, int]]:
    """Where a branch to one of some offsets may be: (offset of the opcode, target), ascending.

    The targets may lie outside ``code``. Conditional and short jumps are included.
    """
    found: list[tuple[int, int]] = []
    if len(targets) < _MANY_TARGETS:
        for target in targets:
            found += [(at, target) for at in _near_and_far(code, target)]
    else:
        wanted = frozenset(targets)
        found += far_candidates(code, wanted)
    for target in targets:
        if -SHORT_REACH <= target <= len(code) + SHORT_REACH:
            found += [(at, target) for at in short_candidates(code, target)]
    return sorted(set(found))


def far_candidates(code: bytes, targets: frozenset[int], base: int = 0) -> list[tuple[int, int]]:
    """Where a branch with a 32-bit distance to one of many places may be: (offset of the opcode, target).

    The targets are counted from ``base`` before the code.
    """
    found: list[tuple[int, int]] = []
    for start in range(0, len(code), _CHUNK):
        found += _all_far(code, start, targets, base)
    return found


def _near_and_far(code: bytes, target: int) -> list[int]:
    """Opcode offsets of branches with a 32-bit distance, window by window."""
    found = []
    find = code.find
    first = target - 4  # distance at an offset p is first - p
    for window in range((first - len(code)) >> 16, (first >> 16) + 1):
        low = max(0, first - ((window + 1) * _WINDOW) + 1)
        high = min(len(code) - 4, first - window * _WINDOW)
        upper = (window & _HALF).to_bytes(2, "little")
        at = find(upper, low + 2, high + 4)
        while at >= 0:
            if code[at - 2] | code[at - 1] << 8 == (first + 2 - at) & _HALF:
                opcode = _opcode_before(code, at - 2)
                if opcode >= 0:
                    found.append(opcode)
            at = find(upper, at + 1, high + 4)
    return found


def _opcode_before(code: bytes, place: int) -> int:
    """Offset of the opcode whose 32-bit distance stands at a place, or -1."""
    if place >= 1 and code[place - 1] in (_CALL, _JUMP):
        return place - 1
    if place >= 2 and code[place - 2] == _ESCAPE and code[place - 1] & 0xF0 == 0x80:
        return place - 2
    return -1


def _all_far(code: bytes, start: int, targets: frozenset[int], base: int) -> list[tuple[int, int]]:
    """Branches with a 32-bit distance to any of many targets, whose opcode begins in the chunk from ``start`` on.

    Every step runs over a whole list in C: there is a byte that may be an opcode in every thirty, but a branch to one
    of the targets is rare.
    """
    chunk = code[start : start + _CHUNK]
    found = []
    for opcode in _FAR_OPCODES:
        parts = chunk.split(opcode)  # a place of an opcode is where a part ends
        sums = map(len, parts[:-1])
        ends = list(accumulate(map(add, sums, repeat(len(opcode))), initial=start))[1:]  # of the opcodes
        if opcode == _ESCAPED:
            while ends and ends[-1] >= len(code):
                ends.pop()
            conditional = map(_CONDITIONAL.__contains__, map(code.__getitem__, ends))
            ends = list(map(_ONE.__add__, compress(ends, conditional)))
        while ends and ends[-1] + 4 > len(code):
            ends.pop()
        behind = list(map(_FOUR.__add__, ends))
        distances = memoryview(b"".join(map(code.__getitem__, map(slice, ends, behind)))).cast("i")
        reached = list(map(add, distances, map(base.__add__, behind) if base else behind))
        hits = compress(zip(ends, reached, strict=True), map(targets.__contains__, reached))
        size = 2 if opcode == _ESCAPED else 1
        found += [(end - size, target) for end, target in hits]
    return found


def short_candidates(code: bytes, target: int) -> list[int]:
    """Where a jump with an 8-bit distance to an offset may be: the opcodes' offsets."""
    low, high = max(0, target - 2 - 127), min(len(code) - 2, target - 2 + 128)
    found = []
    for match in _SHORT_OPCODE.finditer(code, low, max(low, high + 1)):
        at = match.start()
        if at + 2 + (code[at + 1] ^ 0x80) - 0x80 == target:
            found.append(at)
    return found


def confirm(code: bytes, start: int, opcodes: Sequence[tuple[int, int]]) -> list[Branch]:
    """Those candidates, all in the function that begins at ``start``, that are instructions.

    To be sure of one, all instructions from the function's entry on must be measured. Most need not be: a branch with
    a 32-bit distance has five bytes and more that fit just one target. That other bytes than a branch's do so happens
    by chance alone, once in some ten thousand kernels' text for one target. So one that may have no prefix is taken
    for an instruction if it also is one to who begins to measure a few instructions before; all others are
    measured from the entry.
    """
    found = []
    known = start  # an instruction begins here for sure
    for opcode, target in opcodes:
        first = code[opcode]
        size = _SIZES.get(first, 2)
        at = opcode
        near = opcode - _A_FEW_INSTRUCTIONS
        if (
            size == 2
            or known >= near
            or code[opcode - 1] in insn.PREFIXES
            or insn.boundary(code, near, opcode) != opcode
        ):
            at = known = insn.boundary(code, known, opcode)
            if at != opcode and not insn.only_prefixes(code, at, opcode):
                continue
        found.append(Branch(at, opcode - at + size, first == _CALL, target))
    return found


def calls(code: bytes, start: int, end: int) -> list[Branch]:
    """All calls, and all jumps out of it, of the function from ``start`` to ``end``, by address."""
    found = []
    for at, size in insn.instructions(code, start, end):
        opcode = insn.opcode_offset(code, at)
        first = code[opcode]
        if first in (_CALL, _JUMP):
            far = at + size + _DISTANCE.unpack_from(code, at + size - 4)[0]
            if first == _CALL or not start <= far < end:
                found.append(Branch(at, size, first == _CALL, far))
        elif first == _SHORT_JUMP or first & 0xF0 == 0x70:
            near = at + size + (code[at + size - 1] ^ 0x80) - 0x80
            if not start <= near < end:
                found.append(Branch(at, size, False, near))
        elif first == _ESCAPE and code[opcode + 1] & 0xF0 == 0x80:
            far = at + size + _DISTANCE.unpack_from(code, at + size - 4)[0]
            if not start <= far < end:
                found.append(Branch(at, size, False, far))
        elif first == _GROUP5 and code[opcode + 1] >> 3 & 7 == 2:
            found.append(Branch(at, size, True, None))
    return found
