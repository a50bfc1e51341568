"""What can be seen to be needless looking at neighbouring instructions only.

Jumps to jumps go where those go; code that nothing reaches, jumps to the next instruction and moves of a register to
itself are left out. Selection may thus emit a jump at the end of each piece of code without a look at what follows.
"""

from __future__ import annotations

from klasy.bpf import uapi as u
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.bpf.insn import Instruction

_GOTO = u.BPF_JMP | u.BPF_JA
_MOVE = u.BPF_ALU64 | u.BPF_MOV | u.BPF_X


def tidy(program: Sequence[Instruction]) -> list[Instruction]:
    """The same program with less in it. The last instruction must be an exit."""
    code = list(program)
    while True:
        before = len(code)
        code = _without_dead(_threaded(code))
        code = _without_idle(code)
        if len(code) == before:
            return code


def _targets(code: Sequence[Instruction]) -> set[str]:
    return {i.target for i in code if i.target is not None and i.is_jump}


def _threaded(code: list[Instruction]) -> list[Instruction]:
    """Jumps go where the jumps go that they lead to."""
    onward = {name: i.target for i in code if i.opcode == _GOTO for name in i.labels}

    def goal(name: str) -> str:
        seen = {name}
        while (following := onward.get(name)) is not None and following not in seen:
            seen.add(following)
            name = following
        return name

    return [i._replace(target=goal(i.target)) if i.target is not None and i.is_jump else i for i in code]


def _without_dead(code: list[Instruction]) -> list[Instruction]:
    """No code between what never goes on and the next place that is jumped to; no labels nobody uses."""
    used = _targets(code)
    kept: list[Instruction] = []
    reached = True
    for instruction in code:
        kept_as = instruction
        if instruction.labels:
            labels = tuple(name for name in instruction.labels if name in used)
            reached = reached or bool(labels)
            if labels != instruction.labels:
                kept_as = instruction._replace(labels=labels)
        if reached:
            kept.append(kept_as)
            reached = instruction.opcode != _GOTO and not instruction.is_exit
    return kept


def _without_idle(code: list[Instruction]) -> list[Instruction]:
    """No jumps to the next instruction, no moves to oneself; their labels go to what follows.

    From the end: what jumps to behind a row of idle jumps is idle when they are gone. There may be thousands in a row.
    """
    kept: list[Instruction] = []  # backwards
    for instruction in reversed(code):
        if kept and (
            (kept[-1].labels and instruction.target in kept[-1].labels and instruction.is_jump)
            or (instruction.opcode == _MOVE and instruction.dst == instruction.src)
        ):
            if instruction.labels:
                kept[-1] = kept[-1]._replace(labels=(*instruction.labels, *kept[-1].labels))
        else:
            kept.append(instruction)
    kept.reverse()
    return kept
