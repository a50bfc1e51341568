"""Loops: what they log is what C's loops do, in the IR's interpreter and in BPF's; the bound ends what does not end."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.backend import run_both
from support.compiling import BASE, compile_text, errors_of, memory_world
from support.fakekernel import FakeKernel

from klasy.compiler import ir
from klasy.compiler.ireval import run

KERNEL = FakeKernel("struct node { struct node *next; int value; }; int f(struct node *head, int n);")


def text(body: str) -> str:
    return (
        f"aspect a {{ pointcut execution(f(struct node *head, int n)); before(struct node *head, int n) {{ {body} }} }}"
    )


def logged(body: str, n: int = 0, memory: bytes = b"") -> tuple[list[int], int]:
    """The one number of each log, and how many loops were cut; by both interpreters."""
    outcome, runner = run_both(text(body), KERNEL, (BASE, n & (1 << 64) - 1), memory)
    cut = sum(what == "cut" for _, what in outcome.counted)
    assert runner.all_counters()[0][4] == cut
    return [struct.unpack_from("<i", record.data, 48)[0] for record in outcome.logged], cut


@given(st.integers(-5, 60), st.integers(1, 7))
def test_for(n: int, step: int):
    """A counted loop runs as often as C's, and leaves its variables as C's does."""
    assert logged(f"int s = 0; for (int i = 0; i < n; i += {step}) s += i; log(s);", n) == ([sum(range(0, n, step))], 0)
    expected = list(range(0, n, step))
    assert logged(f"for (int i = 0; i < n; i += {step}) log(i);", n) == (expected, 0)


@given(st.integers(0, 40))
def test_break_and_continue(n: int):
    """continue goes on with the step, break leaves the innermost loop only, return the advice."""
    body = """
        int c = 0;
        for (int i = 0; i < 8; i++) {
            if (i % 2) continue;
            for (;;) { if (c++ > n) break; if (c == 20) return; }
            log(i);
        }
        log(-c);
    """
    expected, c = [], 0
    try:
        for i in range(8):
            if i % 2:
                continue
            while True:
                c += 1
                if c - 1 > n:
                    break
                if c == 20:
                    raise StopIteration
            expected.append(i)
        expected.append(-c)
    except StopIteration:
        pass
    assert logged(body, n) == (expected, 0)


@given(st.integers(0, 600))
def test_the_bound(n: int):
    """A loop of as many turns as are allowed is not cut; one more is counted, and the advice goes on behind it."""
    found = logged("int i = 0; while (i < n) i++; log(i);", n)
    assert found == ([min(n, ir.MAX_ITERATIONS)], int(n > ir.MAX_ITERATIONS))


def test_nested_loops_share_the_bound():
    """What an inner loop takes is taken from the outer one's count; a loop behind them begins anew."""
    body = "int a = 0; for (int i = 0; i < 100; i++) for (int k = 0; k < 100; k++) a++; log(a); while (1) a++; log(a);"
    (first, second), cut = logged(body)
    assert first <= ir.MAX_ITERATIONS
    assert second == first + ir.MAX_ITERATIONS
    assert cut == 3  # the inner one, the outer one, the last


@given(st.lists(st.integers(-1000, 1000), max_size=30), st.booleans())
def test_a_list(values: list[int], broken: bool):
    """A circular list is walked from its head to its head; where it leads nowhere, what is read there is a fault."""
    memory = b""
    for i, value in enumerate([0, *values]):
        last = i == len(values)
        after = 0x10 if last and broken else BASE + 16 * ((i + 1) % (len(values) + 1))
        memory += struct.pack("<QiI", after, value, 0)
    body = "for (struct node *p = head->next; p != head; p = p->next) log(p->value);"
    found, cut = logged(body, 0, memory)
    if broken:
        assert found[: len(values)] == values
        assert (len(found), cut) == (ir.MAX_ITERATIONS, 1)
    else:
        assert (found, cut) == (values, 0)


def test_a_fault_goes_round():
    """A value that came of a failed load is marked in every turn that uses it, and no more once it has another."""
    source = text("int v = 0; for (int i = 0; i < 3; i++) { log(v); v = i == 0 ? *(int *)16 : 7; }")
    compiled = compile_text(source, KERNEL)
    outcome = run(compiled.programs[0], memory_world(b"", (BASE, 0)))
    assert [record.faults for record in outcome.logged] == [0, 1, 0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("break;", "'break' stands in no loop"),
        ("if (n) continue;", "'continue' stands in no loop"),
        ("while (*head) log(n);", "a condition must be a number or a pointer"),
        ("for (int i = 0; i < 3; i++) log(j);", "'j' is not known here"),
        ("for (int i = 0; i < 3; i++) log(i); log(i);", "'i' is not known here"),
        ("for (struct node q; n; ) log(n);", "a variable holds a number or a pointer"),
    ],
)
def test_errors(body: str, message: str):
    """What is wrong in a loop is said as elsewhere."""
    assert message in errors_of(text(body), KERNEL)
