"""What is x86-64's about a kernel: registers, calling convention, and the bytes at a function's entry.

The layers above ask here and name no register themselves, so that another architecture can follow.
"""

from __future__ import annotations

ARGUMENT_REGISTERS = ("di", "si", "dx", "cx", "r8", "r9")
"""The registers of the first six integer arguments, in order; further ones lie on the stack."""

RESULT_REGISTER = "ax"

_SAVED = ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di")
_FRAME = ("orig_ax", "ip", "cs", "flags", "sp", "ss")
PT_REGS = {name: 8 * place for place, name in enumerate(_SAVED + _FRAME)}
"""Offset in bytes of each register in ``struct pt_regs``, the context of kprobe programs
(arch/x86/include/asm/ptrace.h; the layout is ABI)."""

IMAGE = 0xFFFF_FFFF_8000_0000
"""Where the kernel's own text and data begin; its modules lie above, all other memory below
(Documentation/arch/x86/x86_64/mm.rst)."""

MODULES = 0xFFFF_FFFF_A000_0000
"""Where code that was loaded or made later begins at the lowest (the same document)."""

PT_REGS_BYTES = 8 * len(PT_REGS)
WORD = 8

LONGEST_INSTRUCTION = 15
LONGEST_STRUCT_IN_REGISTERS = 16  # bytes; a larger one is passed in memory
BREAKPOINT = 0xCC  # int3: what a kprobe puts over the first byte of an instruction
BREAKPOINT_BYTES = 1  # in a kprobe program, ip is this far behind the probed instruction's start

ENDBR = b"\xf3\x0f\x1e\xfa"
ENDBR_BYTES = 4
PUSH_FRAME = 0x55  # push %rbp: where frame pointers are kept, what a function begins with
_ENDBR_SEALED = (b"\x66\x0f\x1f\x00", b"\x0f\x1f\x40\xd6")  # what replaces it where no indirect branch may arrive
_FTRACE_NOP = b"\x0f\x1f\x44\x00\x00"
FENTRY_CALL_BYTES = 5  # of the nop, or the call, at the beginning of a function that ftrace can trace
CALL = 0xE8  # opcode of a direct call
FTRACE_ENTRIES = frozenset(("ftrace_caller", "ftrace_regs_caller", "__fentry__"))  # what traced functions call

ENTRY_BYTES = ENDBR_BYTES + FENTRY_CALL_BYTES
"""How much of a function's beginning ``ftrace_offset`` looks at."""


def entry_offset(code: bytes) -> int:
    """Where, behind the landing mark for indirect branches, a function's own instructions begin: 0 or 4."""
    return ENDBR_BYTES if code[:4] == ENDBR or code[:4] in _ENDBR_SEALED else 0


def ftrace_offset(code: bytes) -> tuple[int, int | None] | None:
    """Where in a function's first bytes its ftrace site lies, or None where it has none.

    Also gives, relative to the function, where the call goes that stands there while the function is traced; None for
    the nop of an untraced one. The caller tells such a call from an ordinary first instruction by its target.
    """
    at = entry_offset(code)
    site = code[at : at + FENTRY_CALL_BYTES]
    if site == _FTRACE_NOP:
        return at, None
    if len(site) == FENTRY_CALL_BYTES and site[0] == CALL:
        return at, at + FENTRY_CALL_BYTES + int.from_bytes(site[1:], "little", signed=True)
    return None


def untraced_entry(code: bytes) -> bytes:
    """The first bytes of a function with an ftrace site, up to the site's end, as they are while nobody traces it."""
    return code[: entry_offset(code)] + _FTRACE_NOP
