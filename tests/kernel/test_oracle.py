"""Static sites against what debug registers catch: the recall of a few members.

They lie so far within their structs that few functions have a displacement that leads there: the analysis of those is
quick even in a guest. docs/flow-accuracy.md has the figures of two hundred members.
"""

from __future__ import annotations

from typing import Any

import pytest
from oracle.collect import Collector
from oracle.compare import judge_all, misses, total

MEMBERS = ["tcp_sock.snd_cwnd", "tcp_sock.packets_out", "tcp_sock.srtt_us", "tcp_sock.retrans_out"]
TASK_MEMBERS = ["task_struct.nvcsw", "task_struct.signal", "task_struct.exit_state", "task_struct.real_parent"]


@pytest.fixture(scope="module")
def caught() -> dict[str, Any]:
    """The oracle's document of the members."""
    collector = Collector(4.0)
    try:
        collector.run(MEMBERS + TASK_MEMBERS, subjects=2, writes=False)
        return collector.document(0)
    finally:
        collector.stop()


def test_the_oracle_catches_the_known(caught):
    """tcp_ack and its like are caught with the kinds that the source has: the oracle itself is not blind."""
    sites = caught["members"]["tcp_sock.snd_cwnd"]["sites"]
    functions = {site["function"] for site in sites}
    assert {"tcp_write_xmit", "tcp_init_transfer"} <= functions
    assert {site["kind"] for site in sites} >= {"r", "w"}
    assert all(member["lost"] == 0 for member in caught["members"].values())


def test_recall(caught):
    """Of what was caught, klasy.flow gives nine tenths of the instructions and of the executions."""
    from oracle.static import static_sites

    judged = judge_all(caught, static_sites(caught))
    whole = total(judged)
    by_distinct, by_count = whole.found.share(whole.caught)
    assert whole.caught.distinct > 100
    assert by_distinct >= 0.9, "\n".join(misses(judged))
    assert by_count >= 0.9, "\n".join(misses(judged))
    assert len(whole.kinds_differ) == 0, whole.kinds_differ
