"""Hypothesis strategies for eBPF: any instruction, and whole programs that every machine must run alike."""

from __future__ import annotations

from hypothesis import strategies as st

from klasy.bpf import insn
from klasy.bpf.insn import ALU_SYMBOLS, JUMP_SYMBOLS, Instruction

registers = st.sampled_from(insn.REGISTERS)
general_registers = st.sampled_from(insn.REGISTERS[:10])
widths = st.sampled_from([32, 64])
sizes = st.sampled_from([1, 2, 4, 8])
atomic_sizes = st.sampled_from([4, 8])
offsets = st.integers(-(1 << 15), (1 << 15) - 1)

#: values where widths, signs and carries show themselves, and any others
interesting = [0, 1, 2, 7, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF]
imms = st.sampled_from([*interesting, *(-v for v in interesting), -(1 << 31)]) | st.integers(-(1 << 31), (1 << 31) - 1)
wide = [1 << 31, 1 << 32, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0x123456789ABCDEF0]
values64 = st.sampled_from([*interesting, *wide]) | st.integers(0, (1 << 64) - 1)

alu_symbols = st.sampled_from(sorted(ALU_SYMBOLS.values()))
jump_symbols = st.sampled_from(sorted(JUMP_SYMBOLS.values()))


@st.composite
def alu_instructions(draw: st.DrawFn, writable: st.SearchStrategy = general_registers) -> Instruction:
    """Arithmetic that every kernel accepts: no constant zero divisor, no constant shift beyond the width."""
    kind = draw(st.sampled_from(["binary"] * 6 + ["neg", "be", "le", "wide"]))
    dst = draw(writable)
    width = draw(widths)
    if kind == "neg":
        return insn.neg(dst, width)
    if kind in {"be", "le"}:
        swap = insn.to_be if kind == "be" else insn.to_le
        return swap(dst, draw(st.sampled_from([16, 32, 64])))
    if kind == "wide":
        return insn.load_imm64(dst, draw(values64))
    symbol = draw(alu_symbols)
    source = draw(writable | imms)
    if not isinstance(source, insn.Reg):
        if symbol in {"<<=", ">>=", "s>>="}:
            source %= width
        if symbol in {"/=", "%="} and source == 0:
            source = 3
    return insn.alu(symbol, dst, source, width)


@st.composite
def any_instruction(draw: st.DrawFn) -> Instruction:
    """An instruction of any kind, as it looks after assembly: jumps with distances, no names."""
    kind = draw(st.sampled_from(["alu", "load", "store", "store_imm", "atomic", "jump", "goto", "call", "exit"]))
    base, other, offset = draw(registers), draw(registers), draw(offsets)
    if kind == "alu":
        return draw(alu_instructions())
    if kind == "load":
        return insn.load(other, base, offset, draw(sizes))
    if kind == "store":
        return insn.store(base, offset, other, draw(sizes))
    if kind == "store_imm":
        return insn.store_imm(base, offset, draw(imms), draw(sizes))
    if kind == "atomic":
        size = draw(atomic_sizes)
        name = draw(st.sampled_from(["add", "or", "and", "xor", "xchg", "cmpxchg"]))
        if name == "xchg":
            return insn.atomic_xchg(base, offset, other, size)
        if name == "cmpxchg":
            return insn.atomic_cmpxchg(base, offset, other, size)
        return insn.atomic(name, base, offset, other, size, fetch=draw(st.booleans()))
    if kind == "jump":
        jump = insn.jump_if(other, draw(jump_symbols), draw(registers | imms), "somewhere", draw(widths))
        return jump._replace(target=None, off=offset)
    if kind == "goto":
        return insn.jump("somewhere")._replace(target=None, off=offset)
    if kind == "call":
        return insn.call(draw(st.integers(1, 211)))
    return insn.exit_()


@st.composite
def alu_programs(draw: st.DrawFn, length: int = 24) -> list[Instruction]:
    """Registers r0 and r2 to r9 set, arithmetic and forward jumps over them, all folded into r0.

    Without memory, helpers or loops: the verifier accepts every one of them, and r0 tells what the machine did.
    """
    work = [insn.R0, insn.R2, insn.R3, insn.R4, insn.R5, insn.R6, insn.R7, insn.R8, insn.R9]
    program = [insn.load_imm64(register, draw(values64)) for register in work]
    body = draw(st.integers(1, length))
    for index in range(body):
        label = f"i{index}"
        if draw(st.integers(0, 3)) == 0:
            goal = draw(st.integers(index + 1, body))
            target = f"i{goal}" if goal < body else "fold"
            left, right = draw(st.sampled_from(work)), draw(st.sampled_from(work) | imms)
            instruction = insn.jump_if(left, draw(jump_symbols), right, target, draw(widths))
        else:
            instruction = draw(alu_instructions(writable=st.sampled_from(work)))
        program.append(instruction.labelled(label))
    for number, register in enumerate(work[1:]):
        program += [insn.mul(insn.R0, 31), insn.xor(insn.R0, register)]
        if number == 0:
            program[-2] = program[-2].labelled("fold")
    return program
