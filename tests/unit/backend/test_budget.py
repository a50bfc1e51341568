"""The budget's code against its meaning: what is spent is summed up, and too much within a second ends it all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.backend import Runner, trampoline_context
from support.compiling import compile_text, memory_world
from support.fakekernel import FakeKernel

from klasy import backend
from klasy.backend.artifact import BUDGET_OVER, BUDGET_SPAN, MAP_BUDGET, MAP_CONTROL, STOPPED_BY_BUDGET
from klasy.backend.maps import Budget
from klasy.bpf.uapi import helper_number
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.source import SourceFile

KERNEL = FakeKernel("int security_f(int x);")
TEXT = "aspect a { around(int x): execution(security_f(int x)) { if (x == 7) deny(EPERM); log(x); } }"
MS = 1_000_000
BUDGET = Budget(2.0, 2)  # 40 ms of each second; a processor hands over 1.25 ms at a time


class Timed:
    """A program with a budget whose runs take as long as they are told."""

    def __init__(self) -> None:
        (aspect,) = load(SourceFile("test.asp", TEXT))
        compiled = compile_text(TEXT, KERNEL)
        artifact = backend.generate(plan_aspect(aspect, KERNEL), compiled, backend.Options(budget=BUDGET))
        assert artifact.budget == 2.0
        self.runner = Runner(artifact, memory_world(b""))
        self.clock: list[int] = []
        self.runner.machine.helpers[helper_number("ktime_get_ns")] = self._time

    def _time(self, *_: int) -> int:
        return self.clock.pop(0) if len(self.clock) > 1 else self.clock[0]

    def run(self, start: int, took: int, x: int = 1) -> int:
        """One run; its result. The record's own time is in between."""
        self.clock = [start, start, start + took] if x != 7 else [start, start + took]
        return self.runner.machine.run(self.runner.artifact.programs[0].code, trampoline_context([x]))

    def word(self, name: str, at: int, size: int = 8) -> int:
        return int.from_bytes(self.runner.maps[name][bytes(4)][at : at + size], "little")

    @property
    def active(self) -> bool:
        return self.word(MAP_CONTROL, 0, 4) == 1

    @property
    def hits(self) -> int:
        return self.runner.all_counters()[0][0]


def test_numbers():
    """Of all processors together, in a second; and what each hands over at a time."""
    assert (BUDGET.window, BUDGET.part) == (40 * MS, 1_250_000)
    assert Budget(0.001, 1).part == 625


@given(st.lists(st.tuples(st.integers(1, 400 * MS), st.integers(0, 8 * MS)), max_size=60))
def test_budget(runs):
    """It is stopped by the run that makes a second's sum, in parts, too large; never before, and for good."""
    timed = Timed()
    now, window, spent, kept, over = 5 * 10**9, 0, 0, 0, None
    for count, (gap, took) in enumerate(runs):
        now += gap
        timed.run(now, took)
        now += took
        if over is not None:
            assert timed.hits == over
            continue
        assert timed.hits == count + 1
        kept += took
        if kept >= BUDGET.part:
            if now - window >= 10**9:
                window, spent = now, 0
            spent, kept = spent + kept, 0
            if spent > BUDGET.window:
                over = timed.hits
                assert timed.word(MAP_CONTROL, 4, 4) == STOPPED_BY_BUDGET
                assert timed.word(MAP_BUDGET, BUDGET_OVER) == spent
                assert timed.word(MAP_BUDGET, BUDGET_SPAN) == now - window
        assert timed.active == (over is None)


@pytest.mark.parametrize("x", [1, 7])
def test_the_result_stays(x):
    """What the advice decides goes through the account; what is over budget denies nothing more."""
    timed = Timed()
    result = (1 << 64) - 1 if x == 7 else 0
    assert timed.run(10**10, 3 * MS, x) == result
    assert timed.run(10**10, 50 * MS, x) == result
    assert not timed.active
    assert timed.run(10**10, 1, x) == 0
