"""The ring buffer's reader against the kernel as producer."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.bpf_kernel import ZERO, no_leaks  # noqa: F401
from support.rings import take

from klasy.bpf import links, maps, pins, program
from klasy.bpf import uapi as u
from klasy.bpf.asm import assemble
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    atomic_add,
    atomic_fetch_add,
    call,
    exit_,
    jump_if,
    load_map,
    load_map_value,
    lsh,
    mov,
    or_,
    store,
)
from klasy.bpf.ringbuf import RingReader

PAGE = os.sysconf("SC_PAGESIZE")
PACKET = bytes(64)
ROOT = f"{pins.BPFFS}/klasytest"


def producer(size: int, *, discard: bool = False):
    """One record: its number (from ``state``), the rest zero up to ``size``. Full: state's second word counts."""
    clear = [step for at in range(8, size, 8) for step in [store(R7, at, R6)]]
    return assemble(
        [
            *(load_map_value(R1, "state"), mov(R6, 1), atomic_fetch_add(R1, 0, R6)),
            *(load_map(R1, "ring"), mov(R2, size), mov(R3, 0), call("ringbuf_reserve")),
            jump_if(R0, "!=", 0, "got"),
            *(load_map_value(R1, "state"), mov(R2, 1), atomic_add(R1, 8, R2), mov(R0, 0), exit_()),
            *(mov(R7, R0).labelled("got"), store(R7, 0, R6), *clear),
            *(mov(R1, R7), mov(R2, 0), call("ringbuf_discard" if discard else "ringbuf_submit")),
            *(mov(R0, 0), exit_()),
        ]
    )


class Setup:
    """A ring, its state, and a way to produce."""

    def __init__(self, capacity: int = PAGE, size: int = 16) -> None:
        self.ring = maps.create("ringbuf", name="ring", max_entries=capacity)
        self.state = maps.create("array", name="state", key_size=4, value_size=16, max_entries=1)
        self.used = {"ring": self.ring, "state": self.state}
        self.program = self.load(size)

    def load(self, size: int, **options: bool):
        return program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, producer(size, **options), name="make", maps=self.used)

    def produce(self, times: int) -> None:
        if times:
            self.program.test_run(data=PACKET, repeat=times)

    def counts(self) -> tuple[int, int]:
        """Records tried, and lost for want of room."""
        return struct.unpack("<QQ", self.state.lookup(ZERO))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for obj in (self.program, self.state, self.ring):
            obj.close()


def numbers(reader: RingReader, limit: int = 1 << 30) -> list[int]:
    return [int.from_bytes(record[:8], "little") for record in take(reader, limit)]


def test_records_come_in_order_and_once():
    """What was submitted is read, in order, with its length, and then gone."""
    with Setup(size=24) as s, RingReader(s.ring) as reader:
        assert not reader.ready()
        s.produce(10)
        assert reader.ready()
        assert reader.pending() == 10 * 32
        assert [len(record) for record in take(reader, 1)] == [24]
        assert numbers(reader) == list(range(1, 10))
        assert numbers(reader) == []
        assert reader.pending() == 0


@pytest.mark.parametrize("size", [8, 16, 40, 4000])
def test_many_times_round(size):
    """Records that wrap around the end of the buffer come in one piece, over many rounds; none is lost."""
    with Setup(size=size) as s, RingReader(s.ring) as reader:
        expected = 0
        fits = (PAGE - 1) // (size + 8)  # the buffer never fills to the last byte
        for round_ in range(300):
            count = 1 + round_ % fits
            s.produce(count)
            seen = [(len(r), int.from_bytes(r[:8], "little"), bytes(r[-8:])) for r in take(reader)]
            assert seen == [(size, n, n.to_bytes(8, "little")) for n in range(expected, expected + count)]
            expected += count
        assert s.counts() == (expected, 0)


def test_a_full_buffer_loses_the_newest_and_goes_on():
    """With no reader the buffer fills; the program counts what it lost; what was in it is intact."""
    with Setup(size=24) as s, RingReader(s.ring) as reader:
        fits = (PAGE - 1) // 32
        s.produce(fits + 50)
        assert s.counts() == (fits + 50, 50)
        assert numbers(reader) == list(range(fits))
        s.produce(1)
        assert numbers(reader) == [fits + 50]


def test_discarded_records_are_skipped():
    """A discarded record takes room and is not seen."""
    with Setup() as s, RingReader(s.ring) as reader, s.load(16, discard=True) as discarding:
        s.produce(2)
        discarding.test_run(data=PACKET, repeat=3)
        s.produce(2)
        discarding.test_run(data=PACKET)
        assert reader.pending() == 8 * 24
        assert numbers(reader) == [0, 1, 5, 6]
        assert reader.pending() == 0


def test_a_record_that_is_not_consumed_comes_again():
    """Looking at records takes nothing: a reader that fails with them has them again."""
    with Setup() as s, RingReader(s.ring) as reader:
        s.produce(5)
        reader.consume(reader.peek(2)[1])
        assert sum(run.number for run in reader.peek()[0]) == 3
        assert numbers(reader) == [2, 3, 4]


def test_limit_leaves_the_rest():
    """A batch can be cut; nothing is lost between two."""
    with Setup() as s, RingReader(s.ring) as reader:
        s.produce(10)
        assert numbers(reader, 4) == [0, 1, 2, 3]
        assert numbers(reader, 4) == [4, 5, 6, 7]
        assert numbers(reader, 4) == [8, 9]


def test_another_reader_goes_on_where_one_stopped():
    """The position is in the map: a reader opened later, from a pin, gets the rest."""
    with Setup() as s:
        pins.pin(s.ring, f"{ROOT}/ring")
        try:
            with RingReader(s.ring) as first:
                s.produce(6)
                assert numbers(first, 2) == [0, 1]
            with pins.open_map(f"{ROOT}/ring") as ring, RingReader(ring) as second:
                assert numbers(second) == [2, 3, 4, 5]
        finally:
            pins.unpin_tree(ROOT)


def test_waiting():
    """wait() gives up after its time, and returns at once when there are records."""
    with Setup() as s, RingReader(s.ring) as reader:
        start = time.monotonic()
        assert reader.wait(0.3) is False
        assert 0.3 <= time.monotonic() - start < 30
        s.produce(1)
        assert reader.wait(30) is True
        assert reader.wait(None) is True


CALLS = """
import os, sys
for _ in range(int(sys.argv[1])):
    os.umask(0o022)
"""


def test_two_producers_and_a_reader_at_once():
    """Processes on both CPUs produce while we read: every record made is read or counted as lost, each once."""
    calls = 15_000
    # one record a call: CPU and number on that CPU
    code = assemble(
        [
            *(call("get_smp_processor_id"), mov(R6, R0), load_map_value(R1, "state"), mov(R2, 1)),
            *(atomic_fetch_add(R1, 0, R2), mov(R7, R2), lsh(R6, 32), or_(R7, R6)),
            *(load_map(R1, "ring"), mov(R2, 8), mov(R3, 0), call("ringbuf_reserve"), jump_if(R0, "==", 0, "full")),
            *(store(R0, 0, R7), mov(R1, R0), mov(R2, 0), call("ringbuf_submit"), mov(R0, 0), exit_()),
            *(load_map_value(R1, "state").labelled("full"), mov(R2, 1), atomic_add(R1, 8, R2), mov(R0, 0), exit_()),
        ]
    )
    with (
        Setup(capacity=4 * PAGE) as s,
        program.load(u.BPF_PROG_TYPE_KPROBE, code, name="both", maps=s.used) as loaded,
        links.perf_kprobe(symbol="__x64_sys_umask") as event,
        RingReader(s.ring) as reader,
    ):
        with links.attach_perf_event(loaded, event):
            running = [subprocess.Popen([sys.executable, "-c", CALLS, str(calls)]) for _ in range(2)]
            seen: list[int] = []
            while any(p.poll() is None for p in running):
                reader.wait(0.05)
                seen += numbers(reader)
        seen += numbers(reader)
        assert [p.returncode for p in running] == [0, 0]
        tried, lost = s.counts()
        sequence = [n & 0xFFFFFFFF for n in seen]
        assert tried >= 2 * calls
        assert len(set(sequence)) == len(sequence) == tried - lost
        assert set(sequence) <= set(range(tried))
        assert {n >> 32 for n in seen} <= set(range(maps.possible_cpus()))


def test_output_of_a_buffer():
    """bpf_ringbuf_output copies a record in; lengths that are no multiple of 8 are kept."""
    from klasy.bpf.insn import R10, add

    code = assemble(
        [
            *(mov(R6, 0x41414141), store(R10, -16, R6), store(R10, -8, R6)),
            *(load_map(R1, "ring"), mov(R2, R10), add(R2, -16), mov(R3, 13), mov(R4, 0), call("ringbuf_output")),
            *(mov(R0, 0), exit_()),
        ]
    )
    with (
        Setup() as s,
        program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, code, name="out", maps=s.used) as loaded,
        RingReader(s.ring) as reader,
    ):
        loaded.test_run(data=PACKET, repeat=2)
        assert take(reader) == [b"AAAA\0\0\0\0AAAA\0"] * 2


def test_only_ring_buffers_can_be_read():
    """Another map is refused before anything is mapped; closing twice is harmless."""
    with (
        maps.create("array", name="no", key_size=4, value_size=8, max_entries=1) as m,
        pytest.raises(ValueError, match="no ring buffer"),
    ):
        RingReader(m)
    with Setup() as s:
        reader = RingReader(s.ring)
        assert reader.capacity == PAGE
        reader.close()
        reader.close()
    assert Path("/proc/self/maps").read_text().count("bpf") == 0
