"""From an operation of the IR to instructions, and to what registers must expect of it.

Each kind of operation has two sides here that must agree: :meth:`Selector.effects` tells the allocator what it reads,
writes and destroys, :meth:`Selector.emit` emits it once places are known.
"""

from __future__ import annotations

from klasy.backend.bytecode import arithmetic, restraint, strings
from klasy.backend.bytecode.code import Prologue
from klasy.backend.bytecode.emitter import DONE, OUT
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
from klasy.compiler.irstate import StateOp
from klasy.match.plan import Argument
from klasy.plain import TYPE_CHECKING
from klasy.record import COUNTER_CUT, COUNTER_DENIED, COUNTER_HITS, COUNTER_LEFT_OUT

if TYPE_CHECKING:
    from klasy.backend.bytecode.code import Local, Straight
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.bytecode.flows import FlowCode
    from klasy.backend.bytecode.locate import Locating
    from klasy.backend.bytecode.lookups import Lookups
    from klasy.backend.bytecode.notes import NoteCode
    from klasy.backend.bytecode.origin import Origin
    from klasy.backend.bytecode.states import StateCode
    from klasy.backend.bytecode.watch import Watching

_HELPERS = {
    "now": "ktime_get_ns",
    "pid_tgid": "get_current_pid_tgid",
    "uid_gid": "get_current_uid_gid",
    "cpu": "get_smp_processor_id",
    "cgroup": "get_current_cgroup_id",
    "task": "get_current_task",
    "random": "get_prandom_u32",
}


CALL_CODE = "call_code"  # of compiler.ircode, which most aspects do not need
_COUNTERS = {"left_out": COUNTER_LEFT_OUT, "cut": COUNTER_CUT, "denied": COUNTER_DENIED}


class Selector:
    """Selects instructions for one program."""

    def __init__(
        self,
        origin: Origin,
        locating: Locating,
        counters: Counters,
        watching: Watching | None = None,
        states: StateCode | None = None,
        *,
        flows: FlowCode | None = None,
        notes: NoteCode | None = None,
        lookups: Lookups | None = None,
    ) -> None:
        self.lookups = lookups
        self.states = states
        self.flows = flows
        self.notes = notes
        self.watching = watching
        self.origin = origin
        self.locating = locating
        self.counters = counters
        self._records: dict[ir.Emit, Var] = {}
        self._uses: dict[Value, int] = {}

    def survey(self, blocks: list[Straight]) -> None:
        """Have a look at all operations, first of all."""
        for block in blocks:
            for op in block.ops:
                for operand in op.operands():
                    if isinstance(operand, Value):
                        self._uses[operand] = self._uses.get(operand, 0) + 1

    # --- what registers must expect

    def effects(self, op: ir.Op) -> Effects:
        """What an operation does to locals and registers."""
        reads = tuple(o for o in op.operands() if isinstance(o, Value))
        match op:
            case Prologue() if self.watching is not None:
                return self.watching.prologue_effects()
            case ir.Observe():
                assert self.watching is not None, "only at a probe that watches data"
                return Effects(reads=(self.watching.found[op.what],), results=(op.dst,))
            case Prologue():
                return self.locating.prologue_effects()
            case ir.Locate():
                return self.locating.locate_effects(op)
            case ir.Argument(source=Argument() as source) if self.origin.is_marked:
                return Effects(reads=(self.origin.marked[source.abi_place],), results=(op.dst,))
            case ir.Argument():
                return Effects(reads=(self.origin.ctx,), results=(op.dst,), calls=self.origin.argument_calls(op))
            case ir.Register():
                return Effects(reads=(self.origin.ctx,), results=(op.dst,))
            case ir.Result():
                return Effects(reads=(self.origin.ctx,), results=(op.dst,), calls=self.origin.result_calls(op))
            case ir.Get():
                return Effects(reads=(op.var,), results=(op.dst,))
            case ir.Set():
                return Effects(reads=reads, results=(op.var,))
            case ir.Context() | ir.CommEqual():
                return Effects(results=(op.dst,), calls=True)
            case ir.CountHit():
                account = self.watching.account_reads() if self.watching is not None else ()
                return Effects(reads=reads, late=account, calls=True)
            case ir.Count():
                return Effects(reads=reads, calls=True)
            case ir.WatchObject() | ir.UnwatchObject():
                return Effects(reads=reads, calls=True)
            case ir.Limit():
                return Effects(results=(op.dst,), calls=True)
            case ir.Load() | ir.StringEqual():
                faults = () if op.faults is None else (op.faults,)
                return Effects(reads=reads, late=faults, results=(op.dst,), calls=True)
            case ir.Emit():
                faults = () if op.faults is None else (op.faults,)
                ctx = (self.origin.ctx,) if any(isinstance(part, ir.StackField) for part in op.parts) else ()
                return Effects(late=(*reads, *faults, *ctx), early=(self._record(op),), calls=True)
            case StateOp():
                faults = () if op.faults is None else (op.faults,)
                ctx = (self.origin.ctx,) if any(isinstance(part, ir.StackKey) for part in op.key) else ()
                results = () if op.result is None else (op.result,)
                return Effects(late=(*reads, *faults, *ctx), results=results, calls=True)
            case ir.FlowOp():
                assert self.flows is not None
                return self.flows.effects(op)
            case ir.NoteOp():
                assert self.notes is not None
                return self.notes.effects(op)
        result = op.result
        if op.mnemonic == CALL_CODE:
            return Effects(reads=reads, calls=True)
        return Effects(reads=reads, results=() if result is None else (result,))

    def _record(self, op: ir.Emit) -> Var:
        return self._records.setdefault(op, Var(f"record{len(self._records)}"))

    def scratch(self, op: ir.Op) -> int:
        """Bytes of scratch that an operation takes."""
        match op:
            case Prologue() | ir.CountHit() if self.watching is not None:
                return self.watching.scratch
            case Prologue() | ir.Locate():
                return self.locating.scratch()
            case ir.StringEqual() | ir.CommEqual():
                return strings.scratch(op)
            case ir.Emit() if any(isinstance(part, ir.StringField | ir.CallField) for part in op.parts):
                return strings.LOOKED_UP
            case ir.CountHit() | ir.Count() | ir.Emit() | ir.Load() | ir.Argument() | ir.Result():
                return 8
            case ir.WatchObject() | ir.UnwatchObject():
                from klasy.backend.bytecode import objects

                return objects.SCRATCH
            case StateOp():
                assert self.states is not None
                return self.states.scratch(op)
            case ir.FlowOp():
                assert self.flows is not None
                return self.flows.scratch(op)
            case ir.NoteOp():
                assert self.notes is not None
                return self.notes.scratch(op)
        return 8 * len(op.operands()) if op.mnemonic == CALL_CODE else 0

    def on_stack(self, blocks: list[Straight]) -> set[Local]:
        """What is better off in a slot: fault bits, touched where a read fails only; arguments copied from a mark;
        and values that a helper leaves on the stack and that are used once."""
        local: set[Local] = set(self.origin.marked.values())
        if self.notes is not None:
            local |= self.notes.words
        for op in (op for block in blocks for op in block.ops):
            if isinstance(op, ir.Load) and self._uses.get(op.dst) == 1:
                local.add(op.dst)
            if isinstance(op, ir.Load | ir.StringEqual | StateOp) and op.faults is not None:
                local.add(op.faults)
        return local

    def sizes(self, blocks: list[Straight]) -> dict[Local, int]:
        """Values that take less than their slot, which a helper wrote."""
        return {op.dst: op.size for block in blocks for op in block.ops if isinstance(op, ir.Load)}

    def partners(self, op: ir.Op) -> tuple[Local, Local] | None:
        """Two locals that would be well off in one register: then nothing need be moved."""
        match op:
            case ir.Copy(source=Value()):
                return op.dst, op.source  # type: ignore[return-value]
            case ir.Get():
                return op.dst, op.var
            case ir.Set(source=Value()):
                return op.var, op.source  # type: ignore[return-value]
            case ir.Binary(left=Value()) | ir.Extend(source=Value()) | ir.Swap(source=Value()):
                return op.dst, op.operands()[0]  # type: ignore[return-value]
        return None

    # --- instructions

    def decides(self, op: ir.Op, end: ir.Op) -> bool:
        """Whether all that becomes of a comparison is the decision at its block's end, which comes next."""
        if not isinstance(op, ir.Compare | ir.StringEqual | ir.CommEqual) or not isinstance(end, ir.Branch):
            return False
        return end.left is op.dst and end.right == 0 and end.op in {"eq", "ne"} and self._uses[op.dst] == 1

    def emit_decision(self, e: Emitter, op: ir.Op, end: ir.Op, following: str | None) -> None:
        """Emit a comparison and the branch behind it as one."""
        assert isinstance(end, ir.Branch)
        yes, no = (end.then, end.otherwise) if end.op == "ne" else (end.otherwise, end.then)
        if isinstance(op, ir.Compare):
            one = ir.Branch(op.op, op.left, op.right, yes, no)
            return arithmetic.branch(e, one, label(yes), label(no), following)
        assert isinstance(op, ir.StringEqual | ir.CommEqual)
        _test(e, op, label(no))
        return e.go(label(yes))

    def emit(self, e: Emitter, op: ir.Op, following: str | None) -> None:
        """Emit an operation; ``following`` is the label of the block that comes next."""
        match op:
            case Prologue() if self.watching is not None:
                self.watching.prologue(e)
            case ir.Observe():
                assert self.watching is not None
                self.watching.observe(e, op)
            case Prologue():
                self.locating.prologue(e)
            case ir.Locate():
                self.locating.locate(e, op, label(op.found), label(op.missing))
            case ir.Argument():
                self.origin.argument(e, op)
            case ir.Register():
                self.origin.interrupted(e, op)
            case ir.Lookup():
                assert self.lookups is not None
                self.lookups.emit(e, op)
            case ir.Result():
                self.origin.result(e, op)
            case ir.Copy() | ir.Get() | ir.Set():
                arithmetic.copy(e, op)
            case ir.Binary():
                arithmetic.binary(e, op)
            case ir.Extend():
                arithmetic.extend(e, op)
            case ir.Swap():
                arithmetic.swap(e, op)
            case ir.Compare():
                arithmetic.comparison(e, op)
            case ir.Branch():
                arithmetic.branch(e, op, label(op.then), label(op.otherwise), following)
            case ir.Context():
                e.asm.emit(call(_HELPERS[op.what]))
                e.keep(op.dst, R0)
            case ir.CountHit():
                self.counters.bump(e, op.joinpoint, COUNTER_HITS)
                if self.watching is not None:
                    assert isinstance(op.joinpoint, int), "a watch's join points are known beforehand"
                    self.watching.account(e, op.joinpoint)
            case ir.Count():
                self.counters.bump(e, op.joinpoint, _COUNTERS[op.what])
            case ir.Limit():
                restraint.limit(e, op)
            case ir.Stop():
                restraint.stop(e)
            case ir.WatchObject() | ir.UnwatchObject():
                from klasy.backend.bytecode import objects

                objects.emit(e, op)
            case ir.Load():
                _load(e, op)
            case ir.StringEqual() | ir.CommEqual():
                _string_value(e, op)
            case ir.Emit():
                RecordWriter(e, self.counters, op, self._record(op), self.origin).emit()
            case ir.Jump():
                e.go(label(op.target))
            case ir.Return():
                e.go(OUT)
            case ir.Deny():
                e.asm.emit(mov(R0, -op.errno))
                e.go(DONE)
            case StateOp():
                assert self.states is not None
                self.states.emit(e, op, self._uses, self.origin)
            case ir.FlowOp():
                assert self.flows is not None
                self.flows.emit(e, op)
            case ir.NoteOp():
                assert self.notes is not None
                self.notes.emit(e, op)
            case _ if op.mnemonic == CALL_CODE:
                from klasy.backend.bytecode import subprograms

                subprograms.call_code(e, op)
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
    e.read_memory(user=op.user)
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


# --- comparing strings ----------------------------------------------------------------------------------------------


def _test(e: Emitter, op: ir.StringEqual | ir.CommEqual, differs: str) -> None:
    """Go to ``differs`` unless what is compared is equal."""
    if isinstance(op, ir.CommEqual):
        return strings.test_comm(e, op, differs)
    return strings.test_string(
        e,
        op,
        differs,
        read=lambda: _source(e, op.address, op.offset),
        failed=lambda: _unless_failed(e, op, "s<"),
    )


def _string_value(e: Emitter, op: ir.StringEqual | ir.CommEqual) -> None:
    differs = e.asm.fresh_label("differs")
    _test(e, op, differs)
    e.truth(op.dst, 1, differs)
