"""Programs that the kernel's verifier refuses, each for another reason, and where the fault lies."""

from __future__ import annotations

from typing import Any, NamedTuple

from klasy.bpf import uapi as u
from klasy.bpf.asm import Assembled, assemble
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R10,
    Instruction,
    add,
    call,
    call_subprogram,
    exit_,
    jump,
    jump_if,
    load,
    load_imm64,
    load_map,
    mov,
    store,
    store_imm,
)


class Bad(NamedTuple):
    """A program; the slot that the verdict must name (None: it concerns the whole); what it must say, as a
    regular expression (kernels differ in wording)."""

    body: list[Instruction]
    slot: int | None
    words: str
    kind: int = u.BPF_PROG_TYPE_KPROBE
    options: dict[str, Any] = {}  # noqa: RUF012  # never written

    @property
    def assembled(self) -> Assembled:
        """The program, each instruction's metadata its own number in words."""
        return assemble(instruction.at(f"line {n}") for n, instruction in enumerate(self.body))


LOOKUP = [
    store_imm(R10, -8, 0),
    load_map(R1, "values"),
    mov(R2, R10),
    add(R2, -8),
    call("map_lookup_elem"),
]

BAD: dict[str, Bad] = {
    "register-never-set": Bad([mov(R0, R2), exit_()], 0, "R2 !read_ok"),
    "no-result": Bad([exit_()], 0, "R0 !read_ok"),
    "scalar-as-pointer": Bad([load(R6, R1, 0), load(R0, R6, 8), exit_()], 1, "R6 invalid mem access"),
    "null-not-checked": Bad([*LOOKUP, load(R0, R0, 0), exit_()], 6, "R0 invalid mem access"),
    "value-overrun": Bad(
        [*LOOKUP, jump_if(R0, "==", 0, "out"), load(R1, R0, 4), mov(R0, 0), exit_().labelled("out")],
        7,
        "invalid access to map value",
    ),
    "unbounded-index": Bad(
        [
            *LOOKUP,
            jump_if(R0, "==", 0, "out"),
            load(R1, R0, 0),
            add(R0, R1),
            load(R0, R0, 0, 1),
            exit_().labelled("out"),
        ],
        8,
        "unbounded min value",
    ),
    "record-not-submitted": Bad(
        [
            *(load_map(R1, "ring"), mov(R2, 8), mov(R3, 0), call("ringbuf_reserve")),
            *(jump_if(R0, "==", 0, "out"), mov(R0, 0), exit_().labelled("out")),
        ],
        7,
        "Unreleased reference",
    ),
    "stack-overrun": Bad([store_imm(R10, -520, 0), mov(R0, 0), exit_()], 0, "invalid write to stack"),
    "context-overrun": Bad([load(R0, R1, 1000), exit_()], 0, "invalid bpf_context access"),
    "context-written": Bad(
        [store_imm(R1, 0, 0), mov(R0, 0), exit_()], 0, "stores into R1 ctx|invalid bpf_context access"
    ),
    "helper-not-allowed": Bad([call("skb_load_bytes"), mov(R0, 0), exit_()], 0, "unknown func|cannot use helper"),
    "wrong-argument": Bad([mov(R1, 0), mov(R2, 0), call("map_lookup_elem"), mov(R0, 0), exit_()], 2, "R1 type="),
    "endless-loop": Bad([mov(R0, 0), jump("x").labelled("x"), exit_()], 2, "unreachable insn 2"),
    "loop-without-progress": Bad(
        [mov(R0, 0), add(R0, 0).labelled("again"), jump_if(R0, "==", 0, "again"), exit_()], 1, "infinite loop"
    ),
    "too-many-branches": Bad(
        [
            *(load(R6, R1, 0), mov(R0, 0)),
            *(jump_if(R6, "==", n, f"b{n}").labelled(f"b{n - 1}") for n in range(1, 9000)),
            exit_().labelled("b8999"),
        ],
        None,
        "jumps is too complex",
    ),
    "fault-in-subprogram": Bad(
        [mov(R1, 5), call_subprogram("f"), exit_(), load(R0, R1, 0).labelled("f"), exit_()],
        3,
        "R1 invalid mem access",
    ),
    "fault-on-second-path": Bad(
        [
            *(load(R6, R1, 0), mov(R0, 0), jump_if(R6, "==", 0, "wrong")),
            *(mov(R0, 1), exit_(), load(R0, R6, 0).labelled("wrong"), exit_()),
        ],
        5,
        "R6 invalid mem access",
    ),
    "target-is-no-function": Bad(
        [mov(R0, 0), exit_()],
        None,
        "is not a function",
        u.BPF_PROG_TYPE_TRACING,
        {"expected_attach_type": u.BPF_TRACE_FENTRY, "attach_btf_id": 1},
    ),
    "never-reached": Bad([mov(R0, 0), exit_(), mov(R0, 1), exit_()], 2, "unreachable insn 2"),
    "pointer-arithmetic": Bad([mov(R0, R1), add(R0, R1), exit_()], 1, "R0"),
    "frame-pointer-written": Bad([mov(R10, 0), mov(R0, 0), exit_()], 0, "frame pointer is read only"),
    "stack-of-calls": Bad(
        [
            *(store_imm(R10, -400, 0), call_subprogram("f"), exit_()),
            *(store_imm(R10, -400, 0).labelled("f"), mov(R0, 0), exit_()),
        ],
        None,
        "combined stack size",
    ),
    "unknown-opcode": Bad([Instruction(0x8D, R0), mov(R0, 0), exit_()], None, "unknown opcode 8d"),
    "far-fault": Bad(
        [load_imm64(R6, 1 << 40), *[add(R6, 1)] * 300, store(R10, -8, R6), load(R0, R6, 0), exit_()],
        303,
        "R6 invalid mem access",
    ),
}
