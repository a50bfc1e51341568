"""From an operation of the IR to instructions, and to what registers must expect of it.

Each kind of operation has two sides here that must agree: :meth:`Selector.effects` tells the allocator what it reads,
writes and destroys, :meth:`Selector.emit` emits it once places are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.backend.bytecode import arithmetic
from klasy.backend.bytecode.code import Prologue
from klasy.backend.bytecode.emitter import OUT
from klasy.backend.bytecode.frame import Slot
from klasy.backend.bytecode.liveness import Effects
from klasy.backend.bytecode.records import RecordWriter, set_bits
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R10,
    add,
    call,
    jump_if,
    load,
    mov,
)
from klasy.compiler import ir
from klasy.compiler.ir import Value, Var
from klasy.record import COUNTER_HITS

if TYPE_CHECKING:
    from klasy.backend.bytecode.code import Local, Straight
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.bytecode.locate import Locating
    from klasy.backend.bytecode.origin import Origin

_HELPERS = {
    "now": "ktime_get_ns",
    "pid_tgid": "get_current_pid_tgid",
    "uid_gid": "get_current_uid_gid",
    "cpu": "get_smp_processor_id",
    "cgroup": "get_current_cgroup_id",
}


class Selector:
    """Selects instructions for one program."""

    def __init__(self, origin: Origin, locating: Locating, counters: Counters) -> None:
        self.origin = origin
        self.locating = locating
        self.counters = counters
        self._records: dict[ir.Emit, Var] = {}

    # --- what registers must expect

    def effects(self, op: ir.Op) -> Effects:
        """What an operation does to locals and registers."""
        reads = tuple(o for o in op.operands() if isinstance(o, Value))
        match op:
            case Prologue():
                return self.locating.prologue_effects()
            case ir.Locate():
                return self.locating.locate_effects(op)
            case ir.Argument() if self.origin.is_marked:
                return Effects(reads=(self.origin.marked[op.source.abi_place],), results=(op.dst,))
            case ir.Argument():
                return Effects(reads=(self.origin.ctx,), results=(op.dst,), calls=self.origin.argument_calls(op))
            case ir.Result():
                return Effects(reads=(self.origin.ctx,), results=(op.dst,), calls=self.origin.result_calls(op))
            case ir.Get():
                return Effects(reads=(op.var,), results=(op.dst,))
            case ir.Set():
                return Effects(reads=reads, results=(op.var,))
            case ir.Context() | ir.CommEqual():
                return Effects(results=(op.dst,), calls=True)
            case ir.CountHit():
                return Effects(reads=reads, calls=True)
            case ir.Load() | ir.StringEqual():
                faults = () if op.faults is None else (op.faults,)
                return Effects(reads=reads, late=faults, results=(op.dst,), calls=True)
            case ir.Emit():
                faults = () if op.faults is None else (op.faults,)
                return Effects(late=(*reads, *faults), early=(self._record(op),), calls=True)
        result = op.result
        return Effects(reads=reads, results=() if result is None else (result,))

    def _record(self, op: ir.Emit) -> Var:
        return self._records.setdefault(op, Var(f"record{len(self._records)}"))

    def scratch(self, op: ir.Op) -> int:
        """Bytes of scratch that an operation takes."""
        match op:
            case Prologue() | ir.Locate():
                return self.locating.scratch()
            case ir.StringEqual():
                return _string_buffer(op)
            case ir.CommEqual():
                return ir.COMM_SIZE
            case ir.CountHit() | ir.Emit() | ir.Load() | ir.Argument() | ir.Result():
                return 8
        return 0

    def on_stack(self, blocks: list[Straight]) -> set[Local]:
        """What is better off in a slot: fault bits, touched where a read fails only; arguments copied from a mark;
        and values that a helper leaves on the stack and that are used once."""
        uses: dict[Value, int] = {}
        local: set[Local] = set(self.origin.marked.values())
        ops = [op for block in blocks for op in block.ops]
        for op in ops:
            for operand in op.operands():
                if isinstance(operand, Value):
                    uses[operand] = uses.get(operand, 0) + 1
        for op in ops:
            if isinstance(op, ir.Load) and uses.get(op.dst, 0) == 1:
                local.add(op.dst)
            if isinstance(op, ir.Load | ir.StringEqual) and op.faults is not None:
                local.add(op.faults)
        return local

    def sizes(self, blocks: list[Straight]) -> dict[Local, int]:
        """Values that take less than their slot, which a helper wrote."""
        return {op.dst: op.size for block in blocks for op in block.ops if isinstance(op, ir.Load)}

    def hints(self, op: ir.Op) -> tuple[Local, Local] | None:
        """Two locals that would be well off in one register: then nothing need be moved."""
        match op:
            case ir.Copy(source=Value()):
                return op.dst, op.source  # type: ignore[return-value]
            case ir.Get():
                return op.dst, op.var
            case ir.Set(source=Value()):
                return op.var, op.source  # type: ignore[return-value]
            case ir.Binary(left=Value()) | ir.Extend(source=Value()):
                return op.dst, op.operands()[0]  # type: ignore[return-value]
        return None

    # --- instructions

    def emit(self, e: Emitter, op: ir.Op, following: str | None) -> None:
        """Emit an operation; ``following`` is the label of the block that comes next."""
        match op:
            case Prologue():
                self.locating.prologue(e)
            case ir.Locate():
                self.locating.locate(e, op, label(op.found), label(op.missing))
            case ir.Argument():
                self.origin.argument(e, op)
            case ir.Result():
                self.origin.result(e, op)
            case ir.Copy() | ir.Get() | ir.Set():
                arithmetic.copy(e, op)
            case ir.Binary():
                arithmetic.binary(e, op)
            case ir.Extend():
                arithmetic.extend(e, op)
            case ir.Compare():
                arithmetic.comparison(e, op)
            case ir.Branch():
                arithmetic.branch(e, op, label(op.then), label(op.otherwise), following)
            case ir.Context():
                e.asm.emit(call(_HELPERS[op.what]))
                e.keep(op.dst, R0)
            case ir.CountHit():
                self.counters.bump(e, op.joinpoint, COUNTER_HITS)
            case ir.Load():
                _load(e, op)
            case ir.StringEqual():
                _string_equal(e, op)
            case ir.CommEqual():
                _comm_equal(e, op)
            case ir.Emit():
                RecordWriter(e, self.counters, op, self._record(op)).emit()
            case ir.Jump():
                e.go(label(op.target))
            case ir.Return():
                e.go(OUT)
            case _:
                raise AssertionError(f"no instructions for {op!r}")


def label(block: ir.Block) -> str:
    """The label of a block."""
    return f"b{block.label}"


# --- reading kernel memory ------------------------------------------------------------------------------------------


def _load(e: Emitter, op: ir.Load) -> None:
    """Read into the value's slot, or through the scratch word into its register. A failed read gives zeros."""
    place = e.place(op.dst)
    offset = place.offset if isinstance(place, Slot) else -8
    _source(e, op.address, op.offset)
    e.asm.emit(mov(R2, op.size))
    e.stack_address(R1, offset)
    e.asm.emit(call("probe_read_kernel"))
    _unless_failed(e, op, "!=")
    if not isinstance(place, Slot):
        register = e.result(op.dst)
        e.asm.emit(load(register, R10, offset, op.size))
        e.keep(op.dst, register)


def _source(e: Emitter, address: ir.Operand, offset: int) -> None:
    """r3 = address to read from. First of the arguments: it may be in a register that the others go to."""
    e.into(R3, address)
    if offset:
        e.asm.emit(add(R3, offset))


def _unless_failed(e: Emitter, op: ir.Load | ir.StringEqual, failed: str) -> None:
    """Set the fault bits if r0 says that the read failed."""
    faults, span = op.faults, op.span
    if faults is None:
        return
    back = e.asm.fresh_label("read")

    def fault() -> None:
        e.into(R2, faults)
        set_bits(e, R2, op.mask)
        e.keep(faults, R2)
        e.go(back)

    e.asm.emit(jump_if(R0, failed, 0, e.out_of_line(fault, span)))
    e.asm.label(back)


def _string_buffer(op: ir.StringEqual) -> int:
    return (_string_size(op) + 7) & ~7


def _string_size(op: ir.StringEqual) -> int:
    """What is asked of bpf_probe_read_kernel_str: enough to see that a longer string is one.

    It copies at most one byte less, then puts a NUL.
    """
    return len(op.literal) + (1 if op.limit == len(op.literal) else 2)


def _string_equal(e: Emitter, op: ir.StringEqual) -> None:
    size = len(op.literal) + 1
    if op.limit == 0:  # nothing to read: the empty string
        register = e.result(op.dst)
        e.asm.emit(mov(register, 1))
        return e.keep(op.dst, register)
    buffer = -_string_buffer(op)
    _source(e, op.address, op.offset)
    e.asm.emit(mov(R2, _string_size(op)))
    e.stack_address(R1, buffer)
    e.asm.emit(call("probe_read_kernel_str"))
    _unless_failed(e, op, "s<")
    register = e.result(op.dst, R2)
    end, no = e.asm.fresh_label("compared"), e.asm.fresh_label("differs")
    if op.literal:
        e.asm.emit(jump_if(R0, "!=", size, no))
        _compare_bytes(e, buffer, op.literal, no)
    else:
        e.asm.emit(jump_if(R0, "s>", 1, no))  # a string that cannot be read is empty too
    e.asm.emit(mov(register, 1))
    e.go(end)
    e.asm.label(no)
    e.asm.emit(mov(register, 0))
    e.asm.label(end)
    return e.keep(op.dst, register)


def _comm_equal(e: Emitter, op: ir.CommEqual) -> None:
    e.stack_address(R1, -ir.COMM_SIZE)
    e.asm.emit(mov(R2, ir.COMM_SIZE), call("get_current_comm"))
    register = e.result(op.dst, R2)
    no = e.asm.fresh_label("differs")
    # the register may hold nothing that is compared: r0 and r1 do
    e.asm.emit(mov(register, 0))
    _compare_bytes(e, -ir.COMM_SIZE, op.literal + b"\0", no)
    e.asm.emit(mov(register, 1))
    e.asm.label(no)
    e.keep(op.dst, register)


def _compare_bytes(e: Emitter, buffer: int, wanted: bytes, differs: str) -> None:
    """Go to ``differs`` unless the stack holds certain bytes. Uses r0 and r1."""
    at = 0
    while at < len(wanted):
        size = next(n for n in (8, 4, 2, 1) if n <= len(wanted) - at)
        number = int.from_bytes(wanted[at : at + size], "little")
        e.asm.emit(load(R0, R10, buffer + at, size))
        arithmetic.compare_constant(e, (R0, "!=", number), differs)
        at += size
