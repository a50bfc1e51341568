"""What advice becomes: the instructions of each program, with the source lines they stem from."""

from __future__ import annotations

import pytest
from golden.harness import Case, cases, check
from golden.kernel import KERNEL

from klasy.backend import generate, show
from klasy.compiler import compile_plan
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.match.options import PlanOptions
from klasy.source import SourceFile


@pytest.mark.parametrize("case", cases("bpf"), ids=str)
def test_bpf(case: Case, update_golden: bool) -> None:
    """The programs of an aspect are these."""
    force = case.sections.get("options") or None
    (aspect,) = load(SourceFile("test.asp", case.input))
    plan = plan_aspect(aspect, KERNEL, PlanOptions(force=force))
    artifact = generate(plan, compile_plan(plan, KERNEL), kernel=KERNEL)
    assert generate(plan, compile_plan(plan, KERNEL), kernel=KERNEL) == artifact, "not deterministic"
    maps = "".join(f"map {spec.name}: {spec.type}, {spec.max_entries} entries\n" for spec in artifact.maps)
    check(case, f"{maps}\n{show(artifact)}", update_golden)
