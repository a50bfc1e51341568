"""Writing a log record: reserve room in the ring buffer, header, values, submit.

Every byte of a record is written: what no value covers, and what lies behind the end of a string, is zero; but behind
that of the task's name is what the kernel has there.
"""

from __future__ import annotations

from klasy.backend.artifact import MAP_EVENTS
from klasy.backend.bytecode.emitter import fits_immediate
from klasy.backend.bytecode.origin import OF_TRACEPOINTS
from klasy.backend.bytecode.task import who
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    add,
    call,
    jump_if,
    load,
    load_imm,
    load_map,
    mov,
    or_,
    rsh,
    store,
    store_imm,
)
from klasy.bpf.uapi import BPF_F_USER_BUILD_ID, BPF_F_USER_STACK
from klasy.compiler import ir
from klasy.match.mechanism import Context
from klasy.match.plan import Locator
from klasy.plain import TYPE_CHECKING
from klasy.record import (
    COUNTER_LOST,
    HEADER_SIZE,
    OFFSET_COMM,
    OFFSET_CPU,
    OFFSET_FAULTS,
    OFFSET_FORMAT,
    OFFSET_JOINPOINT,
    OFFSET_PID,
    OFFSET_TID,
    OFFSET_TIME,
    STACK_BENEATH,
    STACK_OWN,
    STACK_OWN_UNLESS_TAIL,
    TEXT_USER,
    USER_FRAME,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.bytecode.origin import Origin
    from klasy.bpf.insn import Reg
    from klasy.match.plan import Probe


class RecordWriter:
    """Emits one record. ``record`` is the local that holds its address."""

    def __init__(self, e: Emitter, counters: Counters, op: ir.Emit, record: ir.Var, origin: Origin) -> None:
        self.e = e
        self.counters = counters
        self.op = op
        self.record = record
        self.origin = origin

    def emit(self) -> None:
        """Emit it all."""
        e, op = self.e, self.op
        back = e.asm.fresh_label("logged")
        full = e.out_of_line(lambda: self._lost(back), op.span)
        e.asm.emit(load_map(R1, MAP_EVENTS), mov(R2, op.size), mov(R3, 0), call("ringbuf_reserve"))
        e.asm.emit(jump_if(R0, "==", 0, full))
        e.keep(self.record, R0)
        self._header()
        for offset, size in gaps(op):
            self.zero(offset, size)
        for part in op.parts:
            self._part(part)
        e.into(R1, self.record)
        e.asm.emit(mov(R2, 0), call("ringbuf_submit"))
        e.asm.label(back)

    def _lost(self, back: str) -> None:
        self.counters.bump(self.e, self.op.joinpoint, COUNTER_LOST)
        self.e.go(back)

    def base(self) -> Reg:
        """A register with the record's address, good until the next call."""
        return self.e.register(self.record, R2)

    def _header(self) -> None:
        e, op = self.e, self.op
        e.asm.emit(call("ktime_get_ns"), store(self.base(), OFFSET_TIME, R0))
        self.value(OFFSET_JOINPOINT, 4, op.joinpoint)
        self.value(OFFSET_FORMAT, 2, op.format)
        e.asm.emit(call("get_smp_processor_id"), store(self.base(), OFFSET_CPU, R0, 2))
        if e.task is not None:
            who(e, e.task, self.base)
        else:
            e.asm.emit(call("get_current_pid_tgid"))
            base = self.base()
            e.asm.emit(store(base, OFFSET_TID, R0, 4), rsh(R0, 32), store(base, OFFSET_PID, R0, 4))
            self._comm(OFFSET_COMM)
        self._faults()

    def _faults(self) -> None:
        base = self.base()
        if self.op.faults is None:
            self.e.asm.emit(store_imm(base, OFFSET_FAULTS, 0))
        else:
            self.e.asm.emit(store(base, OFFSET_FAULTS, self.e.register(self.op.faults, R0)))

    def _comm(self, offset: int) -> None:
        self.address(R1, offset)
        self.e.asm.emit(mov(R2, ir.COMM_SIZE), call("get_current_comm"))

    def _comm_again(self, offset: int) -> None:
        """It stands in the header."""
        base = self.base()
        size = next(n for n in (8, 4, 2, 1) if offset % n == 0)
        for at in range(0, ir.COMM_SIZE, size):
            self.e.asm.emit(load(R0, base, OFFSET_COMM + at, size), store(base, offset + at, R0, size))

    def address(self, register: Reg, offset: int) -> None:
        """``register`` = address in the record."""
        self.e.into(register, self.record)
        self.e.asm.emit(add(register, offset))

    def value(self, offset: int, size: int, value: ir.Operand) -> None:
        """Write a value of so many bytes."""
        base = self.base()
        if isinstance(value, int):
            value &= (1 << 8 * size) - 1
            value -= 1 << 64 if value >> 63 else 0
            if fits_immediate(value) or size < 8:
                return self.e.asm.emit(store_imm(base, offset, value, size))
        return self.e.asm.emit(store(base, offset, self.e.register(value, R0), size))

    def zero(self, offset: int, size: int) -> None:
        """Write zeros."""
        base = self.base()
        while size:
            step = next(n for n in (8, 4, 2, 1) if n <= size and offset % n == 0)
            self.e.asm.emit(store_imm(base, offset, 0, step))
            offset += step
            size -= step

    # --- values

    def _part(self, part: ir.Part) -> None:
        match part:
            case ir.StoreField():
                self.value(part.offset, part.size, part.value)
            case ir.CopyField():
                self._copy(part, "==")
            case ir.StringField() if part.user and self.e.names:
                self.zero(part.offset, part.size)
                self._user_string(part)
            case ir.StringField():
                self.zero(part.offset, part.size)
                self._copy(part, "s>=")
            case ir.CallField():
                from klasy.backend.bytecode.callrecords import CallWriter

                CallWriter(self, part).emit()
            case ir.StackField():
                self._stack(part)
            case ir.BufferField():
                self.zero(part.offset + 8, part.size - 8)
                self._buffer(part)
            case ir.CommField():
                self._comm_again(part.offset)
            case _:
                raise AssertionError(f"no code for {part!r}")

    def _copy(self, part: ir.CopyField | ir.StringField, succeeded: str) -> None:
        e = self.e
        e.into(R3, part.address)
        if part.at:
            e.asm.emit(add(R3, part.at))
        self.address(R1, part.offset)
        told = isinstance(part, ir.StringField) and part.told
        e.asm.emit(mov(R2, part.size - told))
        e.read_memory(user=part.user, string=isinstance(part, ir.StringField))
        if told:
            e.asm.emit(store_imm(self.base(), part.offset + part.size - 1, TEXT_USER, 1))
        self._unless_failed(part, succeeded)

    def _user_string(self, part: ir.StringField) -> None:
        """Of a system call that is over: the kernel's copy, if it was noted."""
        from klasy.backend.bytecode import syscalls

        e, last = self.e, part.offset + part.size - 1
        e.into(R3, part.address)
        if part.at:
            e.asm.emit(add(R3, part.at))
        told = (lambda source: e.asm.emit(store_imm(self.base(), last, source, 1))) if part.told else None
        syscalls.read_string(e, part.size - part.told, lambda: self.address(R1, part.offset), told=told)
        self._unless_failed(part, "s>=")

    def _buffer(self, part: ir.BufferField) -> None:
        """The number of bytes asked for, then those of them that there is room for."""
        e = self.e
        positive, fits = e.asm.fresh_label("length"), e.asm.fresh_label("fits")
        e.into(R3, part.address)
        if part.at:
            e.asm.emit(add(R3, part.at))
        e.into(R2, part.length)
        e.asm.emit(jump_if(R2, "s>=", 0, positive), mov(R2, 0))
        e.asm.label(positive)
        e.into(R1, self.record)
        e.asm.emit(store(R1, part.offset, R2), jump_if(R2, "<=", part.size - 8, fits), mov(R2, part.size - 8))
        e.asm.label(fits)
        none = e.asm.fresh_label("none")  # no byte of memory that is not there is missing
        e.asm.emit(jump_if(R2, "==", 0, none), add(R1, part.offset + 8))
        e.read_memory(user=part.user)
        self._unless_failed(part, "==")
        e.asm.label(none)

    def _stack(self, part: ir.StackField) -> None:
        """The kernel fills all of it, with zeros behind the last frame and where it fails."""
        e, offset, size, flags = self.e, part.offset, part.size, BPF_F_USER_STACK | BPF_F_USER_BUILD_ID
        if not part.user:
            flags, first = first_frame(self.origin.probe)
            e.asm.emit(store_imm(self.base(), offset, first))
            offset, size = offset + 8, size - 8
        else:
            from klasy.backend.bytecode import callers

            callers.write(e, self.origin.probe, self.origin.ctx, lambda to: self.address(to, part.offset))
            offset, size = offset + USER_FRAME.size, size - USER_FRAME.size
        self.address(R2, offset)
        e.into(R1, self.origin.ctx)
        e.asm.emit(mov(R3, size), mov(R4, flags), call("get_stack"))
        self._unless_failed(part, "s>=")

    def _unless_failed(
        self, part: ir.CopyField | ir.StringField | ir.BufferField | ir.StackField, succeeded: str
    ) -> None:
        e = self.e
        back = e.asm.fresh_label("copied")
        failed = {"==": "!=", "s>=": "s<"}[succeeded]
        e.asm.emit(jump_if(R0, failed, 0, e.out_of_line(lambda: self._fault(part.bit, back), self.op.span)))
        e.asm.label(back)

    def _fault(self, bit: int, back: str) -> None:
        """Set a bit in the header."""
        base = self.base()
        self.e.asm.emit(load(R0, base, OFFSET_FAULTS))
        set_bits(self.e, R0, 1 << bit)
        self.e.asm.emit(store(base, OFFSET_FAULTS, R0))
        self.e.go(back)


def first_frame(probe: Probe) -> tuple[int, int]:
    """How many frames of a stack to skip, and what the first of the others is to the join point.

    Measured on 6.1 and 6.12: in fentry and fexit programs the stack begins with the program and the trampoline. At an
    event the first is __traceiter_NAME, or what it was called from where only one program is on the tracepoint. Calls
    that are found by dispatch are reached in the function that is called.
    """
    dispatch = probe.locator is Locator.DISPATCH
    if probe.context in (Context.FENTRY, Context.FEXIT):
        return 2 + dispatch, STACK_OWN_UNLESS_TAIL if dispatch else STACK_OWN
    if probe.context in OF_TRACEPOINTS:  # behind the program and bpf_trace_runN
        return 2, STACK_OWN
    if probe.context is Context.ENTRY:
        return int(dispatch), STACK_OWN_UNLESS_TAIL if dispatch else STACK_OWN
    if probe.context is Context.RETURN:  # the function has left already
        return 0, STACK_OWN_UNLESS_TAIL if dispatch else STACK_BENEATH
    return 0, STACK_OWN


def set_bits(e: Emitter, register: Reg, mask: int) -> None:
    """``register |= mask``; uses r1."""
    if fits_immediate(mask):
        e.asm.emit(or_(register, mask))
    else:
        e.asm.emit(load_imm(R1, mask & ir.MASK64), or_(register, R1))


def gaps(op: ir.Emit) -> Iterable[tuple[int, int]]:
    """Offset and size of what no part of a record covers."""
    at = HEADER_SIZE
    for offset, size in sorted((part.offset, _size(part)) for part in op.parts):
        if offset > at:
            yield at, offset - at
        at = max(at, offset + size)
    if op.size > at:
        yield at, op.size - at


def _size(part: ir.Part) -> int:
    return ir.COMM_SIZE if isinstance(part, ir.CommField) else int(part.size)  # type: ignore[attr-defined]
