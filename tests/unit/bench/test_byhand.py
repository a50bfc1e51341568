"""The programs that klasy's are held against do what they are to do: run by the interpreter of eBPF."""

from __future__ import annotations

from klasy.bench import byhand
from klasy.bench.byhand import CPU, PID, Value
from klasy.bpf.insn import R0, R6, load
from klasy.record import HEADER_SIZE


def test_the_maps_they_name():
    """An empty program has none; the others count; a record goes to a ring buffer."""
    assert byhand.empty().map_names == ()
    assert byhand.counter().map_names == ("hits",)
    assert byhand.counter_by_caller().map_names == ("callers",)
    assert set(byhand.record([PID, CPU]).map_names) == {"hits", "events"}


def test_a_record_is_as_long_as_its_values_need():
    """The header and the values, filled up to 8 bytes: what klasy reserves for the same."""
    values = [Value(8, (load(R0, R6, 0),)), PID, CPU, Value(4, (load(R0, R6, 8),))]
    sizes = [i.imm for i in byhand.record(values).instructions if i.dst == 2 and i.imm > HEADER_SIZE]
    assert sizes[0] == HEADER_SIZE + 24
