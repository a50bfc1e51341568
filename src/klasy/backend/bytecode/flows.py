"""Control flows at run time: which tasks, and which interrupts, are in one.

A hash map for each flow has an entry for everyone who is in it:

    key    u64 who     what runs: the task (its address in the kernel); while an interrupt is served, 4 * CPU + 1 for
                       softirqs, + 2 for hardware interrupts, + 3 for NMIs
    value  u64 outer   where the flow began: the stack slot that holds the return address of that call
           u64 inner   of what is in the flow several times at once (recursion), where it was entered last

An interrupt is thus no part of what it comes upon, and has flows of its own; softirqs that a task runs when it enables
them again (local_bh_enable) count as interrupts, too. Who runs is told by the kernel's preempt_count of this CPU; of
softirqs, where they can be preempted (PREEMPT_RT), by a count in the task that serves them, one at a time on a CPU. A
trap by which a probe is reached (int3, a debug register) counts there as an NMI and a hardware interrupt more.

That a flow is entered again within itself needs no count: it is over where the slot at which it began is left. So what
is not seen (calls under way when the aspect was woven; entries that the kernel refused to tell) leaves no trace for
long: leaving what was not entered does nothing; and an entry at a slot that is not deeper in the same stack than
``outer`` shows that the old one is over. A task that ends without returning loses its entries when it is dead; those of
functions of a program end when the task begins another.

A flow that keeps values has a second map, with an entry for each time that it is entered:

    key    u64 who, u64 slot
    value  u64 the slot before (0: none), u64 values[]
"""

from __future__ import annotations

from klasy.backend.artifact import MapSpec
from klasy.backend.bytecode.addresses import AT_ENTRY
from klasy.backend.bytecode.liveness import Effects
from klasy.backend.bytecode.origin import TRAMPOLINE
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R10,
    add,
    and_,
    call,
    jump_if,
    load,
    load_imm,
    load_map,
    lsh,
    mov,
    or_,
    store,
    store_imm,
    sub,
)
from klasy.bpf.uapi import BPF_ANY
from klasy.compiler import irflow
from klasy.compiler.ir import FlowOp, Value
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.match.mechanism import Context
from klasy.plain import TYPE_CHECKING
from klasy.record import COUNTER_UNMARKED

if TYPE_CHECKING:
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.bytecode.origin import Origin
    from klasy.match.plan import FlowPlan, Plan

# include/linux/preempt.h: the parts of preempt_count
_NMI_MASK = 0xF00000
_NMI, _HARDIRQ, _SERVING_SOFTIRQ = 0x100000, 0x10000, 0x100
_HARDIRQ_MASK = 0xF0000
_STACK_BYTES = 0x4000  # of a task or for interrupts (THREAD_SIZE)
_USER_STACK_BYTES = 8 << 20  # of a thread of a program, mostly
_WORD = 8

# Scratch, offsets from r10.
_SLOT = -8
_WHO = -16  # with the slot behind it the key of the second map
_HEAD = -32  # the value of the first map
_PREVIOUS = -40  # with the values, which lie above it in the other direction: see _frame
_TASK_LEVELS = 8  # entries of one task that are looked for when it is dead

_AT_TRAP = frozenset({Context.SITE, Context.TAIL, Context.BEHIND, Context.MEMBER, Context.ACCESSED, Context.WATCH})


def flow_maps(plan: FlowPlan, entries: int) -> list[MapSpec]:
    """The maps of an aspect's flows."""
    found = []
    for number, values in enumerate(plan.values):
        found.append(MapSpec(_heads(number), "hash", _WORD, 2 * _WORD, entries))
        if values:
            found.append(MapSpec(_frames(number), "hash", 2 * _WORD, (1 + values) * _WORD, entries))
    return found


def _heads(flow: int) -> str:
    return f"flow{flow}"


def _frames(flow: int) -> str:
    return f"kept{flow}"


class FlowCode:
    """The code of one program for flows."""

    def __init__(self, plan: Plan, origin: Origin, counters: Counters) -> None:
        assert plan.flows is not None
        self.plan = plan.flows
        self.origin = origin
        self.counters = counters

    def effects(self, op: FlowOp) -> Effects:
        """What an operation does to locals and registers."""
        values = tuple([operand for operand in op.operands() if isinstance(operand, Value)])
        slot = (self.origin.ctx,) if isinstance(op, irflow.EnterFlow | irflow.LeaveFlow) else ()
        return Effects(late=(*values, *slot), results=() if op.result is None else (op.result,), calls=True)

    def scratch(self, op: FlowOp) -> int:
        """Bytes of scratch that an operation takes."""
        return -_HEAD + _WORD * (1 + self.plan.values[op.flow]) if isinstance(op, irflow.EnterFlow) else -_PREVIOUS

    def emit(self, e: Emitter, op: FlowOp) -> None:
        """Emit an operation."""
        self._who(e)
        match op:
            case irflow.EnterFlow():
                self._enter(e, op)
            case irflow.LeaveFlow():
                self._leave(e, op)
            case irflow.EndFlow():
                self._end(e, op)
            case irflow.InFlow():
                outside = e.asm.fresh_label("outside")
                self._head(e, op, outside)
                e.truth(op.dst, 1, outside)
            case irflow.KeptInFlow():
                self._kept(e, op)

    # --- who, and where

    def _who(self, e: Emitter) -> None:
        """Who runs, to _WHO of the stack."""
        e.asm.emit(call("get_smp_processor_id"), store(R10, _SLOT, R0), mov(R3, R0), lsh(R3, 3))
        e.asm.emit(load_imm(R1, self.plan.offsets), add(R3, R1))
        self._read(e, _WHO, 8)
        e.asm.emit(load(R3, R10, _WHO), load_imm(R1, self.plan.preempt_count), add(R3, R1))
        self._read(e, _WHO, 4)
        if self.plan.softirq_count is not None:
            e.asm.emit(call("get_current_task"), mov(R3, R0), add(R3, self.plan.softirq_count))
            self._read(e, _WHO + 4, 4)
        interrupt, known = e.asm.fresh_label("interrupt"), e.asm.fresh_label("who")
        e.asm.emit(load(R1, R10, _WHO, 4))
        if self.plan.softirq_count is not None:
            e.asm.emit(load(R2, R10, _WHO + 4, 4), and_(R2, _SERVING_SOFTIRQ), or_(R1, R2))
        if self.origin.context in _AT_TRAP:
            plain = e.asm.fresh_label("plain")
            e.asm.emit(mov(R2, R1), and_(R2, _NMI_MASK), jump_if(R2, "==", 0, plain), sub(R1, _NMI + _HARDIRQ))
            e.asm.label(plain)
        for level, mask in ((3, _NMI_MASK), (2, _HARDIRQ_MASK), (1, _SERVING_SOFTIRQ)):
            e.asm.emit(mov(R0, level), mov(R2, R1), and_(R2, mask), jump_if(R2, "!=", 0, interrupt))
        e.asm.emit(call("get_current_task"))
        e.go(known)
        e.asm.label(interrupt)
        e.asm.emit(load(R1, R10, _SLOT), lsh(R1, 2), add(R0, R1))
        e.asm.label(known)
        e.asm.emit(store(R10, _WHO, R0))

    def _slot(self, e: Emitter) -> None:
        """The slot of the return address, to _SLOT of the stack, as a number. Needs _HEAD."""
        context = self.origin.context
        if context not in TRAMPOLINE:
            e.asm.emit(load(R1, e.register(self.origin.ctx, R1), PT_REGS["sp"]))
            if context not in AT_ENTRY:
                e.asm.emit(sub(R1, _WORD))
            e.asm.emit(store(R10, _SLOT, R1))
            return
        # The trampoline's frame has arguments, result, rbp, the return address into the function, and then the slot.
        # The verifier takes the context for a pointer, with which it lets nothing be computed: read what was stored.
        e.into(R1, self.origin.ctx)
        e.asm.emit(add(R1, _WORD * self.origin.argument_words + 3 * _WORD), store(R10, _HEAD, R1), mov(R3, R10))
        e.asm.emit(add(R3, _HEAD))
        self._read(e, _SLOT, 8)

    @staticmethod
    def _read(e: Emitter, to: int, size: int) -> None:
        """What r3 points to, to the stack."""
        e.asm.emit(mov(R2, size))
        e.stack_address(R1, to)
        e.asm.emit(call("probe_read_kernel"))

    def _head(self, e: Emitter, op: FlowOp, outside: str) -> None:
        """r0 = the entry of who runs; there is none: go ``outside``."""
        e.lookup(_heads(op.flow), _WHO)
        e.asm.emit(jump_if(R0, "==", 0, outside))

    def _frame(self, e: Emitter, op: FlowOp, outside: str) -> None:
        """r0 = what was kept at the slot; there is nothing: go ``outside``."""
        e.lookup(_frames(op.flow), _WHO)
        e.asm.emit(jump_if(R0, "==", 0, outside))

    def _delete(self, e: Emitter, name: str) -> None:
        e.stack_address(R2, _WHO)
        e.asm.emit(load_map(R1, name), call("map_delete_elem"))

    # --- the operations

    def _enter(self, e: Emitter, op: irflow.EnterFlow) -> None:
        fresh, noted, done = (e.asm.fresh_label(name) for name in ("fresh", "noted", "entered"))
        values = op.values
        frame = _HEAD - _WORD * (1 + len(values))
        self._slot(e)
        lost = e.out_of_line(lambda: self._count_lost(e, op, done), op.span)
        if values:
            e.asm.emit(store_imm(R10, frame, 0))
        self._head(e, op, fresh)
        e.asm.emit(load(R1, R0, 0), load(R2, R10, _SLOT), sub(R1, R2), sub(R1, 1))
        most = _USER_STACK_BYTES if self.origin.probe.in_program else _STACK_BYTES
        e.asm.emit(jump_if(R1, ">=", most - 1, fresh))
        if values:
            e.asm.emit(load(R1, R0, _WORD), store(R10, frame, R1), store(R0, _WORD, R2))
        e.go(noted)
        e.asm.label(fresh)
        e.asm.emit(load(R1, R10, _SLOT), store(R10, _HEAD, R1), store(R10, _HEAD + _WORD, R1))
        self._update(e, _heads(op.flow), _HEAD, lost)
        e.asm.label(noted)
        if values:
            for number, value in enumerate(values):
                e.asm.emit(store(R10, frame + _WORD * (1 + number), e.register(value, R1)))
            self._update(e, _frames(op.flow), frame, lost)
        e.asm.label(done)

    @staticmethod
    def _update(e: Emitter, name: str, value: int, lost: str) -> None:
        e.stack_address(R2, _WHO)
        e.stack_address(R3, value)
        e.asm.emit(load_map(R1, name), mov(R4, BPF_ANY), call("map_update_elem"), jump_if(R0, "!=", 0, lost))

    def _count_lost(self, e: Emitter, op: irflow.EnterFlow, done: str) -> None:
        self.counters.bump(e, op.joinpoint, COUNTER_UNMARKED)
        e.go(done)

    def _leave(self, e: Emitter, op: irflow.LeaveFlow) -> None:
        done = e.asm.fresh_label("left")
        self._slot(e)
        if self.plan.values[op.flow]:
            head = e.asm.fresh_label("head")
            self._frame(e, op, head)
            e.asm.emit(load(R1, R0, 0), store(R10, _HEAD, R1))
            self._delete(e, _frames(op.flow))
            self._head(e, op, done)
            e.asm.emit(load(R1, R10, _HEAD), store(R0, _WORD, R1))
            e.asm.label(head)
        self._head(e, op, done)
        e.asm.emit(load(R1, R0, 0), load(R2, R10, _SLOT), jump_if(R1, "!=", R2, done))
        self._delete(e, _heads(op.flow))
        e.asm.label(done)

    def _end(self, e: Emitter, op: irflow.EndFlow) -> None:
        gone = e.asm.fresh_label("gone")
        if self.plan.values[op.flow]:
            self._head(e, op, gone)
            e.asm.emit(load(R1, R0, _WORD), store(R10, _SLOT, R1))
            last = e.asm.fresh_label("last")
            for _ in range(_TASK_LEVELS):
                self._frame(e, op, last)
                e.asm.emit(load(R1, R0, 0), store(R10, _HEAD, R1))
                self._delete(e, _frames(op.flow))
                e.asm.emit(load(R1, R10, _HEAD), store(R10, _SLOT, R1))
            e.asm.label(last)
        self._delete(e, _heads(op.flow))
        e.asm.label(gone)

    def _kept(self, e: Emitter, op: irflow.KeptInFlow) -> None:
        outside, done = e.asm.fresh_label("outside"), e.asm.fresh_label("kept")
        self._head(e, op, outside)
        e.asm.emit(load(R1, R0, _WORD), store(R10, _SLOT, R1))
        self._frame(e, op, outside)
        register = e.result(op.dst)
        e.asm.emit(load(register, R0, _WORD * (1 + op.place)))
        e.go(done)
        e.asm.label(outside)
        e.asm.emit(mov(register, 0))
        e.asm.label(done)
        e.keep(op.dst, register)
