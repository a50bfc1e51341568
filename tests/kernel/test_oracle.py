"""The oracle of member accesses works in the guest: docs/flow-accuracy.md rests on what it catches.

Recall and precision of the analysis are not judged here: the analysis of enough functions takes a guest minutes.
``tests/oracle/compare.py`` and ``verify.py`` do it from the documents of whole runs.
"""

from __future__ import annotations

from typing import Any

import pytest
from oracle.collect import Collector


@pytest.fixture(scope="module")
def caught() -> dict[str, Any]:
    """The oracle's document of two members."""
    collector = Collector(4.0)
    try:
        collector.run(["tcp_sock.packets_out", "tcp_sock.snd_cwnd"], subjects=1, writes=False)
        return collector.document(0)
    finally:
        collector.stop()


def test_the_oracle_catches_the_known(caught):
    """Who sends looks at snd_cwnd, and who gets acknowledgements changes it; no sample was lost: it is not blind."""
    sites = caught["members"]["tcp_sock.snd_cwnd"]["sites"]
    assert "tcp_write_xmit" in {site["function"] for site in sites}
    assert {site["kind"] for site in sites} >= {"r", "w"}
    assert all(member["lost"] == 0 for member in caught["members"].values())
