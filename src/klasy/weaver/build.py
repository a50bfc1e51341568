"""From the text of aspects to artifacts: all stages up to the kernel's door, with every error of a file in one go."""

from __future__ import annotations

from klasy.diag import DiagnosticBag, Severity
from klasy.errors import InputError, SystemRefusal
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.backend import Options
    from klasy.backend.artifact import Artifact
    from klasy.diag import Diagnostic
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import Aspect
    from klasy.match.options import PlanOptions
    from klasy.match.plan import Plan
    from klasy.source import SourceFile


def build(
    source: SourceFile,
    kernel: Kernel | None = None,
    options: PlanOptions | None = None,
    limits: Options | None = None,
) -> list[Artifact]:
    """The artifacts of a file's aspects, for ``kernel`` (default: the running one); none of abstract aspects.

    Raises InputError with all errors of the file. Whether an aspect of the same name is woven is not asked here.
    """
    from klasy import lang

    try:
        aspects = lang.load(source)
    except InputError as error:
        _raise_with_the_rest([source], error.diagnostics, kernel, options)
        raise
    return _build(aspects, kernel, options, limits)


def build_all(
    sources: Sequence[SourceFile],
    kernel: Kernel | None = None,
    options: PlanOptions | None = None,
    limits: Options | None = None,
) -> list[Artifact]:
    """The artifacts of several files, in their order. Raises InputError with all errors of all files."""
    from klasy import lang

    bag = DiagnosticBag()
    aspects: list[Aspect] = []
    for source in sources:
        try:
            aspects += lang.load(source)
        except InputError as error:
            bag.items += error.diagnostics
    _report_same_names(aspects, bag)
    if bag.errors:
        _raise_with_the_rest(sources, bag.items, kernel, options)
        bag.raise_if_errors()
    if not aspects:
        raise InputError("there is nothing to weave: all aspects are abstract", hint="weave one that extends them")
    return _build(aspects, kernel, options, limits)


def _report_same_names(aspects: Sequence[Aspect], bag: DiagnosticBag) -> None:
    """Two aspects of one name in one file are the resolver's to report; here, in different files."""
    first: dict[str, Aspect] = {}
    for aspect in aspects:
        other = first.setdefault(aspect.name, aspect)
        if other is not aspect and other.source is not aspect.source:
            bag.error(
                "duplicate-aspect",
                f"two aspects are named '{aspect.name}'",
                aspect.name_span,
                related=[(other.name_span, "the first is here")],
            )


def _raise_with_the_rest(
    sources: Sequence[SourceFile], found: Sequence[Diagnostic], kernel: Kernel | None, options: PlanOptions | None
) -> None:
    """Raise InputError with what was found without a kernel, and what the kernel has against the rest of the files.

    Returns where the kernel cannot be asked.
    """
    from klasy.lang.remains import sound_parts

    try:
        kernel, options = kernel or _running_kernel(), options or _running_options()
        aspects = [aspect for source in sources for aspect in sound_parts(source)]
        rest = [error for aspect in aspects for error in _errors_of(aspect, kernel, options)]
    except SystemRefusal:
        return
    bag = DiagnosticBag(list(found))
    bag.add_unsaid(rest)
    bag.raise_if_errors()


def _errors_of(aspect: Aspect, kernel: Kernel, options: PlanOptions) -> list[Diagnostic]:
    """What the kernel has against an aspect; no warnings, of which some are of what the whole file does not do."""
    from klasy.compiler import compile_plan

    try:
        compile_plan(_plan(aspect, kernel, options), kernel)
    except InputError as error:
        return [d for d in _told(aspect, error.diagnostics) if d.severity is Severity.ERROR]
    return []


def _running_kernel() -> Kernel:
    from klasy.kernel.live import running_kernel

    return running_kernel()


def _running_options() -> PlanOptions:
    from klasy.match.options import PlanOptions
    from klasy.weaver.features import RunningFeatures

    return PlanOptions(RunningFeatures())


def _build(
    aspects: Sequence[Aspect], kernel: Kernel | None, options: PlanOptions | None, limits: Options | None
) -> list[Artifact]:
    kernel, options = kernel or _running_kernel(), options or _running_options()
    bag = DiagnosticBag()
    built: list[Artifact] = []
    for aspect in aspects:
        try:
            built.append(_build_one(aspect, kernel, options, limits))
        except InputError as error:
            if not error.diagnostics:
                raise
            bag.items += _told(aspect, error.diagnostics)
    bag.raise_if_errors()
    return built


def _told(aspect: Aspect, items: Sequence[Diagnostic]) -> Sequence[Diagnostic]:
    """What was found in an aspect; of what it inherits, with where it extends that."""
    if aspect.extends is None:
        return items
    from klasy.lang.inherit import tell_extends

    told = list(items)
    tell_extends(aspect, told)
    return told


def _plan(aspect: Aspect, kernel: Kernel, options: PlanOptions) -> Plan:
    """Where an aspect is to be woven. If that fails, its advice is checked all the same: all errors come in one go."""
    from klasy.compiler import check_aspect
    from klasy.match import plan_aspect

    try:
        return plan_aspect(aspect, kernel, options)
    except InputError as error:
        bag = DiagnosticBag(list(error.diagnostics))
        bag.add_unsaid(check_aspect(aspect, kernel))
        bag.raise_if_errors()
        raise


def _build_one(aspect: Aspect, kernel: Kernel, options: PlanOptions, limits: Options | None) -> Artifact:
    from klasy.backend import Options, generate
    from klasy.bpf.maps import cpu_numbers
    from klasy.compiler import compile_plan
    from klasy.match.runs import must_count
    from klasy.weaver.features import counts_refused

    plan = _plan(aspect, kernel, options)
    compiled = compile_plan(plan, kernel)
    plan = replace(plan, diagnostics=tuple(_told(aspect, (*plan.diagnostics, *compiled.diagnostics))))
    limits = replace(limits or Options(), cpus=cpu_numbers())
    if limits.filter:
        plan = replace(plan, filter=limits.filter)
    if any(must_count(plan, probe) for probe in plan.probes) and not counts_refused(kernel):
        limits = replace(limits, count_runs=True)
    c_code = None
    if compiled.c_advice:
        from klasy.backend.artifact import counter_rows
        from klasy.weaver.load_bcc import compile_c

        rows = counter_rows(limits.cpus, len(plan.joinpoints))
        c_code = compile_c(compiled.c_advice, compiled.states, kernel, rows)
    return generate(plan, compiled, limits, kernel, c_code)
