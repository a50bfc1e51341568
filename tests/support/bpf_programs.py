"""Random eBPF: any instruction as a hypothesis strategy, and whole programs that every machine must run alike."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from klasy.bpf import insn
from klasy.bpf.insn import ALU_SYMBOLS, JUMP_SYMBOLS, Instruction

if TYPE_CHECKING:
    from collections.abc import Sequence

registers = st.sampled_from(insn.REGISTERS)
widths = st.sampled_from([32, 64])
sizes = st.sampled_from([1, 2, 4, 8])
atomic_sizes = st.sampled_from([4, 8])
offsets = st.integers(-(1 << 15), (1 << 15) - 1)

#: values where widths, signs and carries show themselves, and any others
interesting = [0, 1, 2, 7, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF]
imms = st.sampled_from([*interesting, *(-v for v in interesting), -(1 << 31)]) | st.integers(-(1 << 31), (1 << 31) - 1)
wide = [1 << 31, 1 << 32, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0x123456789ABCDEF0]
values64 = st.sampled_from([*interesting, *wide]) | st.integers(0, (1 << 64) - 1)

ALU, JUMPS = sorted(ALU_SYMBOLS.values()), sorted(JUMP_SYMBOLS.values())
alu_symbols, jump_symbols = st.sampled_from(ALU), st.sampled_from(JUMPS)

#: whole programs come from a seed: generating them draw by draw is slow, above all in an emulated machine
seeds = st.integers(0, (1 << 32) - 1)


def any_value64(random: Random) -> int:
    """A 64-bit value, an interesting one as often as not."""
    return random.choice([*interesting, *wide, random.getrandbits(64), random.getrandbits(64)])


def any_imm(random: Random) -> int:
    """A signed 32-bit constant."""
    return random.choice([*interesting, *(-v for v in interesting), -(1 << 31), random.getrandbits(32) - (1 << 31)])


def alu_instruction(random: Random, registers: Sequence[insn.Reg] = insn.REGISTERS[:10]) -> Instruction:
    """Arithmetic that every kernel accepts: no constant zero divisor, no constant shift beyond the width."""
    kind = random.choice(["binary"] * 6 + ["neg", "be", "le", "wide"])
    dst, width = random.choice(registers), random.choice([32, 64])
    if kind == "neg":
        return insn.neg(dst, width)
    if kind in {"be", "le"}:
        swap = insn.to_be if kind == "be" else insn.to_le
        return swap(dst, random.choice([16, 32, 64]))
    if kind == "wide":
        return insn.load_imm64(dst, any_value64(random))
    symbol = random.choice(ALU)
    source = random.choice(registers) if random.random() < 0.5 else any_imm(random)
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
        return alu_instruction(Random(draw(seeds)))
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


#: registers that random programs work on, and their number
WORK = (insn.R0, insn.R2, insn.R3, insn.R4, insn.R5, insn.R6, insn.R7, insn.R8, insn.R9)


def starting_values(random: Random) -> list[int]:
    """A value for each of them."""
    return [any_value64(random) for _ in WORK]


def alu_body(random: Random, length: int = 24) -> list[Instruction]:
    """Arithmetic on the work registers and forward jumps over it, all folded into r0 at the end.

    Without memory, helpers or loops: the verifier accepts every one, and r0 tells what the machine did.
    """
    program = []
    body = random.randint(1, length)
    for index in range(body):
        if random.random() < 0.25:
            goal = random.randint(index + 1, body)
            target = f"i{goal}" if goal < body else "fold"
            right = random.choice(WORK) if random.random() < 0.5 else any_imm(random)
            width = random.choice([32, 64])
            instruction = insn.jump_if(random.choice(WORK), random.choice(JUMPS), right, target, width)
        else:
            instruction = alu_instruction(random, WORK)
        program.append(instruction.labelled(f"i{index}"))
    folding = fold()
    return [*program, folding[0].labelled("fold"), *folding[1:]]


def atomic_body(random: Random, length: int = 12) -> list[Instruction]:
    """Stores, loads and atomics of all sizes on 16 bytes of stack, mixed with arithmetic; all ends in r0."""
    program = [insn.store(insn.R10, -8, insn.R2), insn.store(insn.R10, -16, insn.R3)]
    for _ in range(random.randint(1, length)):
        register, size = random.choice(WORK), random.choice([1, 2, 4, 8])
        place = -16 + size * random.randrange(16 // size)
        kind = random.choice(["load", "store", "store_imm", "atomic", "xchg", "cmpxchg", "alu"])
        if kind == "alu":
            program.append(alu_instruction(random, WORK))
        elif kind == "load":
            program.append(insn.load(register, insn.R10, place, size))
        elif kind == "store":
            program.append(insn.store(insn.R10, place, register, size))
        elif kind == "store_imm":
            program.append(insn.store_imm(insn.R10, place, any_imm(random), size))
        else:
            size, place = (4, place & ~3) if size < 8 else (8, place)
            if kind == "xchg":
                program.append(insn.atomic_xchg(insn.R10, place, register, size))
            elif kind == "cmpxchg":
                program.append(insn.atomic_cmpxchg(insn.R10, place, register, size))
            else:
                name, fetch = random.choice(["add", "or", "and", "xor"]), random.random() < 0.5
                program.append(insn.atomic(name, insn.R10, place, register, size, fetch=fetch))
    for offset in (-8, -16):
        program += [insn.load(insn.R1, insn.R10, offset), insn.mul(insn.R0, 31), insn.xor(insn.R0, insn.R1)]
    return program + fold()


def fold() -> list[Instruction]:
    """All work registers into r0, so that a difference in any shows."""
    return [step for register in WORK[1:] for step in (insn.mul(insn.R0, 31), insn.xor(insn.R0, register))]


def with_constants(body: list[Instruction], values: list[int]) -> list[Instruction]:
    """A body with its starting values as constants in front; no exit."""
    return [*(insn.load_imm64(register, value) for register, value in zip(WORK, values, strict=True)), *body]


def from_memory(body: list[Instruction], map_name: str) -> list[Instruction]:
    """The whole program around a body: values from the map's value, from byte 8 on; r0 to its first 8 bytes.

    The verifier knows nothing of values in memory, so it keeps every branch and every operation.
    """
    start = [insn.load_map_value(insn.R1, map_name)]
    start += [insn.load(register, insn.R1, 8 + 8 * n) for n, register in enumerate(WORK)]
    end = [insn.load_map_value(insn.R1, map_name), insn.store(insn.R1, 0, insn.R0), insn.mov(insn.R0, 0), insn.exit_()]
    return [*start, *body, *end]


@st.composite
def alu_programs(draw: st.DrawFn) -> list[Instruction]:
    """Arithmetic and jumps over constants, without an exit."""
    random = Random(draw(seeds))
    return with_constants(alu_body(random), starting_values(random))
