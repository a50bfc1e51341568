"""The compiler as others call it: all errors at once, each said once, warnings kept, checking without matching."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.compiling import compile_text
from support.fakekernel import FakeKernel

from klasy.btf.btf import Btf
from klasy.compiler import check_aspect
from klasy.compiler.builtins import NAMES, context
from klasy.compiler.formats import MAX_RECORD
from klasy.errors import InputError
from klasy.lang import load, vocabulary
from klasy.record import Format
from klasy.source import SourceFile

KERNEL = FakeKernel(
    (Path(__file__).parents[2] / "golden" / "kernel.h").read_text(),
    modules={"extra": "struct only_here { int a; struct sock *sk; }; void enter(struct only_here *o);"},
)
SK = "execution(tcp_connect(struct sock *sk))"


def codes(text: str) -> list[str]:
    """The codes of what is wrong with an aspect."""
    with pytest.raises(InputError) as error:
        compile_text(text, KERNEL)
    return [diagnostic.code for diagnostic in error.value.diagnostics]


def test_errors_of_all_advice_come_in_one_go():
    """Every advice is checked, whatever is wrong with the one before."""
    text = f"""aspect a {{ pointcut {SK};
        before(struct sock *sk) {{ log(sk->a); log(b); }}
        after(struct sock *sk) {{ log("%d"); sk->sk_rcvbuf == comm; }} }}"""
    assert codes(text) == ["unknown-member", "unknown-name", "format-arguments", "bad-operand"]


def test_errors_come_in_source_order():
    """Diagnostics are sorted by their place, not by when they were found."""
    text = f"aspect a {{ pointcut {SK} && if(sk->zz); before(struct sock *sk) {{ log(sk->yy); }} }}"
    with pytest.raises(InputError) as error:
        compile_text(text, KERNEL)
    places = [diagnostic.span.start for diagnostic in error.value.diagnostics]
    assert places == sorted(places)
    assert len(places) == 2


def test_warnings_are_kept():
    """A doubtful aspect compiles; its warnings come with it."""
    compiled = compile_text(f"aspect a {{ pointcut {SK}; before(struct sock *sk) {{ sk->sk_rcvbuf; }} }}", KERNEL)
    assert [d.code for d in compiled.diagnostics] == ["no-effect"]


def test_one_program_for_each_probe():
    """Programs come in the order of the plan's probes and carry their names."""
    text = (
        f"aspect a {{ pointcut {SK}; before(struct sock *sk) {{ log(pid); }} after(struct sock *sk) {{ log(tid); }} }}"
    )
    compiled = compile_text(text, KERNEL)
    assert [program.probe for program in compiled.programs] == list(range(len(compiled.programs)))
    assert len({program.name for program in compiled.programs}) == len(compiled.programs)


def test_check_aspect_needs_no_match():
    """Bodies and conditions are checked against the types alone, where no pointcut was matched."""
    text = "aspect a { pointcut execution(nowhere(struct sock *sk)) && if(sk->zz);"
    (aspect,) = load(SourceFile("test.asp", text + " before(struct sock *sk) { log(sk->yy); } }"))
    assert [d.code for d in check_aspect(aspect, KERNEL)] == ["unknown-member", "unknown-member"]


def test_check_aspect_finds_nothing_wrong_with_a_sound_one():
    """A sound aspect has no findings."""
    (aspect,) = load(SourceFile("test.asp", f"aspect a {{ pointcut {SK}; before(struct sock *sk) {{ log(sk); }} }}"))
    assert check_aspect(aspect, KERNEL) == ()


def test_types_of_a_module_name_it():
    """An object of a type that only a module has is decoded by what is handed along of it."""
    text = "aspect a { pointcut execution(enter(struct only_here *o)); before(struct only_here *o) { log(o, o->sk); } }"
    compiled = compile_text(text, KERNEL)
    first, second = [field for field in compiled.formats[0].fields if field.kind == "object"]
    assert second.module is None
    assert compiled.types.keys() == {first.module}
    assert Btf(compiled.types[first.module]).c_name(first.type_id) == "struct only_here"


def test_formats_survive_the_registry():
    """A format is the same after it went through JSON."""
    compiled = compile_text(f"aspect a {{ pointcut {SK}; before(struct sock *sk) {{ log(sk, comm); }} }}", KERNEL)
    for form in compiled.formats:
        assert Format.from_json(form.to_json()) == form


def test_largest_record():
    """A task of any kernel fits a record; what is larger was refused with its size (see the golden tests)."""
    assert MAX_RECORD >= 10_240


def test_the_tables_agree_with_the_language():
    """Every context name and every function that is built has its entry, and there are no others."""
    assert {*context.NAMES, context.COMM, context.CURRENT} == set(vocabulary.CONTEXT_NAMES)
    text = "aspect a { pointcut execution(f()); %s() { %s; } }"
    built = set()
    for name, function in vocabulary.FUNCTIONS.items():
        kind = "around" if name == "deny" else "before"
        with contextlib.suppress(InputError):
            load(SourceFile("test.asp", text % (kind, f"{name}({', '.join(['1'] * function.least)})")))
            built.add(name)
    assert set(NAMES) == built


def test_the_compiler_needs_no_bpf():
    """Compiling loads nothing of the machine below: no ctypes, no klasy.bpf, no interpreter."""
    code = (
        "import sys, klasy.compiler.driver;"
        "print([m for m in sys.modules if m.startswith(('klasy.bpf', 'ctypes', 'lark', 'klasy.compiler.ireval'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "taken", ["log(ustack());", "n[ustack()]++;", "log(1, 2); if (pid == 1) { log(ustack()); }", "helper();"]
)
def test_stacks_in_what_takes_them(taken):
    """No process's stack is taken in what the kernel runs through to take one; elsewhere, and the kernel's own, are."""
    kernel = FakeKernel("int find_vma(int a); int other(int a);")

    def told(pointcut: str, body: str) -> list[str]:
        text = f"""aspect a {{ count n[ustack()]; void helper() {{ n[ustack()]++; }}
            before(): execution(other) {{ log(ustack()); helper(); }}
            before(): {pointcut} {{ {body} }} }}"""
        try:
            compile_text(text, kernel)
        except InputError as error:
            return [diagnostic.code for diagnostic in error.diagnostics]
        return []

    assert told("execution(find_vma)", taken) == ["stack-in-itself"]
    assert told("execution(find_vma)", "log(stack());") == []
    assert told("execution(*) && !within(find_vma)", taken) == []
