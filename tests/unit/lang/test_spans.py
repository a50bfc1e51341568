"""Every node knows its text."""

from __future__ import annotations

import pytest
from golden.harness import Case, cases

from klasy.lang import ast, parse_file
from klasy.lang.walk import children, nodes
from klasy.source import SourceFile

TEXT = """\
aspect a { // comment
    pointcut p(struct sock *sk, u32 *n): call("int f(struct sock *sk)") || !within(g);
    u64 start[tid];
    after(const struct sock  *sk) returning (int r) : p(sk, ..) {
        u32 a = 1, *b;
        log("x" "y", (sk->n + 1) * 2, x[1], f(-y), (u32)z, c ? d : e);
        if (a) return; else { a += 1; }
    }
}
"""


def _texts(kind: type[ast.Node]) -> list[str]:
    tree = parse_file(SourceFile("test.asp", TEXT))
    return [node.span.text for node in nodes(tree) if type(node) is kind]


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (ast.Call, ['call("int f(struct sock *sk)")']),
        (ast.Not, ["!within(g)"]),
        (ast.Or, ['call("int f(struct sock *sk)") || !within(g)']),
        (ast.Param, ["struct sock *sk", "u32 *n", "const struct sock  *sk", "int r"]),
        (ast.StateDecl, ["u64 start[tid];"]),
        (ast.Declare, ["u32 a = 1", "u32 a = 1, *b"]),
        (ast.StringLiteral, ['"x" "y"']),
        (ast.Binary, ["(sk->n + 1) * 2", "sk->n + 1"]),
        (ast.Index, ["x[1]"]),
        (ast.Cast, ["(u32)z"]),
        (ast.Conditional, ["c ? d : e"]),
        (ast.Return, ["return;"]),
        (ast.Assign, ["a += 1"]),
    ],
)
def test_texts(kind: type[ast.Node], texts: list[str]) -> None:
    """A node spans what was written for it: no blanks around, no parentheses that are not its own."""
    assert _texts(kind) == texts


def test_types_of_parameters_end_before_the_name() -> None:
    """What is quoted of a type in messages is the type alone."""
    tree = parse_file(SourceFile("test.asp", TEXT))
    assert tree.aspects[0].advice[0].params[0].type.span.text == "const struct sock  *"


def test_head_of_advice() -> None:
    """The head is kind and parameters, with the result if it is named."""
    advice = parse_file(SourceFile("test.asp", TEXT)).aspects[0].advice[0]
    assert advice.head.text == "after(const struct sock  *sk) returning (int r)"


@pytest.mark.parametrize("case", cases("parse", "good_*.test"), ids=str)
def test_children_lie_in_their_parents(case: Case) -> None:
    """A node's text is within that of the node above it."""

    def check(node: ast.Node) -> None:
        for child in children(node):
            assert node.span.start <= child.span.start <= child.span.end <= node.span.end, (node, child)
            check(child)

    check(parse_file(SourceFile("test.asp", case.input)))
