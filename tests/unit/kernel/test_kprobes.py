"""The kernel's record of its kprobes, and text that is read while both change, on a memory made by hand."""

from __future__ import annotations

import struct

import pytest

from klasy.btf import types as t
from klasy.btf.btf import Btf
from klasy.btf.write import write
from klasy.errors import KernelRefused, SystemRefusal
from klasy.kernel import livetext
from klasy.kernel.kprobes import Covered, Probes, ProbeTable
from klasy.kernel.livetext import LiveText

TEXT = 0xFFFF_FFFF_8100_0000
HEAP = 0xFFFF_8880_0000_0000
TABLE = HEAP
DETOUR = 0xFFFF_FFFF_C000_0000
POKED = HEAP + 0xF00  # bp_desc
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
    t.Struct("bp_patching_desc", 16, bits(("vec", 3, 0), ("nr_entries", 2, 8), ("refs", 2, 12))),
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

    def covered(self) -> dict[int, Covered] | None:
        found = ProbeTable(BTF, TABLE, self.read, lambda address: TEXT <= address < TEXT + 0x1000).look()
        return None if found is None else found.covered


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


@pytest.mark.parametrize("fault", ["ring", "poison", "elsewhere"])
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
    assert memory.covered() is None


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


# --- text

CODE = bytes.fromhex("0f1f440000 488d642408 31c0 c3").ljust(32, b"\x90")
PLACE = TEXT + 5
JUMP = b"\xe9" + struct.pack("<i", DETOUR - (PLACE + 5))


class Kernel:
    """What LiveText asks of a kernel. ``meanwhile``: what happens while text is read, one after the other."""

    def __init__(self, *meanwhile) -> None:
        self.memory = Memory()
        self.code = bytearray(CODE)
        self.meanwhile = list(meanwhile)
        self.text = LiveText(self)
        self.types = BTF

    def read(self, address: int, size: int) -> bytes:
        if address < TEXT:
            return self.memory.read(address, size)
        data = bytes(self.code[address - TEXT : address - TEXT + size])
        if self.meanwhile:
            self.meanwhile.pop(0)(self)
        return data

    def place(self, name):
        return {"kprobe_table": TABLE, "bp_desc": POKED}[name]

    def btf_of(self, module):
        return self.types

    def listed_probes(self):
        return Probes({PLACE: Covered(None)}, {})

    def object_at(self, address):
        return (None, self) if TEXT <= address < TEXT + len(CODE) else None

    # what happens to it

    def register(self):
        self.memory.head(5, self.memory.kprobe(0x400, PLACE, CODE[5]))
        self.code[5] = 0xCC

    def optimise(self):
        self.memory.optimised(0x400, CODE[6:10], DETOUR)
        self.code[5:10] = JUMP

    def take_away(self):
        self.code[5:] = CODE[5:]
        self.memory.head(5, 0)

    def reuse(self):
        """Another kprobe gets the memory of one that is gone, in the same chain."""
        self.take_away()
        self.memory.head(5, self.memory.kprobe(0x400, TEXT + 10, CODE[10]))
        self.code[10] = 0xCC

    def poke(self):
        self.code[:5] = b"\xcc" + CODE[1:5]
        self.memory.put(0xF0C, "<I", 1)

    def poked(self):
        self.code[:5] = CODE[:5]
        self.memory.put(0xF0C, "<I", 0)


def both(*things):
    def done(kernel):
        for thing in things:
            thing(kernel)

    return done


K = Kernel


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [
        ([], [K.register]),
        ([], [K.register, K.optimise, K.take_away]),
        ([], [both(K.register, K.optimise)]),
        ([K.register], [K.optimise]),
        ([K.register], [K.take_away]),
        ([K.register, K.optimise], [K.take_away, K.register, K.optimise]),
        ([K.register], [K.reuse]),
        ([K.poke], [K.poked]),
        ([], [K.poke, K.poked]),
    ],
)
def test_text_is_read_as_it_was_whatever_happens_meanwhile(before, meanwhile):
    """Probes that come, become jumps and go before, while and after text is read are never seen in it."""
    kernel = Kernel(*meanwhile)
    for thing in before:
        thing(kernel)
    for _ in range(4):
        assert kernel.text.read(TEXT, len(CODE)) == CODE
    assert not kernel.meanwhile


def test_a_record_that_was_looked_at_long_ago():
    """What was optimised since the last look, and what took the memory of a probe that is gone, is looked at anew."""
    kernel = Kernel()
    kernel.register()
    assert kernel.text.read(TEXT, len(CODE)) == CODE
    for thing in (kernel.optimise, kernel.reuse, kernel.take_away):
        thing()
        assert kernel.text.read(TEXT, len(CODE)) == CODE


def test_long_text_is_read_in_pieces(monkeypatch):
    """A jump that lies across two pieces is put back too."""
    monkeypatch.setattr(livetext, "_PIECE", 7)
    kernel = Kernel()
    both(K.register, K.optimise)(kernel)
    assert kernel.text.read(TEXT, len(CODE)) == CODE


def test_text_that_never_settles(monkeypatch):
    """Who rewrites text without end is named as the reason, and is not waited for without end."""
    monkeypatch.setattr(livetext, "_PATIENCE", 0.01)
    kernel = Kernel()
    kernel.poke()
    with pytest.raises(SystemRefusal, match="was rewritten all the time"):
        kernel.text.read(TEXT, 5)


def test_only_what_is_new_is_read():
    """Of many probes those are looked at again that have to do with the text, and those that came."""
    kernel = Kernel()
    node = 0
    for number in range(18):
        node = kernel.memory.kprobe(0x400 + 0x50 * number, TEXT + 13 + number, 0x90, next=node)
        kernel.code[13 + number] = 0xCC
    kernel.memory.head(7, node)
    assert kernel.text.read(TEXT, len(CODE)) == CODE
    kernel.memory.reads = 0
    assert kernel.text.read(TEXT, 8) == CODE[:8]
    without = kernel.memory.reads
    kernel.memory.head(9, kernel.memory.kprobe(0xB00, PLACE, CODE[5]))
    kernel.code[5] = 0xCC
    kernel.memory.reads = 0
    assert kernel.text.read(TEXT, 8) == CODE[:8]
    assert without < kernel.memory.reads < 18


def test_nothing_probed_needs_no_types():
    """Where nothing is probed the table alone is read: BTF need not know what a kprobe is."""
    kernel = Kernel()
    kernel.types = Btf(write([]))
    assert kernel.text.read(TEXT, len(CODE)) == CODE
    assert kernel.text.probes is None


def test_types_that_are_not_known():
    """Where BTF does not tell how a kprobe is laid out, the kernel's list of probes is asked for their places."""
    kernel = Kernel()
    kernel.types = Btf(write([]))
    kernel.register()
    assert kernel.text.read(TEXT, 5) == CODE[:5]
    assert kernel.text.probes.guessed


def test_a_record_that_is_changed_all_the_time():
    """Places are as listed until the record can be read, and no longer."""
    kernel = Kernel()
    kernel.register()
    kernel.memory.head(1, 0xDEAD_0000_0000_0100)
    assert kernel.text.probes.guessed
    kernel.memory.head(1, 0)
    assert kernel.text.read(TEXT, len(CODE)) == CODE
    assert not kernel.text.probes.guessed
