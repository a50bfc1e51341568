"""The immediate caller of a user program's function, for its stack at the function's entry.

The kernel follows frame pointers, and at a function's first instruction the function has no frame yet: what ``rbp``
leads to is the caller's, in which the *caller's* return address is. So the caller itself is left out of what
bpf_get_stack gives. Its address is there all the same, for the call has just put it at ``rsp``; but a bare address of a
process tells nothing once this has ended, and is another one in each process. So, with bpf_find_vma, it is told by how
far it is from the function, if both are in one mapping of a file, as they mostly are; else it is made a ``struct
bpf_stack_build_id`` like all frames, by the build id that the process has itself where the file's beginning is mapped.

Kernels from 6.12 on, and older ones to which that was brought, put that address into the stack themselves if the first
instruction is ``push %rbp``, or ``endbr64`` where the kernel was built for IBT. They keep for that which instruction
the thread's probe has replaced (perf_callchain_user in arch/x86/events/core.c); it is looked at here, so that no caller
comes twice.

The verifier takes a callback, as bpf_find_vma needs, only of a program whose functions have types: klasy.bpf.functypes.
"""

from __future__ import annotations

from errno import ENOENT

from klasy.bpf.asm import Assembler
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
    add,
    and_,
    call,
    call_subprogram,
    exit_,
    jump,
    jump_if,
    load,
    load_function,
    lsh,
    mov,
    store,
    store_imm,
    sub,
)
from klasy.btf.types import Func
from klasy.btf.walk import member_offset
from klasy.compiler import irstate
from klasy.errors import SystemRefusal
from klasy.kernel.arch_x86_64 import ENDBR, PT_REGS, PUSH_FRAME
from klasy.match.mechanism import Context
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.record import USER_FRAME, USER_FRAME_ADDRESS, USER_FRAME_BESIDE, USER_FRAME_BUILD_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.bpf.insn import Instruction, Reg
    from klasy.compiler import ir
    from klasy.compiler.ir import Var
    from klasy.kernel.model import Kernel
    from klasy.match.plan import Probe
    from klasy.source import Span

FUNCTION, MAPPING = "user_caller", "user_caller_mapping"
STACK = 96 + 32  # bytes of the program's stack that the two take, as the verifier rounds them up

# The words of the function's stack. The file's header, and then one program header and one note after the other, are
# read over those that are done with by then.
_OFFSET, _NOTE, _COUNT, _BLOCK, _NOTES_END = -88, -80, -72, -64, -8
_MAP, _WORD = -64, -32
_START, _PAGE, _FLAGS, _FILE = (_MAP + 8 * n for n in range(4))  # as the callback fills them

_OF_IBT = "ibt_save"  # a function that kernels have which were built for indirect branch tracking, and no others
_VM_EXEC = 4
_PAGE_SHIFT, _PAGE_SIZE = 12, 4096  # the kernel, too, looks for a build id in the first page only
_ELF, _CLASS64 = 0x464C457F, 2
_HEADER, _PHOFF, _PHNUM = 64, 32, 56
_PROGRAM_HEADER, _P_OFFSET, _P_FILESZ = 56, 8, 32
_PT_NOTE, _NT_GNU_BUILD_ID, _GNU = 4, 3, 0x00554E47
_NOTE_HEADER = 16  # with the name "GNU"
_MOST_HEADERS, _MOST_NOTES = 24, 3  # of the file; of each of its headers
_BUILD_ID, _BUILD_ID_BYTES, _FRAME_OFFSET = 4, 20, 24  # in a frame


class Callers(NamedTuple):
    """Where members of kernel structs are, in bytes. ``probed``: from task_struct to the instruction that a uprobe
    replaced, by way of two pointers; None where the kernel tells no callers by itself. ``marks``: it knows ``endbr64``.
    """

    vm_start: int
    vm_pgoff: int
    vm_flags: int
    vm_file: int
    probed: tuple[int, int, int] | None
    marks: bool


def find_callers(kernel: Kernel) -> Callers | None:
    """Those of a kernel; None where its types do not tell."""
    try:
        btf = kernel.btf
    except SystemRefusal:
        return None
    found = [member_offset(btf, "vm_area_struct", name) for name in ("vm_start", "vm_pgoff", "vm_flags", "vm_file")]
    if None in found:
        return None
    steps = [
        member_offset(btf, of, name)
        for of, name in (("task_struct", "utask"), ("uprobe_task", "auprobe"), ("arch_uprobe", "insn"))
    ]
    known = [step for step in steps if step is not None]
    start, page, flags, file = (at for at in found if at is not None)
    probed = (known[0], known[1], known[2]) if len(known) == len(steps) else None
    return Callers(start, page, flags, file, probed, bool(btf.find(_OF_IBT, Func)))


def enters(probe: Probe) -> bool:
    """Whether a program runs at the entry of user programs' functions."""
    return probe.in_program and probe.context is Context.ENTRY


def asks(probe: Probe, ops: Iterable[ir.Op]) -> bool:
    """Whether a program with these operations takes stacks there."""
    return enters(probe) and irstate.takes_user_stack(ops)


def write(e: Emitter, probe: Probe, ctx: Var, into: Callable[[Reg], None]) -> None:
    """Write the caller's frame to where ``into`` lets a register point: all zeros where it is not to be had, or where
    the kernel's own stack has it. All of r0 to r5 is lost.
    """
    if e.callers is not None and enters(probe):
        e.into(R1, ctx)
        e.asm.emit(load(R3, R1, PT_REGS["ip"]), load(R1, R1, PT_REGS["sp"]))
        into(R2)
        e.asm.emit(call_subprogram(FUNCTION))
        return
    into(R2)
    e.asm.emit(*(store_imm(R2, at, 0) for at in range(0, USER_FRAME.size, 8)))


def functions(callers: Callers, span: Span | None) -> list[Instruction]:
    """The code that ``write`` calls: the function and its callback."""
    a = Assembler()
    with a.source(span):
        a.label(FUNCTION)
        _Caller(a, callers).run()
        a.label(MAPPING)
        _mapping(a, callers)
    return list(a.instructions)


def _mapping(a: Assembler, callers: Callers) -> None:
    """The callback of bpf_find_vma: r2 is the mapping, r3 where to tell of it."""
    a.emit(mov(R6, R3))
    for source, word in ((callers.vm_start, _START), (callers.vm_pgoff, _PAGE), (callers.vm_flags, _FLAGS)):
        a.emit(load(R1, R2, source), store(R6, word - _MAP, R1))
    a.emit(mov(R3, R2), add(R3, callers.vm_file))  # as a number: pointers to files are compared here
    a.emit(mov(R1, R6), add(R1, _FILE - _MAP), mov(R2, 8), call("probe_read_kernel"))
    a.emit(mov(R0, 0), exit_())


class _Caller:
    """The function: r1 is where the return address is, r2 the frame to write, r3 where the probe is.

    r6 is the frame; r7 the return address, then the number of the program header; r8 the probe's place, then where the
    beginning of the file is mapped; r9 the mapping, then the file, then the address of the program header.
    """

    def __init__(self, a: Assembler, callers: Callers) -> None:
        self.a = a
        self.callers = callers

    def run(self) -> None:
        a = self.a
        a.emit(mov(R6, R2), mov(R8, R3), *(store_imm(R6, at, 0) for at in range(0, USER_FRAME.size, 8)))
        a.emit(mov(R3, R1), mov(R2, 8), mov(R1, R10), add(R1, _WORD), call("probe_read_user"))
        a.emit(jump_if(R0, "!=", 0, "caller_out"), load(R7, R10, _WORD))
        if self.callers.probed is not None:
            self._leave_to_kernel(*self.callers.probed)
        self._find(R7)
        # What is in no code is no return address: the first function of a program is called by nobody.
        a.emit(jump_if(R0, "==", -ENOENT, "caller_out", width=32), jump_if(R0, "!=", 0, "caller_bare", width=32))
        a.emit(load(R1, R10, _FLAGS), and_(R1, _VM_EXEC), jump_if(R1, "==", 0, "caller_out"))
        a.label("caller_bare")
        a.emit(store_imm(R6, 0, USER_FRAME_ADDRESS, 4), store(R6, _FRAME_OFFSET, R7))
        a.emit(jump_if(R0, "!=", 0, "caller_out", width=32))  # busy: the mappings are being changed
        a.emit(load(R9, R10, _START), load(R1, R10, _FILE), store(R10, _OFFSET, R1))
        a.emit(jump_if(R1, "==", 0, "caller_out"), load(R1, R10, _PAGE), store(R10, _NOTE, R1))
        self._find(R8)
        a.emit(jump_if(R0, "!=", 0, "caller_out", width=32), load(R1, R10, _START), jump_if(R1, "!=", R9, "caller_far"))
        a.emit(sub(R7, R8), store(R6, _FRAME_OFFSET, R7), store_imm(R6, 0, USER_FRAME_BESIDE, 4), jump("caller_out"))
        a.label("caller_far")
        a.emit(mov(R8, R9), load(R1, R10, _NOTE), lsh(R1, _PAGE_SHIFT), sub(R8, R1))
        a.emit(load(R9, R10, _OFFSET), sub(R7, R8), store(R10, _OFFSET, R7))
        self._find(R8)
        a.emit(jump_if(R0, "!=", 0, "caller_out", width=32))
        a.emit(load(R1, R10, _FILE), jump_if(R1, "!=", R9, "caller_out"))
        # Not where it was reckoned to be, for some linkers (lld) leave pages of addresses free between segments.
        a.emit(load(R1, R10, _PAGE), jump_if(R1, "!=", 0, "caller_out"), load(R8, R10, _START))
        self._headers()
        a.label("caller_out")
        a.emit(mov(R0, 0), exit_())

    def _leave_to_kernel(self, utask: int, auprobe: int, insn: int) -> None:
        """To the end where the kernel itself sees by the instruction that the function has just been entered."""
        a = self.a
        a.emit(call("get_current_task_btf"), load(R1, R0, utask), load(R3, R1, auprobe), add(R3, insn))
        a.emit(mov(R2, 4), mov(R1, R10), add(R1, _WORD), call("probe_read_kernel"))
        a.emit(jump_if(R0, "!=", 0, "caller_ours"), load(R1, R10, _WORD, 4))
        if self.callers.marks:
            a.emit(mov(R2, int.from_bytes(ENDBR, "little", signed=True), width=32))
            a.emit(jump_if(R1, "==", R2, "caller_out"))
        a.emit(and_(R1, 0xFF), jump_if(R1, "==", PUSH_FRAME, "caller_out"))
        a.label("caller_ours")

    def _find(self, address: Reg) -> None:
        """The mapping that an address lies in, to the words of the stack; r0 is 0 where there is one."""
        a = self.a
        a.emit(*(store_imm(R10, word, 0) for word in (_START, _PAGE, _FLAGS, _FILE)))
        a.emit(call("get_current_task_btf"), mov(R1, R0), mov(R2, address), load_function(R3, MAPPING))
        a.emit(mov(R4, R10), add(R4, _MAP), mov(R5, 0), call("find_vma"))

    def _read(self, size: int, to: int = _BLOCK, failed: str = "caller_out") -> None:
        """Memory of the process at r3."""
        self.a.emit(mov(R2, size), mov(R1, R10), add(R1, to), call("probe_read_user"), jump_if(R0, "!=", 0, failed))

    def _headers(self) -> None:
        """The program headers of the file one by one: those of notes are looked through."""
        a = self.a
        a.emit(mov(R3, R8))
        self._read(_HEADER)
        a.emit(load(R1, R10, _BLOCK, 4), jump_if(R1, "!=", _ELF, "caller_out"))
        a.emit(load(R1, R10, _BLOCK + 4, 1), jump_if(R1, "!=", _CLASS64, "caller_out"))
        a.emit(load(R9, R10, _BLOCK + _PHOFF), load(R1, R10, _BLOCK + _PHNUM, 2), store(R10, _COUNT, R1))
        a.emit(jump_if(R9, ">", _PAGE_SIZE - _PROGRAM_HEADER, "caller_out"), add(R9, R8), mov(R7, 0))
        a.label("caller_header")
        a.emit(load(R1, R10, _COUNT), jump_if(R7, ">=", R1, "caller_out"), mov(R3, R9))
        self._read(_PROGRAM_HEADER)
        a.emit(load(R1, R10, _BLOCK, 4), jump_if(R1, "!=", _PT_NOTE, "caller_next"))
        self._notes()
        a.label("caller_next")
        a.emit(add(R7, 1), add(R9, _PROGRAM_HEADER), jump_if(R7, "<", _MOST_HEADERS, "caller_header"))
        a.emit(jump("caller_out"))

    def _notes(self) -> None:
        """The first notes of one header; where one is a build id, it and the offset become the frame."""
        a = self.a
        a.emit(load(R1, R10, _BLOCK + _P_OFFSET), load(R2, R10, _BLOCK + _P_FILESZ))
        a.emit(jump_if(R1, ">", _PAGE_SIZE, "caller_next"), jump_if(R2, ">", _PAGE_SIZE, "caller_next"))
        a.emit(add(R2, R1), store(R10, _NOTE, R1), store(R10, _NOTES_END, R2))
        for _ in range(_MOST_NOTES):
            another = a.fresh_label("caller_note")
            a.emit(load(R3, R10, _NOTE), load(R1, R10, _NOTES_END), mov(R2, R3), add(R2, _NOTE_HEADER))
            a.emit(jump_if(R2, ">", R1, "caller_next"), jump_if(R2, ">", _PAGE_SIZE, "caller_next"), add(R3, R8))
            self._read(_NOTE_HEADER, failed="caller_next")
            a.emit(load(R4, R10, _BLOCK, 4), load(R2, R10, _BLOCK + 4, 4), load(R1, R10, _BLOCK + 8, 4))
            a.emit(jump_if(R1, "!=", _NT_GNU_BUILD_ID, another), jump_if(R4, "!=", 4, another))
            a.emit(load(R1, R10, _BLOCK + 12, 4), jump_if(R1, "!=", _GNU, another))
            a.emit(jump_if(R2, "==", 0, "caller_out"), jump_if(R2, ">", _BUILD_ID_BYTES, "caller_out"))
            a.emit(load(R3, R10, _NOTE), add(R3, R8), add(R3, _NOTE_HEADER), mov(R1, R6), add(R1, _BUILD_ID))
            a.emit(call("probe_read_user"), jump_if(R0, "!=", 0, "caller_out"))
            a.emit(load(R1, R10, _OFFSET), store(R6, _FRAME_OFFSET, R1))
            a.emit(store_imm(R6, 0, USER_FRAME_BUILD_ID, 4), jump("caller_out"))
            a.label(another)
            a.emit(jump_if(R2, ">", _PAGE_SIZE, "caller_next"), jump_if(R4, ">", _PAGE_SIZE, "caller_next"))
            a.emit(add(R2, 3), and_(R2, -4), add(R4, 3), and_(R4, -4), add(R2, R4), add(R2, 12))
            a.emit(load(R3, R10, _NOTE), add(R3, R2), store(R10, _NOTE, R3))
