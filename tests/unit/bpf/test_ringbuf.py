"""Reading a ring buffer's memory, with the test as the kernel."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from support.rings import take

from klasy.bpf.ringbuf import RingView
from klasy.log.rawfile import pieces
from klasy.record import step_of

CAPACITY = 128
BUSY, DISCARD = 1 << 31, 1 << 30


class Producer:
    """The kernel's side: memory of the same form, records reserved and then submitted or discarded."""

    def __init__(self, start: int = 0) -> None:
        self.consumer = bytearray(4096)
        self.producer = bytearray(4096)
        self.data = bytearray(2 * CAPACITY)
        struct.pack_into("<Q", self.consumer, 0, start)
        struct.pack_into("<Q", self.producer, 0, start)
        self.view = RingView(
            memoryview(self.consumer).cast("Q"), memoryview(self.producer).cast("Q"), memoryview(self.data)
        )

    @property
    def positions(self) -> tuple[int, int]:
        return struct.unpack_from("<Q", self.consumer)[0], struct.unpack_from("<Q", self.producer)[0]

    def put(self, at: int, content: bytes) -> None:
        """Write through the double mapping: each byte is at two places."""
        for n, byte in enumerate(content):
            self.data[(at + n) % CAPACITY] = self.data[(at + n) % CAPACITY + CAPACITY] = byte

    def reserve(self, content: bytes) -> int | None:
        """A busy record; its position, or None if there is no room."""
        consumer, position = self.positions
        room = len(content) + 15 & ~7
        if position + room - consumer > CAPACITY - 1:
            return None
        self.put(position, struct.pack("<II", len(content) | BUSY, 0) + content)
        struct.pack_into("<Q", self.producer, 0, position + room)
        return position

    def finish(self, position: int, bits: int = 0) -> None:
        """Submit, or with DISCARD discard."""
        length = struct.unpack_from("<I", self.data, position % CAPACITY)[0] & ~BUSY
        self.put(position, struct.pack("<I", length | bits))


def peeked(view: RingView, limit: int = 100, after: int | None = None) -> tuple[list[bytes], int]:
    runs, behind = view.peek(limit, after)
    assert all(run.number == len(run.records()) for run in runs)
    return [record for run in runs for record in run.records()], behind


def test_a_busy_record_holds_back_those_behind_it():
    """Order is that of reservation: a submitted record waits for one reserved before it."""
    p = Producer()
    first, second = p.reserve(b"first"), p.reserve(b"second")
    p.finish(second)
    assert (take(p.view), p.view.ready(), p.view.pending()) == ([], False, 32)
    p.finish(first)
    assert p.view.ready()
    assert take(p.view) == [b"first", b"second"]
    assert p.view.pending() == 0


def test_discarded_records_give_their_room_back():
    """A discarded record is not shown, but passed over."""
    p = Producer()
    for content in (b"a", b"b", b"c"):
        p.finish(p.reserve(content), DISCARD if content == b"b" else 0)
    assert take(p.view) == [b"a", b"c"]
    assert p.positions[0] == p.positions[1]


def test_limit():
    """No more than asked for, and the rest next time."""
    p = Producer()
    for n in range(5):
        p.finish(p.reserve(bytes([n])))
    assert take(p.view, 0) == []
    assert [take(p.view, 2) for _ in range(3)] == [[b"\0", b"\1"], [b"\2", b"\3"], [b"\4"]]


def test_peek_takes_nothing_until_it_is_told_to():
    """Peeked records stay and their room with them; consume() gives back what was peeked, discarded ones too."""
    p = Producer()
    for content in (b"a", b"b", b"c", b"d"):
        p.finish(p.reserve(content), DISCARD if content in b"bd" else 0)
    first, behind_first = peeked(p.view, 1)
    assert (first, p.positions[0]) == ([b"a"], 0)
    rest, behind_all = peeked(p.view, after=behind_first)
    assert (rest, behind_all) == ([b"c"], p.positions[1])
    assert peeked(p.view) == ([b"a", b"c"], behind_all)
    assert peeked(p.view, after=behind_all) == ([], behind_all)
    p.view.consume(behind_first)
    assert take(p.view) == [b"c"]
    assert p.view.pending() == 0


@given(
    st.lists(st.tuples(st.binary(max_size=80), st.sampled_from(["submit", "discard"]), st.booleans()), max_size=40),
    st.integers(0, 1 << 40).map(lambda n: n * 8),
)
def test_every_record_once_and_in_order(records, start):
    """Whatever lengths come, wherever the buffer begins, with reads in between: what was submitted is what is read."""
    p = Producer(start)
    expected, seen, lost = [], [], 0
    for content, how, read in records:
        position = p.reserve(content)
        if position is None:
            seen += take(p.view)
            position = p.reserve(content)
            if position is None:
                lost += 1
                continue
        p.finish(position, DISCARD if how == "discard" else 0)
        if how == "submit":
            expected.append(content)
        if read:
            seen += take(p.view)
    seen += take(p.view)
    assert seen == expected
    assert p.view.pending() == 0
    assert lost == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 9), st.sampled_from(["submit"] * 8 + ["discard", "busy"])),
        max_size=5,
    ),
    st.integers(0, 1 << 40).map(lambda n: n * 8),
    st.integers(0, 14),
    st.integers(8, CAPACITY),
)
def test_many_of_one_length_at_a_time(stretches, start, limit, most):
    """Peeking gives each record, up to the limit or to the first that is not submitted; so
    do stretches, one after the other, of which none is longer than asked for unless a record is. And so many are told
    to be unread."""
    p = Producer(start)
    expected: list[bytes] = []
    busy = False
    for length, number, how in stretches:
        for n in range(number):
            position = p.reserve(bytes([n]) * length)
            if position is None:
                continue
            busy = busy or (how == "busy" and n == number // 2)
            if how != "busy" or n != number // 2:
                p.finish(position, DISCARD if how == "discard" and n % 2 else 0)
            if not busy and not (how == "discard" and n % 2):
                expected.append(bytes([n]) * length)
    records, behind = peeked(p.view, limit)
    assert records == expected[:limit]
    assert p.view.unread() == len(expected)
    lying, behind_stretch = p.view.stretch(most, start)
    parts = list(pieces(lying))
    while lying:
        assert len(lying) <= most or len(lying) == step_of(int.from_bytes(lying[:4], "little") & ~DISCARD)
        lying, behind_stretch = p.view.stretch(most, behind_stretch)
        parts += pieces(lying)
    found = [bytes(part[8 - step_of(len(one)) :]) for part, one in zip(parts, expected, strict=True)]
    assert [data[: len(one)] for data, one in zip(found, expected, strict=True)] == expected
    p.view.consume(behind)
    assert peeked(p.view)[0] == expected[limit:]
