"""What instructions leave in memory, told from their bytes."""

from __future__ import annotations

import pytest

from klasy.flow.stored import Stored, stored, string_stored

AX, CX, DX, BX, R9 = 0, 1, 2, 3, 9


@pytest.mark.parametrize(
    ("code", "width", "expected"),
    [
        ("8983f0060000", 4, Stored("store", AX)),  # mov [rbx+0x6f0], eax
        ("888367060000", 1, Stored("store", AX)),  # mov [rbx+0x667], al
        ("888b67060000", 1, Stored("store", CX)),
        ("886710", 1, Stored("store", AX, True)),  # mov [rdi+0x10], ah
        ("40887710", 1, Stored("store", 6)),  # mov [rdi+0x10], sil
        ("4c894f10", 8, Stored("store", R9)),  # mov [rdi+0x10], r9
        ("c7471002000000", 4, Stored("store", immediate=2)),
        ("48c74710ffffffff", 8, Stored("store", immediate=-1)),
        ("66c747100300", 2, Stored("store", immediate=3)),
        ("c6471007", 1, Stored("store", immediate=7)),
        ("0193100700 00".replace(" ", ""), 4, Stored("add", DX)),  # add [rbx+0x710], edx
        ("f00fc14710", 4, Stored("add", AX)),  # lock xadd [rdi+0x10], eax
        ("874710", 4, Stored("store", AX)),  # xchg
        ("f00fb14f10", 4, Stored("cmpxchg", CX)),
        ("834710fe", 4, Stored("add", immediate=-2)),
        ("83671003", 4, Stored("and", immediate=3)),
        ("814f1000010000", 4, Stored("or", immediate=0x100)),
        ("ff4710", 4, Stored("add", immediate=1)),
        ("ff4f10", 4, Stored("sub", immediate=1)),
        ("f75710", 4, Stored("not")),
        ("f75f10", 4, Stored("neg")),
        ("f00fba6f1005", 4, Stored("or", immediate=1 << 5)),
        ("f00fba771005", 4, Stored("andnot", immediate=1 << 5)),
        ("0fba7f1005", 4, Stored("xor", immediate=1 << 5)),
        ("114710", 4, None),  # adc
        ("d16710", 4, None),  # shl
        ("0f9447 10".replace(" ", ""), 1, None),  # sete
        ("0f114710", 16, None),  # movups
        ("39 47 10".replace(" ", ""), 4, None),  # cmp writes nothing
    ],
)
def test_of_bytes(code: str, width: int, expected: Stored | None) -> None:
    """An instruction's operand and what is done with it; nothing where flags or vectors take part."""
    assert stored(bytes.fromhex(code), width) == expected


@pytest.mark.parametrize(
    ("code", "at", "size", "expected"),
    [
        ("f348a5", 16, 4, Stored("copy", 6)),  # rep movsq
        ("f3a4", 3, 4, Stored("copy", 6)),
        ("f348ab", 20, 4, Stored("fill", AX, immediate=32)),  # rep stosq
        ("f348ab", 22, 4, None),  # parts of two words
        ("f3aa", 3, 4, Stored("fill bytes", AX)),
        ("f3a6", 0, 4, None),  # cmps writes nothing
        ("8907", 0, 4, None),
    ],
)
def test_of_string_instructions(code: str, at: int, size: int, expected: Stored | None) -> None:
    """A copy leaves what lies in its source, a fill the bits of the register that come there."""
    assert string_stored(bytes.fromhex(code), at, size) == expected
