"""sample, limit and stop: what goes on and what is counted, in the IR's interpreter and in BPF's, which must agree."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.backend import Runner, trampoline_context
from support.compiling import compile_text, errors_of, memory_world
from support.fakekernel import FakeKernel

from klasy import backend
from klasy.bpf.uapi import helper_number
from klasy.compiler.ireval import World, run
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.record import COUNTERS
from klasy.source import SourceFile

KERNEL = FakeKernel("int f(int x); int g(int x);")


def text(body: str) -> str:
    return f"aspect a {{ pointcut execution(f(int x)); before(int x) {{ {body} }} }}"


class Both:
    """A program in both interpreters; each run gives whether it logged."""

    def __init__(self, body: str) -> None:
        source = text(body)
        self.compiled = compile_text(source, KERNEL)
        (aspect,) = load(SourceFile("test.asp", source))
        self.runner = Runner(backend.generate(plan_aspect(aspect, KERNEL), self.compiled), memory_world(b""))
        self.buckets: dict[int, int] = {}
        self.left_out = 0

    def run(self, now: int = 0, random: int = 0, x: int = 0) -> bool:
        context = {**memory_world(b"").context, "now": now, "random": random}
        world = World(lambda *_: None, (x,), 0, context, b"bash", [0], buckets=self.buckets)
        outcome = run(self.compiled.programs[0], world)
        self.left_out += len(outcome.counted)
        machine = self.runner.machine
        machine.now = now
        machine.helpers[helper_number("get_prandom_u32")] = lambda *_: random
        same = self.runner.run(trampoline_context([x]), trampoline=1)
        assert [record.data for record in same.logged] == [record.data for record in outcome.logged]
        assert same.hits == outcome.hits
        names = ("hits", "lost", "unmarked", "left_out", "cut", "denied")
        counted = dict(zip(names, self.runner.all_counters()[0], strict=True))
        assert counted["left_out"] == self.left_out
        return bool(outcome.logged)


@given(st.integers(0, 0xFFFF_FFFF), st.integers(1, 1000), st.integers(1, 1000))
def test_sample(random: int, a: int, b: int):
    """A toss below the fraction of its range goes on; the others are counted as left out."""
    part, whole = min(a, b), max(a, b)
    both = Both(f"sample({part}/{whole}); log(x);")
    assert both.run(random=random) == (random < part * 2**32 // whole)
    before = both.left_out
    assert both.run(random=0xFFFF_FFFF) == (part == whole)
    assert both.left_out == before + (part != whole)


def test_each_sample_tosses_anew():
    """Two samples are two tosses, and two programs' samples too."""
    program = compile_text(text("sample(1/2); sample(1/2); log(x);"), KERNEL).programs[0]
    from klasy.compiler import ir

    assert sum(isinstance(op, ir.Context) and op.what == "random" for op in program.ops()) == 2


@given(st.integers(1, 50), st.lists(st.integers(0, 400_000_000), min_size=1, max_size=120))
def test_limit(number: int, waits: list[int]):
    """Whatever the times: in no span of time more pass than a full bucket and what filled up meanwhile."""
    both = Both(f"limit({number}/s); log(x);")
    times = list(itertools.accumulate(waits, initial=10**15))
    passed = [now for now in times if both.run(now)]
    interval = -(-(10**9) // number)
    for i, first in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= number + (passed[j] - first) / interval
    assert both.left_out == len(times) - len(passed)
    # And no fewer than that: each that was left out found the bucket empty.
    model, full = [], 0.0
    last = times[0]
    full = float(number)
    for now in times:
        full = min(number, full + (now - last) / interval)
        last = now
        if full >= 1 - 1e-6:
            model.append(now)
            full -= 1
    assert abs(len(model) - len(passed)) <= 1


def test_limit_refills():
    """A burst of the number passes, then one each interval; a long time later a burst again."""
    both = Both("limit(100/s); log(x);")
    start = 10**12
    assert sum(both.run(start) for _ in range(250)) == 100
    assert sum(both.run(start + ms * 1_000_000) for ms in range(1, 1001)) == 100
    assert sum(both.run(start + 10**11) for _ in range(250)) == 100


def test_limits_are_apart():
    """Each limit has its own bucket; what is behind one that ends the advice takes nothing."""
    both = Both("limit(1/s); log(x); limit(2/min); log(x + 1);")
    assert [both.run(10**12) for _ in range(3)] == [True, False, False]
    assert both.buckets.keys() == {0, 1}
    spec = next(spec for spec in both.runner.artifact.maps if spec.name == "limits")
    assert (spec.value_size, spec.max_entries) == (16, 1)


def test_stop():
    """The advice goes on to its end; then the aspect's programs do nothing, not even count."""
    both = Both("if (x == 3) stop(); log(x);")
    context = trampoline_context
    runs = [both.runner.run(context([x]), trampoline=1) for x in (1, 2, 3, 4, 3, 5)]
    assert [len(outcome.logged) for outcome in runs] == [1, 1, 1, 0, 0, 0]
    assert both.runner.all_counters()[0][0] == 3
    assert COUNTERS.size == 48


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sample(2/1);", "'sample(2/1)' cannot sample: that is more than all"),
        ("sample(0/5);", "0 of them would be none"),
        ("sample(5);", "it takes a fraction"),
        ("sample(x/5);", "it takes a fraction"),
        ("limit(100);", "'limit(100)' cannot limit: it takes a number a time: /ms, /s, /min"),
        ("limit(100/h);", "it takes a number a time"),
        ("limit(0/s);", "0 would be none"),
        ("limit(2000000000/s);", "too many"),
        ("int y = sample(1/2); log(y);", "gives no value"),
    ],
)
def test_errors(body: str, message: str):
    """What is no rate is said."""
    assert message in errors_of(text(body), KERNEL)
