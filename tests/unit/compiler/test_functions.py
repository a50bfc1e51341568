"""Functions of aspects: what they give is what C's would, in the IR's interpreter and in BPF's."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from support.backend import run_both
from support.compiling import BASE, compile_text, errors_of, memory_world
from support.fakekernel import FakeKernel

from klasy.compiler import ir
from klasy.compiler.ireval import run
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.source import SourceFile

KERNEL = FakeKernel(
    "struct node { struct node *next; int value; }; typedef unsigned char u8; int f(struct node *head, int n);"
)


def text(functions: str, body: str, condition: str = "") -> str:
    pointcut = f"execution(f(struct node *head, int n)){condition}"
    return f"aspect a {{ {functions} before(struct node *head, int n): {pointcut} {{ {body} }} }}"


def records(functions: str, body: str, n: int = 0, memory: bytes = b"", condition: str = "") -> list:
    """The one number of each log and its faults; the same by both interpreters."""
    outcome, _ = run_both(text(functions, body, condition), KERNEL, (BASE, n & (1 << 64) - 1), memory)
    return [(struct.unpack_from("<i", record.data, 48)[0], record.faults) for record in outcome.logged]


def logged(functions: str, body: str, n: int = 0, memory: bytes = b"", condition: str = "") -> list[int]:
    found = records(functions, body, n, memory, condition)
    assert all(faults == 0 for _, faults in found)
    return [value for value, _ in found]


FUNCTIONS = """
    int add(int x, int y) { return x + y; }
    int twice(int x) { return add(x, x); }
    int clamp(int x) { if (x > 1000) return 1000; else if (x < -1000) return -1000; return x; }
    int sum(int n) { int s = 0; for (int i = 1; i <= n; i++) { if (i > 50) return -1; s += i; } return s; }
"""


def wrap(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


_PYTHON = {
    "add": lambda x, y: wrap(x + y),
    "twice": lambda x: wrap(2 * x),
    "clamp": lambda x: max(-1000, min(1000, x)),
    "sum": lambda n: -1 if n > 50 else n * (n + 1) // 2 if n > 0 else 0,
}
_trees = st.recursive(
    st.one_of(st.just("n"), st.integers(-70, 70)),
    lambda inner: st.one_of(
        st.tuples(st.just("add"), inner, inner), st.tuples(st.sampled_from(("twice", "clamp", "sum")), inner)
    ),
    max_leaves=8,
)


def write(tree) -> str:
    if not isinstance(tree, tuple):
        return f"({tree})"
    return f"{tree[0]}({', '.join(map(write, tree[1:]))})"


def value(tree, n: int) -> int:
    if not isinstance(tree, tuple):
        return n if tree == "n" else tree
    return _PYTHON[tree[0]](*(value(part, n) for part in tree[1:]))


@given(_trees, _trees, st.integers(-100, 100))
def test_calls_in_calls(one, other, n: int):
    """However calls stand in each other's arguments, each has parameters and variables of its own."""
    assert logged(FUNCTIONS, f"log({write(one)} + {write(other)});", n) == [wrap(value(one, n) + value(other, n))]


def test_conversions():
    """Arguments and results are converted to the declared types, as C does it."""
    functions = "u8 low(int x) { return x; } int wide(u8 x) { return x; } int sign(signed char x) { return x; }"
    assert logged(functions, "log(low(n)); log(wide(n)); log(sign(n));", 0x1F0) == [0xF0, 0xF0, -16]


def test_what_logs_and_returns():
    """A function without a value logs, and return ends it alone; code behind it goes on."""
    functions = "void say(int x) { if (x == 2) return; log(x); for (;;) { if (x) return; } }"
    assert logged(functions, "for (int i = 0; i < 4; i++) say(i + 1); log(-1);") == [1, 3, 4, -1]


def test_a_function_before_and_behind_its_call():
    """The order of declarations does not matter, and a local may have the name of another function's."""
    functions = "int first(int x) { int y = second(x); return y + 1; } int second(int x) { int y = 2 * x; return y; }"
    assert logged(functions, "int y = 5; log(first(n) + y);", 10) == [26]


def test_side_effects_happen_once():
    """An argument is evaluated once, however often its parameter is used; parameters can be changed."""
    functions = "int use(int x) { x += x; x++; return x; }"
    assert logged(functions, "int i = 3; log(use(i++)); log(i); use(i); log(i);") == [7, 4, 4]


def test_a_fault_inside():
    """A load that fails in a function gives 0, and what is logged of it says so."""
    functions = "int deep(struct node *p) { return p->value; } int here(int x) { return x; }"
    memory = struct.pack("<Qi4x", 0, 77)
    body = "log(deep(head->next)); log(deep(head)); int v = deep(head->next); log(v); log(here(v + 1));"
    found = records(functions, body, memory=memory)
    assert [number for number, _ in found] == [0, 77, 0, 1]
    assert [bool(faults) for _, faults in found] == [True, False, True, True]


def test_conditions():
    """A pointcut's condition calls what only computes."""
    functions = "int odd(int x) { return x & 1; } bool_t pick(int x) { return odd(x) || x > 10; }"
    functions = functions.replace("bool_t", "int")
    for n in (3, 4, 12):
        expected = [n] if n & 1 or n > 10 else []
        assert logged(functions, "log(n);", n, condition=" && if(pick(n))") == expected


def test_one_bucket():
    """A limit in a function is one for all advice that calls it; one that stands elsewhere is another."""
    pointcut = "execution(f(struct node *head, int n))"
    source = f"""aspect a {{
        void say(int n) {{ limit(5/s); log(n); }}
        before(struct node *head, int n): {pointcut} {{ say(n); say(n); }}
        after(struct node *head, int n): {pointcut} {{ say(n); limit(5/s); log(n); }}
    }}"""
    compiled = compile_text(source, KERNEL)
    ops = [op for program in compiled.programs for block in program.blocks for op in block.ops]
    assert sorted(op.slot for op in ops if isinstance(op, ir.Limit)) == [0, 0, 0, 1]


def test_advice_of_the_log():
    """What a function logs is logged by the advice that called it."""
    pointcut = "execution(f(struct node *head, int n))"
    source = f"""aspect a {{
        void say(int n) {{ log(n); }}
        before(struct node *head, int n): {pointcut} {{ say(n); }}
        after(struct node *head, int n): {pointcut} {{ say(n); }}
    }}"""
    compiled = compile_text(source, KERNEL)
    assert [form.advice for form in compiled.formats] == [0, 1]


def test_imported_function_and_sizeof():
    """Another aspect's function is put in place with what it calls itself; sizeof means what it means there."""
    source = (
        text("", "log(lib.size(n)); int node = 1; log(sizeof(node));")
        + """
        aspect lib { int size(int x) { return x + extra(); } int extra() { return sizeof(node); }
                     before(): execution(f) { log(size(1)); } }"""
    )
    first, _ = load(SourceFile("test.asp", source))
    from klasy.compiler import compile_plan

    compiled = compile_plan(plan_aspect(first, KERNEL), KERNEL)
    (program,) = compiled.programs
    outcome = run(program, memory_world(b"", (BASE, 5)))
    assert [struct.unpack_from("<i", r.data, 48)[0] for r in outcome.logged] == [5 + 16, 4]


def test_what_is_not_called_is_checked():
    """Errors of a function that nothing calls are told, too."""
    assert "unknown-member" in errors_of(text("int f(struct node *p) { return p->nothing; }", "log(n);"), KERNEL)
