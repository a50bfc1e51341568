"""Instructions as text, in the words of the kernel's verifier and of ``bpftool prog dump xlated``.

    ; log_dequeue.asp:3: log("queue length %u", list->qlen);
       7: (79) r1 = *(u64 *)(r6 +112)
       8: (85) call bpf_probe_read_kernel#113
       9: (55) if r0 != 0x0 goto fault

so that a listing and a verifier's log can be laid side by side: numbers are slots, the opcode is in parentheses.
Names that the kernel does not know (labels, maps) stand where it would print numbers.
"""

from __future__ import annotations

from klasy.bpf import uapi as u
from klasy.bpf.insn import ALU_SYMBOLS, ATOMIC_NAMES, JUMP_SYMBOLS, Instruction
from klasy.plain import TYPE_CHECKING
from klasy.source import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TYPES = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}


def format_instruction(instruction: Instruction) -> str:
    """One instruction, without its place: ``r1 = *(u64 *)(r6 +112)``.

    A jump whose target has no name prints as ``goto pc+3``. An opcode that is none of the instruction set's prints
    as ``unknown``, with its fields.
    """
    klass = instruction.klass
    if klass in {u.BPF_ALU, u.BPF_ALU64}:
        text = _alu(instruction)
    elif klass in {u.BPF_JMP, u.BPF_JMP32}:
        text = _jump(instruction)
    else:
        text = _memory(instruction)
    return text or _unknown(instruction)


def listing(
    instructions: Iterable[Instruction],
    *,
    opcodes: bool = True,
    describe: Callable[[object], str] | None = None,
) -> str:
    """A program, one instruction a line, its slot before it; ends with a newline.

    Labels stand on lines of their own. Jumps without a name (of a decoded program) get one made from the slot they
    go to. Before the first instruction of each run with the same metadata stands what ``describe`` makes of it;
    the default shows a Span's place and text, and everything else as it prints itself.
    """
    describe = describe or describe_metadata
    program = _named(tuple(instructions))
    lines: list[str] = []
    slot = 0
    before: object = None
    for instruction in program:
        metadata = instruction.metadata
        lines += [f"{label}:" for label in instruction.labels]
        if metadata is not None and metadata != before:
            lines.append(f"; {describe(metadata)}")
        before = metadata
        code = f"({instruction.opcode:02x}) " if opcodes else ""
        lines.append(f"{slot:4}: {code}{format_instruction(instruction)}")
        slot += instruction.slots
    return "".join(line + "\n" for line in lines)


def describe_metadata(metadata: object) -> str:
    """A Span as ``name:line: text`` on one line; anything else as str() has it."""
    if isinstance(metadata, Span):
        return f"{metadata.file.name}:{metadata.line}: {' '.join(metadata.text.split())}"
    return str(metadata)


# --- one class of instructions each; empty for what is no instruction -----------------------------------------


def _alu(i: Instruction) -> str:
    letter = "r" if i.klass == u.BPF_ALU64 else "w"
    dst = _register(letter, i.dst)
    if i.operation == u.BPF_END:
        order = "be" if i.from_register else "le"
        return f"r{int(i.dst)} = {order}{i.imm} r{int(i.dst)}" if i.klass == u.BPF_ALU else ""
    if i.operation == u.BPF_NEG:
        return f"{dst} = -{dst}" if not i.from_register else ""
    symbol = ALU_SYMBOLS.get(i.operation)
    if symbol is None or i.off:  # an offset makes it signed division or a sign-extending move, of version 4
        return ""
    return f"{dst} {symbol} {_register(letter, i.src) if i.from_register else i.imm}"


def _jump(i: Instruction) -> str:
    if i.klass == u.BPF_JMP and i.operation in {u.BPF_CALL, u.BPF_EXIT, u.BPF_JA}:
        return "" if i.from_register else _plain_jump(i)
    symbol = JUMP_SYMBOLS.get(i.operation)
    if symbol is None:
        return ""
    letter = "r" if i.klass == u.BPF_JMP else "w"
    right = _register(letter, i.src) if i.from_register else f"{i.imm & 0xFFFFFFFF:#x}"
    return f"if {_register(letter, i.dst)} {symbol} {right} goto {_goal(i, i.off)}"


def _plain_jump(i: Instruction) -> str:
    if i.is_exit:
        return "exit"
    if not i.is_call:
        return f"goto {_goal(i, i.off)}"
    if i.src == u.BPF_PSEUDO_CALL:
        return f"call {_goal(i, i.imm)}"
    if i.src == u.BPF_PSEUDO_KFUNC_CALL:
        return f"call kernel-function#{i.imm}"
    return f"call {u.helper_name(i.imm) or 'unknown'}#{i.imm}"


def _memory(i: Instruction) -> str:
    mode = i.opcode & 0xE0
    if i.is_wide:
        return f"r{int(i.dst)} = {_wide(i)}"
    if i.klass == u.BPF_LD or (mode != u.BPF_MEM and not (mode == u.BPF_ATOMIC and i.klass == u.BPF_STX)):
        return ""
    kind = _TYPES[i.size]
    if i.klass == u.BPF_LDX:
        return f"r{int(i.dst)} = *({kind} *)(r{int(i.src)} {i.off:+d})"
    if i.klass == u.BPF_ST:
        return f"*({kind} *)(r{int(i.dst)} {i.off:+d}) = {i.imm}"
    if mode == u.BPF_MEM:
        return f"*({kind} *)(r{int(i.dst)} {i.off:+d}) = r{int(i.src)}"
    return _atomic(i, kind)


def _atomic(i: Instruction, kind: str) -> str:
    if i.size < 4:
        return ""
    place = f"({kind} *)(r{int(i.dst)} {i.off:+d})"
    prefix = "atomic64" if i.size == 8 else "atomic"
    name = ATOMIC_NAMES.get(i.imm & ~u.BPF_FETCH)
    if i.imm == u.BPF_XCHG:
        return f"r{int(i.src)} = {prefix}_xchg({place}, r{int(i.src)})"
    if i.imm == u.BPF_CMPXCHG:
        return f"r0 = {prefix}_cmpxchg({place}, r0, r{int(i.src)})"
    if name is None:
        return ""
    if i.imm & u.BPF_FETCH:
        return f"r{int(i.src)} = {prefix}_fetch_{name}({place}, r{int(i.src)})"
    return f"lock *{place} {ALU_SYMBOLS[i.imm]} r{int(i.src)}"


def _wide(i: Instruction) -> str:
    """What the constant of a 64-bit load stands for."""
    low, high = i.imm & 0xFFFFFFFF, i.imm >> 32
    if i.src == u.BPF_PSEUDO_MAP_FD:
        return f"map[{i.target or f'fd:{low}'}]"
    if i.src == u.BPF_PSEUDO_MAP_VALUE:
        return f"map[{i.target or f'fd:{low}'}][0]+{high}"
    if i.src == u.BPF_PSEUDO_BTF_ID:
        return f"btf[{low}]"
    if i.src == u.BPF_PSEUDO_FUNC:
        return f"subprog[{i.target or f'{low - (low >> 31 << 32):+d}'}]"
    return f"{i.imm:#x}"


def _unknown(i: Instruction) -> str:
    return f"unknown {i.opcode:#04x} dst={int(i.dst)} src={int(i.src)} off={i.off} imm={i.imm}"


def _register(letter: str, register: int) -> str:
    return f"{letter}{int(register)}"


def _goal(i: Instruction, distance: int) -> str:
    return i.target if i.target is not None else f"pc{distance:+d}"


def _named(program: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """The program with a name for each place that something jumps to by number."""
    starts: list[int] = []
    slot = 0
    for instruction in program:
        starts.append(slot)
        slot += instruction.slots
    at = {start: index for index, start in enumerate(starts)}
    named = list(program)
    for index, instruction in enumerate(program):
        if instruction.target is not None or not (instruction.is_jump or instruction.is_subprogram_call):
            continue
        distance = instruction.imm if instruction.is_call else instruction.off
        goal = starts[index] + 1 + distance
        if goal not in at:  # not our program's fault to judge: print what is there
            continue
        stem = "sub" if instruction.is_call else "L"
        name = f"{stem}{goal}"
        if name not in named[at[goal]].labels:
            named[at[goal]] = named[at[goal]].labelled(name)
        named[index] = named[index]._replace(target=name)
    return tuple(named)
