"""What is said of aspects that do not fit the kernel, and the plans of those that do."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden.harness import Case, cases, check
from golden.match.kernel import KERNEL
from support.matching import messages, place, plan, shape

from klasy.lang.printer import print_expr


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the programs are that the cases name without a path in front."""
    monkeypatch.setenv("PATH", str(Path(__file__).parents[2] / "data" / "programs"))


@pytest.mark.parametrize("case", cases("match", "bad_*.test"), ids=str)
def test_errors(case: Case, update_golden: bool) -> None:
    """A pointcut that does not fit the kernel is refused with these messages, all in one go."""
    text = messages(KERNEL, case.input)
    assert "error:" in text
    check(case, text, update_golden)


@pytest.mark.parametrize("case", cases("match", "warn_*.test"), ids=str)
def test_warnings(case: Case, update_golden: bool) -> None:
    """A doubtful pointcut is woven, with these warnings."""
    text = messages(KERNEL, case.input)
    assert "warning:" in text
    assert "error:" not in text
    check(case, text, update_golden)


@pytest.mark.parametrize("case", cases("match", "plan_*.test"), ids=str)
def test_plans(case: Case, update_golden: bool) -> None:
    """An aspect is reached by these probes, for these reasons."""
    made = plan(KERNEL, case.input, force=case.sections.get("options") or None)
    lines = [f"{j.id} advice {j.advice} {place(j)} by {j.mechanism}: {j.why}" for j in made.joinpoints]
    for probe in made.probes:
        lines.append(f"{probe.name} {shape(probe)}")
        for arm in probe.arms:
            bound = ", ".join(f"{b.name}={b.source}" for b in arm.bindings)
            guard = f" if {print_expr(arm.guard)}" if arm.guard else ""
            ids = sorted({*arm.by_address.values(), *arm.by_return_address.values()})
            rest = f" otherwise {arm.otherwise}" if arm.otherwise is not None else ""
            rest += f" does {arm.does}" if arm.does else ""
            rest += "".join(f" {low:#x}-{high:#x}" for low, high in arm.ranges or ())
            lines.append(f"  advice {arm.advice} ({bound}){guard}: {' '.join(map(str, ids))}{rest}".rstrip())
    check(case, "\n".join(lines), update_golden)
