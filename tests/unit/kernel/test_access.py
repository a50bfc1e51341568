"""What x86-64 instructions do to the data they name. differential/ compares whole kernels with a disassembler."""

from __future__ import annotations

import pytest

from klasy.kernel import references
from klasy.kernel.access_x86_64 import READ, TWO_PLACES, WRITE, access, is_repeated_string
from klasy.kernel.model import Clone, Function

BOTH = READ | WRITE
INSTRUCTIONS = [
    ("488b4708", READ),  # mov rax, [rdi+8]
    ("48894708", WRITE),  # mov [rdi+8], rax
    ("48c7470801000000", WRITE),  # mov qword [rdi+8], 1
    ("48011500000000", BOTH),  # add [rip], rdx
    ("48031500000000", READ),  # add rdx, [rip]
    ("48391500000000", READ),  # cmp [rip], rdx
    ("833d0000000001", READ),  # cmp dword [rip], 1
    ("83050000000001", BOTH),  # add dword [rip], 1
    ("f0ff0500000000", BOTH),  # lock inc dword [rip]
    ("f6470801", READ),  # test byte [rdi+8], 1
    ("f65708", BOTH),  # not byte [rdi+8]
    ("488707", BOTH),  # xchg [rdi], rax
    ("f0480fb117", BOTH),  # lock cmpxchg [rdi], rdx
    ("f0480fc107", BOTH),  # lock xadd [rdi], rax
    ("0fb607", READ),  # movzx eax, byte [rdi]
    ("0fba2f03", BOTH),  # bts dword [rdi], 3
    ("0fba2703", READ),  # bt dword [rdi], 3
    ("0f94450f", WRITE),  # sete [rbp+15]
    ("0f1107", WRITE),  # movups [rdi], xmm0
    ("0f1007", READ),  # movups xmm0, [rdi]
    ("f30f7e07", READ),  # movq xmm0, [rdi]
    ("660fd607", WRITE),  # movq [rdi], xmm0
    ("c5fe7f07", WRITE),  # vmovdqu [rdi], ymm0
    ("ff37", READ),  # push [rdi]
    ("ff17", READ),  # call [rdi]
    ("8f07", WRITE),  # pop [rdi]
    ("a1b0b1b2b3b4b5b6b7", READ),  # mov eax, [moffs]
    ("a3b0b1b2b3b4b5b6b7", WRITE),  # mov [moffs], eax
    ("488d4708", 0),  # lea rax, [rdi+8]
    ("0f1f440000", 0),  # nop [rax+rax]
    ("0f1808", 0),  # prefetcht0 [rax]
    ("0faeff", 0),  # sfence
    ("4889e5", 0),  # mov rbp, rsp
    ("e800000000", 0),  # call
    ("f348a5", BOTH | TWO_PLACES),  # rep movsq
    ("f3aa", WRITE),  # rep stosb
]


@pytest.mark.parametrize(("code", "does"), INSTRUCTIONS)
def test_access(code: str, does: int) -> None:
    """Loads, stores, what does both, and what only looks like it."""
    assert access(bytes.fromhex(code)) == does


def test_repeated_strings() -> None:
    """A trap may interrupt these on their way, and no others."""
    assert is_repeated_string(bytes.fromhex("f348a5"), 0)
    assert not is_repeated_string(bytes.fromhex("48a5"), 0)
    assert not is_repeated_string(bytes.fromhex("f30f7e07"), 0)


class Code:
    """One function at 0x1000, and its text."""

    def __init__(self, text: str) -> None:
        self.code = bytes.fromhex(text)
        self.function = Function("f", 0x1000, len(self.code), None, "f", Clone.NONE, 1)

    def function_at(self, address: int) -> Function | None:
        return self.function if self.function.address <= address < self.function.end else None

    def text(self, address: int, size: int) -> bytes:
        return self.code[address - 0x1000 : address - 0x1000 + size]


def test_the_instruction_before() -> None:
    """Behind a load it is the load; inside an instruction, and behind one that accesses nothing, nothing is known."""
    code = Code("90 488b4708 48894708 4889e5 c3")
    found = references.before(code, 0x1005)
    assert (found.address, found.length, found.kind, found.end) == (0x1001, 4, READ, 0x1005)
    assert references.before(code, 0x1009).kind == WRITE
    assert references.before(code, 0x1007) is None
    assert references.before(code, 0x100C) is None  # mov rbp, rsp
    assert references.before(code, 0x9000) is None


def test_strings_on_their_way() -> None:
    """A repeated store is met at its own address until it is done; behind a load it could be either: not known."""
    code = Code("90 b900000000 f3aa c3")
    assert references.before(code, 0x1006).kind == WRITE
    assert references.before(code, 0x1008).kind == WRITE
    assert references.before(Code("488b4708 f3aa c3"), 0x1004) is None
    assert references.before(Code("90 f3a4 c3"), 0x1003).kind == 0  # which of the two places, nobody knows


def test_a_jump_through_memory() -> None:
    """With the processor at a function's entry it was a call or jump that read where to go."""
    assert references.before(Code("90c3"), 0x1000).kind == READ


@pytest.mark.parametrize(
    ("joinpoint", "kind", "belongs"),
    [
        *[("get", READ, True), ("get", WRITE, False), ("get", BOTH, True), ("get", 0, True)],
        *[("set", READ, False), ("set", WRITE, True), ("set", BOTH, True), ("set", 0, True)],
        *[("access", READ, True), ("access", WRITE, True), ("access", 0, True)],
    ],
)
def test_belongs(joinpoint: str, kind: int, belongs: bool) -> None:
    """What does both belongs to both; what is not known belongs."""
    assert references.belongs(joinpoint, kind) is belongs
