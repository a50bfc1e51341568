"""The oracle's own arithmetic, without a kernel: what instructions do, what covers a member, how sites are judged."""

from __future__ import annotations

from typing import Any

import capstone
import pytest

from oracle.compare import judge, missed_table, misses, table
from oracle.insns import Disassembler, Insn, covered, emulators_fault
from oracle.perf import REGISTERS

BASE = 0xFFFF888000001000


def decode(code: str) -> Insn:
    """One instruction as the collector sees it."""
    disassembler = Disassembler.__new__(Disassembler)
    disassembler.engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.engine.detail = True
    return disassembler._convert(next(disassembler.engine.disasm(bytes.fromhex(code), BASE)))


def registers(**values: int) -> tuple[int, ...]:
    """A sample's registers, zero where not named."""
    return tuple(values.get(name, 0) for name in REGISTERS)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("8b4770", "r"),  # mov eax, [rdi + 0x70]
        ("894770", "w"),  # mov [rdi + 0x70], eax
        ("017770", "rw"),  # add [rdi + 0x70], esi
        ("397770", "r"),  # cmp [rdi + 0x70], esi
        ("f6477001", "r"),  # test byte [rdi + 0x70], 1
        ("f0480fb117", "rw"),  # lock cmpxchg [rdi], rdx
        ("f00fc107", "rw"),  # lock xadd [rdi], eax
        ("8707", "rw"),  # xchg [rdi], eax
        ("480fa32f", "r"),  # bt [rdi], rbp
        ("f0480fba2f03", "rw"),  # lock bts [rdi], 3
        ("c6470500", "w"),  # mov byte [rdi + 5], 0
        ("0f9407", "w"),  # sete [rdi]
        ("0f1107", "w"),  # movups [rdi], xmm0
        ("f348ab", "w"),  # rep stosq
        ("f348a5", "rw"),  # rep movsq
        ("488d4770", ""),  # lea rax, [rdi + 0x70]
        ("0f0d0f", ""),  # prefetchw [rdi]
        ("4889f8", ""),  # mov rax, rdi
    ],
)
def test_read_and_write(code: str, kind: str) -> None:
    """An instruction reads, writes or does both as the processor's manual says."""
    assert decode(code).kind == kind


def test_covered_by_address() -> None:
    """An operand covers a member when their bytes overlap, by the registers behind the instruction."""
    store = decode("894770")
    assert covered(store, registers(di=BASE), BASE + 0x70, 4) == "w"
    assert covered(store, registers(di=BASE), BASE + 0x73, 1) == "w"
    assert covered(store, registers(di=BASE), BASE + 0x74, 4) is None


def test_not_told_when_the_base_is_overwritten() -> None:
    """A load into its own base leaves no trace of the address: neither yes nor no."""
    assert covered(decode("488b4008"), registers(ax=5), BASE + 8, 8) == ""


def test_string_instruction_names_its_side() -> None:
    """Of a copy's two operands, the one that touched the member says whether it was read or written."""
    copy = decode("f348a5")
    assert covered(copy, registers(si=BASE + 8, di=BASE + 0x1008), BASE, 8) == "r"
    assert covered(copy, registers(si=BASE + 0x1008, di=BASE + 8), BASE, 8) == "w"
    assert covered(copy, registers(si=BASE + 0x1008, di=BASE + 0x2008), BASE, 8) is None


def test_emulators_fault() -> None:
    """An unaligned store above the member in its page, an unaligned load next to it: no other is explained away."""
    unaligned, aligned = decode("48c783b400000000000000"), decode("48c783b000000000000000")
    assert emulators_fault(unaligned, registers(bx=BASE), BASE + 0x70, 4)
    assert not emulators_fault(aligned, registers(bx=BASE), BASE + 0x70, 4)
    assert not emulators_fault(unaligned, registers(bx=BASE), BASE + 0x100, 4)
    assert not emulators_fault(unaligned, registers(bx=BASE + 0x1000), BASE + 0x70, 4)
    load = decode("4c8b4e08")  # mov r9, [rsi + 8]
    assert emulators_fault(load, registers(si=BASE + 4), BASE + 0x14, 4)
    assert not emulators_fault(load, registers(si=BASE + 4), BASE + 0x18, 4)
    assert not emulators_fault(load, registers(si=BASE), BASE + 0x14, 4)
    assert not emulators_fault(decode("83e207"), registers(dx=4), BASE, 4)  # and edx, 7: it accesses no memory


def site(place: str, function: str, count: int, **more: Any) -> dict[str, Any]:
    """A caught instruction."""
    return {
        "place": place, "module": "", "function": function, "offset": 4, "text": "mov eax, [rdi + 0x70]", "kind": "r",
        "count": count, "delta": 0, "base": "di", "subjects": ["a/b"], "context": ["0x0 push rbx"], **more,
    }  # fmt: skip


def test_judge() -> None:
    """Recall counts what a type can be known for; memory routines, the allocator and pointers to parts stand apart."""
    seen = {
        "struct": "sock",
        "sites": [
            site("_text+0x1", "tcp_ack", 90),
            site("_text+0x2", "tcp_rcv", 10),
            site("_text+0x3", "memcpy_erms", 7),
            site("_text+0x4", "kmem_cache_free", 7),
            site("_text+0x5", "mutex_lock", 7, delta=8),
            site("_text+0x6", "tcp_set", 20, kind="w"),
            site("tcp_diag+0x7", "tcp_diag_get_info", 5, module="tcp_diag"),
        ],
    }
    static = {
        "untyped": 3,
        "sites": {"_text+0x1": {"kind": "r"}, "_text+0x6": {"kind": "rw"}, "_text+0x9": {"kind": "r"}},
        "known": {
            "_text+0x2": ["unknown at 112 (4 bytes, base +0): lost at a call"],
            "_text+0x5": ["struct mutex at 0 (8 bytes, base +0): parameter 1"],
        },
    }
    judged = judge("sock.x", seen, static)
    assert (judged.caught.distinct, judged.caught.count) == (3, 120)
    assert (judged.found.distinct, judged.found.count) == (2, 110)
    assert [judged.routines.count, judged.allocator.count, judged.parts.count] == [7, 7, 7]
    assert judged.absent.count == 5
    assert [miss["place"] for miss, _ in judged.misses] == ["_text+0x2"]
    assert [(one["place"], kind) for one, kind in judged.kinds_differ] == [("_text+0x6", "rw")]
    rows = list(table([judged]))
    assert "66.7% | 91.7%" in rows[2]
    assert "further up" in "\n".join(missed_table([judged]))
    assert "push rbx" in "\n".join(misses([judged]))
