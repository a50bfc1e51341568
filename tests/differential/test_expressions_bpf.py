"""Random typed expressions through the whole chain: text, IR, eBPF instructions, run in the interpreter of eBPF.

The guest runs the same generator against a real kernel; this finds what differs without one.
"""

from __future__ import annotations

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.backend import Runner, trampoline_context
from support.compiling import BASE, memory_world, values_of
from support.exprgen import Generator, leaves_of
from support.fakekernel import FakeKernel

from klasy import backend
from klasy.btf.types import Struct
from klasy.compiler import compile_plan
from klasy.errors import InputError
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.source import SourceFile

KERNEL = FakeKernel("""
enum color { RED = -3, GREEN = 5 };
struct inner { short a; union { int b; unsigned char c[4]; }; signed char d; };
struct s {
    unsigned int b3 : 3; int b5 : 5; unsigned int b13 : 13; int b11 : 11;
    unsigned long w40 : 40; long w20 : 20; _Bool flag : 1;
    char c; unsigned char uc; short sh; unsigned short ush; int i; unsigned int ui; long l; unsigned long ul;
    _Bool yes; enum color color; struct inner in; int ai[4]; unsigned char bytes[8]; unsigned long end63 : 63;
};
void f(struct s *p);
""")
STRUCT = KERNEL.btf.find("s", Struct)[0]
SIZE = KERNEL.btf.size_of(STRUCT)
LEAVES = leaves_of(KERNEL.btf, STRUCT, "p")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False), memory=st.binary(min_size=SIZE, max_size=SIZE))
def test_instructions_compute_what_c_says(rng, memory):
    """What the instructions write into the record is what C's rules say of the same bytes."""
    expressions = [Generator(rng, LEAVES).expression(3) for _ in range(3)]
    logs = ", ".join(expression.text for expression in expressions)
    text = f"aspect a {{ pointcut execution(f(struct s *p)); before(struct s *p) {{ log({logs}); }} }}"
    (aspect,) = load(SourceFile("test.asp", text))
    plan = plan_aspect(aspect, KERNEL)
    compiled = compile_plan(plan, KERNEL)
    try:
        artifact = backend.generate(plan, compiled)
    except InputError:
        assume(False)  # too large for BPF's stack, and refused as such: the backend's own tests see to that
    outcome = Runner(artifact, memory_world(memory)).run(trampoline_context([BASE]))
    (record,) = outcome.logged
    assert values_of(compiled.formats[0], record.data) == [e.value(memory) for e in expressions], logs
    assert not record.faults
