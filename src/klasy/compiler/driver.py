"""Runs the stages of the compiler: check every advice once, lower every probe, run the passes."""

from __future__ import annotations

from klasy.compiler import Compiled, irstate, tree
from klasy.compiler.check import AdviceChecker
from klasy.compiler.formats import Formats
from klasy.compiler.lower import Called, lower_probe
from klasy.compiler.passes import pipeline
from klasy.compiler.types import Types
from klasy.diag import Diagnostic, DiagnosticBag
from klasy.lang.ast import Access
from klasy.match.pointcut import walk
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from klasy.compiler import ir
    from klasy.compiler.observed import DataNames
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import Advice, Aspect
    from klasy.match.plan import Plan, Probe
    from klasy.state import State


def compile_plan(plan: Plan, kernel: Kernel) -> Compiled:
    """See klasy.compiler."""
    bag = DiagnosticBag()
    checkers, formats = _checkers(plan.aspect, kernel, bag, plan)
    checked = {checker.advice.index: checker.check() for checker in checkers}
    if checkers and checkers[0].objects is not None:
        checkers[0].objects.report_unused(bag, plan.aspect.advice)
    _check_uncalled(plan.aspect, checkers)
    guards = {
        probe.index: {
            place: checkers[arm.advice].guard(arm.guard) if arm.guard is not None else None
            for place, arm in enumerate(probe.arms)
        }
        for probe in plan.probes
    }
    _without_repeats(bag)
    bag.raise_if_errors()
    states = _lay_out(checkers[0], bag) if plan.aspect.state else ()
    advice = {index: typed for index, typed in checked.items() if typed is not None}
    called = Called(plan.joinpoints, {})
    of_kernel = {checker.advice.index for checker in checkers if checker.kernel_memory}
    programs = tuple(_program(probe, advice, guards[probe.index], called, of_kernel) for probe in plan.probes)
    for program in programs:
        probe = plan.probes[program.probe]
        if not probe.in_program and irstate.takes_user_stack(program.ops()):
            _refuse_stacks_in_themselves(plan, probe, bag)
    bag.raise_if_errors()
    in_c = tuple(each for each in advice.values() if not isinstance(each.body, tree.Sequence))
    deletes = frozenset(s.name for s in checkers[0].states.values() if s.deleted) if in_c else frozenset()
    types = checkers[0].types.handed if checkers else {}
    return Compiled(programs, tuple(formats.all), tuple(bag.items), states, in_c, deletes, types)


def _refuse_stacks_in_themselves(plan: Plan, probe: Probe, bag: DiagnosticBag) -> None:
    """An error where a program would take a process's stack in what the kernel runs through to take one."""
    from klasy.kernel.traceable import RUN_FOR_USER_STACKS

    for arm in probe.arms:
        for joinpoint in arm.joinpoints:
            function = plan.joinpoints[joinpoint].shadow.function
            if function is None or function.name.partition(".")[0] not in RUN_FOR_USER_STACKS:
                continue
            bag.error(
                "stack-in-itself",
                f"ustack() cannot be taken in '{function.name}': the kernel comes through it whenever it takes a "
                "process's stack, and would keep the process's memory locked for ever",
                plan.aspect.advice[arm.advice].pointcut.span,
                hints=[f"leave it out: && !within({function.name})", "or log stack(), which is the kernel's own"],
            )
            return


def _lay_out(checker: AdviceChecker, bag: DiagnosticBag) -> tuple[State, ...]:
    from klasy.compiler.states import lay_out

    variables = list(checker.states.values())
    for state in variables:
        if not state.used:
            bag.warning("unused-state", f"'{state.name}' is never used", state.span)
    return lay_out(variables)


def _program(
    probe: Probe,
    advice: dict[int, tree.Advice],
    guards: dict[int, tree.Expr | None],
    called: Called,
    of_kernel: Container[int],
) -> ir.Program:
    """The program of a probe. ``of_kernel``: the advice that names the kernel's memory, also in a user program."""
    program = lower_probe(probe, advice, guards, called)
    program.kernel_memory = any(arm.advice in of_kernel for arm in probe.arms)
    pipeline.run(program)
    return program


def check_aspect(aspect: Aspect, kernel: Kernel) -> tuple[Diagnostic, ...]:
    """See klasy.compiler."""
    bag = DiagnosticBag()
    checkers, _ = _checkers(aspect, kernel, bag)
    for checker in checkers:
        checker.check()
    _check_uncalled(aspect, checkers)
    _without_repeats(bag)
    return tuple(bag.items)


def _checkers(
    aspect: Aspect, kernel: Kernel, bag: DiagnosticBag, plan: Plan | None = None
) -> tuple[list[AdviceChecker], Formats]:
    """A checker for each advice. Without a plan, matching failed."""
    near = _near(plan) if plan is not None else {}
    types = Types(kernel, [module for modules in near.values() for module in modules], sure=plan is not None)
    formats, checkers = Formats(), []
    of_programs: dict[int, Types] = {}
    if any("user" in file.text for file in (aspect.source, *aspect.imports)):  # which is rare
        from klasy.compiler.programtypes import give_types

        of_programs = give_types(aspect, types)
    for advice in aspect.advice:
        data = _data_names(advice, plan) if any(isinstance(part, Access) for part in walk(advice.pointcut)) else None
        mine = of_programs.get(advice.index) or types.in_code(
            near.get(advice.index, ()), _mentioned(kernel, plan, advice)
        )
        checkers.append(AdviceChecker(mine, bag, advice, formats, data))
        checkers[-1].watching = data is not None and data.by_register
    if checkers and any("watch" in file.text for file in (aspect.source, *aspect.imports)):  # which is rare
        from klasy.compiler.builtins.objects import offer

        offer(plan, checkers)
    everyone: list[AdviceChecker] = list(checkers)
    if aspect.functions and checkers:
        from klasy.compiler.functions import prepare

        everyone += prepare(aspect, checkers)
    if aspect.state and checkers:
        from klasy.compiler.states import declare

        states = declare(aspect, types, everyone)
        for checker in checkers:
            checker.states = states
    return checkers, formats


def _near(plan: Plan) -> dict[int, set[str | None]]:
    """The modules (None: the kernel proper) whose code an advice is about: what a call calls, whose member it is."""
    found: dict[int, set[str | None]] = {}
    for joinpoint in plan.joinpoints:
        shadow = joinpoint.shadow
        near = found.setdefault(joinpoint.advice, set())
        if shadow.access is not None:
            near.update(member.module for member in shadow.access.members)
        elif (function := shadow.callee or shadow.function) is not None and not function.in_program:
            near.add(function.module)
    return found


def _mentioned(kernel: Kernel, plan: Plan | None, advice: Advice) -> Callable[[], Iterable[int]]:
    """The structs of the kernel proper that functions and members of an advice's join points have to do with."""

    def ids() -> Iterable[int]:
        from klasy.match.modules import structs_of

        return structs_of(kernel, [p.shadow for p in plan.joinpoints if p.advice == advice.index]) if plan else ()

    return ids


def _check_uncalled(aspect: Aspect, checkers: list[AdviceChecker]) -> None:
    """Functions that no advice calls are checked all the same."""
    if aspect.functions and checkers:
        from klasy.compiler.functions import check_uncalled

        check_uncalled(aspect, checkers)


def _data_names(advice: Advice, plan: Plan | None) -> DataNames:
    from klasy.compiler.observed import DataNames

    if plan is None:
        return DataNames((), known=False)
    others = any(j.advice == advice.index and j.shadow.datum is None for j in plan.joinpoints)
    return DataNames(plan.data_of(advice.index), others)


def _without_repeats(bag: DiagnosticBag) -> None:
    """A condition of a named pointcut is checked for each advice that uses it, and again for each arm: say it once."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for item in bag.items:
        key = (item.code, item.message, item.span and (item.span.file.name, item.span.start, item.span.end))
        if key not in seen:
            seen.add(key)
            kept.append(item)
    bag.items[:] = kept
