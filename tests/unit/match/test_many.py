"""Many executions at once: the plan is what it is when each is looked at by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.matching import plan

from klasy.kernel.snapshot import SnapshotKernel
from klasy.match import Features, execution, matcher
from klasy.match.plan import Plan

SNAPSHOTS = Path(__file__).parent.parent.parent / "data" / "kernels"
BEFORE = "before(): execution(s*) { log(1); }"
BOUND = "before(struct sock *sk): execution(* tcp_*(struct sock *sk, ..)) && if(sk->sk_family == 2) { log(sk); }"
ALTERED = "before(struct sk_buff *skb): execution(* *skb*(struct sk_buff *skb, ..)) { log(skb); }"
BOTH = BEFORE + " before(): execution(s*) { log(2); } after(): execution(sk*) { log(3); }"
ARMS = "before(): execution(tcp_*) || execution(udp_*) { log(1); } before(): execution(sk*) && !execution(sk_b*) {}"


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def kernel(request: pytest.FixtureRequest) -> SnapshotKernel:
    return SnapshotKernel.load(str(SNAPSHOTS / f"{request.param}.snapshot"))


def _facts(made: Plan) -> tuple[object, ...]:
    """All of a plan, but for the aspect's trees."""
    probes = [
        (p.mechanism, p.context, p.locator, p.mark, p.points, [(a.advice, a.bindings, a.by_address) for a in p.arms])
        for p in made.probes
    ]
    return made.joinpoints, probes, made.unreached, [(d.code, d.message, d.hints) for d in made.diagnostics]


@pytest.mark.parametrize("multi", [False, True], ids=["kprobe", "kprobe.multi"])
@pytest.mark.parametrize("text", [BEFORE, BOUND, ALTERED, BOTH, ARMS])
def test_as_one_by_one(kernel: SnapshotKernel, text: str, multi: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Join points, probes, what cannot be reached and what is said of it do not depend on how they are found."""
    features = Features(kprobe_multi=multi)
    at_once = _facts(plan(kernel, text, features=features))
    monkeypatch.setattr(execution, "MANY", 1 << 20)
    monkeypatch.setattr(matcher, "MANY", 1 << 20)
    one_by_one = _facts(plan(kernel, text, features=features))
    assert at_once == one_by_one
    assert len(at_once[0]) > execution.MOST_TRAMPOLINES  # type: ignore[arg-type]
