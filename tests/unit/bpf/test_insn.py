"""Encoding of single instructions."""

from __future__ import annotations

import pytest
from hypothesis import given
from support.bpf_programs import any_instruction, values64

from klasy.bpf import insn as i
from klasy.bpf.insn import R0, R1, R2, R3, R6, R10, EncodingError, decode

# What LLVM 14's assembler or, for the atomics, the kernel's own macros (include/linux/filter.h) give.
ENCODINGS = [
    (i.mov(R6, R1), "bf16000000000000"),
    (i.mov(R1, 5), "b701000005000000"),
    (i.mov(R1, R2, 32), "bc21000000000000"),
    (i.add(R1, -7, 32), "04010000f9ffffff"),
    (i.add(R1, R2), "0f21000000000000"),
    (i.sub(R1, R2), "1f21000000000000"),
    (i.mul(R1, 3), "2701000003000000"),
    (i.div(R1, R2), "3f21000000000000"),
    (i.or_(R1, 1), "4701000001000000"),
    (i.and_(R1, 0xFF), "57010000ff000000"),
    (i.lsh(R1, 32), "6701000020000000"),
    (i.rsh(R1, 32), "7701000020000000"),
    (i.mod(R1, R2, 32), "9c21000000000000"),
    (i.xor(R1, R1), "af11000000000000"),
    (i.arsh(R1, R2), "cf21000000000000"),
    (i.neg(R1), "8701000000000000"),
    (i.neg(R1, 32), "8401000000000000"),
    (i.to_be(R1, 16), "dc01000010000000"),
    (i.to_le(R1, 64), "d401000040000000"),
    (i.load_imm64(R3, 0x123456789AB), "18030000ab8967450000000023010000"),
    (i.load_imm64(R3, -1), "18030000ffffffff00000000ffffffff"),
    (i.load(R1, R6, 112), "7961700000000000"),
    (i.load(R1, R6, -1, 1), "7161ffff00000000"),
    (i.load(R1, R6, 2, 2), "6961020000000000"),
    (i.load(R1, R6, 4, 4), "6161040000000000"),
    (i.store(R10, -8, R1, 2), "6b1af8ff00000000"),
    (i.store_imm(R10, -8, 5, 4), "620af8ff05000000"),
    (i.store_imm(R10, -8, -1), "7a0af8ffffffffff"),
    (i.atomic_add(R1, 0, R2), "db21000000000000"),
    (i.atomic("or", R1, 0, R2, 4), "c321000040000000"),
    (i.atomic_fetch_add(R1, 8, R2), "db21080001000000"),
    (i.atomic("xor", R1, 0, R2, 4, fetch=True), "c3210000a1000000"),
    (i.atomic_xchg(R1, 0, R2), "db210000e1000000"),
    (i.atomic_cmpxchg(R1, 0, R2, 4), "c3210000f1000000"),
    (i.jump_if(R0, "==", 0, "x")._replace(off=3), "1500030000000000"),
    (i.jump_if(R0, "s<", 5, "x", 32)._replace(off=-3), "c600fdff05000000"),
    (i.jump_if(R1, "&", R2, "x")._replace(off=1), "4d21010000000000"),
    (i.jump("x")._replace(off=5), "0500050000000000"),
    (i.call("bpf_probe_read_kernel"), "8500000071000000"),
    (i.call_subprogram("f")._replace(imm=4), "8510000004000000"),
    (i.exit_(), "9500000000000000"),
]


@pytest.mark.parametrize(("instruction", "code"), ENCODINGS, ids=lambda v: v if isinstance(v, str) else None)
def test_encoding_is_the_machines(instruction, code):
    """Each constructor gives the bytes an independent assembler gives."""
    assert instruction.encode().hex() == code


@given(any_instruction())
def test_decode_is_the_inverse_of_encode(instruction):
    """No field of any instruction is lost or moved by encoding and decoding it."""
    assert decode(instruction.encode()) == [instruction]


@given(values64)
def test_load_imm_takes_the_short_form_only_when_it_means_the_same(value):
    """A constant that sign-extends from 32 bits costs one slot, any other two, and both mean the value."""
    instruction = i.load_imm(R1, value)
    assert instruction.imm & (1 << 64) - 1 == value
    assert instruction.slots == (1 if value < 1 << 31 or value >= (1 << 64) - (1 << 31) else 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: i.mov(R1, 1 << 31),
        lambda: i.add(R1, -(1 << 31) - 1),
        lambda: i.mov(R1, 1 << 32, 32),
        lambda: i.load_imm64(R1, 1 << 64),
        lambda: i.load(R1, R2, 0, 3),
        lambda: i.atomic_add(R1, 0, R2, 2),
        lambda: i.to_be(R1, 8),
        lambda: i.load(R1, R2, 1 << 15).encode(),
        lambda: i.mov(i.Reg(16), 0).encode(),
        lambda: i.jump_if(R1, "==", 1 << 31, "x"),
        lambda: i.load_map_value(R1, "m", -1),
        lambda: decode(bytes(7)),
        lambda: decode(i.load_imm64(R1, 1).encode()[:8]),
        lambda: decode(i.load_imm64(R1, 1).encode()[:8] + i.exit_().encode()),
    ],
)
def test_operands_out_of_range_are_refused(make):
    """What the field cannot hold is an error, never cut off silently."""
    with pytest.raises(EncodingError):
        make()


def test_narrow_operations_take_unsigned_constants():
    """0xffffffff in a 32-bit operation is -1 in the field: there the two mean the same."""
    assert i.mov(R1, 0xFFFFFFFF, 32) == i.mov(R1, -1, 32)
    assert i.jump_if(R1, "==", 0xFFFFFFFF, "x", 32) == i.jump_if(R1, "==", -1, "x", 32)
    assert i.store_imm(R10, -4, 0xFFFFFFFF, 4) == i.store_imm(R10, -4, -1, 4)


def test_unknown_names_are_errors():
    """An operator, an atomic or a helper that does not exist is not encoded as something else."""
    for make in (
        lambda: i.alu("s/=", R1, 2),
        lambda: i.jump_if(R1, "=", 0, "x"),
        lambda: i.atomic("sub", R1, 0, R2),
        lambda: i.call("bpf_do_what_i_mean"),
    ):
        with pytest.raises(KeyError):
            make()


def test_notes_do_not_change_the_code():
    """Labels and metadata are for people."""
    plain = i.mov(R0, 0)
    noted = plain.labelled("a", "b").at("line 3")
    assert noted.encode() == plain.encode()
    assert (noted.labels, noted.metadata) == (("a", "b"), "line 3")
