"""Programs at inlined copies, run in the interpreter of BPF: parameters come from where debug information says."""

from __future__ import annotations

import pytest
from support.backend import Runner, registers
from support.compiling import values_of
from support.fakekernel import FakeKernel

from klasy.compiler.ireval import World
from klasy.kernel.inlined import Copy, Inlined, Parameter, Whereabouts
from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver.build import build

STACK = 0xFFFF_C900_0000_3000
OBJECT = 0xFFFF_8880_0000_4000
DECLARATIONS = """
struct queue { struct queue *next; unsigned int len; };
int caller(int a);
"""
TEXT = """aspect a { before(struct queue *q, int n): execution(inner(struct queue *q, int n)) {
    log((unsigned long)q, n, q->len); } }"""


def _read(address: int, size: int) -> bytes | None:
    """At STACK + 8 a pointer to STACK + 32, where OBJECT's address is 8 behind; OBJECT's length is 77."""
    memory = {STACK + 8: STACK + 32, STACK + 40: OBJECT, OBJECT + 8: 77, STACK + 64: 0x5_FFFF_FFFE}
    for start, value in memory.items():
        if start <= address and address + size <= start + 8:
            return value.to_bytes(8, "little")[address - start : address - start + size]
    return None


@pytest.mark.parametrize(
    ("queue", "number", "expected"),
    [
        (Whereabouts("bx", (0,)), Whereabouts("si", (0,)), (OBJECT, -5, 77)),
        (Whereabouts("r12", (-0x10,)), Whereabouts(None, (7,)), (OBJECT, 7, 77)),
        (Whereabouts("sp", (40,), 8), Whereabouts(None, (-1,)), (OBJECT, -1, 77)),
        (Whereabouts("sp", (8, 8), 8), Whereabouts("sp", (64,), 8), (OBJECT, -2, 77)),
        (Whereabouts("sp", (8, 8, 0)), Whereabouts("si", (6,)), (OBJECT, 1, 77)),
        (Whereabouts(None, (OBJECT,)), Whereabouts("si", (5,)), (OBJECT, 0, 77)),
    ],
)
def test_parameters(queue: Whereabouts, number: Whereabouts, expected: tuple[int, int, int]) -> None:
    """Registers, what is added to them, what they lead to and constants give the value, as wide as its type is."""
    kernel = FakeKernel(DECLARATIONS)
    place = kernel.function("caller").address + 0x24
    params = (Parameter("queue", ("queue", "struct", 1)), Parameter("number", ("int", "", 0)))
    copies = (Copy(place, (queue, number)),)
    kernel.inlined_functions["inner"] = (Inlined("inner", params, ("int", "", 0), False, copies),)
    (artifact,) = build(SourceFile("a.asp", TEXT), kernel, PlanOptions())
    runner = Runner(artifact, World(read=_read))
    outcome = runner.run(registers(ip=place + 1, bx=OBJECT, r12=OBJECT + 0x10, sp=STACK, si=0x1_FFFF_FFFB))
    assert outcome.hits == [0]
    assert tuple(values_of(artifact.formats[0], outcome.logged[0].data)[-3:]) == expected
    assert outcome.logged[0].faults == 0
