"""What advice becomes: the IR of each program, after all passes."""

from __future__ import annotations

import pytest
from golden.harness import Case, cases, check
from golden.kernel import KERNEL
from support.compiling import compile_text

from klasy.compiler.ircheck import check as broken
from klasy.compiler.irprint import render
from klasy.match.options import PlanOptions


@pytest.mark.parametrize("case", cases("ir"), ids=str)
def test_ir(case: Case, update_golden: bool) -> None:
    """The programs of an aspect are these."""
    force = case.sections.get("options", "")
    compiled = compile_text(case.input, KERNEL, PlanOptions(force=force) if force else None)  # type: ignore[arg-type]
    for program in compiled.programs:
        assert broken(program) == []
    check(case, "\n\n".join(render(program) for program in compiled.programs), update_golden)
