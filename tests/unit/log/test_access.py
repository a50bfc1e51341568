"""Records of accesses to watched data: where they happened, and which are none of their join point's."""

from __future__ import annotations

import struct

import pytest
from support.logrecords import FakeRing

from klasy.errors import KernelRefused
from klasy.kernel.model import Clone, Function
from klasy.kernel.references import Reference
from klasy.log.access import Accesses
from klasy.log.decode import Decoder
from klasy.log.event import LogPoint, Schema
from klasy.log.reader import _Stream
from klasy.log.symbolize import Symbolizer
from klasy.record import HEADER, HEADER_SIZE, Field, Format

START = 0xFFFF_FFFF_8100_0000
FUNCTION = Function("update", START, 256, None, "update", Clone.NONE, 1)
READ_IP, WRITE_IP, BOTH_IP, UNKNOWN_IP, ELSEWHERE = START + 8, START + 16, START + 24, START + 32, 0x1000
FORM = Format(0, 0, 1, None, (Field("", "site", 48, 8), Field("", "access", 56, 8), Field("value", "int", 64, 8)), 72)


class Code:
    """One function with a load, a store and an addition."""

    def function_at(self, address: int) -> Function | None:
        return FUNCTION if START <= address < START + 256 else None

    def access_before(self, ip: int) -> Reference | None:
        kind = {READ_IP: 1, WRITE_IP: 2, BOTH_IP: 3}.get(ip)
        return Reference(ip - 4, 4, kind, FUNCTION) if kind else None


class Hidden:
    """A kernel that does not show its text."""

    def function_at(self, address: int) -> Function | None:
        raise KernelRefused("reading", 1)

    access_before = function_at


def point(kind: str) -> LogPoint:
    return LogPoint(kind, None, 0, None, data="jiffies")


def record(kind: str, ip: int, known: int, value: int = 5) -> bytes:
    number = ("get", "set", "access").index(kind)
    return HEADER.pack(1, number, 0, 0, 1, 1, b"a", 0) + struct.pack("<QQQ", ip, known, value)


def decoder(code: object = None) -> Decoder:
    points = (point("get"), point("set"), point("access"))
    schema = Schema("a", ("before#0",), points, (FORM,))
    return Decoder(schema, lambda _: None, Symbolizer(code or Code()))


@pytest.mark.parametrize(
    ("kind", "ip", "shown"),
    [
        *[("get", READ_IP, "read"), ("get", WRITE_IP, None), ("get", BOTH_IP, "read and write")],
        *[("set", READ_IP, None), ("set", WRITE_IP, "write"), ("set", BOTH_IP, "read and write")],
        *[("access", READ_IP, "read"), ("access", WRITE_IP, "write")],
    ],
)
def test_unknown_instructions_are_judged(kind: str, ip: int, shown: str | None):
    """What the program did not know the reader finds out; records of another kind of access are left out."""
    event = decoder().decode(record(kind, ip, 0))
    if shown is None:
        assert event is None
        return
    assert event.joinpoint.access == shown
    assert event.joinpoint.place == f"{kind} jiffies in update+{ip - 4 - START:#x}"
    assert dict(event.values) == {"value": 5}


def test_what_cannot_be_told_stays():
    """Where the instruction is not known the record is shown, with what the program knew."""
    event = decoder().decode(record("get", UNKNOWN_IP, 0))
    assert event.joinpoint.access is None
    assert event.joinpoint.place == f"get jiffies in update+{UNKNOWN_IP - 1 - START:#x}"
    assert decoder().decode(record("set", UNKNOWN_IP, 2)).joinpoint.access == "write"
    assert decoder().decode(record("set", UNKNOWN_IP, 4)).joinpoint.access is None
    assert decoder().decode(record("set", ELSEWHERE, 0)).joinpoint.place == f"set jiffies in {ELSEWHERE - 1:#x}"
    assert decoder(Hidden()).decode(record("set", WRITE_IP, 2)).joinpoint.access == "write"


def test_an_instruction_is_looked_up_once():
    """A thousand records of one instruction cost one disassembly."""
    asked = []

    class Counting(Code):
        def access_before(self, ip: int) -> Reference | None:
            asked.append(ip)
            return super().access_before(ip)

    found = Accesses(Counting())
    for _ in range(1000):
        found.at(READ_IP, 0)
    assert asked == [READ_IP]


def test_records_left_out_do_not_stop_the_consuming():
    """With some records that are nobody's between them, just what was dealt with is given back to the kernel."""
    ring = FakeRing([record("get", ip, 0) for ip in (WRITE_IP, READ_IP, WRITE_IP, READ_IP, WRITE_IP)])
    stream = _Stream(ring, decoder())
    stream.begin()
    stream.fill()
    taken = stream.take(None)
    assert len(taken) == 2
    stream.consume_only({id(taken[0])})
    assert ring.consumed == 3  # the one in front, the first, and the one behind it
    assert FORM.fields[0].offset == HEADER_SIZE
