"""Real functions of the lab's kernels: what is found in them, line by line."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from klasy.flow.cfg import Unit
from klasy.flow.engine import Engine
from klasy.kernel.snapshot import SnapshotKernel

SNAPSHOTS = Path(__file__).parents[2] / "data" / "kernels"
GOLDEN = Path(__file__).with_name("golden")
FUNCTIONS = ("skb_dequeue", "tcp_cong_avoid_ai", "tcp_slow_start", "tcp_enter_cwr", "skb_clone", "vfs_llseek")


@functools.cache
def engine(name):
    return Engine(SnapshotKernel.load(str(SNAPSHOTS / f"{name}.snapshot")))


def listing(name, function):
    """Offset, reading or writing, width, where in which type, how sure, and why, of each access in a function."""
    found = engine(name)
    symbols = found.kernel.symbols[None]
    (index,) = symbols.named(function)
    types = found.seeds.types_of(None)
    lines = [f"{function}:"]
    for row in sorted(found.rows(Unit(found.text(None), index))):
        what = f"{types.name(row.type_id)}.{types.member_name(row.type_id, row.offset)}" if row.type_id else "?"
        how = {1: "read", 2: "write", 3: "both"}[row.rw]
        lines.append(
            f"  +{row.at - symbols.starts[index]:#x} {how} {row.width} {what}  # {row.confidence} {row.reason}"
        )
    return "\n".join(lines)


@pytest.mark.parametrize("name", ["6.1", "6.12"])
def test_listing(name, request):
    """The accesses in a few functions are those that the sources of that kernel make, as they were read once."""
    text = "\n".join(listing(name, function) for function in FUNCTIONS) + "\n"
    file = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden", default=False):
        file.write_text(text)
    assert text == file.read_text()


def test_units_have_one_entry():
    """An unlikely piece is part of its function: it is no unit, and leads to the function."""
    found = engine("6.1")
    text = found.text(None)
    cold = [
        index
        for index, name in enumerate(text.symbols.all_names())
        if name.startswith("tcp_") and name.endswith(".cold")
    ]
    assert cold
    assert cold[0] not in text.units()
    unit = found.unit_of(None, cold[0])
    assert unit is not None
    assert text.symbols.name(unit) == text.symbols.name(cold[0]).removesuffix(".cold")
