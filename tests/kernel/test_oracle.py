"""Accesses of members, judged by debug registers on live objects: docs/flow-accuracy.md in little, with floors.

Only the functions in which something was caught are analysed: all would take an emulated guest minutes.
``tests/oracle/compare.py`` and ``verify.py`` judge whole runs.
"""

from __future__ import annotations

from typing import Any

import pytest
from oracle.collect import Collector
from oracle.compare import judge_all, total
from oracle.static import static_sites

MEMBERS = ["tcp_sock.packets_out", "tcp_sock.snd_cwnd"]


@pytest.fixture(scope="module")
def caught() -> dict[str, Any]:
    """The oracle's document of some members."""
    collector = Collector(4.0)
    try:
        collector.run(MEMBERS, subjects=1, writes=False)
        return collector.document(0)
    finally:
        collector.stop()


@pytest.fixture(scope="module")
def static(caught) -> dict[str, Any]:
    """What the analysis gives in the functions in which the oracle caught something."""
    return static_sites(caught, caught_only=True)


def test_the_oracle_catches_the_known(caught):
    """Who sends looks at snd_cwnd, and who gets acknowledgements changes it; no sample was lost: it is not blind."""
    sites = caught["members"]["tcp_sock.snd_cwnd"]["sites"]
    assert "tcp_write_xmit" in {site["function"] for site in sites}
    assert {site["kind"] for site in sites} >= {"r", "w"}
    assert all(member["lost"] == 0 for member in caught["members"].values())


def test_recall(caught, static):
    """Of what was caught the analysis finds nine instructions of ten; in whole runs it was 96 of 100."""
    whole = total(judge_all(caught, static))
    by_instruction, _ = whole.found.share(whole.caught)
    assert whole.caught.distinct >= 12
    assert by_instruction >= 0.9, [(site["function"], site["text"], cause) for site, cause in whole.misses]
    assert len(whole.kinds_differ) <= 0.02 * whole.found.distinct, whole.kinds_differ


def test_the_object_is_where_the_analysis_says(caught, static):
    """At each instruction the register that is said to lead to the object led to the one that was watched."""
    judged = 0
    for name, member in caught["members"].items():
        for site in member["sites"]:
            known = static["members"][name]["sites"].get(site["place"])
            if known is None or site["delta"] is None or known["base"] != site["base"] or known["indexed"]:
                continue
            judged += 1
            assert known["base_offset"] == site["delta"], (site, known)
    assert judged >= 12
