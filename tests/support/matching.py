"""Short forms for tests of matching: an aspect's body and a kernel in, the plan or the messages out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.diag import DiagnosticBag, render
from klasy.errors import InputError
from klasy.lang import load
from klasy.match import Features, PlanOptions
from klasy.match.matcher import match_aspect
from klasy.match.plancheck import check_plan
from klasy.match.planner import make_plan
from klasy.source import SourceFile

if TYPE_CHECKING:
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import Aspect
    from klasy.match.plan import JoinPoint, Plan, Probe


def aspect(body: str) -> Aspect:
    """The only aspect of a file, by what stands in its braces."""
    return load(SourceFile("test.asp", "aspect test {\n" + body + "\n}\n"))[0]


def plan(kernel: Kernel, body: str, *, force: str | None = None, features: Features | None = None) -> Plan:
    """The plan of an aspect without faults. Warnings are in the plan."""
    bag = DiagnosticBag()
    matched = match_aspect(aspect(body), kernel, bag)
    bag.raise_if_errors()
    made = make_plan(matched, PlanOptions(features or Features(), force), bag)
    bag.raise_if_errors()
    assert check_plan(made) == []
    return made


def messages(kernel: Kernel, body: str, *, force: str | None = None) -> str:
    """All that is said of an aspect, errors and warnings, as the user sees it."""
    try:
        found = plan(kernel, body, force=force).diagnostics
    except InputError as error:
        found = error.diagnostics
    return "\n".join(render(diagnostic) for diagnostic in found)


def codes(kernel: Kernel, body: str, *, force: str | None = None) -> list[str]:
    """The names of the findings, errors and warnings."""
    text = messages(kernel, body, force=force)
    return [line.rsplit("[", 1)[1].rstrip("]") for line in text.splitlines() if line.endswith("]") and ": " in line]


def place(joinpoint: JoinPoint) -> str:
    """``function+0x10`` of a join point; ``->callee`` where only the callee is known."""
    shadow = joinpoint.shadow
    if shadow.data is not None:
        return shadow.data
    if shadow.function is None:
        return f"->{shadow.callee.name}" if shadow.callee else "->"
    return f"{shadow.function.name}+{shadow.offset:#x}" if shadow.offset else shadow.function.name


def shape(probe: Probe) -> str:
    """A probe in one line: mechanism, context, locator, marks, and where it is."""
    words = [probe.mechanism.value, probe.context.value, probe.locator.value]
    if probe.mark.value != "none":
        words.append(f"{probe.mark.value}-{probe.role.name.lower()}")
    if probe.condition is not None:
        words.append(f"if-{probe.condition}")
    places = [f"{p.function.name}+{p.address - p.function.address:#x}".removesuffix("+0x0") for p in probe.points]
    if probe.watch is not None:
        kinds = "writes" if probe.watch.writes_only else "reads and writes"
        places.append(f"{probe.watch.piece.length} bytes at {probe.watch.piece.address:#x}, {kinds}")
    return f"{' '.join(words)}: {' '.join(places)}"
