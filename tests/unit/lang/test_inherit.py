"""Abstract aspects: what a concrete one is made of, and where its errors point."""

from __future__ import annotations

import pytest
from support.compiling import compile_text, logged, memory_world
from support.fakekernel import FakeKernel

from klasy.errors import InputError
from klasy.lang import ast, load
from klasy.lang.printer import print_pointcut, print_state, print_statement
from klasy.source import SourceFile

KERNEL = FakeKernel(
    "struct node { struct node *next; int value; }; enum size { SMALL = 7 }; int f(struct node *head, int n);"
)


def aspects(text: str) -> dict[str, ast.Aspect]:
    return {aspect.name: aspect for aspect in load(SourceFile("test.asp", text))}


def shown(aspect: ast.Aspect) -> list[str]:
    texts = [f"{a.label} {print_pointcut(a.pointcut)} {print_statement(a.body)}" for a in aspect.advice]
    return [text.replace("\n    ", " ").replace("\n", " ") for text in texts]


SLOW = """
abstract aspect slow(functions, u64 threshold) {
    u64 start[tid];
    pointcut run(): execution(functions) && here();
    abstract pointcut here();
    u64 took(u64 begin) { return now - begin; }
    before(): run() { start[tid] = now; }
    after(): run() { if (took(start[tid]) > threshold) { limit(9/s); log(threshold); } }
}
"""


def test_what_is_made():
    """Names, constants and open pointcuts are put in; an abstract aspect itself gives nothing to weave."""
    found = aspects(SLOW + "aspect slow_tcp extends slow(tcp_*, 1000000) { pointcut here(): withinmodule(vmlinux); }")
    assert list(found) == ["slow_tcp"]
    assert shown(found["slow_tcp"]) == [
        'before#0 execution(tcp_*) && withinmodule("vmlinux") { start[tid] = now; }',
        'after#1 execution(tcp_*) && withinmodule("vmlinux") { if (slow_tcp.took(start[tid]) > (u64)1000000) '
        "{     limit(9 / s);     log((u64)1000000); } }",
    ]
    assert [state.name for state in found["slow_tcp"].state] == ["start"]
    assert [function.name for function in found["slow_tcp"].functions] == ["slow_tcp.took"]


def test_through_another():
    """An abstract aspect extends another with its own parameters, and the last one gives them."""
    text = SLOW + """
        abstract aspect slow_in(module, fn, u64 ms) extends slow(fn, (ms * 1000000)) {
            pointcut here(): withinmodule(module);
        }
        aspect slow_ext4 extends slow_in(ext4, "ext4_%", 5);
    """  # fmt: skip
    (aspect,) = load(SourceFile("test.asp", text))
    assert shown(aspect)[0] == 'before#0 execution(ext4_%) && withinmodule("ext4") { start[tid] = now; }'
    assert "> (u64)((u64)5 * 1000000)" in shown(aspect)[1]


def test_order():
    """What is inherited lies inside: own before first, own after last."""
    text = """
        abstract aspect base {
            before(): call(f) { log(2); } after(): call(f) { log(3); } before(): call(f) { log(21); }
        }
        aspect a extends base { after(): call(f) { log(4); } before(): call(f) { log(1); } }
    """
    found = aspects(text)["a"]
    logs = [(a.kind.value, a.body.body[0].expr.args[0].value) for a in found.advice]
    assert [n for kind, n in logs if kind == "before"] == [1, 2, 21]
    assert [n for kind, n in logs if kind == "after"] == [3, 4]


def test_types():
    """A name stands for a type in parameters, state, keys, casts, sizeof, signatures and data."""
    text = """
        abstract aspect member(T, field) {
            T *last; u32 seen[struct T *]; count by[T];
            pointcut touch(struct T *p): access(struct T.field) && within(f(struct T *, ..)) && target(p);
            pointcut in(T *p): execution(*_free(T *p, ..));
            before(T *p): in(p) { T *q = (T *)p; log(sizeof(T), container_of(q, struct T, x)); }
        }
        aspect m extends member(struct sk_buff, len);
    """
    (aspect,) = load(SourceFile("test.asp", text))
    assert shown(aspect) == [
        "before#0 execution(*_free(struct sk_buff *p, ..)) { struct sk_buff *q = (struct sk_buff *)p; "
        "log(sizeof(struct sk_buff), container_of(q, struct sk_buff, x)); }"
    ]
    assert [print_state(s) for s in aspect.state] == [
        "struct sk_buff *last;", "u32 seen[struct sk_buff *];", "count by[struct sk_buff];",
    ]  # fmt: skip


def test_overriding():
    """Own pointcuts and functions, and the anonymous pointcut, take the place of inherited ones everywhere."""
    text = """
        abstract aspect base {
            pointcut here(): call(f);
            u32 size(u32 x) { return x; }
            u32 twice(u32 x) { return size(x) + size(x); }
            before() { log(twice(1)); }
            before(): here() { log(size(1)); }
        }
        aspect plain extends base { pointcut call(k); }
        aspect own extends base { pointcut call(g); pointcut here(): call(h); u32 size(u32 x) { return 2 * x; } }
    """
    found = aspects(text)
    assert [print_pointcut(a.pointcut) for a in found["plain"].advice] == ["call(k)", "call(f)"]
    assert [print_pointcut(a.pointcut) for a in found["own"].advice] == ["call(g)", "call(h)"]
    bodies = {f.name: print_statement(f.body) for f in found["own"].functions}
    assert "return 2 * x;" in bodies["own.size"]
    assert "own.size(x) + own.size(x)" in bodies["own.twice"]


def test_it_runs():
    """The constant has its declared type, an enum constant is one, and what is logged has the name in the text."""
    text = """
        abstract aspect base(fn, u32 limit_, int low) {
            pointcut in(struct node *head, int n): execution(fn(struct node *head, int n));
            u32 over(u32 n) { return n > limit_ ? n - limit_ : 0; }
            before(struct node *head, int n): in(head, n) && if(n > low) { log(over(n), limit_, low); }
        }
        aspect a extends base(f, SMALL, -3);
    """.replace("u32", "unsigned int")
    compiled = compile_text(text, KERNEL)
    (program,) = compiled.programs
    assert [field.name for field in compiled.formats[0].fields] == ["over(n)", "limit_", "low"]
    assert logged(compiled, program, memory_world(b"", (0, 10))) == [[3, 7, -3]]
    assert logged(compiled, program, memory_world(b"", (0, -2 & (1 << 64) - 1)))[0][2] == -3
    assert logged(compiled, program, memory_world(b"", (0, -3 & (1 << 64) - 1))) == []


def test_across_files(tmp_path):
    """What is inherited sees what its own file imports, which the file that extends need not import."""
    (tmp_path / "deep.asp").write_text(
        "aspect deep { pointcut p(): call(f); u32 one() { return 1; } before(): p() {} }"
    )
    (tmp_path / "base.asp").write_text(
        'import "deep.asp"; abstract aspect base(x) { before(): deep.p() && within(x) { log(deep.one()); } }'
    )
    path = str(tmp_path / "main.asp")
    text = 'import "base.asp"; aspect main extends base(g);'
    (aspect,) = load(SourceFile("main.asp", text, path))
    assert shown(aspect) == ["before#0 call(f) && within(g) { log(deep.one()); }"]
    with pytest.raises(InputError) as caught:
        load(SourceFile("main.asp", text.replace("(g)", "(g, 1)") + " aspect b extends deep;", path))
    assert [d.code for d in caught.value.diagnostics] == ["wrong-arguments", "unknown-aspect"]


def test_errors_show_who_extends():
    """What the kernel's types say of inherited advice shows the place in it and the aspect that extends."""
    from klasy.match.options import Features, PlanOptions
    from klasy.weaver.build import build

    text = """abstract aspect base(T) {
    before(T *p, int n): execution(f(T *p, int n)) { log(p->nothing); }
}
aspect a extends base(struct node);"""
    with pytest.raises(InputError) as caught:
        build(SourceFile("test.asp", text), KERNEL, PlanOptions(Features()))
    (error,) = caught.value.diagnostics
    assert (error.code, error.span.line) == ("unknown-member", 2)
    assert [(span.line, note) for span, note in error.related] == [(4, "in aspect 'a', which extends it")]


def test_nothing_to_weave():
    """A file of abstract aspects alone is sound, but cannot be woven."""
    from klasy.weaver.build import build, build_all

    source = SourceFile("test.asp", SLOW)
    assert build(source, KERNEL, _options()) == []
    with pytest.raises(InputError, match="nothing to weave"):
        build_all([source], KERNEL, _options())


def _options():
    from klasy.match.options import Features, PlanOptions

    return PlanOptions(Features())
