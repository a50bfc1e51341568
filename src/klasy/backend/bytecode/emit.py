"""One program of the IR to one assembled BPF program: everything in its order."""

from __future__ import annotations

from klasy.backend.artifact import (
    MAP_CALLS,
    MAP_LIMITS,
    MAP_MARKS,
    MAP_NAMES,
    MAP_NOTES,
    MAP_NUMBERS,
    MAP_RUNS,
    MAP_UNKNOWN,
    ProgramSpec,
)
from klasy.backend.bytecode import peephole
from klasy.backend.bytecode.code import straighten
from klasy.backend.bytecode.counters import RUNS_SCRATCH
from klasy.backend.bytecode.emitter import DONE, OFF, OUT, Emitter
from klasy.backend.bytecode.frame import STACK_BYTES, Slot
from klasy.backend.bytecode.liveness import READ, intervals
from klasy.backend.bytecode.locate import Locating
from klasy.backend.bytecode.origin import TRAMPOLINE, Origin
from klasy.backend.bytecode.regs import allocate
from klasy.backend.bytecode.select import Selector
from klasy.bpf.asm import assemble
from klasy.bpf.insn import R0, R1, R10, EncodingError, exit_, mov, store
from klasy.compiler import ir
from klasy.diag import DiagnosticBag
from klasy.match.mechanism import ANY_SYSCALL, Context
from klasy.match.plan import CallUse
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klasy.backend.artifact import MapSpec
    from klasy.backend.bytecode.callers import Callers
    from klasy.backend.bytecode.code import Local, Straight
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.liveness import Interval
    from klasy.backend.bytecode.regs import Allocation
    from klasy.backend.bytecode.rethook import Rethook
    from klasy.backend.bytecode.states import StateCode
    from klasy.backend.bytecode.syscalls import CallCode
    from klasy.backend.bytecode.task import Task
    from klasy.backend.maps import Budget
    from klasy.bpf.insn import Instruction, Reg
    from klasy.match.plan import Plan, Probe
    from klasy.source import Span

_TYPES = {
    Context.FENTRY: "fentry",
    Context.FEXIT: "fexit",
    Context.WATCH: "perf_event",
    Context.RAW: "raw_tracepoint",
    Context.RECORD: "tracepoint",
    Context.SYS_ENTER: "raw_tracepoint",
    Context.SYS_EXIT: "raw_tracepoint",
}


_SHARED_MAPS = {MAP_CALLS, MAP_LIMITS, MAP_MARKS, MAP_NAMES, MAP_NOTES, MAP_NUMBERS, MAP_RUNS, MAP_UNKNOWN}


@dataclass(frozen=True, slots=True)
class Generated:
    """A program and the maps it needs of its own. ``shared`` names those of the aspect's further maps that it uses."""

    spec: ProgramSpec
    maps: tuple[MapSpec, ...]
    shared: frozenset[str]


def generate_program(
    plan: Plan,
    program: ir.Program,
    counters: Counters,
    rethook: Rethook | None = None,
    states: StateCode | None = None,
    *,
    count_runs: bool = False,
    c_code: Mapping[int, Sequence[Instruction]] | None = None,
    budget: Budget | None = None,
    task: Task | None = None,
    callers: Callers | None = None,
) -> Generated:
    """Generate the program of one probe. Raises InputError where an advice is too large for BPF.

    ``rethook``: how to look behind kretprobes of others. ``states``: where the aspect has any. ``count_runs``: the
    program counts how often it runs. ``c_code``: the functions of advice in C. ``task``: what records say of the task
    is read from there. ``callers``: where the kernel keeps what tells who called a function of a user program.
    """
    return _Generator(
        plan, program, counters, rethook, states, count_runs=count_runs, c_code=c_code, budget=budget, task=task,
        callers=callers,
    ).run()  # fmt: skip


class _Generator:
    def __init__(
        self,
        plan: Plan,
        program: ir.Program,
        counters: Counters,
        rethook: Rethook | None,
        states: StateCode | None,
        *,
        count_runs: bool,
        c_code: Mapping[int, Sequence[Instruction]] | None,
        budget: Budget | None,
        task: Task | None,
        callers: Callers | None,
    ) -> None:
        self.budget = budget
        self.task = task
        self.counters = counters
        self.begun = 0  # the stack's word for when the run began
        self.plan = plan
        self.c_code = c_code
        self.count_runs = count_runs
        self.program = program
        self.probe: Probe = plan.probes[program.probe]
        ops = list(program.ops())
        self.callers: Callers | None = None
        if callers is not None and self.probe.in_program:
            from klasy.backend.bytecode.callers import asks

            self.callers = callers if asks(self.probe, ops) else None
        self.origin = Origin(self.probe, ops)
        locates = [op for op in ops if isinstance(op, ir.Locate)]
        watching = None
        if self.probe.watch is not None:
            from klasy.backend.bytecode.watch import watching_of

            watching = watching_of(self.probe, self.origin, ops, plan.filter)
        self.locating = Locating(plan, self.probe, locates, origin=self.origin, counters=counters, rethook=rethook)
        flows = None
        if any(isinstance(op, ir.FlowOp) for op in ops):
            from klasy.backend.bytecode.flows import FlowCode

            flows = FlowCode(plan, self.origin, counters)
        notes = None
        if any(isinstance(op, ir.NoteOp) for op in ops):
            from klasy.backend.bytecode.notes import NoteCode

            notes = NoteCode(plan, ops, counters)
        self.calls: CallCode | None = None
        if self.probe.calls is not CallUse.NONE or self.probe.context in ANY_SYSCALL:
            from klasy.backend.bytecode.syscalls import CallCode

            self.calls = CallCode(plan, self.probe, counters)
        self.ends_calls = self.probe.calls is CallUse.END
        lookups = None
        if any(isinstance(op, ir.Lookup) for op in ops):
            from klasy.backend.bytecode.lookups import Lookups

            lookups = Lookups(self.probe.index)
        self.selector = Selector(
            self.origin, self.locating, counters, watching, states, flows=flows, notes=notes, lookups=lookups
        )
        known = self.locating.known if self.locating.static is not None else None
        self.blocks = straighten(program, known)
        self.selector.survey(self.blocks)

    def run(self) -> Generated:
        allocation = self._allocation()
        self.begun = -allocation.stack_bytes - 8
        space = "kernel" if not self.probe.in_program else "" if self.program.kernel_memory else "user"
        e = Emitter(allocation, space=space, task=self.task, callers=self.callers)
        if self.calls is not None and self.ends_calls:
            from klasy.backend.bytecode.syscalls import looks_up

            e.ends_calls, e.names = True, looks_up(self.plan, self.probe)
        self._start(e)
        for block, following in zip(self.blocks, [*self.blocks[1:], None], strict=True):
            self._block(e, block, following)
        e.emit_rare()
        e.asm.label(OUT)
        if self.calls is not None and self.ends_calls:
            self.calls.end(e)
        e.asm.emit(mov(R0, 0))
        e.asm.label(DONE)
        if self.budget is not None:
            from klasy.backend.bytecode import budget

            budget.end(e, self.begun, self.budget)
        e.asm.emit(exit_())
        if self._off != OUT:
            e.asm.label(OFF)
            e.asm.emit(mov(R0, 0), exit_())
        try:
            code = assemble([*peephole.tidy(e.asm.instructions), *self._functions()])
        except EncodingError as error:
            raise self._too_large(f"its code is too long for one BPF program ({error})") from None
        target = self.probe.points[0].function if self.probe.context in TRAMPOLINE else None
        spec = ProgramSpec(self.probe.name, self.probe.index, _TYPES.get(self.probe.context, "kprobe"), code, target)
        users = (self.locating, self.calls, self.selector.lookups)
        own = tuple(spec for user in users if user is not None for spec in user.maps())
        return Generated(spec, own, frozenset(set(code.map_names) & _SHARED_MAPS))

    @property
    def _off(self) -> str:
        """Where a program goes that the aspect has no use for."""
        return OFF if self.budget is not None or self.ends_calls else OUT

    def _functions(self) -> list[Instruction]:
        if self.callers is not None:  # in a user program there is no advice in C
            from klasy.backend.bytecode.callers import functions

            return functions(self.callers, next((op.span for op in self.program.ops()), None))
        if not self.c_code:
            return []
        from klasy.backend.bytecode import subprograms

        return subprograms.code_of(self.program, self.c_code)

    # --- allocation

    def _allocation(self) -> Allocation:
        selector = self.selector
        ops = [op for block in self.blocks for op in block.ops]
        scratch = (max(selector.scratch(op) for op in ops) + 7) & ~7
        if self.count_runs:
            scratch = max(scratch, RUNS_SCRATCH)
        if self.calls is not None:
            scratch = max(scratch, self.calls.scratch)
        if self.plan.filter:
            from klasy.backend.bytecode import filters

            scratch = max(scratch, filters.SCRATCH)
        alive = intervals(self.blocks, selector.effects)
        by_local = {interval.local: interval for interval in alive}
        for op in ops:
            pair = selector.partners(op)
            if pair is not None:
                one, other = by_local[pair[0]], by_local[pair[1]]
                one.partners.append(other)
                other.partners.append(one)
        fixed: dict[Local, Reg] = (
            {self.origin.ctx: R1} if self._ctx_can_stay(ops, by_local.get(self.origin.ctx)) else {}
        )
        allocation = allocate(
            alive,
            fixed=fixed,
            on_stack=selector.on_stack(self.blocks),
            sizes=selector.sizes(self.blocks),
            scratch=scratch,
        )
        needed = allocation.stack_bytes + (8 if self.budget is not None else 0)
        room = STACK_BYTES
        if self.callers is not None:
            from klasy.backend.bytecode.callers import STACK

            room -= STACK
        if needed > room:
            raise self._too_large(f"it needs {needed} bytes of a BPF program's stack of {room}", alive)
        return allocation

    def _ctx_can_stay(self, ops: list[ir.Op], ctx: Interval | None) -> bool:
        """Whether the context can be used where it comes in, r1: nothing else has happened when it is used last."""
        if ctx is None:
            return False
        last = ctx.end // 4
        if ctx.end % 4 != READ or any(self.selector.effects(op).calls for op in ops[:last]):
            return False
        return all(isinstance(op, ir.Argument | ir.Result | ir.Jump) for op in ops[1:last])

    # --- emission

    def _start(self, e: Emitter) -> None:
        """Nothing happens unless the aspect is active; then the run is counted, others' are left, and the context goes
        to its place."""
        if self.probe.watch is None:  # a program that watches data looks itself, later
            e.out_unless_active(self._off)
        if self.budget is not None:
            from klasy.backend.bytecode import budget

            budget.begin(e, self.begun)
        if self.count_runs:
            self.counters.count_run(e, self.probe.index)
        if self.calls is not None and not self.ends_calls:
            self.calls.begin(e)
        # What takes notes goes by who ran the access: that may be what changes a task's name, or which is running.
        asked = self.probe.watch is None and not self.probe.takes_notes
        if self.plan.filter and asked and not self._keeps_flows():
            from klasy.backend.bytecode.filters import emit_filter

            emit_filter(e, self.plan.filter)
        if self.calls is not None and self.ends_calls:
            self.calls.go_on(e)
        place = e.place(self.origin.ctx)
        if isinstance(place, Slot):
            e.asm.emit(store(R10, place.offset, R1))
        elif place is not None and place != R1:
            e.asm.emit(mov(place, R1))

    def _block(self, e: Emitter, block: Straight, following: Straight | None) -> None:
        e.asm.label(f"b{block.label}")
        after = f"b{following.label}" if following is not None else None
        ops = iter(block.ops)
        for op in ops:
            with e.asm.source(op.span):
                if op is block.ops[-2:][0] and self.selector.decides(op, block.ops[-1]):
                    self.selector.emit_decision(e, op, next(ops), after)
                else:
                    self.selector.emit(e, op, after)

    def _keeps_flows(self) -> bool:
        """Whether all that the program does is to keep control flows: those of all tasks, whoever's hits count.

        A task may become another's while it is in a flow: by a new name, by another user.
        """
        keeps = [bool(self.plan.aspect.advice[arm.advice].keeps) for arm in self.probe.arms]
        if any(keeps) and not all(keeps):
            bag = DiagnosticBag()
            own = next(arm.advice for arm, kept in zip(self.probe.arms, keeps, strict=True) if not kept)
            function = self.probe.points[0].function.name
            bag.error(
                "filtered-flow",
                f"{function} begins or ends a control flow, and is advised: its hits cannot be limited to some tasks",
                self.plan.aspect.advice[own].pointcut.span,
                hints=["test it in the pointcut instead: && if(pid == ..)"],
            )
            bag.raise_if_errors()
        return bool(keeps) and all(keeps)

    # --- what is too large

    def _too_large(self, why: str, alive: list[Interval] | None = None) -> Exception:
        bag = DiagnosticBag()
        bag.error(
            "advice-too-large",
            f"this advice is too large: {why}",
            self._largest(),
            hints=("log fewer values in one go, or split it into several advice",),
        )
        try:
            bag.raise_if_errors()
        except Exception as error:
            return error
        raise AssertionError("an error was added")

    def _largest(self) -> Span:
        """The head of the advice that most of the program's operations come from."""
        served = [arm.advice for arm in self.probe.arms] + [note.advice for note in self.probe.notes]
        advice = {index: self.plan.aspect.advice[index] for index in served}
        spans = [op.span for op in self.program.ops() if op.span is not None]

        def size(index: int) -> int:
            whole = advice[index].span
            return sum(whole.file is s.file and whole.start <= s.start < whole.end for s in spans)

        return advice[max(advice, key=size)].head
