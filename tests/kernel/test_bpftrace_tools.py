"""bpftrace's tools and the aspects that say the same, in one boot over the same work (all: examples/bpftrace_tools)."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from support.livekernel import leftovers
from support.weaving import ROOT

COMPARE = ROOT / "examples/bpftrace_tools/compare.py"
TOOLS = ("tcpconnect",)  # of functions, with their arguments: each takes bpftrace ten seconds here


@pytest.mark.only_on("6.1")
@pytest.mark.skipif(shutil.which("bpftrace") is None, reason="bpftrace is not installed")
def test_same_events() -> None:
    """The same connections, with both ends; nothing is left in the kernel."""
    done = subprocess.run([sys.executable, COMPARE, *TOOLS], capture_output=True, text=True, check=False)
    verdicts = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(verdicts) == set(TOOLS)
    assert "same: 4 connections" in verdicts["tcpconnect"]
    assert leftovers() == {}
