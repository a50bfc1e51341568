"""How a command is timed up to its first hit, and what the tools' times come to."""

from __future__ import annotations

import pytest

from klasy.bench import weaving
from klasy.bench.measure import Missing, Row
from klasy.errors import SystemRefusal

HITS = ["sh", "-c", "echo attaching; echo hit; exec sleep 60"]


def test_a_command_is_ended_at_its_first_hit():
    """And not before; it ends by what Ctrl-C sends."""
    times = weaving.timed(HITS, lambda line: line == "hit\n")
    assert 0 < times.first < 30
    assert 0 < times.last < 30


def test_a_command_without_a_hit_is_no_time():
    """What it said is told."""
    with pytest.raises(SystemRefusal, match=r"sh gave no hit: no probes"):
        weaving.timed(["sh", "-c", "echo no probes >&2"], lambda line: line == "hit\n")


def test_a_tool_that_is_not_there_is_missing():
    """It is named with the reason, and klasy has its rows all the same; klasy itself must be there."""
    missing = {}
    commands = {"klasy": HITS, "bpftrace": ["no-such-bpftrace"]}
    rows = weaving._run(weaving.Contest("execution(f)", 1, commands), 2, missing)
    assert [(row.group, row.name, len(row.samples)) for row in rows] == [
        ("execution(f), 1 join points: to the first hit", "klasy", 2),
        ("execution(f), 1 join points: to the end", "klasy", 2),
    ]
    reason = "no-such-bpftrace is not installed (Debian: no-such-bpftrace)"
    assert missing == {"execution(f), 1 join points: bpftrace": reason}
    with pytest.raises(Missing):
        weaving._run(weaving.Contest("execution(f)", 1, {"klasy": ["no-such-klasy"]}), 1, {})


def test_compared_with_bpftrace_s_same_step():
    """Each step with the same one of the same probes; the seconds of unweaving have a limit of their own."""
    first, last = f"execution(f), 9 join points: {weaving.BEGIN}", f"execution(f), 9 join points: {weaving.END}"
    made = [
        Row(first, "klasy", "klasy", (1.0, 2.0, 9.0)),
        Row(first, "bpftrace", "peer", (20.0,)),
        Row(last, "klasy", "klasy", (0.5,)),
        Row(last, "bpftrace", "peer", (2.0,)),
        Row(f"call(g), 5 join points: {weaving.END}", "klasy", "klasy", (3.0,)),
    ]
    assert [row.ratios for row in weaving.compared(made)] == [
        {"of bpftrace": 0.1},
        {"of bpftrace": 1.0},
        {"of bpftrace": 0.25, "seconds": 0.5},
        {"of bpftrace": 1.0},
        {"seconds": 3.0},
    ]
