"""Where a kprobe may stand behind a function's hook, and what forbids it: whatever may lead there besides the entry."""

from __future__ import annotations

import struct

import pytest
from unit.kernel.test_image import BASE, MODULE, NOP5, RET, Image, call

PUSH = b"\x55"  # push rbp
ENDBR = bytes.fromhex("f30f1efa")
TABLES = BASE + 0x10_0000


class Tabled(Image):
    """With the kernel's tables of jump labels and fixups, each of one entry that leads somewhere."""

    def __init__(self, code, *, label=0, fixup=0) -> None:
        super().__init__(code)
        self.label = struct.pack("<2iq", BASE + 0x20 - TABLES, label - TABLES - 4, 0) if label else b""
        self.fixup = struct.pack("<3i", BASE + 0x20 - TABLES, fixup - TABLES - 4, 0) if fixup else b""

    def place(self, name):
        for table, data in (("__jump_table", self.label), ("__ex_table", self.fixup)):
            if data and name == f"__start_{table}":
                return TABLES
            if data and name == f"__stop_{table}":
                return TABLES + len(data)
        return None

    def read(self, address, size):
        return (
            (self.label + self.fixup)[:size] if address >= TABLES and address < MODULE else super().read(address, size)
        )


def found(kernel):
    """What bodies() says of all functions, from the beginning of the text."""
    return {entry - BASE: at - BASE for entry, at in kernel.bodies(kernel.functions("*")).items()}


def test_behind_the_hook():
    """The first instruction behind the hook, or behind endbr64 and the hook; a function without one has none."""
    code = {"f": NOP5 + PUSH + RET, "g": ENDBR + NOP5 + PUSH + RET, "notrace": PUSH + RET}
    assert found(Image(code)) == {0: 5, 0x40: 0x49}
    assert found(Image({"f": NOP5 + PUSH}, {"inside": NOP5 + PUSH + RET})) == {0: 5, MODULE - BASE: MODULE - BASE + 5}


@pytest.mark.parametrize(
    "leads",
    [
        b"\xeb" + struct.pack("b", -3),  # jmp to PUSH: a loop around the whole function
        b"\x74" + struct.pack("b", -3),  # je
        call(BASE + 6, BASE + 5, b"\xe9"),
        call(BASE + 6, BASE + 5, b"\x0f\x84"),
        b"\xff\xe0",  # jmp rax
        b"\x3e\xff\x24\xc5\x00\x00\x00\x81",  # jmp [8*rax + table], with a prefix
    ],
)
def test_what_may_lead_there(leads):
    """A loop around the whole function, and jumps of which it is not known where they lead."""
    assert found(Image({"f": NOP5 + PUSH + leads, "g": NOP5 + PUSH})) == {0x40: 0x45}


def test_from_another_function():
    """Its moved-away piece, or any text at all."""
    assert found(Image({"f": NOP5 + PUSH, "f.cold": call(BASE + 0x40, BASE + 5, b"\xe9")})) == {}
    assert found(Image({"f": NOP5 + PUSH}, {"g": PUSH + call(MODULE + 1, BASE + 5, b"\xe9")})) == {}


def test_what_only_looks_like_a_jump():
    """The bytes of a jump inside another instruction lead nowhere."""
    assert found(Image({"f": NOP5 + PUSH + b"\xb8\xff\xe0\xeb\xf8" + RET})) == {0: 5}  # mov eax, 0xf8ebe0ff


def test_what_becomes_a_jump():
    """The targets of jump labels and of fixups after faults, whatever is there now."""
    code = {"f": NOP5 + PUSH + RET}
    assert found(Tabled(code, label=BASE + 9)) == {0: 5}
    assert found(Tabled(code, label=BASE + 5)) == {}
    assert found(Tabled(code, fixup=BASE + 9)) == {0: 5}
    assert found(Tabled(code, fixup=BASE + 5)) == {}
