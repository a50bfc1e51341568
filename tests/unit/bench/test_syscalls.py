"""What is told of traced system calls."""

from __future__ import annotations

from klasy.bench.measure import Row
from klasy.bench.syscalls import OVERHEAD, STRINGS, bpftrace_program, compared


def test_overhead_is_what_a_turn_takes_longer():
    """In percent of the untraced one of the same group."""
    rows = (Row(STRINGS, "untraced", "reference", (2.0,)), Row(STRINGS, "strace", "peer", (30.0,)))
    bare, traced = compared(list(rows))
    assert bare.ratios == {}
    assert traced.ratios == {OVERHEAD: 1400.0}


def test_bpftrace_shows_each_call_once():
    """At its end, with what was kept at its beginning, of one process; nothing is left in a map."""
    program = bpftrace_program(7, "ustack")
    assert program.count("/pid == 7/") == 10
    assert program.count("printf(") == 5
    assert program.count("ustack") == 5
    assert "@openat1[tid] = str(args->filename);" in program
    assert program.count("[tid] = ") == program.count("delete(")
