"""Matching and planning on what was saved of Debian's kernels 6.1 and 6.12."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.matching import codes, messages, place, plan

from klasy.kernel.model import CallKind
from klasy.kernel.snapshot import SnapshotKernel
from klasy.match import Features
from klasy.match.mechanism import Context
from klasy.match.plan import Argument

SNAPSHOTS = Path(__file__).parent.parent.parent / "data" / "kernels"


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def kernel(request: pytest.FixtureRequest) -> SnapshotKernel:
    return SnapshotKernel.load(str(SNAPSHOTS / f"{request.param}.snapshot"))


def test_the_founders_example(kernel: SnapshotKernel) -> None:
    """``log_dequeue`` matches every call of skb_dequeue, and calls through pointers."""
    made = plan(
        kernel,
        """pointcut call("struct sk_buff *skb_dequeue(struct sk_buff_head *list)");
           before(struct sk_buff_head *list) { log("queue length %u", list->qlen); }""",
    )
    direct = {site.address for site in kernel.callers(kernel.functions("skb_dequeue"))}
    assert len(direct) >= 14
    assert {j.shadow.address for j in made.joinpoints} == direct | {0}
    (binding,) = made.probes[0].arms[0].bindings
    assert binding.source == Argument(0)


def test_the_founders_other_example(kernel: SnapshotKernel) -> None:
    """The example for another system's kernel is refused for what this one has not: the function and the type."""
    text = messages(
        kernel,
        """pointcut call("void divert_packet(struct mbuf *m, int ..)"); before(struct mbuf *m) { logging(m); }""",
    )
    assert "this kernel has no function 'divert_packet'" in text
    assert "the kernel has no type 'struct mbuf'" in text


@pytest.mark.parametrize("when", ["before", "after"])
def test_ways_agree(kernel: SnapshotKernel, when: str) -> None:
    """By probes at the call sites or at the callee, the same calls are matched: reached, or told as unreached."""
    found = {}
    for force in ("sites", "dispatch"):
        made = plan(kernel, f"{when}(): call(putname) {{ log(1); }}", force=force)
        reached = {j.shadow.address for j in made.joinpoints}
        missed = {u.shadow.address for u in made.unreached}
        assert not reached & missed
        found[force] = reached | missed
    assert found["dispatch"] == found["sites"] | {0}
    assert len(found["sites"]) > 50


def test_wildcards_select_by_type(kernel: SnapshotKernel) -> None:
    """``tcp_*(struct sock *sk, ..)`` is every such function whose first parameter is a socket, and no other."""
    made = plan(kernel, "before(struct sock *sk): execution(tcp_*(struct sock *sk, ..)) { log(sk); }")
    names = {j.shadow.function.name for j in made.joinpoints if j.shadow.function}
    assert {"tcp_sendmsg", "tcp_recvmsg", "tcp_close"} <= names
    assert not {"tcp_v4_rcv", "tcp_gro_receive"} & names  # they take a socket buffer
    for joinpoint in made.joinpoints:
        function = joinpoint.shadow.function
        assert function is not None
        if function.proto is not None and function.btf is not None:
            params = function.btf.c_prototype(function.proto).split("(")[1]
            assert params.removeprefix("const ").startswith("struct sock *")


def test_arguments_after_the_return(kernel: SnapshotKernel) -> None:
    """After advice at many functions gets its arguments from marks: each return probe's functions have an entry one."""
    made = plan(kernel, "after(struct sock *sk): execution(tcp_*(struct sock *sk, ..)) { log(sk); }")
    points = {context: set() for context in Context}
    for probe in made.probes:
        points[probe.context] |= {point.address for point in probe.points}
    assert points[Context.RETURN] == points[Context.ENTRY]
    assert len(points[Context.RETURN]) > 200


def test_before_and_after_each_call(kernel: SnapshotKernel) -> None:
    """Calls of kfree in the TCP code: each is followed behind the call, tail calls to the callee's return."""
    made = plan(
        kernel, "before(): call(kfree) && within(tcp_*) { log(1); } after(): call(kfree) && within(tcp_*) { log(2); }"
    )
    sides = [[(j.shadow.address, j.shadow.call_kind) for j in made.joinpoints if j.advice == n] for n in (0, 1)]
    assert sides[0] == sides[1]
    assert len(sides[0]) >= 15
    mechanisms = {(j.shadow.call_kind, j.mechanism) for j in made.joinpoints if j.advice == 1}
    assert mechanisms <= {(CallKind.DIRECT, "kprobe pair"), (CallKind.TAIL, "fexit dispatch")}


def test_near_misses(kernel: SnapshotKernel) -> None:
    """A misspelt function is found again, with its prototype."""
    text = messages(kernel, "before(): execution(tcp_sendmesg) { log(1); }")
    assert "did you mean 'tcp_sendmsg'" in text
    assert "int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)" in text
    assert codes(kernel, "before(): call(skb_dequeue) && within(tcp_sendmsg) { log(1); }") == ["matches-nothing"]
    assert codes(kernel, "before(int list): call(skb_dequeue(int list)) { log(list); }") == ["wrong-parameter-type"]


def test_seven_arguments(kernel: SnapshotKernel) -> None:
    """A function with more than six arguments gets a trampoline only where that saves so many."""
    seven = next(
        f
        for f in kernel.functions("ip_*")
        if f.btf and f.proto and len(f.btf.proto(f.proto).params) == 7 and f.duplicates == 1
    )
    narrow = plan(kernel, f"before(): execution({seven.name}) {{ log(1); }}")
    assert [p.mechanism.value for p in narrow.probes] == ["kprobe"]
    assert place(narrow.joinpoints[0]) == seven.name
    wide = Features(max_trampoline_arg_registers=12)
    if kernel.trampoline_registers > 6:
        made = plan(kernel, f"before(): execution({seven.name}) {{ log(1); }}", features=wide)
        assert [p.mechanism.value for p in made.probes] == ["fentry"]


def test_withinmodule(kernel: SnapshotKernel) -> None:
    """Calls from a module, and executions in it."""
    made = plan(kernel, "before(): call(consume_skb) && withinmodule(tun) { log(1); }")
    assert {j.shadow.module for j in made.joinpoints} == {"tun"}
    assert codes(kernel, "before(): call(consume_skb) && withinmodule(tum) { log(1); }") == ["unknown-module"]


def test_members_behind_the_object(kernel: SnapshotKernel) -> None:
    """An array without a length, at the end of a struct, cannot be named; the message does not say it is no member."""
    text = messages(kernel, "before(): get(struct linux_dirent64.d_name) { }")
    assert "'struct linux_dirent64.d_name' is an array of no length that is known [not-a-member]" in text
    assert codes(kernel, "before(): get(struct linux_dirent64.d_nam) { }") == ["unknown-member"]
