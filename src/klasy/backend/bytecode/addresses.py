"""The addresses that tell a program where it runs: its own, that to which the function returns, and where that lies.

They differ by the probe's context; what was measured is in :mod:`klasy.backend.bytecode.origin`. While they are looked
for, words are kept on the stack at places that are named here, for all who work in a program's prologue.
"""

from __future__ import annotations

from klasy.backend.artifact import MARK_SIZE
from klasy.backend.bytecode.arithmetic import compare_constant
from klasy.backend.bytecode.origin import TRAMPOLINE
from klasy.backend.bytecode.rethook import NODE_BYTES, look_behind
from klasy.bpf.insn import R0, R1, R2, R3, R10, add, call, load, load_imm, mov, store, sub
from klasy.kernel.arch_x86_64 import BREAKPOINT_BYTES, ENDBR_BYTES, FENTRY_CALL_BYTES, PT_REGS
from klasy.match.mechanism import ANY_SYSCALL, Context
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.bytecode.origin import Origin
    from klasy.backend.bytecode.rethook import Rethook
    from klasy.bpf.insn import Reg
    from klasy.match.plan import Probe

# Scratch of the prologue, offsets from r10. A mark that is written lies over all but the key.
KEY = -16  # of a mark: slot, then tag
TAG = -8
PID = -24
WORD = -32  # the return address, or the address that decides
FRAME = -48  # two words of the trampoline's frame
SITE = -56  # the site of the mark that was found, or 0
MARK = KEY - MARK_SIZE
NODE = MARK - NODE_BYTES  # of a kretprobe's list

AT_FUNCTIONS = frozenset({Context.ENTRY, Context.RETURN})
AT_ENTRY = frozenset({Context.ENTRY, Context.BODY, Context.TAIL})  # the stack pointer is at the return address
_IP = PT_REGS["ip"]
_SP = PT_REGS["sp"]


class Addresses:
    """How one program finds them. ``rethook``: how to look behind kretprobes of others, where that is known."""

    def __init__(self, probe: Probe, origin: Origin, rethook: Rethook | None) -> None:
        self.probe = probe
        self.context = probe.context
        self.ctx = origin.ctx
        self.origin = origin
        self.rethook = rethook

    def own(self, e: Emitter, register: Reg) -> None:
        """``register`` = address of the probe; in a kretprobe, of the function.

        At entries the ip would not do: how far behind the entry it is depends on the kernel and on the mechanism.
        """
        if len(self.probe.points) == 1:
            e.asm.emit(load_imm(register, self.probe.points[0].address))
        elif self.context in ANY_SYSCALL:
            from klasy.backend.bytecode import syscalls

            syscalls.own_address(e, self.context, e.register(self.ctx, R1), register)
        elif self.context in AT_FUNCTIONS:
            e.into(R1, self.ctx)
            e.asm.emit(call("get_attach_cookie" if self.probe.in_program else "get_func_ip"))
            if register != R0:
                e.asm.emit(mov(register, R0))
        else:
            e.asm.emit(load(register, e.register(self.ctx, R1), _IP), sub(register, BREAKPOINT_BYTES))

    def slot(self, e: Emitter, register: Reg) -> None:
        """``register`` = address of the stack slot that holds, or held, or will hold the return address."""
        if self.context in TRAMPOLINE:
            e.into(register, self.ctx)
            e.asm.emit(add(register, self._frame_offset()))
        else:
            e.asm.emit(load(register, e.register(self.ctx, R1), _SP))
            if self.context not in AT_ENTRY:
                e.asm.emit(add(register, -8))

    def returning(self, e: Emitter) -> None:
        """The return address to WORD of the stack; 0 where it cannot be found."""
        if self.context in TRAMPOLINE:
            return self._from_frame(e)
        if self.context not in {Context.RETURN, Context.BEHIND}:
            return self.stack_top(e, WORD)
        e.asm.emit(load(R0, e.register(self.ctx, R1), _IP))
        if self.context is Context.BEHIND:
            e.asm.emit(sub(R0, BREAKPOINT_BYTES))
        return e.asm.emit(store(R10, WORD, R0))

    def stack_top(self, e: Emitter, offset: int) -> None:
        """What the stack pointer points to, at a function's entry or at a tail call, to ``offset`` of the stack."""
        e.asm.emit(load(R3, e.register(self.ctx, R1), _SP), mov(R2, 8))
        e.stack_address(R1, offset)
        e.read_memory()
        self._look_behind(e, offset)

    def _from_frame(self, e: Emitter) -> None:
        """Of a fexit program: behind the trampoline's words.

        Believed only if before it stands the return address into the function itself.
        """
        e.into(R3, self.ctx)
        e.asm.emit(add(R3, self._frame_offset() - 8), mov(R2, 16))
        e.stack_address(R1, FRAME)
        e.asm.emit(call("probe_read_kernel"))
        found = e.asm.fresh_label("caller")
        inner = self.probe.points[0].address + FENTRY_CALL_BYTES
        e.asm.emit(load(R1, R10, FRAME), load(R0, R10, FRAME + 8))
        for address in (inner, inner + ENDBR_BYTES):
            compare_constant(e, (R1, "==", address), found, R2)
        e.asm.emit(mov(R0, 0))
        e.asm.label(found)
        e.asm.emit(store(R10, WORD, R0))
        self._look_behind(e, WORD)

    def _frame_offset(self) -> int:
        """From the context to the return address of the function's caller."""
        assert self.context is Context.FEXIT, "where a fentry program's frame ends is not known beforehand"
        return 8 * self.origin.argument_words + 24  # result, saved rbp, return address into the function

    def _look_behind(self, e: Emitter, word: int) -> None:
        if self.rethook is not None:
            look_behind(e, self.rethook, word, NODE, lambda: self.slot(e, R2))
