"""Comparing strings of kernel memory, and the task's name, with literals."""

from __future__ import annotations

from klasy.backend.bytecode.arithmetic import compare_constant
from klasy.bpf.insn import R0, R1, R2, R10, call, jump_if, load, mov
from klasy.compiler import ir
from klasy.plain import TYPE_CHECKING

LOOKED_UP = 24  # bytes of scratch that a string of the process takes to be looked up, see syscalls.read_string

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.backend.bytecode.emitter import Emitter


def scratch(op: ir.StringEqual | ir.CommEqual) -> int:
    """Bytes of scratch for what is compared."""
    if isinstance(op, ir.CommEqual):
        return ir.COMM_SIZE
    return _buffer(op) + (LOOKED_UP if op.user else 0)


def _buffer(op: ir.StringEqual) -> int:
    return (_size(op) + 7) & ~7


def _size(op: ir.StringEqual) -> int:
    """What is asked of bpf_probe_read_kernel_str: enough to see that a longer string is one.

    It copies at most one byte less, then puts a NUL.
    """
    return len(op.literal) + (1 if op.limit == len(op.literal) else 2)


def test_string(
    e: Emitter, op: ir.StringEqual, differs: str, read: Callable[[], None], failed: Callable[[], None]
) -> None:
    """Go to ``differs`` unless the string equals.

    ``read`` puts the string's address into r3; ``failed`` emits what is done where r0 says that a read failed.
    """
    if op.limit == 0:  # nothing to read: the empty string, and so is the literal
        return
    buffer = -_buffer(op)
    read()
    if op.user and e.names:
        from klasy.backend.bytecode import syscalls

        syscalls.read_string(e, _size(op), lambda: e.stack_address(R1, buffer), at=buffer - LOOKED_UP)
    else:
        e.asm.emit(mov(R2, _size(op)))
        e.stack_address(R1, buffer)
        e.read_memory(user=op.user, string=True)
    failed()
    if op.literal:
        e.asm.emit(jump_if(R0, "!=", len(op.literal) + 1, differs))
        _compare(e, buffer, op.literal, differs)
    else:
        e.asm.emit(jump_if(R0, "s>", 1, differs))  # a string that cannot be read is empty too


def test_comm(e: Emitter, op: ir.CommEqual, differs: str) -> None:
    """Go to ``differs`` unless the task's name equals."""
    e.stack_address(R1, -ir.COMM_SIZE)
    e.asm.emit(mov(R2, ir.COMM_SIZE), call("get_current_comm"))
    _compare(e, -ir.COMM_SIZE, op.literal + b"\0", differs)


def _compare(e: Emitter, buffer: int, wanted: bytes, differs: str) -> None:
    """Go to ``differs`` unless the stack holds certain bytes. Uses r0 and r1."""
    at = 0
    while at < len(wanted):
        size = next(n for n in (8, 4, 2, 1) if n <= len(wanted) - at)
        number = int.from_bytes(wanted[at : at + size], "little")
        e.asm.emit(load(R0, R10, buffer + at, size))
        compare_constant(e, (R0, "!=", number), differs)
        at += size
