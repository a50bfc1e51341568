"""Static sites against what debug registers catch: recall and precision for a few members.

They lie so far within their struct that few functions have a displacement that leads there: the analysis of those is
quick even in a guest. docs/flow-accuracy.md has the figures of two hundred members.
"""

from __future__ import annotations

from typing import Any

import pytest
from oracle.collect import Collector, Worker
from oracle.compare import judge_all, misses, total

MEMBERS = ["tcp_sock.packets_out", "tcp_sock.snd_cwnd"]


@pytest.fixture(scope="module")
def caught() -> dict[str, Any]:
    """The oracle's document of the members."""
    collector = Collector(4.0)
    try:
        collector.run(MEMBERS, subjects=1, writes=False)
        return collector.document(0)
    finally:
        collector.stop()


@pytest.fixture(scope="module")
def static(caught) -> dict[str, Any]:
    """klasy's sites of the same members."""
    from oracle.static import static_sites

    return static_sites(caught)


def test_the_oracle_catches_the_known(caught):
    """Functions that are known to use snd_cwnd are caught with both kinds, and no sample was lost: it is not blind."""
    sites = caught["members"]["tcp_sock.snd_cwnd"]["sites"]
    assert {"tcp_write_xmit", "tcp_init_transfer"} <= {site["function"] for site in sites}
    assert {site["kind"] for site in sites} >= {"r", "w"}
    assert all(member["lost"] == 0 for member in caught["members"].values())


def test_recall(caught, static):
    """Of what was caught the analysis gives nine tenths, by instructions and executions, and tells read from write."""
    judged = judge_all(caught, static)
    whole = total(judged)
    by_distinct, by_count = whole.found.share(whole.caught)
    assert whole.caught.distinct > 30
    assert by_distinct >= 0.9, "\n".join(misses(judged))
    assert by_count >= 0.9, "\n".join(misses(judged))
    assert whole.kinds_differ == []


def test_precision(caught, static):
    """Whatever object a site of tcp_sock's members has in hand lies in a slab cache of TCP sockets, at its start."""
    from oracle.kmem import KernelMemory, Layout, Symbols
    from oracle.members import GROUPS
    from oracle.verify import Slabs, check, drive

    group = next(group for group in GROUPS if group.struct == "tcp_sock")
    ran = {site["function"] for member in caught["members"].values() for site in member["sites"]}
    for known in static["members"].values():
        known["sites"] = {place: site for place, site in known["sites"].items() if site["function"] in ran}
    worker = Worker("tcp", 2.0)
    try:
        workers = {"tcp": worker, "tcp6": worker}
        symbols, layout = Symbols(), Layout()
        slabs = Slabs(KernelMemory(), symbols, layout)
        found = check(group, static, symbols, slabs, lambda: drive(group, workers), most=200)
    finally:
        worker.stop()
    right, wrong = (sum(member[key] for member in found.values()) for key in ("right", "wrong"))
    assert right > 500
    assert wrong == 0, {name: member["wrong_sites"] for name, member in found.items()}
