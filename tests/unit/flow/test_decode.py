"""The decoder, against capstone over the encodings in the snapshots of the lab's kernels."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.flow import decode as d
from klasy.flow.opcodes import Decoder
from klasy.kernel import insn_x86_64 as insn
from klasy.kernel.access_x86_64 import WRITE
from klasy.kernel.snapshot import SnapshotKernel

capstone = pytest.importorskip("capstone")
x86 = capstone.x86

SNAPSHOTS = Path(__file__).parents[2] / "data" / "kernels"
ONE_IN = 7  # of the encodings is compared: capstone's objects take 0.1 ms each

_NAMES = {
    **{r + n: i for i, n in enumerate(("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")) for r in ("r", "e")},
    **{n: i for i, n in enumerate(("ax", "cx", "dx", "bx", "sp", "bp", "si", "di"))},
    **{n: i for i, n in enumerate(("al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"))},
    "ah": 0, "ch": 1, "dh": 2, "bh": 3,
    **{f"r{n}{w}": n for n in range(8, 16) for w in ("", "d", "w", "b")},
    "rip": 16,
}  # fmt: skip

# Instructions whose effect on memory capstone does not know, or knows wrongly (5.0.x); each was looked up in the SDM.
_MEMORY_UNKNOWN = {
    "fxsave", "fxsave64", "fxrstor", "fxrstor64", "xsave", "xsave64", "xsavec", "xsavec64", "xsaves", "xsaves64",
    "xsaveopt", "xsaveopt64", "xrstor", "xrstor64", "xrstors", "xrstors64", "fnsave", "frstor", "fnstenv", "fldenv",
    "sgdt", "sidt", "lgdt", "lidt", "sldt", "str", "lldt", "ltr", "verr", "verw", "invept", "invvpid", "invpcid",
    "vmptrld", "vmptrst", "vmclear", "vmxon", "vmread", "vmwrite", "clflush", "clflushopt", "clwb", "invlpg", "movnti",
    "ldmxcsr", "stmxcsr", "prefetcht0", "prefetchnta", "prefetchw", "prefetch", "nop", "fnstcw", "fldcw", "fnstsw",
    "cmpxchg16b", "cmpxchg8b", "movbe", "lar", "lsl", "smsw", "mov_segment", "cldemote", "rdsspq",
}  # fmt: skip


def encodings(name):
    """The different instructions of a snapshot, a sample that is the same each time."""
    kernel = SnapshotKernel.load(str(SNAPSHOTS / f"{name}.snapshot"))
    seen = set()
    for address, code in kernel._ranges:
        function = kernel.function_at(address)
        if function and (function.address, function.size) == (address, len(code)):
            for at, size in insn.instructions(code, 0, len(code)):
                seen.add(code[at : at + size])
    return sorted(raw for raw in seen if zlib.crc32(raw) % ONE_IN == 0)


def is_vector(instruction):
    """Whether it works on vector or floating-point registers: of those, only the memory's place is compared."""
    return any(
        op.type == x86.X86_OP_REG and instruction.reg_name(op.reg).startswith(("xmm", "ymm", "zmm", "st", "mm", "k"))
        for op in instruction.operands
    ) or instruction.mnemonic.startswith(("f", "v", "sha", "aes"))


def theirs(instruction):
    """Registers written, and the memory operand with its width and access, as capstone has them."""
    _, written = instruction.regs_access()
    names = [instruction.reg_name(register) for register in written]
    registers = {_NAMES[name] for name in names if name in _NAMES} - {d.SP, 16}
    memory = None
    for op in instruction.operands:
        if op.type == x86.X86_OP_MEM:
            mem = op.mem
            place = (
                _NAMES[instruction.reg_name(mem.base)] if mem.base else d.NONE,
                _NAMES[instruction.reg_name(mem.index)]
                if mem.index and "iz" not in instruction.reg_name(mem.index)
                else d.NONE,
                mem.scale,
                mem.disp,
                {x86.X86_REG_GS: d.GS, x86.X86_REG_FS: d.FS}.get(mem.segment, 0),
            )
            memory = place, op.size, op.access
    return registers, memory


def ours(op):
    """The same of an Op."""
    kind, _, dst, src, _, imm, _ = op
    if kind == d.OTHER:
        return {register for register in range(16) if imm >> register & 1} - {d.SP}
    if kind == d.SWAP:
        return {dst, src}
    if kind == d.LEAVE:
        return {d.BP}
    if kind in (d.STORE, d.PUSH, d.PUSH_LOAD, d.NOTHING) or kind >= d.FIRST_TRANSFER or dst == d.NONE:
        return set()
    return {dst} - {d.SP}


def disagreement(raw, instruction):
    """What the two say differently of one instruction, or None."""
    op = d.decode(raw)
    registers, memory = theirs(instruction)
    name = instruction.mnemonic.split()[-1]
    if op[0] == d.STRING or name in ("insb", "insd", "insw", "outsb", "outsd", "outsw", "syscall", "xlatb", "enter"):
        return None
    if not is_vector(instruction) and name not in (
        "cpuid",
        "rdtscp",
        "xgetbv",
        "vmcall",
        "vmmcall",
        "monitor",
        "rdpkru",
    ):
        mine = ours(op)
        if name in ("test", "cqo", "cdq", "cwd"):
            registers = {d.DX} - (
                {d.DX} if name == "test" else set()
            )  # capstone 5.0 counts the source among the written
        if mine != registers and not (mine > registers and name in ("cmpxchg", "lar", "lsl", "smsw")):
            return f"{raw.hex()} {instruction.mnemonic} {instruction.op_str}: writes {mine}, capstone {registers}"
    if memory is None:
        return None if op[4] is None else f"{raw.hex()} {name}: memory {op[4]}, capstone has none"
    place, width, access = memory
    if name in _MEMORY_UNKNOWN or op[0] in (d.CALL_INDIRECT, d.JUMP_INDIRECT):
        return None
    if name == "lea":
        return None if op[0] != d.LEA or op[4] == place else f"{raw.hex()} lea: {op[4]}, capstone {place}"
    if op[4] is None:
        return (
            None
            if raw[0] == 0x62
            else f"{raw.hex()} {instruction.mnemonic} {instruction.op_str}: no memory, capstone {memory}"
        )
    if op[4] != place:
        return f"{raw.hex()} {name}: {op[4]}, capstone {place}"
    if is_vector(instruction) or raw[0] in (0xC4, 0xC5, 0x62):
        return None
    if name.startswith("set"):
        access = WRITE  # capstone 5.0 calls some of these a read
    known = {"cmpxchg": 3, "xadd": 3, "xchg": 3, "push": 1, "pop": 2, "cmp": 1, "test": 1, "bt": 1}.get(name, access)
    if op[6] != known or op[1] != width:
        return f"{raw.hex()} {name} {instruction.op_str}: access {op[6]} width {op[1]}, capstone {access} {width}"
    return None


@pytest.mark.parametrize("name", ["6.1", "6.12"])
def test_against_capstone(name):
    """Registers written, place, width, reading and writing are as capstone has them."""
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.detail = True
    faults, count = [], 0
    for raw in encodings(name):
        for instruction in disassembler.disasm(raw, 0, 1):
            count += 1
            fault = disagreement(raw, instruction)
            if fault:
                faults.append(fault)
    assert not faults, "\n".join(faults[:40])
    assert count > 4000


@given(st.sampled_from(["e8", "e9", *(f"0f8{n:x}" for n in range(16))]), st.integers(-(1 << 31), (1 << 31) - 1))
def test_calls_and_jumps_by_a_distance(opcode, distance):
    """What is decoded by itself, as there are so many, is what the decoder makes of it, and is not remembered."""
    raw = bytes.fromhex(opcode) + distance.to_bytes(4, "little", signed=True)
    assert d.decode(raw) == (*Decoder(raw).op(), 0)
    assert d.decode(raw)[5] == distance
    assert raw not in d.known
