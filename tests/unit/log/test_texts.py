"""A log as whole texts: the same lines as one by one, and no record lost or twice where they are written in part."""

from __future__ import annotations

import os
from itertools import accumulate
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logrecords import SYMBOLS, fields, record, run, schema

from klasy.bpf.ringbuf import RingView
from klasy.bpf.uapi import BPF_RINGBUF_DISCARD_BIT
from klasy.log import lines, reader
from klasy.log.decode import Decoder
from klasy.log.format_json import event_json
from klasy.log.format_text import event_text
from klasy.log.lines import LineDecoder
from klasy.log.reader import LogReader

FORM = fields(("n", "int", 8, {"signed": True}), ("m", "int", 4), ("k", "int", 4), ("s", "string", 8))
SIZE = 48 + 24
STEP = 8 + SIZE


def one(time_ns: int, n: int = 0, **header) -> bytes:
    """A record of FORM."""
    return record(pack("<qII8s", n, n & 7, 5, b"name"), time_ns=time_ns, **header)


class Ring(RingView):
    """A kernel's ring buffer with records in it."""

    def __init__(self, *records: bytes, discarded: frozenset[int] = frozenset(), capacity: int = 1 << 17) -> None:
        sizes = (len(r) | (BPF_RINGBUF_DISCARD_BIT if n in discarded else 0) for n, r in enumerate(records))
        heads = [pack("<II", size, 3) for size in sizes]
        data = b"".join(head + r for head, r in zip(heads, records, strict=True))
        self.capacity = capacity
        self.positions = memoryview(bytearray(16)).cast("Q")
        self.positions[1] = len(data)
        super().__init__(self.positions[:1], self.positions[1:], memoryview(data.ljust(capacity, b"\0") * 2))
        self._pipe = os.pipe()

    def fileno(self) -> int:
        """Something that polls as not readable."""
        return self._pipe[0]

    def close(self) -> None:
        """As RingReader has it."""
        for end in self._pipe:
            os.close(end)


@pytest.fixture(autouse=True)
def _ring(monkeypatch):
    monkeypatch.setattr(reader, "RingReader", lambda ring: ring)


def opened(folder, ring: Ring) -> LogReader:
    """A reader of it."""
    return LogReader([(schema(*FORM), ring)], lambda _: None, SYMBOLS, locks=str(folder))


def show(event):
    """As a line."""
    return event_text(event, SYMBOLS)


def together(parts) -> list[str]:
    """The lines of texts and lists of lines."""
    return [line for part in parts for line in (part.split("\n")[:-1] if isinstance(part, str) else part)]


@given(
    gaps=st.lists(st.sampled_from([0, 300, 900, 5_000, 40_000, 3_000_000]), min_size=1, max_size=40),
    times=st.integers(1, 30),
    begin=st.sampled_from([0, 123_456_789_000, 5_999_700_000]),
    different=st.integers(1, 400),
    tasks=st.booleans(),
    as_json=st.booleans(),
)
def test_many_in_a_millisecond(*, gaps, times, begin, different, tasks, as_json):
    """Records close together, over the ends of milliseconds and seconds, with values that come again or do not, from
    one task or several: each has the line that it has by itself.
    """
    ones = [
        one(begin + time_ns, n * n % different, tid=8 + (n & 1 if tasks else 0))
        for n, time_ns in enumerate(accumulate(gaps * times))
    ]
    decoder = Decoder(schema(*FORM), lambda _: None, SYMBOLS)
    shown = (lambda event: event_json(event, SYMBOLS)) if as_json else show
    found = LineDecoder(decoder, shown, as_json=as_json).lines([run(*ones)])
    assert [line for some in found for line in some.each()] == [
        (event.time_ns, shown(event)) for event in map(decoder.decode, ones)
    ]


@given(st.permutations(range(9)) | st.just(range(9)), st.sets(st.integers(0, 8)), st.integers(1, 5))
def test_all_of_them(tmp_path_factory, order, discarded, portion):
    """In the order of time, whatever that in the buffer is, without what was discarded; nothing stays behind."""
    ring = Ring(*(one(time_ns, time_ns) for time_ns in order), discarded=frozenset(discarded))
    wanted = sorted(time_ns for n, time_ns in enumerate(order) if n not in discarded)
    with pytest.MonkeyPatch.context() as patch, opened(tmp_path_factory.getbasetemp(), ring) as log:
        patch.setattr(lines, "_PORTION", portion)
        kept = together(log.texts(show, as_json=False, keep=True))
        assert kept == together(log.lines(show, as_json=False, keep=True))
        assert ring.position == 0
        found = together(log.texts(show, as_json=False))
        assert [int(line.split("n = ")[1].split(",")[0]) for line in found] == wanted
        assert ring.position == 9 * STEP


@pytest.mark.parametrize("done", range(4))
def test_written_in_part(tmp_path, monkeypatch, done):
    """What was written leaves the buffer, text by text; of the one that was not finished that part which was."""
    monkeypatch.setattr(lines, "_PORTION", 4)
    ring = Ring(*(one(time_ns, time_ns) for time_ns in range(10)))
    with opened(tmp_path, ring) as log:
        texts = log.texts(show, as_json=False)
        next(texts)
        assert ring.position == 0
        assert isinstance(next(texts), str)
        assert ring.position == 4 * STEP
        log.accept(done)
        assert ring.position == (4 + done) * STEP
        again = together(log.texts(show, as_json=False))
        assert [f"n = {n}," in line for n, line in enumerate(again, 4 + done)] == [True] * (6 - done)
