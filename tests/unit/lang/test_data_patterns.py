"""What get, set and access take: paths, elements, CPUs, types in front."""

from __future__ import annotations

import pytest

from klasy.errors import InputError
from klasy.lang import ast, load
from klasy.lang.printer import print_data
from klasy.source import SourceFile


def pattern(text: str) -> ast.DataPattern:
    """The data pattern of a text, as it comes out of the resolver."""
    (aspect,) = load(SourceFile("a.asp", f"aspect a {{ before(): get({text}) {{ log(cpu); }} }}"))
    pointcut = aspect.advice[0].pointcut
    assert isinstance(pointcut, ast.Access)
    return pointcut.data


@pytest.mark.parametrize(
    ("text", "path", "declared", "cpu"),
    [
        ("jiffies", ("jiffies",), None, None),
        ("init_net.ipv4.ttl", ("init_net", "ipv4", "ttl"), None, None),
        ("init_task.mm->pgd", ("init_task", "mm", "->pgd"), None, None),
        ("avenrun[2]", ("avenrun", "[2]"), None, None),
        ("a[ 1 ][2].b->c[3]", ("a", "[1]", "[2]", "b", "->c", "[3]"), None, None),
        ("per_cpu(runqueues, 1).nr_running", ("runqueues", "nr_running"), None, 1),
        ("per_cpu( irq_stat ,12 )", ("irq_stat",), None, 12),
        ('"struct net init_net.ipv4.ttl"', ("init_net", "ipv4", "ttl"), ("net", 0), None),
        ('"unsigned long avenrun[1]"', ("avenrun", "[1]"), ("long unsigned int", 0), None),
        ('"struct list_head *head->next"', ("head", "->next"), ("list_head", 1), None),
        ("struct net init_net.count", ("init_net", "count"), ("net", 0), None),
    ],
)
def test_paths(text: str, path: tuple[str, ...], declared: tuple[str, int] | None, cpu: int | None):
    """Steps through members, pointers and arrays, with and without a type, quoted or not."""
    found = pattern(text)
    assert (found.type, found.path, found.name, found.cpu) == (None, path, None, cpu)
    written = found.declared and (found.declared.name, found.declared.pointers)
    assert written == declared or (written and declared and set(written[0].split()) <= set(declared[0].split()))
    again = pattern(print_data(found))
    assert (again.path, again.cpu, again.declared is None) == (path, cpu, declared is None)


@pytest.mark.parametrize("text", ["unsigned long jiffies", '"u64 jiffies_64"', "struct item *head"])
def test_a_type_and_a_name(text: str):
    """A type and a lone name stay as they are: whether an object or a global is meant, parameters tell."""
    found = pattern(text)
    assert found.path == ()
    assert found.name in ("jiffies", "jiffies_64", "head")
    assert found.type is not None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a[x]", "bad-data"),
        ("a[]", "bad-data"),
        ("per_cpu(x)", "bad-data"),
        ("per_cpu(x, y)", "bad-data"),
        ('"long a.b c"', "bad-data"),
    ],
)
def test_mistakes(text: str, code: str):
    """What cannot be a path is refused where it stands."""
    with pytest.raises(InputError) as caught:
        pattern(text)
    assert {d.code for d in caught.value.diagnostics} == {code}
