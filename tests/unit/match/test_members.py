"""Accesses to members of types, matched and planned on what was saved of Debian's kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.matching import codes, plan

from klasy.flow import sites
from klasy.flow.index import Index
from klasy.kernel.snapshot import SnapshotKernel
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Locator, Object
from klasy.match.plancheck import check_plan

SNAPSHOTS = Path(__file__).parent.parent.parent / "data" / "kernels"
SET = "set(struct tcp_sock.snd_cwnd)"


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def kernel(request: pytest.FixtureRequest) -> SnapshotKernel:
    return SnapshotKernel.load(str(SNAPSHOTS / f"{request.param}.snapshot"))


def addresses(made) -> set[int]:
    return {joinpoint.shadow.address for joinpoint in made.joinpoints}


def test_what_the_index_says_is_woven(kernel: SnapshotKernel) -> None:
    """The join points of get, set and access are the sites that read, write, either; one probe serves them all."""
    member = sites.kernel_member(kernel, "tcp_sock", "snd_cwnd")
    found = Index(kernel, use_cache=False).accesses([member]).accesses
    for kind, wanted in (("get", lambda s: s.reads), ("set", lambda s: s.writes), ("access", lambda s: True)):
        made = plan(kernel, f"before(): {kind}(struct tcp_sock.snd_cwnd) {{ log(value); }}")
        missed = {each.shadow.address for each in made.unreached}
        assert addresses(made) | missed == {site.address for site in found if wanted(site)}
        (probe,) = made.probes
        assert (probe.mechanism, probe.context, probe.locator) == (
            Mechanism.KPROBE, Context.MEMBER, Locator.ADDRESS,
        )  # fmt: skip
        assert not check_plan(made)


def test_what_is_asked_for_is_all_that_is_found(kernel: SnapshotKernel) -> None:
    """Without a value or an object nothing is worked out; target binds the object."""
    made = plan(kernel, f"before(): {SET} {{ log(1); }}")
    assert all(arm.members is None for probe in made.probes for arm in probe.arms)
    made = plan(kernel, f"before(struct tcp_sock *t): {SET} && target(t) {{ log(t, old, new); }}")
    (arm,) = made.probes[0].arms
    assert [binding.source for binding in arm.bindings] == [Object()]
    assert arm.members.wants == {"old", "new", "object"}
    assert all(code.stored for code in arm.members.code.values())


def test_within(kernel: SnapshotKernel) -> None:
    """within and its negation divide the sites."""
    whole = plan(kernel, f"before(): {SET} {{ log(1); }}")
    inside = plan(kernel, f"before(): {SET} && within(tcp_write_xmit) {{ log(1); }}")
    outside = plan(kernel, f"before(): {SET} && !within(tcp_write_xmit) {{ log(1); }}")
    assert {j.shadow.function.base for j in inside.joinpoints} == {"tcp_write_xmit"}
    assert addresses(inside) | addresses(outside) == addresses(whole)
    assert not addresses(inside) & addresses(outside)


def test_reading_and_writing_is_one_event(kernel: SnapshotKernel) -> None:
    """What adds to a member is a get and a set; a pointcut that names both has one join point there."""
    get = plan(kernel, "before(): get(struct tcp_sock.delivered) { log(1); }")
    set_ = plan(kernel, "before(): set(struct tcp_sock.delivered) { log(1); }")
    both = plan(kernel, "before(): get(struct tcp_sock.delivered) || set(struct tcp_sock.delivered) { log(1); }")
    assert addresses(get) & addresses(set_)
    assert addresses(both) == addresses(get) | addresses(set_)
    assert len(both.joinpoints) == len(addresses(both))
    assert not check_plan(both)


def test_unknown_objects_are_counted_once(kernel: SnapshotKernel) -> None:
    """Of whatever advice and alternatives: an instruction whose object is not known is one, and counted if it could be
    what is asked for."""
    get = plan(kernel, "before(): get(struct sk_buff.len) { log(1); }").untyped
    set_ = plan(kernel, "before(): set(struct sk_buff.len) { log(1); }").untyped
    either = "before(): access(struct sk_buff.len) { log(1); }"
    assert 0 < set_ < get
    assert max(get, set_) <= plan(kernel, either).untyped <= get + set_
    assert plan(kernel, f"{either} {either}").untyped == plan(kernel, either).untyped
    both = "before(): get(struct sk_buff.len) || set(struct sk_buff.len) { log(1); }"
    assert plan(kernel, both).untyped == plan(kernel, either).untyped
    inside = plan(kernel, "before(): access(struct sk_buff.len) && within(tcp_*) { log(1); }").untyped
    assert inside < plan(kernel, either).untyped


def test_object(kernel: SnapshotKernel) -> None:
    """A pointer to a type with a parameter's name is any member of such an object, and binds it."""
    made = plan(kernel, "before(struct tcp_sock *t): set(struct tcp_sock *t) && within(tcp_cong_*) { log(t); }")
    assert len(made.joinpoints) > 0
    assert all(j.shadow.access.placed_in == "struct tcp_sock" for j in made.joinpoints)
    assert not check_plan(made)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("before(): set(struct tcp_sock.snd_cwn) { log(value); }", "unknown-member"),
        ("before(): set(struct tcp_sock.xyz*) { log(value); }", "unknown-member"),
        ("before(): get(struct nonesuch.len) { log(value); }", "unknown-type"),
        ("after(): get(struct tcp_sock.snd_cwnd) { log(value); }", "not-built"),
        (f"before(struct file *f): {SET} && target(f) {{ log(f); }}", "wrong-parameter-type"),
        (f"before(struct tcp_sock *t): {SET} {{ log(t); }}", "unbound-parameter"),
        (f"before(): {SET} && within(tcp_v4_rcv) {{ log(value); }}", "matches-nothing"),
        ("before(struct sock *s): call(tcp_v4_rcv) && target(s) { log(s); }", "no-target"),
        ("before(struct tcp_sock *t): get(struct tcp_sock.rack->mstamp) && target(t) { log(t); }", "not-a-member"),
    ],
)
def test_errors(kernel: SnapshotKernel, text: str, code: str) -> None:
    """What cannot be woven is refused in the language's terms."""
    assert code in codes(kernel, text)
