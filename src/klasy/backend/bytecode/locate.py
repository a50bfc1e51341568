"""How a program learns at which join point it runs, and what it does with marks: the prologue and Locate.

The prologue runs once, before the first arm. It leaves, for the Locate of each arm,

- ``key``: the address that decides (of the probe, of a mark's site, or the return address), or
- ``entry``: what the lookup of that address in the map of join points gave, where there are many;
- ``site``: of a dispatched program that found the mark of a tail call, the site of it, else 0.

See match/plan.py for what marks are. They are kept in a preallocated hash map. An LRU map would never be full, but its
lists are under locks that a program running in an interrupt or an NMI can meet held by the one it interrupted, and
nothing (before rqspinlock, 6.15) breaks that deadlock; the plain hash refuses with EBUSY there, which is counted. Its
entries are reused as stacks are: a stale mark is overwritten by the next call at its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.backend.artifact import (
    MAP_MARKS,
    MAP_UNKNOWN,
    MARK_ARGUMENTS,
    MARK_PID_TGID,
    MARK_RETURN,
    MARK_SITE,
    MARK_SIZE,
)
from klasy.backend.bytecode.arithmetic import compare_constant
from klasy.backend.bytecode.counters import waiting_for
from klasy.backend.bytecode.emitter import OUT
from klasy.backend.bytecode.liveness import Effects
from klasy.backend.bytecode.origin import FLAGS, IP, SP, TRAMPOLINE
from klasy.backend.bytecode.rethook import NODE_BYTES, look_behind
from klasy.backend.bytecode.tables import Goal, Table
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R10,
    add,
    and_,
    atomic_add,
    call,
    jump_if,
    load,
    load_imm,
    load_map,
    mov,
    rsh,
    store,
    store_imm,
    sub,
    xor,
)
from klasy.bpf.uapi import BPF_ANY, BPF_NOEXIST
from klasy.compiler.ir import Value, Var
from klasy.kernel.arch_x86_64 import (
    ARGUMENT_REGISTERS,
    BREAKPOINT_BYTES,
    ENDBR_BYTES,
    FENTRY_CALL_BYTES,
    PT_REGS,
)
from klasy.match.plan import Context, Locator, MarkRole, MarkUse
from klasy.record import COUNTER_UNMARKED

if TYPE_CHECKING:
    from klasy.backend.artifact import MapSpec
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.bytecode.origin import Origin
    from klasy.backend.bytecode.rethook import Rethook
    from klasy.bpf.insn import Reg
    from klasy.compiler import ir
    from klasy.match.plan import Plan, Probe

# Scratch of the prologue, offsets from r10. A mark that is written takes the place of all but the key.
_KEY = -16  # of a mark: slot, then tag
_TAG = -8
_PID = -24
_WORD = -32  # the return address, or the address that decides
_FRAME = -48  # two words of the trampoline's frame
_SITE = -56  # the site of the mark that was found, or 0
_MARK = _KEY - MARK_SIZE
_NODE = _MARK - NODE_BYTES  # of a kretprobe's list

_CARRY, _PARITY, _ZERO, _SIGN, _OVERFLOW = 0x001, 0x004, 0x040, 0x080, 0x800  # of the flags register

_AT_FUNCTIONS = frozenset({Context.ENTRY, Context.RETURN})


class Locating:
    """The prologue and the Locate operations of one program."""

    def __init__(
        self,
        plan: Plan,
        probe: Probe,
        locates: list[ir.Locate],
        *,
        origin: Origin,
        counters: Counters,
        rethook: Rethook | None,
    ) -> None:
        self.plan = plan
        self.probe = probe
        self.origin = origin
        self.counters = counters
        self.rethook = rethook
        self.key = Var("key")
        self.site = Var("site")
        self.entry = Var("entry")
        self.reads_mark = probe.mark in {MarkUse.READ, MarkUse.TAKE}
        self.static = self._static_address()
        self.locates = bool(locates) and self.static is None  # else they are resolved beforehand
        self.dispatches = self.locates and probe.locator is Locator.DISPATCH
        self._counts_unknown = next((op for op in locates if probe.arms[op.arm].otherwise is not None), None)
        self.sites = Table(f"sites{probe.index}", [arm.by_address for arm in probe.arms])
        self.returns = Table(f"returns{probe.index}", [arm.by_return_address for arm in probe.arms])
        self.waiting = waiting_for(plan, probe)
        self.unmarked = Table(f"unmarked{probe.index}", _columns(self.waiting))
        self.small = self._tables_small()

    def _static_address(self) -> int | None:
        """The address that decides, where it is known beforehand."""
        probe = self.probe
        alone = len(probe.points) == 1 and probe.locator in {Locator.FIXED, Locator.ADDRESS}
        return probe.points[0].address if alone else None

    def known(self, op: ir.Locate) -> int | None:
        """The join point that a Locate finds, where ``static`` is known."""
        assert self.static is not None
        return self.probe.arms[op.arm].by_address.get(self.static)

    def _tables_small(self) -> bool:
        if self.probe.locator is not Locator.DISPATCH:
            return self.sites.is_small
        return self.returns.is_small and (self.sites.is_small or not self.reads_mark)

    def maps(self) -> list[MapSpec]:
        """The maps that the program's tables are in."""
        specs = []
        if self.locates and not self.small:
            if self.dispatches:
                specs.append(self.returns.spec())
            if self.reads_mark or not self.dispatches:
                specs.append(self.sites.spec())
        if not self.unmarked.is_small:
            specs.append(self.unmarked.spec())
        return specs

    @property
    def uses_unknown(self) -> bool:
        """Whether calls from unknown places are counted."""
        return self.dispatches and self._counts_unknown is not None

    # --- what registers must expect

    def prologue_effects(self) -> Effects:
        """Of the prologue: what it reads, leaves and destroys."""
        probe = self.probe
        marks = probe.mark is not MarkUse.NONE
        if not marks and not self.locates:
            return Effects() if probe.condition is None else Effects(late=(self.origin.ctx,), calls=True)
        results: list[Var] = []
        if self.locates:
            if self.small or self.uses_unknown:
                results.append(self.key)
            if not self.small:
                results.append(self.entry)
            if self.dispatches and self.reads_mark:
                results.append(self.site)
        return Effects(
            late=(self.origin.ctx,),
            early=tuple(self.origin.marked.values()) if self.reads_mark else (),
            results=tuple(results),
            # none is called for a condition, but it takes registers as if
            calls=marks
            or not self.small
            or self.dispatches
            or probe.context in _AT_FUNCTIONS  # which function it is, is asked for
            or probe.condition is not None,
        )

    def locate_effects(self, op: ir.Locate) -> Effects:
        """Of a Locate."""
        reads = [self.key] if self.small else [self.entry]
        if self.dispatches and self.reads_mark:
            reads.append(self.site)
        counts = op is self._counts_unknown and self.uses_unknown
        return Effects(tuple(reads), (self.key,) if counts else (), (op.dst,), calls=counts)

    def scratch(self) -> int:
        """Bytes of scratch that all this takes."""
        if self.rethook is not None and (self.dispatches or self.probe.mark is not MarkUse.NONE):
            return -_NODE
        if self.probe.mark is MarkUse.WRITE:
            return -_MARK
        return -_SITE if self.reads_mark or self.dispatches else 16

    # --- the prologue

    def prologue(self, e: Emitter) -> None:
        """Emit it; the context is in its place."""
        if self.probe.condition is not None:
            self._unless_taken(e, self.probe.condition)
        if self.probe.mark is MarkUse.WRITE:
            self._write_mark(e)
        elif self.reads_mark:
            return self._read_mark(e)
        if not self.locates:
            return None
        if self.dispatches:
            self._return_address(e)
            return self._leave_return_address(e)
        register = e.result(self.key)
        self._own_address(e, register)
        if self.small:
            return e.keep(self.key, register)
        e.asm.emit(store(R10, _WORD, register))
        return self._leave_entry(e, self.sites, _WORD)

    def _leave(self, e: Emitter, local: Var, offset: int) -> None:
        """Leave a word of the stack in a local."""
        register = e.result(local)
        e.asm.emit(load(register, R10, offset))
        e.keep(local, register)

    def _leave_entry(self, e: Emitter, table: Table, offset: int) -> None:
        """Leave what the map of a table has for an address on the stack."""
        e.lookup(table.name, offset)
        e.keep(self.entry, R0)

    def _leave_return_address(self, e: Emitter) -> None:
        """Leave what is to be known of the return address."""
        if not self.small:
            self._leave_entry(e, self.returns, _WORD)
        if self.small or self.uses_unknown:
            self._leave(e, self.key, _WORD)

    def _own_address(self, e: Emitter, register: Reg) -> None:
        """``register`` = address of the probe; in a kretprobe, of the function.

        At entries the ip would not do: how far behind the entry it is depends on the kernel and on the mechanism.
        """
        if len(self.probe.points) == 1:
            e.asm.emit(load_imm(register, self.probe.points[0].address))
        elif self.probe.context in _AT_FUNCTIONS:
            e.into(R1, self.origin.ctx)
            e.asm.emit(call("get_func_ip"))
            if register != R0:
                e.asm.emit(mov(register, R0))
        else:
            e.asm.emit(load(register, e.register(self.origin.ctx, R1), IP), sub(register, BREAKPOINT_BYTES))

    def _return_address(self, e: Emitter) -> None:
        """The return address to _WORD of the stack; 0 where it cannot be found."""
        context = self.probe.context
        if context in TRAMPOLINE:
            return self._frame_return_address(e)
        if context in {Context.RETURN, Context.BEHIND}:
            e.asm.emit(load(R0, e.register(self.origin.ctx, R1), IP))
            if context is Context.BEHIND:
                e.asm.emit(sub(R0, BREAKPOINT_BYTES))
            e.asm.emit(store(R10, _WORD, R0))
            return None
        return self._read_stack_top(e, _WORD)

    def _read_stack_top(self, e: Emitter, offset: int) -> None:
        """The word the stack pointer points to, at a function's entry or at a tail call, to the program's stack."""
        e.asm.emit(load(R3, e.register(self.origin.ctx, R1), SP), mov(R2, 8))
        e.stack_address(R1, offset)
        e.asm.emit(call("probe_read_kernel"))
        self._look_behind(e, offset)

    def _look_behind(self, e: Emitter, word: int) -> None:
        if self.rethook is not None:
            look_behind(e, self.rethook, word, _NODE, lambda: self._slot(e, R2))

    def _frame_return_address(self, e: Emitter) -> None:
        """Of a fexit program: behind the trampoline's words, see :mod:`klasy.backend.bytecode.origin`.

        Believed only if before it stands the return address into the function itself.
        """
        e.into(R3, self.origin.ctx)
        e.asm.emit(add(R3, self._frame_offset() - 8), mov(R2, 16))
        e.stack_address(R1, _FRAME)
        e.asm.emit(call("probe_read_kernel"))
        found = e.asm.fresh_label("caller")
        inner = self.probe.points[0].address + FENTRY_CALL_BYTES
        e.asm.emit(load(R1, R10, _FRAME), load(R0, R10, _FRAME + 8))
        for address in (inner, inner + ENDBR_BYTES):
            compare_constant(e, (R1, "==", address), found, R2)
        e.asm.emit(mov(R0, 0))
        e.asm.label(found)
        e.asm.emit(store(R10, _WORD, R0))
        self._look_behind(e, _WORD)

    def _frame_offset(self) -> int:
        """From the context to the return address of the function's caller."""
        assert self.probe.context is Context.FEXIT, "where a fentry program's frame ends is not known beforehand"
        return 8 * self.origin.argument_words + 24  # result, saved rbp, return address into the function

    # --- marks

    def _slot(self, e: Emitter, register: Reg) -> None:
        """``register`` = address of the stack slot that holds, or held, or will hold the return address."""
        context = self.probe.context
        if context in TRAMPOLINE:
            e.into(register, self.origin.ctx)
            e.asm.emit(add(register, self._frame_offset()))
        else:
            e.asm.emit(load(register, e.register(self.origin.ctx, R1), SP))
            if context not in {Context.ENTRY, Context.TAIL}:
                e.asm.emit(add(register, -8))

    def _key_of_mark(self, e: Emitter) -> None:
        """The key of the mark to the stack, all but the tag of an entry."""
        self._slot(e, R1)
        e.asm.emit(store(R10, _KEY, R1))
        if self.probe.role is not MarkRole.ENTRY:
            e.asm.emit(store_imm(R10, _TAG, int(self.probe.role)))

    def _write_mark(self, e: Emitter) -> None:
        probe = self.probe
        e.asm.emit(call("get_current_pid_tgid"), store(R10, _MARK + MARK_PID_TGID, R0))
        if probe.context in {Context.ENTRY, Context.TAIL}:
            self._read_stack_top(e, _MARK + MARK_RETURN)
        self._own_address(e, R0)
        if probe.role is MarkRole.ENTRY:
            e.asm.emit(store(R10, _TAG, R0))
        e.asm.emit(store(R10, _MARK + MARK_SITE, R0))
        if probe.context is Context.SITE:
            self._return_behind(e)
        ctx = e.register(self.origin.ctx, R1)
        for number, name in enumerate(ARGUMENT_REGISTERS):
            e.asm.emit(load(R0, ctx, PT_REGS[name]), store(R10, _MARK + MARK_ARGUMENTS + 8 * number, R0))
        self._key_of_mark(e)
        e.stack_address(R2, _KEY)
        e.stack_address(R3, _MARK)
        e.asm.emit(load_map(R1, MAP_MARKS), mov(R4, BPF_ANY), call("map_update_elem"))
        if any(self.waiting.values()):
            marked = e.asm.fresh_label("marked")
            rare = e.out_of_line(lambda: self._count_unmarked(e, marked), None)
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
        e.asm.emit(store(R10, _MARK + MARK_RETURN, R1))

    def _call_lengths(self) -> dict[int, int]:
        """Bytes of the call instruction at each point."""
        sites = {s.address: s.length for j in self.plan.joinpoints if (s := j.shadow.site) is not None}
        return {point.address: sites[point.address] for point in self.probe.points}

    def _count_unmarked(self, e: Emitter, back: str) -> None:
        """Each join point that waits for this mark will not run."""
        if len(self.probe.points) == 1:
            for joinpoint in self.waiting[self.probe.points[0].address]:
                self.counters.bump(e, joinpoint, COUNTER_UNMARKED)
            return e.go(back)
        counted = Value(-1)
        e.allocation.places[counted] = R0  # used up at once
        for column in range(len(self.unmarked.columns)):
            goal = Goal(counted, e.asm.fresh_label("lost"), e.asm.fresh_label("kept"))
            if self.unmarked.is_small:
                e.asm.emit(load(R2, R10, _MARK + MARK_SITE))
                self.unmarked.search(e, R2, column, goal)
            else:
                e.lookup(self.unmarked.name, _MARK + MARK_SITE)
                self.unmarked.fetch(e, R0, column, goal)
            e.asm.label(goal.found)
            self.counters.bump(e, counted, COUNTER_UNMARKED)
            e.asm.label(goal.missing)
        return e.go(back)

    def _read_mark(self, e: Emitter) -> None:
        """Find this probe's mark. Without one a program that needs it ends; a dispatched one has 0 for its site."""
        none = e.asm.fresh_label("none") if self.dispatches else OUT
        by_entry = self.probe.role is MarkRole.ENTRY
        if by_entry:
            self._own_address(e, R0)
            e.asm.emit(store(R10, _TAG, R0))
        else:
            self._return_address(e)
        self._key_of_mark(e)
        e.asm.emit(call("get_current_pid_tgid"), store(R10, _PID, R0))
        e.lookup(MAP_MARKS, _KEY)
        e.asm.emit(jump_if(R0, "==", 0, none))
        e.asm.emit(load(R1, R0, MARK_PID_TGID), load(R2, R10, _PID), jump_if(R1, "!=", R2, none))
        if not by_entry:
            e.asm.emit(load(R1, R0, MARK_RETURN), load(R2, R10, _WORD), jump_if(R1, "!=", R2, none))
        e.asm.emit(load(R1, R0, MARK_SITE), store(R10, _SITE, R1))
        for number, local in self.origin.marked.items():
            e.asm.emit(load(R1, R0, MARK_ARGUMENTS + 8 * number))
            e.keep(local, R1)
        if self.probe.mark is MarkUse.TAKE:
            e.stack_address(R2, _KEY)
            e.asm.emit(load_map(R1, MAP_MARKS), call("map_delete_elem"))
        if self.dispatches:
            return self._dispatch_or_mark(e, none)
        if self.locates and self.small:
            return self._leave(e, self.key, _SITE)
        return self._leave_entry(e, self.sites, _SITE) if self.locates else None

    def _dispatch_or_mark(self, e: Emitter, none: str) -> None:
        """The mark's site, if one was found, decides; else the return address does."""
        joined = e.asm.fresh_label("joined")
        if not self.small:
            self._leave_entry(e, self.sites, _SITE)
        e.go(joined)
        e.asm.label(none)
        for local in self.origin.marked.values():
            e.asm.emit(mov(R0, 0))
            e.keep(local, R0)
        e.asm.emit(store_imm(R10, _SITE, 0))
        if not self.small:
            self._leave_entry(e, self.returns, _WORD)
        e.asm.label(joined)
        self._leave(e, self.site, _SITE)
        if self.small or self.uses_unknown:
            self._leave(e, self.key, _WORD)

    # --- Locate

    def locate(self, e: Emitter, op: ir.Locate, found: str, missing: str) -> None:
        """Emit a Locate."""
        arm = self.probe.arms[op.arm]
        goal = Goal(op.dst, found, missing)
        if not self.dispatches:
            return self._find(e, self.sites, self.key, op.arm, goal)
        if self.reads_mark:
            direct = e.asm.fresh_label("direct")
            e.asm.emit(jump_if(e.register(self.site, R0), "==", 0, direct))
            self._find(e, self.sites, self.site, op.arm, goal)
            e.asm.label(direct)
        if arm.otherwise is None:
            return self._find(e, self.returns, self.key, op.arm, goal)
        elsewhere = e.asm.fresh_label("elsewhere")
        self._find(e, self.returns, self.key, op.arm, Goal(op.dst, found, elsewhere))
        e.asm.label(elsewhere)
        # What another arm of the same advice knows is not unknown: there the advice runs by that arm, if it does.
        for sibling, other in enumerate(self.probe.arms):
            if sibling != op.arm and other.advice == arm.advice and other.by_return_address:
                beyond = e.asm.fresh_label("beyond")
                self._find(e, self.returns, self.key, sibling, Goal(op.dst, missing, beyond))
                e.asm.label(beyond)
        if op is self._counts_unknown:
            self._count_unknown(e)
        register = e.result(op.dst)
        e.asm.emit(load_imm(register, arm.otherwise))
        e.keep(op.dst, register)
        return e.go(found)

    def _find(self, e: Emitter, table: Table, key: Var, arm: int, goal: Goal) -> None:
        if self.small:
            table.search(e, e.register(key, R0), arm, goal)
        else:
            table.fetch(e, e.register(self.entry, R0), arm, goal)

    def _count_unknown(self, e: Emitter) -> None:
        """Count a return address behind no known call. Shared by all CPUs, hence atomic."""
        e.asm.emit(store(R10, _KEY, e.register(self.key, R0)))
        e.lookup(MAP_UNKNOWN, _KEY)
        new, done = e.asm.fresh_label("new"), e.asm.fresh_label("noted")
        e.asm.emit(jump_if(R0, "==", 0, new), mov(R1, 1), atomic_add(R0, 0, R1))
        e.go(done)
        e.asm.label(new)
        e.asm.emit(store_imm(R10, _KEY - 8, 1))
        e.stack_address(R2, _KEY)
        e.stack_address(R3, _KEY - 8)
        e.asm.emit(load_map(R1, MAP_UNKNOWN), mov(R4, BPF_NOEXIST), call("map_update_elem"))
        e.asm.label(done)

    # --- conditional jumps

    def _unless_taken(self, e: Emitter, condition: int) -> None:
        """End the program where the flags say that the conditional jump will not be taken.

        The condition codes of x86, Intel SDM volume 1, appendix B; an odd one is the opposite of the one before it.
        """
        e.asm.emit(load(R2, e.register(self.origin.ctx, R1), FLAGS))
        kind, negated = condition >> 1, condition & 1
        mask = {
            0: _OVERFLOW, 1: _CARRY, 2: _ZERO, 3: _CARRY | _ZERO, 4: _SIGN, 5: _PARITY, 6: _SIGN, 7: _SIGN | _ZERO,
        }[kind]  # fmt: skip
        if kind >= 6:  # signed less: sign differs from overflow, bit 11, which is brought to bit 7
            e.asm.emit(mov(R3, R2), rsh(R3, 4), and_(R3, _SIGN), xor(R2, R3))
        taken = e.asm.fresh_label("taken")
        if negated:
            e.asm.emit(jump_if(R2, "&", mask, OUT))
        else:
            e.asm.emit(jump_if(R2, "&", mask, taken))
            e.go(OUT)
        e.asm.label(taken)


def _columns(waiting: dict[int, tuple[int, ...]]) -> list[dict[int, int]]:
    """As a table's columns: the first id of each address, the second .."""
    width = max((len(ids) for ids in waiting.values()), default=0)
    return [{address: ids[i] for address, ids in waiting.items() if i < len(ids)} for i in range(width)]
