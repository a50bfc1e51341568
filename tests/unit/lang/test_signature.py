"""How the words of signatures are read, beside the golden cases: places, and readings that must not differ."""

from __future__ import annotations

import pytest

from klasy.lang import ast, parse_file
from klasy.source import SourceFile


def _signature(text: str) -> ast.Signature:
    tree = parse_file(SourceFile("test.asp", f"aspect a {{ pointcut call({text}); }}"))
    pointcut = tree.aspects[0].pointcuts[0].expr
    assert isinstance(pointcut, ast.Call)
    return pointcut.signature


@pytest.mark.parametrize(
    "text",
    [
        "void *kmalloc(size_t size, gfp_t flags)",
        "struct sk_buff *skb_dequeue(struct sk_buff_head *list)",
        "* tcp_*(..)",
        "foo.constprop.0",
        "int %_output(struct net *, *, ..)",
        "unsigned long f(int v[], void (*fn)(int))",
    ],
)
@pytest.mark.parametrize("quotes", ['""', "''", "“”", "„“", "‘’"])  # noqa: RUF001  # as the slides have them
def test_quotes_do_not_matter(text: str, quotes: str) -> None:
    """A signature means the same with and without quotes, whichever they are."""
    assert _signature(quotes[0] + text + quotes[1]) == _signature(text)


def test_places_within_quotes() -> None:
    """The parts of a quoted signature know where they stand in the file."""
    signature = _signature('"struct sk_buff *f(struct sock *sk, int ..)"')
    assert signature.span.text == "struct sk_buff *f(struct sock *sk, int ..)"
    assert signature.result is not None
    assert signature.result.span.text == "struct sk_buff *"
    assert signature.params is not None
    assert [p.span.text for p in signature.params] == ["struct sock *sk", "int", ".."]
    first = signature.params[0].type
    assert first is not None
    assert first.span.text == "struct sock *"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("void* f(..)", "void *f(..)"),
        ("void*f(..)", "void *f(..)"),
        ("struct s*f(..)", "struct s *f(..)"),
        ("f(struct s*p)", "f(struct s *p)"),
        ("f(const s *p)", "f(s const *p)"),
        ("f(s *const p)", "f(s *p)"),
        ("f(s p[4])", "f(s *p)"),
        ("f(long unsigned)", "f(unsigned long int)"),
        ("f(void)", "f()"),
        ("static inline int f(int)", "int f(int)"),
        ("f(char __iomem *p)", "f(char *p)"),
        ("f(char __user *p)", "f(__user char *p)"),
        ("* f(..)", "f(..)"),
    ],
)
def test_writings_that_mean_the_same(one: str, other: str) -> None:
    """Blanks, order, qualifiers of pointers and most of the kernel's annotations do not matter."""

    def essence(signature: ast.Signature) -> tuple[object, ...]:
        return signature.result, signature.name, signature.params

    assert essence(_signature(one)) == essence(_signature(other))


def test_no_list_differs_from_an_empty_one() -> None:
    """No list of parameters matches any, an empty one none."""
    assert _signature("f").params is None
    assert _signature("f()").params == ()
