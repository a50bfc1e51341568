"""Which instructions are chosen, what is said of an aspect on them, and ratios to nothing woven."""

from __future__ import annotations

import pytest

from klasy import lang
from klasy.bench import traps
from klasy.bench.measure import Row
from klasy.kernel.model import Clone, Function
from klasy.source import SourceFile

FUNCTION = Function("ip_output", 0x1000, 0x10000, None, "ip_output", Clone.NONE, 1)


@pytest.mark.parametrize(
    ("code", "branch"),
    [
        ("e800000000", True),  # call
        ("e900000000", True),  # jmp
        ("eb00", True),
        ("7400", True),  # je
        ("0f8400000000", True),
        ("2e7400", True),  # with a prefix
        ("4889e5", False),  # mov rbp, rsp
        ("0f1f4000", False),  # nop
        ("c3", False),
    ],
)
def test_branches(code, branch):
    """Direct calls and jumps, which no kernel optimises a kprobe on."""
    assert traps._is_branch(bytes.fromhex(code), 0) is branch


def test_an_aspect_of_thousands_is_read():
    """Alternatives are a tree, in advice of not too many each."""
    text = traps._at([traps.Place(FUNCTION, offset) for offset in range(1000)])
    (aspect,) = lang.load(SourceFile("x", f"aspect a {{ {text} }}"))
    assert len(aspect.advice) == 3


def test_ratios_are_to_the_group_s_own_zero():
    """The founding experiment's claim is asked of up to 300 on the slow link alone."""
    made = [
        Row(traps.SLOW, "0", "reference", (10.0,)),
        Row(traps.SLOW, "300", "klasy", (9.0,)),
        Row(traps.SLOW, "1000", "klasy", (5.0,)),
        Row(traps.FAST, "0", "reference", (100.0,)),
        Row(traps.FAST, "300", "klasy", (40.0,)),
    ]
    found = [row.ratios for row in traps.compared(made)]
    assert found[1] == {"of unwoven": 0.9, "up to 300, slow": 0.9}
    assert found[2] == {"of unwoven": 0.5}
    assert found[4] == {"of unwoven": 0.4}


def test_as_many_as_there_are():
    """Where fewer can be had than are asked for."""
    assert traps._up_to(920) == [0, 1, 10, 50, 100, 300, 920]
    assert traps._up_to(20) == [0, 1, 10, 20]
