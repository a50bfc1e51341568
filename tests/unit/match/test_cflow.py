"""Control flows: what is left of a pointcut behind its join points, and where the kernel counts interrupts."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.astgen import SPAN
from support.fakekernel import CTypes

from klasy.diag import DiagnosticBag
from klasy.lang import ast
from klasy.lang.parser import parse
from klasy.match.cflow import Flows, _without_conditions
from klasy.match.plan import FlowPlan
from klasy.source import SourceFile

_LEAVES = [ast.Execution(SPAN, ast.Signature(SPAN, None, name, None)) for name in ("f", "g")]
_CONDITIONS = [ast.If(SPAN, ast.Name(SPAN, name)) for name in ("a", "b")]
_pointcuts: st.SearchStrategy[ast.Pointcut] = st.recursive(
    st.sampled_from([*_LEAVES, *_CONDITIONS, ast.Cflow(SPAN, _LEAVES[0], below=False)]),
    lambda inner: st.one_of(
        st.builds(ast.And, st.just(SPAN), inner, inner),
        st.builds(ast.Or, st.just(SPAN), inner, inner),
        st.builds(ast.Not, st.just(SPAN), inner),
    ),
    max_leaves=8,
)


def _holds(part: ast.Pointcut | None, truth: dict[ast.Pointcut, bool]) -> bool:
    match part:
        case None:
            return True
        case ast.And():
            return _holds(part.left, truth) and _holds(part.right, truth)
        case ast.Or():
            return _holds(part.left, truth) or _holds(part.right, truth)
        case ast.Not():
            return not _holds(part.operand, truth)
        case _:
            return truth[part]


@given(_pointcuts)
def test_what_is_entered_is_left(pointcut: ast.Pointcut) -> None:
    """Whatever the conditions are, the pointcut that leaves a flow holds where the one that enters it does."""
    behind = _without_conditions(pointcut, set(), True)
    leaves = [*_LEAVES, *_CONDITIONS, ast.Cflow(SPAN, _LEAVES[0], below=False)]
    for values in itertools.product((False, True), repeat=len(leaves)):
        truth = dict(zip(leaves, values, strict=True))
        assert _holds(behind, truth) or not _holds(pointcut, truth)


def test_no_condition_is_left() -> None:
    """Behind a join point no condition is asked."""
    both = ast.And(SPAN, _LEAVES[0], _CONDITIONS[0])
    assert _without_conditions(both, set(), True) == _LEAVES[0]
    assert _without_conditions(ast.Or(SPAN, both, _LEAVES[1]), set(), True) == ast.Or(SPAN, *_LEAVES)
    assert _without_conditions(ast.Not(SPAN, both), set(), True) is None


def test_where_interrupts_are_counted() -> None:
    """In preempt_count, on its own or in pcpu_hot; softirqs in the task, where that has a count of them."""
    hot = "struct pcpu_hot { unsigned long task; int preempt_count; };"
    task = "struct task_struct { long state; int softirq_disable_cnt; };"
    symbols = {"__per_cpu_offset": 0x1000, "__preempt_count": 0x40}
    assert _plan("struct task_struct { long state; };", symbols) == FlowPlan((0,), 0x1000, 0x40, None)
    assert _plan(task, symbols) == FlowPlan((0,), 0x1000, 0x40, 8)
    assert _plan(hot + task, {"__per_cpu_offset": 0x1000, "pcpu_hot": 0x80}) == FlowPlan((0,), 0x1000, 0x88, 8)


def _plan(types: str, symbols: dict[str, int]) -> FlowPlan | None:
    """The plan of an aspect with a flow, for a kernel with such types and data."""
    bag = DiagnosticBag()
    file = parse(SourceFile("f.asp", "aspect f { before(): cflow(execution(g)) && execution(h) {} }"), bag)
    assert file is not None
    kernel: Any = SimpleNamespace(
        btf=CTypes(f"{types} int f(struct task_struct *p{', struct pcpu_hot *h' * ('pcpu_hot' in types)});").btf,
        data_symbols=lambda name: [SimpleNamespace(address=symbols[name])] if name in symbols else [],
    )
    found = Flows(file.aspects[0], kernel, bag).plan
    assert bag.items == []
    return found
