"""Random typed expressions: what compiled advice logs is what C's rules say of the same bytes."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.compiling import compile_text, logged, memory_world
from support.exprgen import Generator, leaves_of
from support.fakekernel import FakeKernel

from klasy.btf.types import Struct
from klasy.compiler import check, ir
from klasy.compiler.formats import Formats
from klasy.compiler.ireval import run
from klasy.compiler.lower import Called, lower_probe
from klasy.compiler.types import Types
from klasy.diag import DiagnosticBag
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.source import SourceFile

DECLARATIONS = """
enum color { RED = -3, GREEN = 5 };
enum shape { ROUND, SQUARE = 0x90000000 };
struct inner { short a; union { int b; unsigned char c[4]; }; signed char d; };
struct s {
    unsigned int b3 : 3; int b5 : 5; unsigned int b13 : 13; int b11 : 11;
    unsigned long w40 : 40; long w20 : 20; _Bool flag : 1;
    char c; unsigned char uc; short sh; unsigned short ush; int i; unsigned int ui; long l; unsigned long ul;
    _Bool yes; enum color color; enum shape shape; enum color ec : 6;
    struct inner in; int ai[4]; unsigned char bytes[8]; short odd[3]; struct inner rest;
    unsigned long end63 : 63;
};
void f(struct s *p);
"""
KERNEL = FakeKernel(DECLARATIONS)
STRUCT = KERNEL.btf.find("s", Struct)[0]
SIZE = KERNEL.btf.size_of(STRUCT)
LEAVES = leaves_of(KERNEL.btf, STRUCT, "p")

MEMORY = st.binary(min_size=SIZE, max_size=SIZE) | st.lists(
    st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), min_size=SIZE, max_size=SIZE
).map(bytes)


def _aspect(expressions: list[str]) -> str:
    logs = " ".join(f"log({text});" for text in expressions)
    return f"aspect a {{ pointcut execution(f(struct s *p)); before(struct s *p) {{ {logs} }} }}"


def _unoptimised(text: str) -> ir.Program:
    """The program as it was lowered, before any pass."""
    (aspect,) = load(SourceFile("test.asp", text))
    plan = plan_aspect(aspect, KERNEL)
    checker = check.AdviceChecker(Types(KERNEL), DiagnosticBag(), aspect.advice[0], Formats())
    advice = checker.check()
    assert advice is not None
    return lower_probe(plan.probes[0], {0: advice}, {0: None}, Called((), {}))


def test_every_member_is_a_leaf():
    """The generator sees through bit-fields, nested and anonymous structs, arrays: nothing is left untested."""
    assert {leaf.text for leaf in LEAVES} >= {"p->b3", "p->w40", "p->in.c", "p->rest.b", "p->ai", "p->end63", "p->ec"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False), memory=MEMORY)
def test_expressions_are_worth_what_c_says(rng, memory):
    """Widths, signs, shifts, division, bit-fields, casts: the logged value and its width are C's."""
    expressions = [Generator(rng, LEAVES).expression(4) for _ in range(3)]
    compiled = compile_text(_aspect([e.text for e in expressions]), KERNEL)
    records = logged(compiled, compiled.programs[0], memory_world(memory))
    for form, record, expression in zip(compiled.formats, records, expressions, strict=True):
        (field,) = form.fields
        assert (field.size, field.signed) == (expression.type.size, expression.type.signed), expression.text
        assert record == [expression.value(memory)], expression.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False), memory=MEMORY, readable=st.integers(0, SIZE))
def test_passes_change_nothing(rng, memory, readable):
    """A program does the same before and after all passes, also where memory cannot be read.

    Only the faults of loads on which no value depends may be gone.
    """
    expressions = [Generator(rng, LEAVES).expression(3) for _ in range(3)]
    text = _aspect([", ".join(e.text for e in expressions)])
    world = memory_world(memory[:readable])
    before, after = run(_unoptimised(text), world), run(compile_text(text, KERNEL).programs[0], world)
    assert before.hits == after.hits
    for was, now in zip(before.logged, after.logged, strict=True):
        assert (was.format, was.joinpoint, was.data) == (now.format, now.joinpoint, now.data)
        assert not now.faults & ~was.faults
    if readable == SIZE:
        assert not after.logged[0].faults
