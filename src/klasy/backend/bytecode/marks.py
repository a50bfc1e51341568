"""Marks, which tie a place where control leaves to the place where it arrives; see match/plan.py.

They are kept in a preallocated hash map. An LRU map would never be full, but its lists are under locks that a program
running in an interrupt or an NMI can meet held by the one it interrupted, and nothing (before rqspinlock, 6.15) breaks
that deadlock; the plain hash refuses with EBUSY there, which is counted. Its entries are reused as stacks are: a stale
mark is overwritten by the next call at its place.
"""

from __future__ import annotations

from klasy.backend.artifact import MAP_MARKS, MARK_ARGUMENTS, MARK_PID_TGID, MARK_RETURN, MARK_SITE
from klasy.backend.bytecode.addresses import AT_ENTRY, KEY, MARK, PID, SITE, TAG, WORD
from klasy.backend.bytecode.counters import waiting_for
from klasy.backend.bytecode.tables import Goal, Table
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R10,
    add,
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
)
from klasy.bpf.uapi import BPF_ANY
from klasy.compiler.ir import Value
from klasy.kernel.arch_x86_64 import ARGUMENT_REGISTERS, PT_REGS
from klasy.match.mechanism import Context
from klasy.match.plan import MarkRole, MarkUse
from klasy.plain import TYPE_CHECKING
from klasy.record import COUNTER_UNMARKED

if TYPE_CHECKING:
    from klasy.backend.artifact import MapSpec
    from klasy.backend.bytecode.addresses import Addresses
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.match.plan import Plan, Probe


TAG_THREAD_SHIFT = 42  # a thread's id has 22 bits at most (PID_MAX_LIMIT)


class Marks:
    """What one program does with them."""

    def __init__(self, plan: Plan, probe: Probe, addresses: Addresses, counters: Counters) -> None:
        self.plan = plan
        self.probe = probe
        self.addresses = addresses
        self.counters = counters
        self.writes = probe.mark is MarkUse.WRITE
        self.reads = probe.mark in {MarkUse.READ, MarkUse.TAKE}
        self._by_entry = probe.role is MarkRole.ENTRY
        self._waiting = waiting_for(plan, probe)
        self._lost = Table(f"unmarked{probe.index}", _columns(self._waiting))

    def maps(self) -> list[MapSpec]:
        """A map by which to count those that cannot be kept, where there are many."""
        return [] if self._lost.is_small else [self._lost.spec()]

    def _key(self, e: Emitter) -> None:
        """The key to the stack, but for the tag of an entry."""
        self.addresses.slot(e, R1)
        e.asm.emit(store(R10, KEY, R1))
        if not self._by_entry:
            e.asm.emit(store_imm(R10, TAG, int(self.probe.role)))

    def _tag_thread(self, e: Emitter) -> None:
        """In a user program: the thread into the tag, for every process has a stack at the same address."""
        if self.probe.in_program:
            e.asm.emit(call("get_current_pid_tgid"), lsh(R0, TAG_THREAD_SHIFT))
            e.asm.emit(load(R1, R10, TAG), or_(R0, R1), store(R10, TAG, R0))

    # --- writing

    def write(self, e: Emitter) -> None:
        """Write one."""
        context = self.probe.context
        e.asm.emit(call("get_current_pid_tgid"), store(R10, MARK + MARK_PID_TGID, R0))
        if context in AT_ENTRY:
            self.addresses.stack_top(e, MARK + MARK_RETURN)
        self.addresses.own(e, R0)
        if self._by_entry:
            e.asm.emit(store(R10, TAG, R0))
        e.asm.emit(store(R10, MARK + MARK_SITE, R0))
        self._tag_thread(e)
        if context is Context.SITE:
            self._return_behind(e)
        ctx = e.register(self.addresses.ctx, R1)
        for number, name in enumerate(ARGUMENT_REGISTERS):
            e.asm.emit(load(R0, ctx, PT_REGS[name]), store(R10, MARK + MARK_ARGUMENTS + 8 * number, R0))
        self._key(e)
        e.stack_address(R2, KEY)
        e.stack_address(R3, MARK)
        e.asm.emit(load_map(R1, MAP_MARKS), mov(R4, BPF_ANY), call("map_update_elem"))
        if any(self._waiting.values()):
            marked = e.asm.fresh_label("marked")
            rare = e.out_of_line(lambda: self._count_lost(e, marked), None)
            e.asm.emit(jump_if(R0, "!=", 0, rare))
            e.asm.label(marked)

    def _return_behind(self, e: Emitter) -> None:
        """The return address of a call, from its address in r0: behind the instruction, whose length is known."""
        lengths = self._call_lengths()
        usual = max(sorted(set(lengths.values())), key=list(lengths.values()).count)
        e.asm.emit(mov(R1, R0), add(R1, usual))
        done = e.asm.fresh_label("behind")
        for length in sorted(set(lengths.values()) - {usual}):
            matched, others = e.asm.fresh_label("length"), e.asm.fresh_label("others")
            for address in (a for a, n in lengths.items() if n == length):
                e.asm.emit(load_imm(R2, address), jump_if(R0, "==", R2, matched))
            e.go(others)
            e.asm.label(matched)
            e.asm.emit(add(R1, length - usual))
            e.go(done)
            e.asm.label(others)
        e.asm.label(done)
        e.asm.emit(store(R10, MARK + MARK_RETURN, R1))

    def _call_lengths(self) -> dict[int, int]:
        """Bytes of the call instruction at each point."""
        sites = {s.address: s.length for j in self.plan.joinpoints if (s := j.shadow.site) is not None}
        return {point.address: sites[point.address] for point in self.probe.points}

    def _count_lost(self, e: Emitter, back: str) -> None:
        """Each join point that waits for this mark will not run."""
        if len(self.probe.points) == 1:
            for joinpoint in self._waiting[self.probe.points[0].address]:
                self.counters.bump(e, joinpoint, COUNTER_UNMARKED)
            return e.go(back)
        counted = Value(-1)
        e.allocation.places[counted] = R0  # used up at once
        for column in range(len(self._lost.columns)):
            goal = Goal(counted, e.asm.fresh_label("lost"), e.asm.fresh_label("kept"))
            if self._lost.is_small:
                e.asm.emit(load(R2, R10, MARK + MARK_SITE))
                self._lost.search(e, R2, column, goal)
            else:
                e.lookup(self._lost.name, MARK + MARK_SITE)
                self._lost.fetch(e, R0, column, goal)
            e.asm.label(goal.found)
            self.counters.bump(e, counted, COUNTER_UNMARKED)
            e.asm.label(goal.missing)
        return e.go(back)

    # --- reading

    def read(self, e: Emitter, none: str) -> None:
        """Find this program's mark, and go to ``none`` where there is none.

        Leaves its site in SITE, its arguments with the origin, and in WORD the return address if marks are told by it.
        """
        if self._by_entry:
            self.addresses.own(e, R0)
            e.asm.emit(store(R10, TAG, R0))
            self._tag_thread(e)
        else:
            self.addresses.returning(e)
        self._key(e)
        e.asm.emit(call("get_current_pid_tgid"), store(R10, PID, R0))
        e.lookup(MAP_MARKS, KEY)
        e.asm.emit(jump_if(R0, "==", 0, none))
        e.asm.emit(load(R1, R0, MARK_PID_TGID), load(R2, R10, PID), jump_if(R1, "!=", R2, none))
        if not self._by_entry:
            e.asm.emit(load(R1, R0, MARK_RETURN), load(R2, R10, WORD), jump_if(R1, "!=", R2, none))
        e.asm.emit(load(R1, R0, MARK_SITE), store(R10, SITE, R1))
        for number, local in self.addresses.origin.marked.items():
            e.asm.emit(load(R1, R0, MARK_ARGUMENTS + 8 * number))
            e.keep(local, R1)
        if self.probe.mark is MarkUse.TAKE:
            e.stack_address(R2, KEY)
            e.asm.emit(load_map(R1, MAP_MARKS), call("map_delete_elem"))


def _columns(waiting: dict[int, tuple[int, ...]]) -> list[dict[int, int]]:
    """As a table's columns: the first id of each address, the second .."""
    width = max((len(ids) for ids in waiting.values()), default=0)
    return [{address: ids[i] for address, ids in waiting.items() if i < len(ids)} for i in range(width)]
