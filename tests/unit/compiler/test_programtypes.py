"""The types of user programs in advice: what is said of those that are not known, by programs compiled here."""

from __future__ import annotations

import subprocess
from shutil import which

import pytest
from golden.kernel import KERNEL
from support.compiling import compile_text, errors_of

from klasy.btf.btf import Btf
from klasy.btf.types import Struct

pytestmark = pytest.mark.skipif(which("gcc") is None, reason="compiles programs")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two source files that mean different structs by one name; a third only declares what one defines."""
    folder = tmp_path_factory.mktemp("programs")
    sources = {
        "one.c": "struct node { int a; }; struct sock { long own; }; long f(struct node *n) { return n->a; }"
        " long s(struct sock *k) { return k->own; }",
        "two.c": "struct node { long z, a; }; long g(struct node *n) { return n->a; }",
        "three.c": "struct node; long h(struct node *n) { return !n; }",
    }
    for name, text in sources.items():
        (folder / name).write_text(text)
    subprocess.run(["gcc", "-g", "-fPIC", "-shared", "-o", "lib.so", *sources], check=True, cwd=folder)
    return str(folder / "lib.so")


@pytest.mark.parametrize(
    ("functions", "why"),
    [
        ("fg", "the program has several of that name, which differ"),
        ("h", "the debug information of the function's source file has no such type"),
        ("f", ""),
        ("fh", ""),
    ],
)
def test_whose_struct_it_is(library: str, functions: str, why: str) -> None:
    """That of the functions' source files; none where these have different ones, or where it is only declared."""
    where = " || ".join(f'user("{library}": execution({name}(struct node *n)))' for name in functions)
    said = errors_of(f"aspect x {{ before(struct node *n): {where} {{ log(n->a); }} }}", KERNEL)
    assert said == "" if not why else f"the members of 'struct node' are not known: {why}" in said


def test_never_the_kernels(library: str) -> None:
    """A struct that the program has is the program's, though the kernel has one of that name; the members that log
    readers will decode are those of the program."""
    text = f'aspect x {{ before(struct sock *k): user("{library}": execution(s)) {{ log(*k, k->own); }} }}'
    assert errors_of(text, KERNEL) == ""
    assert KERNEL.btf.find("sock", Struct)
    compiled = compile_text(text, KERNEL)
    ((key, blob),) = compiled.types.items()
    field = next(field for field in compiled.formats[0].fields if field.kind == "object")
    assert field.module == key
    assert [member.name for member in Btf(blob).resolved(field.type_id).members] == ["own"]
    assert "has no member 'sk_num'" in errors_of(text.replace("k->own", "k->sk_num"), KERNEL)
