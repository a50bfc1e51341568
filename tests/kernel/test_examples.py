"""The worked examples run as their pages say, and what they show is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.livekernel import leftovers
from support.weaving import ROOT

FOLDER = ROOT / "examples/login_and_bulk"
sys.path.insert(0, str(FOLDER))

import picture  # noqa: E402


@pytest.mark.only_on("6.12")
def test_login_and_bulk(tmp_path: Path) -> None:
    """Every key of the session is a way in the log; where the typist waits longer, the picture's queue is longer."""
    done = subprocess.run(["sh", FOLDER / "demo.sh", "2", tmp_path], capture_output=True, text=True, check=True)
    typed = {
        name: (int(keys), float(median))
        for name, keys, median in re.findall(r"(?m)^(\w+): (\d+) keys, echo after ([\d.]+) ms", done.stdout)
    }
    assert list(typed) == ["fifo", "fair", "prio"]
    missed = sum(map(int, re.findall(r"(\d+) hits? missed", done.stderr)))  # an interrupt came upon the program itself
    queued = {}
    for name, (keys, median) in typed.items():
        with open(tmp_path / name, encoding="utf-8") as lines:
            ways = list(picture.ways(lines))
        session = [way for way in ways if way.flow == "session"]
        assert keys - missed <= len(session) <= keys + 2 + keys // 4  # TCP may send a segment twice
        drawn = {bar.flow: bar for bar in picture.bars(name, ways)}
        assert list(drawn) == ["session", "bulk"]
        queued[name] = drawn["session"].legs[1]
        assert queued[name] < median
    assert queued["prio"] < queued["fifo"] / 2
    assert typed["prio"][1] < typed["fifo"][1]
    assert (tmp_path / "picture.svg").read_text().count("<rect") == 6 * 4 + 4
    assert leftovers() == {}
