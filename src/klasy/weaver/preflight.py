"""Switches of the machine that would let a weave succeed and never hit, or fail with an error that tells nothing."""

from __future__ import annotations

from klasy.bpf.sys import lockdown
from klasy.errors import InputError, KernelRefused, SystemRefusal
from klasy.match.mechanism import IN_PROGRAMS, Mechanism
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.bpf.verifier import Verdict
    from klasy.match.plan import Plan
    from klasy.source import Span
    from klasy.weaver.recipe import Recipe

KPROBES_ENABLED = "/sys/kernel/debug/kprobes/enabled"
FTRACE_ENABLED = "/proc/sys/kernel/ftrace_enabled"

_NOT_BY_FTRACE = {Mechanism.BREAKPOINT, Mechanism.RAW_TRACEPOINT, Mechanism.TRACE_EVENT}
_BY_EVENT = frozenset({Mechanism.KPROBE, Mechanism.KRETPROBE})


def preflight(
    recipes: Iterable[Recipe], *, kprobes_enabled: str = KPROBES_ENABLED, ftrace_enabled: str = FTRACE_ENABLED
) -> None:
    """Raise SystemRefusal, with the remedy, if this machine is set so that the recipes' probes cannot work."""
    if lockdown() == "confidentiality":
        raise SystemRefusal(
            "the kernel is locked down for confidentiality, which forbids probes and reading its memory",
            hint="boot without lockdown=confidentiality; lockdown=integrity is no obstacle",
        )
    mechanisms = {probe.mechanism for recipe in recipes for probe in recipe.probes}
    if mechanisms & _BY_EVENT and _reads(kprobes_enabled, "0"):
        raise SystemRefusal(
            "kprobes are switched off: probes would be put in place and never hit",
            hint=f"echo 1 > {kprobes_enabled}",
        )
    if mechanisms - _NOT_BY_FTRACE - IN_PROGRAMS and _reads(ftrace_enabled, "0"):
        raise SystemRefusal(
            "function tracing is switched off: probes at functions would be put in place and never hit",
            hint="sysctl kernel.ftrace_enabled=1",
        )


def _reads(path: str, value: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip() == value
    except OSError:
        return False


def load_refusal(plan: Plan | None, probe: int, error: KernelRefused) -> InputError | KernelRefused:
    """What to say when the kernel does not take the program of a probe: whose code it is, and whose fault.

    Without the plan, of code that was kept, nothing is added: it is going to be built anew.
    """
    from klasy.bpf.verifier import TOO_LARGE, VerifierError

    if plan is None or not isinstance(error, VerifierError):
        return error
    from klasy.diag import Diagnostic, Severity
    from klasy.lang.ast import CBody
    from klasy.source import Span

    advice = [plan.aspect.advice[arm.advice] for arm in plan.probes[probe].arms]
    span = error.metadata if isinstance(error.metadata, Span) else advice[0].head if advice else None
    if TOO_LARGE in error.message:
        diagnostic = Diagnostic(
            Severity.ERROR,
            "too-large",
            "what this advice does is more than the kernel lets one probe do",
            span,
            hints=(
                "log fewer or smaller values, or make two aspects of it; a loop counts with all the turns it may take",
            ),
        )
        return InputError("1 error", [diagnostic])
    for each in advice:
        if isinstance(each.body, CBody) and (
            error.metadata == each.body.span or "combined stack" in error.verdict.reason
        ):
            return _refused_c(each.body.span, error.verdict)
    where = f" for {', '.join(a.label for a in advice)}" if advice else ""
    place = f" ({span!r})" if span is not None else ""
    what = f"the kernel refuses klasy's code{where} of aspect '{plan.aspect.name}'{place}"
    error.message = f"{what}: {error.message}"
    error.hint = "this is a fault of klasy's, not of the aspect: please report it, with the aspect"
    return error


def _refused_c(span: Span, verdict: Verdict) -> InputError:
    """What the kernel does not let advice in C do: the user's code, so the user's fault."""
    from klasy.diag import Diagnostic, Severity

    reason = " ".join(verdict.reason.split()) or "it does not say why"
    instruction = f"; the instruction is {verdict.instruction}" if verdict.instruction else ""
    hints = (
        "memory is only read through pointers that come from the advice's parameters, or by bpf_probe_read_kernel, "
        "and not in what container_of is given: put that into a variable; a loop needs a bound; what a map gives may "
        "be NULL; klasy's program and this one share 512 bytes of stack",
    )
    message = f"the kernel does not let this C code run: {reason}{instruction}"
    return InputError("1 error", [Diagnostic(Severity.ERROR, "c-refused", message, span, hints)])
