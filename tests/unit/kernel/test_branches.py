"""Calls and jumps found in machine code."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.kernel import branches
from klasy.kernel.branches import Branch

NOP = b"\x90"


def rel32(opcode: bytes, at: int, target: int) -> bytes:
    """A branch at an offset to a target."""
    return opcode + struct.pack("<i", target - at - len(opcode) - 4)


def place(code: bytearray, at: int, insn: bytes) -> None:
    code[at : at + len(insn)] = insn


def found(code: bytes, target: int, start: int = 0) -> list[Branch]:
    return branches.confirm(code, start, branches.candidates(code, [target]))


@pytest.mark.parametrize(
    ("opcode", "call"),
    [(b"\xe8", True), (b"\xe9", False), (b"\x0f\x84", False), (b"\x2e\xe8", True), (b"\x66\xe9", False)],
)
@pytest.mark.parametrize("at", [0, 1, 0xFFFE, 0x1_0003, 0x2_FFF0])
@pytest.mark.parametrize("target", [0x10, 0x1_8000, 0x2_FFFF, -0x12_3456, 0x1234_5678])
def test_far_branches(opcode, call, at, target):
    """Branches of each form are found wherever they and their target lie, inside the code or far from it."""
    code = bytearray(NOP * 0x3_0000)
    insn = rel32(opcode, at, target)
    place(code, at, insn)
    assert found(bytes(code), target) == [Branch(at, len(insn), call, target)]


@pytest.mark.parametrize("opcode", [0xEB, 0x74, 0x7F])
@pytest.mark.parametrize("distance", [-128, -2, 0, 5, 127])
def test_short_jumps(opcode, distance):
    """Jumps of two bytes are found near their target."""
    code = bytearray(NOP * 600)
    place(code, 300, bytes([opcode, distance & 0xFF]))
    assert found(bytes(code), 302 + distance) == [Branch(300, 2, False, 302 + distance)]


def test_what_lies_inside_another_instruction_is_none():
    """Bytes that look like a call but are another instruction's operand are not confirmed."""
    code = bytearray(NOP * 64)
    place(code, 8, b"\x48\xb8\x00" + rel32(b"\xe8", 11, 0x40) + b"\x00\x00")  # movabs rax, ..e8..
    assert branches.candidates(bytes(code), [0x40]) == [(11, 0x40)]
    assert found(bytes(code), 0x40) == []


def test_no_candidates_at_the_edges():
    """A branch that is cut off by the end of the code is none."""
    code = NOP * 20 + rel32(b"\xe8", 20, 0)
    assert found(code, 0) == [Branch(20, 5, True, 0)]
    assert found(code[:-1], 0) == []
    assert found(b"", 0) == []
    assert found(b"\xe8", 0) == []


@given(
    st.binary(min_size=0, max_size=400),
    st.lists(
        st.tuples(st.integers(0, 0x1_2000), st.integers(0, 30), st.sampled_from([b"\xe8", b"\xe9", b"\x0f\x85"])),
        max_size=8,
    ),
    st.integers(1, 30),
)
def test_candidates_agree_with_trying_every_byte(noise, planted, count):
    """For few targets (searched window by window) and for many (one pass) the same is found as by trying every byte."""
    code = bytearray(noise + NOP * 0x1_2100)
    targets = [0x55 * i - 200 for i in range(count)]
    for at, number, opcode in planted:
        place(code, at, rel32(opcode, at, targets[number % count]))
    expected = set()
    for at in range(len(code)):
        first = code[at]
        size = (
            5
            if first in (0xE8, 0xE9)
            else 6
            if first == 0x0F and code[at + 1 : at + 2] and code[at + 1] >> 4 == 8
            else 0
        )
        if size and at + size <= len(code):
            target = at + size + struct.unpack_from("<i", code, at + size - 4)[0]
            if target in targets:
                expected.add((at, target))
        if (first == 0xEB or first >> 4 == 7) and at + 2 <= len(code):
            target = at + 2 + struct.unpack_from("<b", code, at + 1)[0]
            if target in targets:
                expected.add((at, target))
    assert branches.candidates(bytes(code), targets) == sorted(expected)


def test_calls_of_a_function():
    """All calls are listed, also through registers and memory, and the jumps out of the function but none within."""
    parts = [
        b"\x55",  # push rbp
        b"\xff\xd0",  # call rax
        b"\x41\xff\x53\x08",  # call [r11+8]
        b"\xff\xe0",  # jmp rax
        b"\x74\x02",  # je, inside
        b"\xff\x30",  # push [rax]
    ]
    code = b"".join(parts)
    code += rel32(b"\xe8", len(code), 0x100)
    code += rel32(b"\x0f\x84", len(code), 0x200)
    code += rel32(b"\xe9", len(code), 3)  # inside
    code += b"\xeb\x7f"
    end = len(code)
    code += rel32(b"\xe8", end, 0x300)  # of another function
    assert branches.calls(code, 0, end) == [
        Branch(1, 2, True, None),
        Branch(3, 4, True, None),
        Branch(13, 5, True, 0x100),
        Branch(18, 6, False, 0x200),
        Branch(29, 2, False, end + 0x7F),
    ]
