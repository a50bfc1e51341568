"""The log of several aspects as one stream: in the order of time, nothing lost, nothing twice."""

from __future__ import annotations

import os
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logrecords import SYMBOLS, FakeRing, record, schema

from klasy.errors import KernelRefused, SystemRefusal
from klasy.log import decode, reader
from klasy.log.rawfile import pieces
from klasy.log.reader import LogReader


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(reader, "RingReader", lambda ring: ring)
    monkeypatch.setattr(reader, "_BATCH", 4)


def ring(*times: int) -> FakeRing:
    """A buffer whose records were made at these times."""
    return FakeRing([record(time_ns=time) for time in times])


def open_log(folder, *rings: FakeRing) -> LogReader:
    """A reader of several aspects' buffers."""
    sources = [(schema(aspect=f"a{n}"), each) for n, each in enumerate(rings)]
    return LogReader(sources, lambda _: None, SYMBOLS, locks=str(folder))


@pytest.fixture(scope="module")
def locks(tmp_path_factory):
    return tmp_path_factory.mktemp("locks")


@given(st.lists(st.lists(st.integers(0, 50), max_size=30), min_size=1, max_size=4))
def test_events_come_in_the_order_of_time(locks, streams):
    """Whatever each buffer holds: all of it comes, once, in the order of time, and is consumed."""
    rings = [ring(*sorted(times)) for times in streams]
    with open_log(locks, *rings) as log:
        events = [event for batch in log.batches() for event in batch]
        assert [event.time_ns for event in events] == sorted(time for times in streams for time in times)
        assert [each.consumed for each in rings] == [len(times) for times in streams]
        assert list(log.batches()) == []


def test_aspects_have_one_clock(locks, monkeypatch):
    """However long it takes to read the clocks: no later record has an earlier time of day than another aspect's."""
    moments = count(step=1009)  # each reading of a clock takes a while
    monkeypatch.setattr("klasy.log.decode.time.monotonic_ns", lambda: next(moments))
    monkeypatch.setattr("klasy.log.decode.time.time_ns", lambda: 10**18 + 500_000_000 + next(moments) ** 2 % 7001)
    with open_log(locks, ring(1_000, 3_000), ring(2_000, 4_000)) as log:
        shown = [event.clock for batch in log.batches() for event in batch]
    assert [clock[-6:] for clock in shown] == sorted(clock[-6:] for clock in shown)
    assert len(set(shown)) == 4


def test_what_comes_meanwhile_waits(locks, monkeypatch):
    """A record made while the buffers are looked at is not handed on before older ones of another buffer."""
    early, late = ring(10), ring(20)
    with open_log(locks, early, late) as log:
        monkeypatch.setattr(log._wall, "now", lambda: 15)
        first = [event.time_ns for batch in log.batches() for event in batch]
        assert (first, early.consumed, late.consumed) == ([10], 1, 0)
        monkeypatch.setattr(log._wall, "now", lambda: 25)
        assert [event.time_ns for batch in log.batches() for event in batch] == [20]
        assert late.consumed == 1


@pytest.mark.parametrize("text", ["monotonic      1000000         5\nboottime           0         0\n", "", None])
def test_time_namespace(tmp_path, text):
    """In a time namespace the process's clock is not the kernel's, whose times records have."""
    path = tmp_path / "offsets"
    if text is not None:
        path.write_text(text)
    assert decode._ahead(str(tmp_path), str(path)) == (1_000_000_000_000_005 if text else 0)


def test_nearly_ordered_records_are_put_in_order(locks):
    """Two processors may take the time in one order and their places in the buffer in the other."""
    with open_log(locks, ring(3, 1, 2)) as log:
        assert [event.time_ns for batch in log.batches() for event in batch] == [1, 2, 3]


def test_a_batch_is_consumed_when_the_next_is_asked_for(locks):
    """Until then it stays in the kernel's buffer, and comes again for who did not ask."""
    one = ring(*range(10))
    with open_log(locks, one) as log:
        batches = log.batches()
        assert [event.time_ns for event in next(batches)] == [0, 1, 2, 3]
        assert one.consumed == 0
        next(batches)
        assert one.consumed == 4
        batches.close()
        assert [event.time_ns for event in next(log.batches())] == [4, 5, 6, 7]


def test_what_waits_for_another_buffer_is_not_consumed(locks):
    """Events that are too young for the batch, and so were not handed on, stay in their buffer."""
    slow, busy = ring(100), ring(*range(9))
    with open_log(locks, slow, busy) as log:
        for number, batch in enumerate(log.batches()):
            if number == 1:
                assert [event.time_ns for event in batch] == [4, 5, 6, 7]
                assert (slow.consumed, busy.consumed) == (0, 4)
        assert (slow.consumed, busy.consumed) == (1, 9)


def test_keep(locks):
    """Who keeps consumes nothing, and still sees all."""
    one = ring(*range(10))
    with open_log(locks, one) as log:
        assert sum(map(len, log.batches(keep=True))) == 10
        assert one.consumed == 0
        assert sum(map(len, log.batches())) == 10


@pytest.mark.parametrize("done", range(7))
def test_accept(locks, done):
    """Of a batch that could be written in part, that part is consumed and the rest comes again: each event once."""
    one, other = ring(0, 2, 4, 6), ring(1, 3, 5)
    with open_log(locks, one, other) as log:
        batch = next(log.batches())
        assert [event.time_ns for event in batch] == list(range(7))
        log.accept(done)
        assert one.consumed + other.consumed == done
        again = [event.time_ns for events in log.batches() for event in events]
        assert again == list(range(done, 7))


def test_accept_loses_nothing_where_records_are_out_of_order(locks):
    """A record that was written but lies behind one that was not comes again; none is skipped."""
    one = ring(5, 1, 2)
    with open_log(locks, one) as log:
        next(log.batches())
        log.accept(1)
        assert one.consumed == 0
        log.accept(3)
        assert one.consumed == 3


def test_raw(locks):
    """Records of several sources, each with its source; of what could be written in part the rest comes again."""
    rings = [ring(1, 2, 9, 5, 7), ring(3, 4)]
    with open_log(locks, *rings) as log:
        batch = next(log.raw())
        assert [_time(one) for _, each in batch for one in each.records()] == [1, 2, 3, 4, 5, 9]
        log.accept(3)
        again = [(n, _time(one)) for runs in log.raw() for n, each in runs for one in each.records()]
        assert sorted(again) == [(0, 5), (0, 7), (0, 9), (1, 4)]
        assert [each.consumed for each in rings] == [5, 2]


def test_raw_of_one_source(locks, monkeypatch):
    """Records as they lie, headers and all; each stretch is consumed when the next is asked for."""
    monkeypatch.setattr(reader, "_STRETCH", 4 * 56)
    only = ring(1, 2, 9, 5, 7)
    with open_log(locks, only) as log:
        stretches = log.raw()
        assert [_time(one[8:]) for one in pieces(next(stretches))] == [1, 2, 9, 5]
        log.accept(3)
        assert only.consumed == 3
        assert [[_time(one[8:]) for one in pieces(each)] for each in log.raw(keep=True)] == [[5, 7]]
        assert only.consumed == 3
        assert [len(each) for each in log.raw()] == [2 * 56]
        assert only.consumed == 5


def test_records_that_come_fast_are_let_come_together(locks, monkeypatch):
    """Who waits for more sleeps a moment, a shorter one where the buffer might fill up, none where few came."""
    slept, now = [], iter(range(1, 100))
    monkeypatch.setattr(reader.time, "sleep", slept.append)
    monkeypatch.setattr(reader.time, "monotonic", lambda: next(now) / 100)
    only = ring(*range(5))
    only.records *= 1 << 16
    with open_log(locks, only) as log:
        for came, capacity, expected in (
            (1 << 8, 1 << 20, []),
            (1 << 10, 1 << 20, [0.01]),
            (1 << 18, 1 << 20, [0.005]),  # which fills an eighth of it in that time
            (1 << 10, 1 << 18, [0.003906]),  # and a burst might
            (1 << 10, 1 << 16, []),
        ):
            only.consumed += came
            only.capacity = capacity
            log.wait(1.0)
            assert [round(each, 6) for each in slept] == expected
            slept.clear()


def _time(record):
    return int.from_bytes(record[:8], "little")


def test_a_second_reader_is_refused(locks):
    """Two readers of one log would take each other's records; of two logs they may read at once."""
    with open_log(locks, ring(1), ring(2)):
        with pytest.raises(SystemRefusal, match="the log of aspect 'a0' is being read by another process") as caught:
            open_log(locks, ring(1))
        assert "fuser" in caught.value.hint
        sources = [(schema(aspect="other"), ring(1))]
        LogReader(sources, lambda _: None, SYMBOLS, locks=str(locks)).close()
    open_log(locks, ring(1)).close()


def test_nothing_is_left_of_locks(locks):
    """Locks go when their reader does; one that a killed reader left is no obstacle."""
    log = open_log(locks, ring(1), ring(2))
    assert len(os.listdir(locks)) == 2
    log.close()
    log.close()
    assert os.listdir(locks) == []
    (locks / "klasy-log-a0.lock").touch()
    open_log(locks, ring(1)).close()
    assert os.listdir(locks) == []


def test_a_lock_removed_by_its_holder_is_made_anew(locks, monkeypatch):
    """Who waited for a lock that was removed meanwhile holds a file without a name, and takes another."""
    path = locks / "klasy-log-a0.lock"
    real = os.stat
    calls = []

    def stat(name, *args, **kwargs):
        if name == str(path) and not calls:
            calls.append(name)
            os.unlink(path)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    with open_log(locks, ring(1)):
        assert path.exists()
        assert calls


def test_no_place_for_locks(tmp_path):
    """Where no lock can be made the reason is told."""
    with pytest.raises(KernelRefused, match=r"cannot lock the log of aspect 'a0'.*No such file"):
        open_log(tmp_path / "nowhere", ring(1))


def test_events_of_one_time_keep_their_buffers_order(locks):
    """The clock may tell two records the same time: their order in the buffer stands."""
    one = FakeRing([record(time_ns=7, pid=n) for n in range(6)])
    with open_log(locks, one) as log:
        pids = [event.pid for batch in log.batches() for event in batch]
    assert all(a < b for a, b in pairwise(pids))
