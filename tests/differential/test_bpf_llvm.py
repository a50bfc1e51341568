"""Our printed form, read by LLVM's assembler, gives our bytes: printer and encoder against a stranger."""

from __future__ import annotations

import re
import shutil
import subprocess
from random import Random

import pytest
from support.bpf_programs import JUMPS, alu_instruction, any_imm

from klasy.bpf import insn, uapi
from klasy.bpf.text import format_instruction

LLVM = next((path for name in ("llvm-mc", "llvm-mc-14", "llvm-mc-16") if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(LLVM is None, reason="needs llvm-mc with the BPF target")


def random_instruction(random: Random) -> insn.Instruction:
    """Of what LLVM 14 can read: no modulo, stores of constants, bit-test jumps, atomics that fetch."""
    base, other = random.choice(insn.REGISTERS), random.choice(insn.REGISTERS)
    offset, size = random.randint(-(1 << 15), (1 << 15) - 1), random.choice([1, 2, 4, 8])
    match random.randrange(7):
        case 0:
            return insn.load(other, base, offset, size)
        case 1:
            return insn.store(base, offset, other, size)
        case 2:
            return insn.atomic_add(base, offset, other, random.choice([4, 8]))
        case 3:
            symbol = random.choice([s for s in JUMPS if s != "&"])
            right = other if random.random() < 0.5 else any_imm(random)
            jump = insn.jump_if(base, symbol, right, "x", random.choice([32, 64]))
            return jump._replace(target=None, off=offset)
        case 4:
            simple = (insn.exit_(), insn.call(random.randint(1, 211)), insn.jump("x")._replace(target=None, off=offset))
            return random.choice(simple)
        case _:
            made = alu_instruction(random)
            return made if made.operation != uapi.BPF_MOD or made.is_wide else insn.exit_()


def for_llvm(instruction: insn.Instruction) -> str:
    """Our text in LLVM's dialect: no ``pc``, ``ll`` after 64-bit constants, helpers by number, signed compares."""
    text = format_instruction(instruction)
    text = re.sub(r"goto pc([+-]\d+)", r"goto \1", text)
    text = re.sub(r"call bpf_\w+#(\d+)", r"call \1", text)
    if instruction.is_wide:
        text += " ll"
    if instruction.is_jump and not instruction.from_register:
        text = re.sub(r"0x[0-9a-f]+", str(instruction.imm), text)
    return text


def test_llvm_assembles_our_listing_to_our_bytes():
    """Two thousand random instructions of every kind that both know."""
    random = Random(20260101)
    instructions = [random_instruction(random) for _ in range(2000)]
    source = "".join(for_llvm(i) + "\n" for i in instructions)
    command = [LLVM, "-triple", "bpfel", "-mcpu=v3", "-show-encoding"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:500]
    theirs = [
        bytes(int(byte, 16) for byte in line.split(","))
        for line in re.findall(r"encoding: \[(.*)\]", done.stdout.replace("0x", ""))
    ]
    assert len(theirs) == len(instructions)
    different = [
        (format_instruction(i), i.encode().hex(), t.hex())
        for i, t in zip(instructions, theirs, strict=True)
        if i.encode() != t
    ]
    assert different == []
