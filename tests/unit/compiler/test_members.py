"""What is worked out at an access to a member: programs run in the interpreter of the IR."""

from __future__ import annotations

import pytest

from klasy.compiler import ir
from klasy.compiler.builder import Builder
from klasy.compiler.ireval import World, _Machine
from klasy.compiler.lowermember import find, variables
from klasy.flow.stored import Stored
from klasy.match.plan import WANTED, MemberCode, Members

BASE = 0xFFFF_8880_0000_1000
MEMORY = bytes(range(0x80, 0xC0))
MASK = (1 << 64) - 1


def read(address: int, size: int) -> bytes | None:
    at = address - BASE
    return MEMORY[at : at + size] if 0 <= at <= len(MEMORY) - size else None


def code(
    stored: Stored | None, *, member: int = 8, bits: int = 32, shift: int = 0, word: int = 8, width: int = 4, **more
):
    known = {"base": "bx", "indexed": None, "scale": 1, "object": -4, "signed": False} | more
    return MemberCode(member=member, bits=bits, shift=shift, word=word, width=width, stored=stored, **known)


def found(*codes: MemberCode, at: int = 0, registers: dict[str, int] | None = None) -> dict[str, int]:
    """What a program of several sites finds at one of them."""
    places = {0x1000 + i: i for i in range(len(codes))}
    members = Members(frozenset(WANTED), {0x1000 + i: c for i, c in enumerate(codes)})
    program = ir.Program("p", 0)
    build = Builder(program)
    build.begin(build.block())
    asked = variables(build, members.wants)
    find(build, members, places, at, asked)
    build.add(ir.Return())
    machine = _Machine(World(read=read, registers={"bx": BASE, "ax": 0x1_2345_6789, **(registers or {})}))
    machine.run(program)
    return {name: machine.variables[var] & MASK for name, var in asked.items()}


OLD = int.from_bytes(MEMORY[8:12], "little")


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        (Stored("store", 0), 0x2345_6789),
        (Stored("store", immediate=-1), 0xFFFF_FFFF),
        (Stored("add", 0), OLD + 0x2345_6789),
        (Stored("sub", immediate=1), OLD - 1),
        (Stored("andnot", immediate=1 << 3), OLD & ~(1 << 3)),
        (Stored("xor", immediate=0xF), OLD ^ 0xF),
        (Stored("not"), ~OLD),
        (Stored("neg"), -OLD),
        (None, OLD),
    ],
)
def test_new_values(stored: Stored | None, new: int) -> None:
    """The new value is what the instruction makes of operand and old value, as wide as the member."""
    seen = found(code(stored))
    assert seen == {"old": OLD, "new": new & 0xFFFF_FFFF, "address": BASE + 8, "object": BASE - 4, "failed": 0}


@pytest.mark.parametrize(("accumulator", "exchanged"), [(OLD, True), (OLD ^ 1, False), (OLD | 5 << 32, True)])
def test_compare_and_exchange(accumulator: int, exchanged: bool) -> None:
    """cmpxchg leaves its operand if the low bits of ax are what is there, else the old value."""
    seen = found(code(Stored("cmpxchg", 1)), registers={"ax": accumulator, "cx": 77})
    assert seen["new"] == (77 if exchanged else OLD)


def test_a_wide_store_holds_its_neighbour() -> None:
    """Of an eight-byte store the member in its upper half gets the register's upper half; a bit-field its bits."""
    assert (
        found(code(Stored("store", 0), word=4, width=8), registers={"ax": 0xAAAA_BBBB_CCCC_DDDD})["new"] == 0xAAAA_BBBB
    )
    field = code(Stored("or", immediate=0x10), bits=3, shift=3, width=1)
    assert (found(field)["old"], found(field)["new"]) == (MEMORY[8] >> 3 & 7, MEMORY[8] >> 3 & 7 | 2)
    assert found(code(Stored("store", 0, True), bits=8, width=1))["new"] == 0x67  # ah


def test_signed_members_are_extended() -> None:
    """A signed member's values are as C has them, in 64 bits."""
    assert found(code(Stored("store", immediate=0xFFFF_FFFE), signed=True))["new"] == MASK - 1


def test_every_site_its_own_code() -> None:
    """Of many sites each finds by its own registers; sites of the same code share it."""
    codes = [code(None, base="bx", member=4 * (i % 3), word=4 * (i % 3)) for i in range(11)]
    for i in range(11):
        at = 4 * (i % 3)
        assert found(*codes, at=i)["old"] == int.from_bytes(MEMORY[at : at + 4], "little")


def test_index_and_fault() -> None:
    """An index takes part in the member's address, not in the object's; what cannot be read is 0, and says so."""
    seen = found(code(None, indexed="cx", scale=8), registers={"cx": 2})
    assert seen["address"] == BASE + 24
    assert seen["old"] == int.from_bytes(MEMORY[24:28], "little")
    seen = found(code(None), registers={"bx": 0})
    assert (seen["old"], seen["failed"]) == (0, 1)


def test_string_instructions() -> None:
    """A copied member is what lies as far from si; a filled one the register's bits, or its byte repeated."""
    copied = code(Stored("copy", 6), member=8, word=0, width=0)
    seen = found(copied, registers={"si": BASE + 16})
    assert (seen["old"], seen["new"]) == (OLD, int.from_bytes(MEMORY[24:28], "little"))
    filled = code(Stored("fill", 0, immediate=32), word=0, width=0)
    assert found(filled, registers={"ax": 0x1122_3344_5566_7788})["new"] == 0x1122_3344
    assert found(code(Stored("fill bytes", 0), word=0, width=0), registers={"ax": 0xAB_5C})["new"] == 0x5C5C_5C5C
