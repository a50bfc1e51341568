"""The return address behind a kretprobe: another tracer's, or that of another aspect of ours.

A kretprobe puts the address of ``arch_rethook_trampoline`` in the place of the return address, and what was there
into a ``struct rethook_node`` at the head of the task's list ``rethooks`` (kernel/trace/rethook.c and x86's rethook.c,
Linux 6.1 and 6.12). A program that finds the trampoline's address goes through the nodes of its stack slot, of which
there is one for each kretprobe on the function.
"""

from __future__ import annotations

from klasy.bpf.insn import R0, R1, R2, R3, R10, add, call, jump_if, load, mov, store
from klasy.btf.walk import member_offset
from klasy.errors import SystemRefusal
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.kernel.model import Kernel

TRAMPOLINE = "arch_rethook_trampoline"
NODE_BYTES = 48  # of a node, from its list pointer, that are read: 32 on the kernels above
_MOST = 4  # kretprobes on one function that are seen through


@dataclass(frozen=True, slots=True)
class Rethook:
    """What a kernel's rethooks look like; offsets in bytes, those in a node from its ``llist``."""

    trampoline: int
    rethooks: int  # in task_struct
    return_address: int
    frame: int  # where the stack slot's address is


def find_rethook(kernel: Kernel) -> Rethook | None:
    """How to look behind kretprobes on a kernel; None where they are made differently."""
    try:
        functions, btf = kernel.functions(TRAMPOLINE), kernel.btf
    except SystemRefusal:
        return None
    rethooks = member_offset(btf, "task_struct", "rethooks")
    llist, address, frame = (member_offset(btf, "rethook_node", name) for name in ("llist", "ret_addr", "frame"))
    if len(functions) != 1 or rethooks is None or llist is None or address is None or frame is None:
        return None
    found = Rethook(functions[0].address, rethooks, address - llist, frame - llist)
    within = all(0 <= offset <= NODE_BYTES - 8 for offset in (found.return_address, found.frame))
    return found if within else None


def look_behind(e: Emitter, hook: Rethook, word: int, scratch: int, slot: Callable[[], None]) -> None:
    """If the stack's ``word`` is the trampoline's address, put the address it replaced there.

    ``slot`` emits code that puts the address of the stack slot into r2, destroying no more than r1. NODE_BYTES of
    stack from ``scratch`` on are used.
    """
    back = e.asm.fresh_label("returning")
    trampoline = hook.trampoline - (1 << 64)

    def recover() -> None:
        e.asm.emit(call("get_current_task"), mov(R3, R0), add(R3, hook.rethooks), mov(R2, 8))
        e.stack_address(R1, scratch)
        e.asm.emit(call("probe_read_kernel"))
        for _ in range(_MOST):
            e.asm.emit(load(R3, R10, scratch), mov(R2, NODE_BYTES))
            e.stack_address(R1, scratch)
            e.asm.emit(call("probe_read_kernel"))
            slot()
            e.asm.emit(load(R1, R10, scratch + hook.frame), jump_if(R1, "!=", R2, back))
            e.asm.emit(load(R0, R10, scratch + hook.return_address), store(R10, word, R0))
        e.go(back)

    rare = e.out_of_line(recover, None)
    e.asm.emit(load(R0, R10, word), jump_if(R0, "==", trampoline, rare))
    e.asm.label(back)
