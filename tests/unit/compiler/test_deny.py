"""deny: what a program's result is, and which advice still runs, in the IR's interpreter and in BPF's."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.backend import Runner, trampoline_context
from support.compiling import compile_text, memory_world
from support.fakekernel import FakeKernel

from klasy import backend
from klasy.backend.artifact import MAP_CONTROL
from klasy.compiler.ireval import World, run
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.match.plancheck import check_plan
from klasy.source import SourceFile

KERNEL = FakeKernel("int security_f(int x); int g(int x);")
TEXT = """aspect a {
    pointcut f(int x): execution(security_f(int x));
    around(int x): f(x) && if(x != 1) {
        if (x == 2) deny(EACCES);
        if (x == 3) return; if (x > 10) deny(ERRNO);
        log(x);
    }
    around(int x): f(x) { if (x == 3 || x == 4) deny(5); }
    before(int x): f(x) { log(x); }
}"""


def expected(x: int, number: int) -> tuple[int, list[int], list[int]]:
    """What the advice says: the result, the hits and the denials of the two advice that decide."""
    first = x != 1
    if first and x == 2:
        return -errno.EACCES, [1, 0], [1, 0]
    if first and x > 10:
        return -number, [1, 0], [1, 0]
    if x in (3, 4):
        return -5, [int(first), 1], [0, 1]
    return 0, [int(first), 1], [0, 0]


@given(st.integers(-5, 20), st.sampled_from(sorted(errno.errorcode)), st.booleans())
def test_deny(x: int, number: int, active: bool):
    """The first that denies ends it all, counted; falling off the end proceeds; what is not active never denies."""
    source = TEXT.replace("ERRNO", errno.errorcode[number])
    compiled = compile_text(source, KERNEL)
    (aspect,) = load(SourceFile("test.asp", source))
    plan = plan_aspect(aspect, KERNEL)
    assert check_plan(plan) == []
    assert [probe.mechanism.value for probe in plan.probes] == ["fentry", "fmod_ret"]
    runner = Runner(backend.generate(plan, compiled), memory_world(b""))
    if not active:
        runner.maps[MAP_CONTROL].update(bytes(4), bytes(8))
    found = runner.machine.run(runner.artifact.programs[1].code, trampoline_context([x & 0xFFFFFFFF]))
    result, hits, denials = expected(x, number) if active else (0, [0, 0], [0, 0])
    assert found == result & (1 << 64) - 1
    counters = runner.all_counters()[:2]
    assert [each[0] for each in counters] == hits
    assert [each[5] for each in counters] == denials
    world = World(lambda *_: None, (x,), 0, memory_world(b"").context, b"bash", [0, 1])
    outcome = run(compiled.programs[1], world)
    if active:
        assert outcome.denied == (-result or None)
        assert [joinpoint for joinpoint, what in outcome.counted if what == "denied"] == [
            i for i, n in enumerate(denials) if n
        ]


@pytest.mark.parametrize("name", ["EWOULDBLOCK", "EAGAIN"])
def test_names_of_one_error(name: str):
    """An error has all the names that C has for it."""
    compiled = compile_text(f"aspect a {{ around(): execution(security_f) {{ deny({name}); }} }}", KERNEL)
    world = World(lambda *_: None, (0,), 0, memory_world(b"").context, b"bash", [0])
    assert run(compiled.programs[0], world).denied == errno.EAGAIN
