"""The kernel's record of its kprobes, on a memory made by hand."""

from __future__ import annotations

import struct

import pytest

from klasy.btf import types as t
from klasy.btf.btf import Btf
from klasy.btf.write import write
from klasy.errors import KernelRefused
from klasy.kernel.kprobes import Covered, covered

TEXT = 0xFFFF_FFFF_8100_0000
HEAP = 0xFFFF_8880_0000_0000
TABLE = HEAP
DETOUR = 0xFFFF_FFFF_C000_0000
FTRACE, GONE = 8, 1


def bits(*members: tuple[str, int, int]) -> tuple[t.Member, ...]:
    return tuple(t.Member(name, type_id, 8 * offset) for name, type_id, offset in members)


# Ids: 1 u8, 2 u32, 3 u64 (for pointers), 4 u8[4]. The offsets are not those of any kernel.
TYPES = [
    t.Int("u8", 1, False),
    t.Int("u32", 4, False),
    t.Int("u64", 8, False),
    t.Array(1, 2, 4),
    t.Struct("hlist_node", 16, bits(("next", 3, 0), ("pprev", 3, 8))),
    t.Struct("kprobe", 48, bits(("flags", 2, 0), ("hlist", 5, 8), ("addr", 3, 24), ("opcode", 1, 32))),
    t.Struct("arch_optimized_insn", 16, bits(("copied_insn", 4, 0), ("insn", 3, 8))),
    t.Struct("optimized_kprobe", 72, bits(("kp", 6, 0), ("optinsn", 7, 56))),
]
BTF = Btf(write(TYPES))


class Memory:
    """A table of kprobes, and the kprobes."""

    def __init__(self) -> None:
        self.bytes = bytearray(0x1000)
        self.reads = 0

    def put(self, offset: int, layout: str, *values) -> None:
        struct.pack_into(layout, self.bytes, offset, *values)

    def kprobe(self, at: int, address: int, opcode: int, *, flags: int = 0, next: int = 0) -> int:
        self.put(at, "<I4xQ8xQB", flags, next, address, opcode)
        return HEAP + at + 8

    def optimised(self, at: int, copied: bytes, detour: int) -> None:
        self.put(at + 56, "<4s4xQ", copied, detour)

    def head(self, bucket: int, node: int) -> None:
        self.put(8 * bucket, "<Q", node)

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        if not HEAP <= address <= HEAP + len(self.bytes) - size:
            raise KernelRefused("read", 14)
        return bytes(self.bytes[address - HEAP : address - HEAP + size])

    def covered(self, btf: Btf = BTF) -> dict[int, Covered] | None:
        return covered(btf, TABLE, self.read, lambda address: TEXT <= address < TEXT + 0x1000)


def test_what_the_table_holds():
    """Every kprobe of every chain gives the byte it replaced; those on ftrace or of gone modules replace none."""
    memory = Memory()
    first = memory.kprobe(0x400, TEXT + 0x10, 0xE9)
    memory.head(3, memory.kprobe(0x480, TEXT + 0x20, 0xE8, next=first))
    gone = memory.kprobe(0x500, DETOUR, 0x90, flags=GONE)
    memory.head(63, memory.kprobe(0x580, TEXT + 0x30, 0x0F, flags=FTRACE, next=gone))
    found = memory.covered()
    assert {address: probe.first for address, probe in found.items()} == {TEXT + 0x10: b"\xe9", TEXT + 0x20: b"\xe8"}


def test_an_optimised_kprobe():
    """Of an optimised kprobe the distance to its detour is known, and the four bytes that this took the place of."""
    memory = Memory()
    memory.head(0, memory.kprobe(0x400, TEXT + 0x10, 0x48))
    memory.optimised(0x400, b"\x8d\x64\x24\x08", DETOUR + 0x123)
    distance = struct.pack("<i", DETOUR + 0x123 - (TEXT + 0x15))
    assert memory.covered() == {TEXT + 0x10: Covered(b"\x48", distance, b"\x8d\x64\x24\x08")}


def test_an_empty_table_needs_no_types():
    """Where nothing is probed the table alone is read: BTF need not know what a kprobe is."""
    memory = Memory()
    assert memory.covered(Btf(write([]))) == {}
    assert memory.reads == 1


@pytest.mark.parametrize("fault", ["ring", "poison", "elsewhere", "unknown struct"])
def test_what_makes_no_sense_is_not_believed(fault):
    """A chain that runs in a circle, ends in poison or holds no kprobes is given up, not guessed at."""
    memory = Memory()
    node = memory.kprobe(0x400, TEXT + 0x10, 0xE9)
    memory.head(1, node)
    if fault == "ring":
        memory.kprobe(0x400, TEXT + 0x10, 0xE9, next=node)
    elif fault == "poison":
        memory.kprobe(0x400, TEXT + 0x10, 0xE9, next=0xDEAD_0000_0000_0100)
    elif fault == "elsewhere":
        memory.kprobe(0x400, HEAP, 0xE9)
    assert memory.covered(Btf(write([])) if fault == "unknown struct" else BTF) is None


def test_a_table_that_settles():
    """A chain that was being changed is read again."""
    memory = Memory()
    memory.head(1, 0xDEAD_0000_0000_0100)
    calm = memory.read

    def read(address, size):
        data = calm(address, size)
        memory.head(1, memory.kprobe(0x400, TEXT + 0x10, 0xE9))
        return data

    memory.read = read
    assert list(memory.covered()) == [TEXT + 0x10]
