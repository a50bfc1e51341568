"""The printed form."""

from __future__ import annotations

import pytest
from hypothesis import given
from support.bpf_programs import any_instruction

from klasy.bpf import insn as i
from klasy.bpf.asm import Assembler
from klasy.bpf.insn import R0, R1, R2, R6, R10, Instruction, decode
from klasy.bpf.text import format_instruction, listing
from klasy.source import SourceFile, Span

# The kernel's own rendering (kernel/bpf/disasm.c, print_bpf_insn), helper calls as bpftool has them.
PRINTED = [
    (i.mov(R6, R1), "r6 = r1"),
    (i.mov(R1, -5, 32), "w1 = -5"),
    (i.add(R2, -8), "r2 += -8"),
    (i.arsh(R1, R2, 32), "w1 s>>= w2"),
    (i.neg(R1), "r1 = -r1"),
    (i.to_be(R1, 16), "r1 = be16 r1"),
    (i.to_le(R1, 64), "r1 = le64 r1"),
    (i.load_imm64(R1, -1), "r1 = 0xffffffffffffffff"),
    (i.load_map(R1, "events"), "r1 = map[events]"),
    (i.load_map_value(R1, "state", 8), "r1 = map[state][0]+8"),
    (i.load(R1, R6, 112), "r1 = *(u64 *)(r6 +112)"),
    (i.load(R1, R6, 0, 1), "r1 = *(u8 *)(r6 +0)"),
    (i.store(R10, -8, R1, 2), "*(u16 *)(r10 -8) = r1"),
    (i.store_imm(R10, -8, -1, 4), "*(u32 *)(r10 -8) = -1"),
    (i.atomic_add(R1, 0, R2), "lock *(u64 *)(r1 +0) += r2"),
    (i.atomic("xor", R1, 0, R2, 4), "lock *(u32 *)(r1 +0) ^= r2"),
    (i.atomic_fetch_add(R1, 8, R2, 4), "r2 = atomic_fetch_add((u32 *)(r1 +8), r2)"),
    (i.atomic_xchg(R1, 8, R2), "r2 = atomic64_xchg((u64 *)(r1 +8), r2)"),
    (i.atomic_cmpxchg(R1, 8, R2), "r0 = atomic64_cmpxchg((u64 *)(r1 +8), r0, r2)"),
    (i.jump_if(R0, "==", 0, "L3"), "if r0 == 0x0 goto L3"),
    (i.jump_if(R0, "s<", -1, "L3", 32), "if w0 s< 0xffffffff goto L3"),
    (i.jump_if(R0, "&", R1, "x")._replace(target=None, off=-3), "if r0 & r1 goto pc-3"),
    (i.jump("out"), "goto out"),
    (i.call("probe_read_kernel"), "call bpf_probe_read_kernel#113"),
    (i.call(9999), "call unknown#9999"),
    (i.call_subprogram("f"), "call f"),
    (i.exit_(), "exit"),
    (Instruction(0xFF, 1, 2, 3, 4), "unknown 0xff dst=1 src=2 off=3 imm=4"),
]


@pytest.mark.parametrize(("instruction", "text"), PRINTED, ids=[text for _, text in PRINTED])
def test_printed_form_is_the_kernels(instruction, text):
    """One instruction reads as in the verifier's log."""
    assert format_instruction(instruction) == text


@given(any_instruction())
def test_everything_that_can_be_made_can_be_printed(instruction):
    """No instruction of the set is printed as unknown."""
    assert "unknown" not in format_instruction(instruction)


@given(any_instruction(), any_instruction())
def test_different_instructions_print_differently(one, other):
    """The printed form loses nothing that matters (but for the upper half of constants in 32-bit compares)."""
    if one != other:
        assert (one.opcode, format_instruction(one)) != (other.opcode, format_instruction(other))


@given(any_instruction())
def test_no_opcode_byte_breaks_the_printer(instruction):
    """Whatever byte stands for the opcode, the printer gives one line and no exception."""
    for opcode in range(256):
        if opcode != i.load_imm64(R1, 0).opcode:
            assert "\n" not in format_instruction(instruction._replace(opcode=opcode))


def test_listing_shows_labels_slots_and_source():
    """A symbolic program prints with its names, and its source lines where they change."""
    source = SourceFile("d.asp", "before() {\n  log(x);\n}")
    span = Span(source, source.text.index("log"), source.text.index(";") + 1)
    a = Assembler()
    a.emit(i.mov(R6, R1))
    with a.source(span):
        a.emit(i.load_imm64(R1, 1 << 40), i.jump_if(R1, "==", 0, "out"))
    a.label("out")
    a.emit(i.exit_())
    assert listing(a.instructions) == (
        "   0: (bf) r6 = r1\n"
        "; d.asp:2: log(x);\n"
        "   1: (18) r1 = 0x10000000000\n"
        "   3: (15) if r1 == 0x0 goto out\n"
        "out:\n"
        "   4: (95) exit\n"
    )


def test_listing_of_decoded_code_makes_names():
    """Code without names gets labels where jumps and calls lead; a jump out of the code keeps its distance."""
    code = b"".join(
        [
            i.call_subprogram("f")._replace(imm=3).encode(),
            i.jump_if(R0, "==", 0, "x")._replace(off=1).encode(),
            i.jump("x")._replace(off=100).encode(),
            i.exit_().encode(),
            i.exit_().encode(),
        ]
    )
    assert listing(decode(code), opcodes=False) == (
        "   0: call sub4\n   1: if r0 == 0x0 goto L3\n   2: goto pc+100\nL3:\n   3: exit\nsub4:\n   4: exit\n"
    )


def test_source_line_is_not_repeated():
    """Consecutive instructions of one place print it once; coming back to it prints it again."""
    program = [i.mov(R0, n).at(place) for n, place in enumerate(["a", "a", "b", "a"])]
    assert listing([*program, i.exit_()]).count("; a\n") == 2
