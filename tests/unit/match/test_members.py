"""Accesses to members of types, matched and planned on what was saved of Debian's kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.matching import codes, messages, plan
from support.minikernel import MiniKernel

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


def test_alternatives(kernel: SnapshotKernel) -> None:
    """Each designator of alternatives must match somewhere, not each with each other; which does not, is said."""
    members = f"({SET} || set(struct tcp_sock.rcv_nxt))"
    made = plan(kernel, f"before(): {members} && (within(tcp_write_xmit) || within(tcp_data_queue)) {{ log(1); }}")
    assert {j.shadow.function.base for j in made.joinpoints} == {"tcp_write_xmit", "tcp_data_queue"}
    found = messages(kernel, f"before(): {members} && (within(tcp_write_xmit) || within(tcp_v4_rcv)) {{ log(1); }}")
    assert found.count("no instruction is known that writes") == 2  # rcv_nxt anywhere, and either in tcp_v4_rcv
    assert found.count("note: it was looked for there") == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("before(): set(struct tcp_sock.snd_cwn) { log(value); }", "unknown-member"),
        ("before(): set(struct tcp_sock.xyz*) { log(value); }", "unknown-member"),
        ("before(): get(struct nonesuch.len) { log(value); }", "unknown-type"),
        ("before(): get(struct tun_struct.flag) { log(value); }", "unknown-member"),
        ("before(tun_struct *t): get(struct tun_file.tun) && target(t) { log(t); }", "wrong-parameter-type"),
        ("before(struct nonesuch *t): get(struct tun_struct.flags) && target(t) { log(t); }", "unknown-type"),
        ("before(struct file *t): get(struct tun_struct.flags) && target(t) { log(t); }", "wrong-parameter-type"),
        ("after() returning (u32 r): get(struct tcp_sock.snd_cwnd) { log(r); }", "no-result"),
        (f"before(struct file *f): {SET} && target(f) {{ log(f); }}", "wrong-parameter-type"),
        (f"before(struct tcp_sock *t): {SET} {{ log(t); }}", "unbound-parameter"),
        (f"before(): {SET} && within(tcp_v4_rcv) {{ log(value); }}", "matches-nothing"),
        ("before(struct sock *s): call(tcp_v4_rcv) && target(s) { log(s); }", "no-target"),
        ("before(): get(struct sk_buff.cb.len) { log(1); }", "not-a-member"),
        ("before(struct tcp_sock *t): get(struct tcp_sock.rack->mstamp) && target(t) { log(t); }", "not-a-member"),
    ],
)
def test_errors(kernel: SnapshotKernel, text: str, code: str) -> None:
    """What cannot be woven is refused in the language's terms."""
    assert code in codes(kernel, text)


def test_a_modules_own_type(kernel: SnapshotKernel) -> None:
    """A struct that only a module has is known within it, found from the kernel's parts of it, too; its object is bound
    by its type, or as an address."""
    made = plan(kernel, "before(struct tun_struct *t): get(struct tun_struct *t) && within(tun_get_iff) { log(t); }")
    assert made.joinpoints
    made = plan(
        kernel,
        "before(struct tun_struct *t, void *u): get(struct tun_struct.flags) && target(t) && target(u)"
        "{ log(t, value, u); }",
    )
    assert {j.shadow.module for j in made.joinpoints} == {"tun"}
    assert not made.unreached
    assert {"tun_get_iff", "tun_do_read", "tun_get_user"} == {j.shadow.function.base for j in made.joinpoints}
    (arm,) = made.probes[0].arms
    assert arm.members.wants == {"new", "object"}
    made = plan(kernel, "before(): access(tun_struct.dev) { log(1); }")
    assert {j.shadow.datum.type.name for j in made.joinpoints} == {"struct net_device *"}
    made = plan(kernel, "before(): access(struct tun_file.tun) { log(1); }")  # a struct tun_struct *
    assert {j.shadow.datum.type.name for j in made.joinpoints} == {"struct tun_struct *"}


COPIES = "struct item { long a; long b; long c; }; int copy(struct item *to, struct item *from);"
COPY = {"copy": ["0f 1f 44 00 00", "b9 03 00 00 00", "f3 48 a5", "c3"]}  # mov $3,%ecx; rep movsq


@pytest.mark.parametrize(
    ("pointcut", "found"),
    [
        ("get(struct item.b)", [("si", "get")]),
        ("set(struct item.b)", [("di", "set")]),
        ("access(struct item.b)", [("si", "access"), ("di", "access")]),
        ("get(struct item.b) || set(struct item.b)", [("si", "get"), ("di", "set")]),
    ],
)
def test_a_copy_reads_one_object_and_writes_another(pointcut: str, found: list[tuple[str, str]]) -> None:
    """A string instruction that copies from one object to another of its kind is a get of the one's member and a set of
    the other's: the advice runs for each with its own object and value."""
    kernel = MiniKernel(COPIES, COPY)
    made = plan(kernel, f"before(struct item *it): ({pointcut}) && target(it) {{ log(it, value); }}")
    assert not made.unreached
    assert [(j.shadow.access.base_register, j.shadow.kind.value) for j in made.joinpoints] == found
    (probe,) = made.probes
    (point,) = probe.points
    assert point.address - point.function.address == 10
    codes_of = [arm.members.code[point.address] for arm in probe.arms]
    assert [code.base for code in codes_of] == [register for register, _ in found]
    stores = [code.stored and code.stored.op for code in codes_of]
    assert stores == [None if register == "si" else "copy" for register, _ in found]
