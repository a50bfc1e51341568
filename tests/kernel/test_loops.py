"""Loops in the kernel: the verifiers take them, a list is walked as it is, and the bound ends what does not end."""

from __future__ import annotations

import os
import socket

import pytest
from support.livekernel import leftovers
from support.weaving import woven

from klasy.compiler.ir import MAX_ITERATIONS

QUEUE = "execution(__unix_dgram_recvmsg(struct sock *sk, ..))"
WALK = """
    for (struct sk_buff *p = sk->sk_receive_queue.next; p != (struct sk_buff *)&sk->sk_receive_queue; p = p->next)
"""


@pytest.fixture(params=["fentry", "kprobe"])
def force(request):
    """The mechanism."""
    yield request.param
    assert leftovers() == {}


def weave_for_me(body: str, force: str):
    """The advice at the receiving of a datagram by this process."""
    return woven(
        f"aspect l {{ before(struct sock *sk): {QUEUE} && if(pid == {os.getpid()}) {{ {body} }} }}", force=force
    )


def values(aspect) -> list:
    return [value for event in aspect.mine() for _, value in event.values]


def test_a_queue_is_walked(force):
    """Every message that waits in a socket, in its order, with its length; a sum over them, and a search."""
    body = f"""
        u32 sum = 0, number = 0, first = 0;
        {WALK} {{ sum += p->len; number++; }}
        {WALK} {{ if (p->len < 100) continue; first = p->len; break; }}
        log(number, sum, first);
        {WALK} log(p->len);
    """
    lengths = [7, 50, 300, 1, 120]
    with weave_for_me(body, force) as aspect:
        receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with receiver, sender:
            for length in lengths:
                sender.send(bytes(length))
            receiver.recv(1000)
            assert values(aspect) == [5, 478, 300, *lengths]
            receiver.recv(1000)
            assert values(aspect) == [4, 471, 300, *lengths[1:]]
        (count,) = aspect.aspect.counts()
        assert (count.hits, count.cut) == (2, 0)


def test_the_bound(force):
    """A loop without end makes as many turns as are allowed, is counted as cut, and the advice goes on behind it."""
    body = """
        u32 i = 0, k = 0;
        for (int a = 0; a < 8; a++) for (int b = 0; b < 8; b++) k += sk->sk_rcvbuf != 0;
        while (1) { if (sk->sk_sndbuf) i++; else i += 2; }
        log(k, i);
    """
    with weave_for_me(body, force) as aspect:
        receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with receiver, sender:
            sender.send(b"x")
            receiver.recv(1)
        assert values(aspect) == [64, MAX_ITERATIONS]
        (count,) = aspect.aspect.counts()
        assert (count.hits, count.cut) == (1, 1)
