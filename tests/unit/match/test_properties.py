"""Random pointcuts on random kernels: what is matched is what the pointcut says, and every plan is sound."""

from __future__ import annotations

import itertools

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.fakekernel import FIRST_CALL, FakeKernel

from klasy.diag import DiagnosticBag
from klasy.kernel.model import CallKind, Clone, Refusal
from klasy.lang import ast, load
from klasy.match import Features, PlanOptions
from klasy.match.glob import matches
from klasy.match.matcher import match_aspect
from klasy.match.plancheck import check_plan
from klasy.match.planner import make_plan
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.source import SourceFile

NAMES = ["alpha", "beta", "alpha_one", "alpha_two.isra.0", "beta.cold", "gamma", "gamma.part.0", "gamma_x[mod]"]
GLOBS = ["alpha", "beta", "alpha*", "*a", "gamma*", "*"]
MODULES = ["vmlinux", "mod", "*"]
JUMPS = ["", "", "jmp:", "je:", "*"]

DECLARATIONS = """
struct thing { int x; };
int alpha(struct thing *t, int n);
int beta(struct thing *t, int n);
int alpha_one(struct thing *t, int n);
int gamma(struct thing *t, int n);
"""


@st.composite
def call_tables(draw: st.DrawFn) -> str:
    """Who calls whom."""
    lines = []
    for caller in NAMES:
        callees = [name for name in NAMES if ".cold" not in name]
        words = draw(st.lists(st.tuples(st.sampled_from(JUMPS), st.sampled_from(callees)), max_size=4))
        lines.append(f"{caller}: " + " ".join("*" if jump == "*" else jump + name for jump, name in words))
    return "\n".join(lines)


def conditions(text: str) -> str:
    return f"if(pid == {text})"


LEAVES = st.one_of(
    st.sampled_from(GLOBS).map(lambda g: f"call({g})"),
    st.sampled_from(GLOBS).map(lambda g: f"execution({g})"),
    st.sampled_from(GLOBS).map(lambda g: f"within({g})"),
    st.sampled_from(MODULES).map(lambda g: f"withinmodule({g})"),
    st.sampled_from("123").map(conditions),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: f"({p[0]} && {p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]} || {p[1]})"),
        inner.map(lambda p: f"!{p}"),
    ),
    max_leaves=7,
)


def aspect_of(*advice: str) -> ast.Aspect:
    return load(SourceFile("random.asp", "aspect random { " + " ".join(advice) + " }"))[0]


def truth(node: ast.Pointcut, shadow: Shadow, held: frozenset[str]) -> bool:
    """The definition: whether a pointcut holds at a shadow when just these conditions hold."""
    if isinstance(node, ast.And):
        return truth(node.left, shadow, held) and truth(node.right, shadow, held)
    if isinstance(node, ast.Or):
        return truth(node.left, shadow, held) or truth(node.right, shadow, held)
    if isinstance(node, ast.Not):
        return not truth(node.operand, shadow, held)
    if isinstance(node, ast.If):
        return node.condition.span.text in held
    assert shadow.function is not None
    if isinstance(node, ast.WithinModule):
        return matches(node.glob, shadow.function.module or "vmlinux")
    assert isinstance(node, ast.Call | ast.Execution | ast.Within)
    target = shadow.function
    if isinstance(node, ast.Call):
        if shadow.kind is not JoinPointKind.CALL:
            return False
        assert shadow.callee is not None
        target = shadow.callee
    elif isinstance(node, ast.Execution) and shadow.kind is not JoinPointKind.EXECUTION:
        return False
    return matches(node.signature.name, target.base) or matches(node.signature.name, target.name)


def guard_truth(guard: ast.Expr | None, held: frozenset[str]) -> bool:
    """Whether a guard holds when just these conditions hold."""
    if guard is None:
        return True
    if isinstance(guard, ast.Unary):
        return not guard_truth(guard.operand, held)
    if isinstance(guard, ast.Binary) and guard.op in ("&&", "||"):
        sides = guard_truth(guard.left, held), guard_truth(guard.right, held)
        return all(sides) if guard.op == "&&" else any(sides)
    return guard.span.text in held


def all_shadows(kernel: FakeKernel) -> list[Shadow]:
    found = [Shadow(JoinPointKind.EXECUTION, f, f.address) for f in kernel.all_functions() if f.clone is not Clone.COLD]
    for site in kernel.all_sites():
        callee = site.callee
        if callee is None or (callee.clone is Clone.PART and callee.base == site.caller.base):
            continue
        found.append(Shadow(JoinPointKind.CALL, site.caller, site.address, callee, site))
    return found


@settings(max_examples=100, deadline=None)
@given(calls=call_tables(), tree=TREES)
def test_matching_is_the_predicate(calls: str, tree: str) -> None:
    """A shadow is matched, under every truth of the conditions, just when the pointcut as a predicate holds there."""
    kernel = FakeKernel(DECLARATIONS, calls)
    bag = DiagnosticBag()
    aspect = aspect_of(f"before(): {tree} {{ log(1); }}")
    matched = match_aspect(aspect, kernel, bag)
    assume(not any(d.code == "no-join-point-kind" for d in bag.errors))
    (advice,) = matched.advice
    outcomes = {(m.shadow.kind, m.shadow.address): m.outcome for m in advice.executions + advice.calls}
    assert len(outcomes) == len(advice.executions) + len(advice.calls)
    texts = [f"pid == {n}" for n in "123"]
    for held in (frozenset(c) for n in range(4) for c in itertools.combinations(texts, n)):
        for shadow in all_shadows(kernel):
            outcome = outcomes.get((shadow.kind, shadow.address))
            found = outcome is not None and guard_truth(outcome.guard, held)
            assert found == truth(aspect.advice[0].pointcut, shadow, held), (shadow, held)


@st.composite
def refusals(draw: st.DrawFn) -> dict[str, Refusal]:
    places = [f"{name}{suffix}" for name in ("alpha", "beta", "gamma") for suffix in ("", "/fexit", "/kretprobe")]
    places += [f"{name}+{FIRST_CALL * n:#x}" for name in ("alpha", "beta") for n in (1, 2, 3)]
    chosen = draw(st.lists(st.sampled_from(places), max_size=5))
    return {place: Refusal("blacklist", "it is on the blacklist") for place in chosen}


ADVICE = st.sampled_from(
    [
        "before(): {pc} {{ log(1); }}",
        "after(): {pc} {{ log(1); }}",
        "before(struct thing *t): {pc_t} {{ log(1); }}",
        "after(struct thing *t) returning (int r): {pc_t} {{ log(1); }}",
    ]
)
KINDS = st.sampled_from(["call(alpha{})", "call(alpha*{})", "execution(*{})", "execution(alpha{})", "call(gamma{})"])
PLACES = st.sampled_from(["", " && within(beta)", " && !within(alpha)", " && within(*a) && if(pid == 1)"])


@settings(max_examples=100, deadline=None)
@given(
    calls=call_tables(),
    refuse=refusals(),
    parts=st.lists(st.tuples(ADVICE, KINDS, PLACES), min_size=1, max_size=3),
    force=st.sampled_from([None, "sites", "dispatch", "fentry", "kprobe"]),
    features=st.builds(Features, fentry=st.booleans(), max_trampoline_arg_registers=st.sampled_from([1, 6])),
)
def test_plans_are_sound(
    calls: str,
    refuse: dict[str, Refusal],
    parts: list[tuple[str, str, str]],
    force: str | None,
    features: Features,
) -> None:
    """No plan breaks an invariant, and every matched shadow is reached once, or is told as unreached."""
    kernel = FakeKernel(DECLARATIONS, calls, refuse=refuse)
    advice = []
    for text, kind, place in parts:
        signature = "({})" if "(struct" not in text else "(struct thing *t, ..)"
        plain = kind.format("") + place
        named = kind.format(signature) + place
        advice.append(text.format(pc=plain, pc_t=named))
    bag = DiagnosticBag()
    matched = match_aspect(aspect_of(*advice), kernel, bag)
    plan = make_plan(matched, PlanOptions(features, force), bag)
    assert check_plan(plan) == []
    for match in matched.advice:
        wanted = {(m.shadow.kind, m.shadow.address) for m in match.executions + match.calls}
        reached = [
            (j.shadow.kind, j.shadow.address)
            for j in plan.joinpoints
            if j.advice == match.advice.index and j.shadow.function and j.shadow.call_kind is not CallKind.INDIRECT
        ]
        told = [
            (u.shadow.kind, u.shadow.address)
            for u in plan.unreached
            if u.advice == match.advice.index and u.shadow.function and u.code != "altered-abi"
        ]
        assert sorted(reached + told, key=str) == sorted(wanted, key=str)
