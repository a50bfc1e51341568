"""Many join points at once: the plan is what it is when each is looked at by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.matching import plan

from klasy.kernel.snapshot import SnapshotKernel
from klasy.match import Features, execution, matcher
from klasy.match.late import Late
from klasy.match.plan import Plan
from klasy.match.signature import Resolved, Signatures

SNAPSHOTS = Path(__file__).parent.parent.parent / "data" / "kernels"
BEFORE = "before(): execution(s*) { log(1); }"
BOUND = "before(struct sock *sk): execution(* tcp_*(struct sock *sk, ..)) && if(sk->sk_family == 2) { log(sk); }"
ALTERED = "before(struct sk_buff *skb): execution(* *skb*(struct sk_buff *skb, ..)) { log(skb); }"
BOTH = BEFORE + " before(): execution(s*) { log(2); } after(): execution(sk*) { log(3); }"
ARMS = "before(): execution(tcp_*) || execution(udp_*) { log(1); } before(): execution(sk*) && !execution(sk_b*) {}"


RETURNING = "after() returning(int r): execution(*sk*) { log(r); } after() returning(int r): execution(tcp_*(..)) {}"
ARGUMENTS = (
    "before(struct sk_buff *p): execution(*) && args(.., p) { log(p); } before(): execution(s*) && !args(int, ..) {}"
)
TYPED = (
    "before(struct sock *sk): execution(* *(struct sock *sk, ..)) && execution(int *(..)) && !execution(%tcp%) {}"
    "after(struct sk_buff *b) returning(int r):"
    " execution(% %s(struct sk_buff *b, ..)) || execution(% %t(%, struct sk_buff *b, ..)) {}"
)
WITHIN = (
    "before(): execution(*) && within(sk*) && !within(%skb%) {}"
    "before(struct inode *i): withinmodule(vmlinux) && execution(% ext%(struct inode *i, ..)) {}"
)


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
@pytest.mark.parametrize("text", [BEFORE, BOUND, ALTERED, BOTH, ARMS, RETURNING, ARGUMENTS, TYPED, WITHIN])
def test_as_one_by_one(kernel: SnapshotKernel, text: str, multi: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Join points, probes, what cannot be reached and what is said of it do not depend on how they are found."""
    features = Features(kprobe_multi=multi)
    at_once = _facts(plan(kernel, text, features=features))
    monkeypatch.setattr(execution, "MANY", 1 << 20)
    monkeypatch.setattr(matcher, "MANY", 1 << 20)
    one_by_one = _facts(plan(kernel, text, features=features))
    assert at_once == one_by_one
    assert len(at_once[0]) > execution.MOST_TRAMPOLINES  # type: ignore[arg-type]


CALLS = "before(): call(*) && within(vfs_*) { log(1); }"
CALLS_BUT = "before(): call(%) && within(tcp_v4_*) && !call(tcp_*) { log(1); } after(): call(*) && within(vfs_read) {}"
SEVERAL = (
    "before(): call(*) && within(vfs_read) || call(kfree) && within(vfs_*) || call(*) && within(vfs_w*) { log(1); }"
)


@pytest.mark.parametrize("text", [CALLS, CALLS_BUT, SEVERAL])
def test_any_callee(kernel: SnapshotKernel, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of any function are the same whether all functions are made objects of or just those that are called."""
    late = _facts(plan(kernel, text))
    made = []

    def eager(self: Signatures, signature: object) -> Resolved:
        found = real(self, signature)  # type: ignore[arg-type]
        assert isinstance(found.found, Late)
        made.append(len(found.found))
        return Resolved(found.signature, dict(found.found.items()), dict(found.lies_in.items()))

    real = Signatures._every
    monkeypatch.setattr(Signatures, "_every", eager)
    assert _facts(plan(kernel, text)) == late
    assert all(number > 40_000 for number in made)
    assert made


def test_late_is_a_dictionary() -> None:
    """It makes what it is asked for, everything when that is asked for, and each once."""
    asked = []

    def find(address: int) -> str | None:
        asked.append(address)
        return f"at {address}" if address in (1, 2, 3) else None

    late = Late(lambda: {address: f"all {address}" for address in (1, 2, 3)}, find)
    assert 1 in late
    assert late[1] == late.get(1) == "at 1"
    assert 4 not in late
    assert late.get(4, "none") == "none"
    with pytest.raises(KeyError):
        late[4]
    assert asked == [1, 4, 4, 4]
    assert list(late) == list(late.keys()) == [1, 2, 3]
    assert list(late.values()) == ["at 1", "all 2", "all 3"]
    assert dict(late.items()) == {**late} == {1: "at 1", 2: "all 2", 3: "all 3"}
    assert len(late) == 3
    assert 4 not in late
    assert asked == [1, 4, 4, 4]
    whole = Late(lambda: {5: "five"})
    assert 5 in whole
    assert whole[5] == "five"
    assert not Late(dict)
