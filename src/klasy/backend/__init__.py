"""From checked IR to an artifact: programs, maps and record formats. Pure: no system calls."""

from __future__ import annotations

from klasy.backend.maps import Options, shared_maps
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klasy.backend.artifact import Artifact, TracepointSpec
    from klasy.bpf.insn import Instruction
    from klasy.compiler import Compiled
    from klasy.kernel.model import Kernel
    from klasy.match.plan import Plan

__all__ = ["Options", "generate", "show"]


def generate(
    plan: Plan,
    compiled: Compiled,
    options: Options = Options(),  # noqa: B008  # frozen
    kernel: Kernel | None = None,
    c_code: Mapping[int, Sequence[Instruction]] | None = None,
) -> Artifact:
    """The artifact of a compiled plan. Deterministic. Raises InputError where an advice is too large for BPF.

    ``kernel``: the one it is for. Without it, calls that are told apart by their return address are taken for calls
    from unknown places where a kretprobe of someone else is on the callee, and what records say of the task costs more.
    ``c_code``: what a compiler made of the advice in C.
    """
    from klasy.backend.artifact import Artifact
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emit import generate_program
    from klasy.backend.bytecode.rethook import find_rethook
    from klasy.backend.bytecode.task import find_task
    from klasy.compiler import ir
    from klasy.match.plan import Locator, MarkRole  # who weaves what was kept needs no plan
    from klasy.match.runs import must_count

    states = None
    if compiled.states:
        from klasy.backend.bytecode.states import StateCode

        states = StateCode(compiled.programs, compiled.c_deletes)
    counters = Counters(plan, options.cpus)
    by_return = any(p.locator is Locator.DISPATCH or p.role is MarkRole.TAIL for p in plan.probes)
    rethook = find_rethook(kernel) if kernel is not None and by_return else None
    logs = any(isinstance(op, ir.Emit) for program in compiled.programs for op in program.ops())
    task = find_task(kernel) if kernel is not None and logs else None
    callers = None
    if kernel is not None and any(probe.in_program for probe in plan.probes):
        from klasy.backend.bytecode.callers import asks, find_callers

        if any(asks(plan.probes[program.probe], program.ops()) for program in compiled.programs):
            callers = find_callers(kernel)
    generated = [
        generate_program(
            plan,
            program,
            counters,
            rethook,
            states,
            count_runs=options.count_runs and must_count(plan, plan.probes[program.probe]),
            c_code=c_code,
            budget=options.budget,
            task=task,
            callers=callers,
        )
        for program in compiled.programs
    ]
    used = frozenset().union(*(each.shared for each in generated))
    slots = [op.slot for program in compiled.programs for op in program.ops() if isinstance(op, ir.Limit)]
    maps = shared_maps(plan, used, options, max(slots, default=-1) + 1)
    maps += [spec for each in generated for spec in each.maps]
    if compiled.states:
        from klasy.backend.bytecode.states import state_maps

        maps += state_maps(compiled.states, options.keys)
    if options.budget is not None:
        from klasy.backend.bytecode.budget import budget_maps

        maps += budget_maps()
    tracepoints: list[TracepointSpec] = []
    if plan.filter and plan.filter.children:
        from klasy.backend.bytecode.filters import follow_maps, follow_programs

        assert kernel is not None, "who follows children has a kernel"
        maps += follow_maps(plan.filter)
        tracepoints = follow_programs(kernel.btf)
    budget = options.budget.percent if options.budget is not None else None
    specs = tuple(each.spec for each in generated)
    shapes = compiled.formats, compiled.states
    return Artifact(plan, tuple(maps), specs, *shapes, tuple(tracepoints), budget, compiled.types)


def show(artifact: Artifact) -> str:
    """The programs of an artifact as text: instructions, with the source line each stems from above them."""
    from klasy.backend.listing import render

    return render(artifact)
