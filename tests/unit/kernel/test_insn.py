"""Lengths of x86-64 instructions. Whole kernels are compared with a disassembler in tests/differential/."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.kernel import insn_x86_64 as insn

INSTRUCTIONS = [
    "90",  # nop
    "0f1f440000",  # nop dword [rax+rax]
    "66662e0f1f840000000000",  # data16 cs nop word [rax+rax]
    "f30f1efa",  # endbr64
    "55",  # push rbp
    "4157",  # push r15
    "4889e5",  # mov rbp, rsp
    "488b4708",  # mov rax, [rdi+8]
    "488b8700010000",  # mov rax, [rdi+0x100]
    "488b05a1b2c3d4",  # mov rax, [rip+..]
    "65488b042528000000",  # mov rax, gs:[0x28]
    "488b04c5a1b2c3d4",  # mov rax, [rax*8+..]
    "488b44c708",  # mov rax, [rdi+rax*8+8]
    "488b84c700010000",  # mov rax, [rdi+rax*8+0x100]
    "b8a1b2c3d4",  # mov eax, imm32
    "66b8a1b2",  # mov ax, imm16
    "48b8a1b2c3d4e5f60718",  # movabs rax, imm64
    "41b8a1b2c3d4",  # mov r8d, imm32
    "48c7c0a1b2c3d4",  # mov rax, simm32
    "66c70424a1b2",  # mov word [rsp], imm16
    "65c705a1b2c3d401000000",  # mov dword gs:[rip+..], 1
    "81ff00100000",  # cmp edi, 0x1000
    "6681ff0010",  # cmp di, 0x1000
    "4881ff00100000",  # cmp rdi, 0x1000
    "83f801",  # cmp eax, 1
    "f6470801",  # test byte [rdi+8], 1
    "f6d8",  # neg al
    "f7470801000000",  # test dword [rdi+8], 1
    "66f747080100",  # test word [rdi+8], 1
    "48f7d8",  # neg rax
    "a900010000",  # test eax, 0x100
    "66a90001",  # test ax, 0x100
    "e8a1b2c3d4",  # call
    "2ee8a1b2c3d4",  # cs call
    "e9a1b2c3d4",  # jmp
    "eb05",  # jmp short
    "7405",  # je short
    "0f84a1b2c3d4",  # je
    "ffd0",  # call rax
    "41ffd3",  # call r11
    "ff5208",  # call [rdx+8]
    "ff15a1b2c3d4",  # call [rip+..]
    "c3",  # ret
    "c20800",  # ret 8
    "c8100000",  # enter
    "cc",  # int3
    "0f0b",  # ud2
    "0fb64708",  # movzx eax, byte [rdi+8]
    "0fbae007",  # bt eax, 7
    "f0480fba2d a1b2c3d4 05",  # lock bts qword [rip+..], 5
    "f00fc107",  # lock xadd [rdi], eax
    "f3a4",  # rep movsb
    "0f01f8",  # swapgs
    "0f05",  # syscall
    "0f30",  # wrmsr
    "0f3800c1",  # pshufb
    "660f3a0fc108",  # palignr
    "660f70c11b",  # pshufd
    "48a1a1b2c3d4e5f60718",  # movabs rax, [moffs]
    "c5f877",  # vzeroupper
    "c5f96fc1",  # vmovdqa
    "c4e27d5a07",  # vbroadcasti128
    "c4e37d46c120",  # vperm2i128
    "c5f973d808",  # vpsrldq
    "62f17c48284740",  # vmovaps zmm0, [rdi+0x1000]
    "62f3fd48030708 ".strip() ,  # valignq
    "d9c0",  # fld
    "9b",  # fwait
    "e305",  # jrcxz
    "640fb7060000"[:8],  # movzx eax, word fs:[rsi]
]  # fmt: skip


@pytest.mark.parametrize("text", INSTRUCTIONS)
def test_length(text):
    """Each instruction is as long as it is, also when others follow or it lies inside other bytes."""
    code = bytes.fromhex(text)
    assert insn.length(code, 0) == len(code)
    assert insn.length(b"\x90" + code + b"\xff" * 16, 1) == len(code)


@pytest.mark.parametrize("text", INSTRUCTIONS)
def test_cut_short(text):
    """An instruction without its last bytes is none: nothing shorter is made of it."""
    code = bytes.fromhex(text)
    for size in range(1, len(code)):
        lone_prefixes = insn.only_prefixes(code, 0, size)
        assert lone_prefixes or insn.length(code[:size], 0) is None


@pytest.mark.parametrize("text", ["06", "0e", "27", "60", "9a00", "ea", "d4", "0f04", "0f0f00", "0f3f"])
def test_what_is_none(text):
    """Bytes that are no instruction in 64-bit mode have no length."""
    assert insn.length(bytes.fromhex(text) + b"\0" * 12, 0) is None


@given(st.lists(st.sampled_from(INSTRUCTIONS), min_size=1, max_size=20))
def test_boundaries(texts):
    """Counted from the first instruction, every boundary is found, and from inside an instruction the one before it."""
    parts = [bytes.fromhex(text) for text in texts]
    code = b"".join(parts)
    start = 0
    found = list(insn.instructions(code, 0, len(code)))
    for part, (at, size) in zip(parts, found, strict=True):
        assert (at, size) == (start, len(part))
        assert insn.boundary(code, 0, start) == start
        for inside in range(start + 1, start + len(part)):
            assert insn.boundary(code, 0, inside) == start
        start += len(part)


@given(st.lists(st.sampled_from(INSTRUCTIONS), max_size=20), st.sampled_from(["", "06", "0e9090", "e800", "f3", "48"]))
def test_whole(texts, end):
    """The bytes of all instructions are given, up to bytes that are none or to one that is cut short."""
    parts = [bytes.fromhex(text) for text in texts]
    code = b"".join(parts)
    assert insn.whole(b"\x90" + code + bytes.fromhex(end), 1, 1 + len(code) + len(end) // 2) == parts
    assert insn.whole(code + b"\x90", 0, len(code)) == parts


def test_boundary_stops_at_what_is_none():
    """The count ends before bytes that are no instruction."""
    assert insn.boundary(b"\x90\x90\x06\x90", 0, 4) == 2


@pytest.mark.parametrize(("text", "offset"), [("e8", 0), ("2ee8", 1), ("4889", 1), ("f04889", 2), ("66410f", 2)])
def test_opcode_offset(text, offset):
    """The opcode stands behind prefixes and REX."""
    assert insn.opcode_offset(bytes.fromhex(text), 0) == offset
