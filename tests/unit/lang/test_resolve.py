"""What a resolved aspect is: named pointcuts in place, each name that of the advice."""

from __future__ import annotations

import pytest

from klasy.errors import InputError
from klasy.lang import ast, load
from klasy.lang.printer import print_pointcut
from klasy.source import SourceFile


def _aspect(body: str) -> ast.Aspect:
    return load(SourceFile("test.asp", f"aspect test {{ {body} }}"))[0]


def _pointcut(body: str, advice: int = 0) -> str:
    return print_pointcut(_aspect(body).advice[advice].pointcut)


def _codes(body: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        _aspect(body)
    return [d.code for d in caught.value.diagnostics]


def test_anonymous_pointcut_serves_advice_without_its_own() -> None:
    """Advice that names no pointcut has the anonymous one; advice that does has its own."""
    body = "pointcut call(kfree); before() { log(1); } after(): call(kmalloc) { log(2); }"
    assert _pointcut(body, 0) == "call(kfree)"
    assert _pointcut(body, 1) == "call(kmalloc)"


def test_advice_is_numbered_in_source_order() -> None:
    """The index and label of an advice come from its place among all advice of the aspect."""
    advice = _aspect("before(): call(a) {} after(): call(b) {} before(): call(c) {}").advice
    assert [a.label for a in advice] == ["before#0", "after#1", "before#2"]


def test_reference_is_replaced_with_arguments_renamed() -> None:
    """The names in an expanded pointcut are those of the advice, in signatures and conditions."""
    body = """
        pointcut rcv(struct sock *sk): execution(f(struct sock *sk, ..)) && if(sk->sk_family == 2);
        before(struct sock *s): rcv(s) { log(s); }
    """
    assert _pointcut(body) == "execution(f(struct sock *s, ..)) && if(s->sk_family == 2)"


def test_references_nest() -> None:
    """A pointcut that uses another hands its own arguments on."""
    body = """
        pointcut one(struct sock *a, int b): call(f(struct sock *a, int b));
        pointcut two(int x, struct sock *y): one(y, x) && if(x > 1);
        before(struct sock *sk, int n): two(n, sk) { log(sk, n); }
    """
    assert _pointcut(body) == "call(f(struct sock *sk, int n)) && if(n > 1)"


def test_swapped_arguments_do_not_mix() -> None:
    """Renaming is done at once: a and b can be swapped."""
    body = "pointcut p(int a, int b): call(f(int a, int b)); before(int a, int b): p(b, a) { log(a); }"
    assert _pointcut(body) == "call(f(int b, int a))"


def test_documentation_names_of_a_named_pointcut_are_not_caught() -> None:
    """A name that is no parameter of the pointcut does not bind one of the advice of the same name."""
    body = """
        pointcut p(int a): call(f(int a, int b));
        before(int a, int b): p(a) && args(*, b) { log(a); }
    """
    assert _pointcut(body) == "call(f(int a, int)) && args(*, b)"
    body = "pointcut p(int a): call(f(int a, int b)); before(int b): p(b) { log(b); }"
    assert _pointcut(body) == "call(f(int b, int))"


def test_left_out_arguments_bind_nothing() -> None:
    """`*` and `..` at a reference leave the names of those parameters out."""
    named = "pointcut p(int a, int b, int c): call(f(int a, int b, int c));"
    assert _pointcut(named + "before(int x): p(*, x, *) { log(x); }") == "call(f(int, int x, int))"
    assert _pointcut(named + "before(int x): p(x, ..) { log(x); }") == "call(f(int x, int, int))"
    assert _pointcut(named + "before(): p(..) { log(1); }") == "call(f(int, int, int))"


def test_documentation_names_in_advice_stay() -> None:
    """In the advice's own pointcut a name that is no parameter binds nothing and is no error."""
    assert _pointcut("before(int a): call(f(int a, int b)) { log(a); }") == "call(f(int a, int b))"


def test_second_reading_is_renamed_too() -> None:
    """Both readings of an ambiguous signature bind the advice's names."""
    body = "pointcut p(int a): call(int *f(int a)); before(int x): p(x) { log(x); }"
    pointcut = _aspect(body).advice[0].pointcut
    assert isinstance(pointcut, ast.Call)
    assert pointcut.signature.other is not None
    assert pointcut.signature.other.name == "*f"
    for reading in (pointcut.signature, pointcut.signature.other):
        assert reading.params is not None
        assert [p.name for p in reading.params] == ["x"]


def test_named_pointcut_under_not_and_or() -> None:
    """Expansion keeps the shape of the expression."""
    body = "pointcut p(): call(a) || call(b); before(): !p() && (p() || within(c)) { log(1); }"
    assert _pointcut(body) == "!(call(a) || call(b)) && (call(a) || call(b) || within(c))"


def test_both_arms_may_bind() -> None:
    """A name bound in both arms of `||` is bound."""
    assert _pointcut("before(int x): call(f(int x)) || execution(g(*, int x)) { log(x); }").startswith("call(f(int x))")


def test_returning_names_the_result() -> None:
    """The parameter of `returning` is known in the body and in conditions, and needs no binding."""
    aspect = _aspect("after() returning (struct sock *r): call(f) && if(r->sk_family == 2) { log(r->sk_num); }")
    assert aspect.advice[0].returning is not None
    assert aspect.advice[0].returning.name == "r"


def test_unknown_plain_names_are_left_to_the_compiler() -> None:
    """A name that may be an enum constant of the kernel is no error here."""
    aspect = _aspect("before(int s): call(f(int s)) && if(s == TCP_CLOSE) { log(s == TCP_LISTEN); }")
    assert len(aspect.advice) == 1


def test_names_that_a_parameter_hides() -> None:
    """A parameter or local may have the name of a context name, which it then hides."""
    aspect = _aspect(
        "before(struct pid *pid): call(f(struct pid *pid)) { u32 cpu = 1; cpu = 2; log(pid->level, cpu); }"
    )
    assert len(aspect.advice) == 1


def test_sizeof_of_a_name_is_settled() -> None:
    """sizeof(name) is of a variable where there is one of that name, else of a type."""
    body = (
        _aspect("before(int n): call(f(int n)) { u32 x = 1; log(sizeof(n), sizeof(x), sizeof(foo)); }").advice[0].body
    )
    assert isinstance(body, ast.Block)
    call = body.body[1]
    assert isinstance(call, ast.ExprStmt)
    assert isinstance(call.expr, ast.Apply)
    operands = [a.operand for a in call.expr.args if isinstance(a, ast.SizeOf)]
    assert [type(o).__name__ for o in operands] == ["Name", "Name", "TypeRef"]


def test_unused_named_pointcuts_are_checked() -> None:
    """What is wrong with a pointcut that nothing uses is said too."""
    assert _codes("pointcut p(int x): call(f); before(): call(g) { log(1); }") == ["unbound-parameter"]


def test_errors_are_in_source_order() -> None:
    """Syntax errors and those of names come sorted by place, whatever found them."""
    text = "aspect a { before(): call(f) { logg(1); }\n after(): call(f) { log(1) }\n before(): p() { log(1); } }"
    with pytest.raises(InputError) as caught:
        load(SourceFile("test.asp", text))
    assert [d.code for d in caught.value.diagnostics] == ["unknown-function", "missing-semicolon", "unknown-pointcut"]


def test_what_advice_shares_is_said_once() -> None:
    """A fault of the anonymous pointcut is not said again for each advice that it serves."""
    assert _codes("pointcut call(f) && if(lg(1)); before() { log(1); } after() { log(2); }") == ["unknown-function"]


def test_an_error_says_nothing_of_what_hangs_on_it() -> None:
    """Advice that uses a pointcut with a syntax error is not told that the pointcut binds nothing."""
    text = "aspect a { pointcut call(f(int x); before(int x) { log(x); } }"
    with pytest.raises(InputError) as caught:
        load(SourceFile("test.asp", text))
    assert [d.code for d in caught.value.diagnostics] == ["missing-parenthesis"]


def test_each_name_that_was_perhaps_meant_is_told_by_itself() -> None:
    """Of several names near one that is unknown the hint makes no one word."""
    with pytest.raises(InputError) as caught:
        _aspect("pointcut sent(): call(f); pointcut send(): call(g); before(): senf() { log(1); }")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "unknown-pointcut"
    assert set(diagnostic.hints) <= {"did you mean 'sent' or 'send'?", "did you mean 'send' or 'sent'?"}
    assert diagnostic.hints
