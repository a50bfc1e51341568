"""Names that were probably meant."""

from __future__ import annotations

import random
import time

from klasy.match.near import near

NAMES = ["skb_dequeue", "skb_dequeue_tail", "skb_queue_tail", "kfree_skb", "kfree", "tcp_v4_rcv", "ip_rcv", "__fput"]


def test_few_edits() -> None:
    """A misspelt name finds the one that was meant, first."""
    assert near("skb_deque", NAMES)[0] == "skb_dequeue"
    assert near("tcp_v4_recv", NAMES)[0] == "tcp_v4_rcv"
    assert near("kfre", NAMES)[0] == "kfree"
    assert near("iprcv", NAMES)[0] == "ip_rcv"


def test_case_and_underscores() -> None:
    """Names that differ in case and underscores only come before all others."""
    assert near("fput", NAMES) == ["__fput"]
    assert near("SkbDequeue", NAMES)[0] == "skb_dequeue"


def test_a_kept_set_is_searched_alike() -> None:
    """What is remembered for a kept set is what a list gives, for each word by itself."""
    for word in ("skb_deque", "kfre", "fput", "dequeue", "skb_deque"):
        assert near(word, frozenset(NAMES)) == near(word, sorted(NAMES))
        assert near(word, frozenset(NAMES[:3])) == near(word, NAMES[:3])
    assert len(near("kfree", frozenset(NAMES), 1)) == 1


def test_part_of_a_name() -> None:
    """A word that is a part of names, and near none, finds those."""
    assert near("dequeue", NAMES)[0] == "skb_dequeue"


def test_nothing_near() -> None:
    """No name is suggested for a word that is like none."""
    assert near("divert_packet", NAMES) == []
    assert near("", NAMES) == []


def test_quick_on_a_kernel() -> None:
    """100,000 candidates take less than half a second: a guest is twenty times slower, and this is an error path."""
    rng = random.Random(1)
    words = ["tcp", "skb", "queue", "alloc", "free", "init", "page", "inode", "write", "read", "lock", "netif"]
    names = {"_".join(rng.choices(words, k=rng.randint(2, 6))) for _ in range(100_000)}
    start = time.process_time()  # whatever else the machine does
    near("skb_queue_fre", names)
    assert time.process_time() - start < 0.5
