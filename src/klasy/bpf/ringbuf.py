"""Reading a BPF ring buffer: the consumer's side of BPF_MAP_TYPE_RINGBUF.

    with RingReader(events) as reader:
        while True:
            reader.wait(timeout=1.0)
            runs, behind = reader.peek()
            ...                            # copies; the records stay in the buffer
            reader.consume(behind)         # until now: their room is the kernel's again

The kernel and the reader share memory: a page with the consumer's position, which the reader writes; a page with the
producer's position; and the data, mapped twice in a row so that a record that wraps around its end can be read in
one piece. A record has 8 bytes before it:

      31 30 29                       0      next 4 bytes
    +---+---+-------------------------+   +--------------+
    |BSY|DIS|  length without header  |   | page offset  |
    +---+---+-------------------------+   +--------------+

and takes a multiple of 8 bytes. BSY: reserved, not yet submitted; the reader must stop there, for records come in
the order of reservation. DIS: discarded; skip it.

One reader at a time: two would both move the consumer's position. The position stays in the map, so that another
process can go on later where this one stopped.

On memory ordering. The producer fills a record, then clears BSY with a full barrier; it moves its position with a
release store before anyone may see the record. The reader must load the position (acquire), then the header
(acquire), then the data, and must have done with the data when it stores its own position (release). Python has no
such operations, but on x86-64 (total store order) every load is an acquire and every store a release, and the
interpreter does not reorder them: each of our accesses is its own bytecode, and each reads or writes one aligned
word of 8 or 4 bytes through a ``memoryview`` cast to that width, which CPython does with a single move, also where
``tolist`` reads many. What x86 may reorder is a store and a later load of another place: our position may become
visible after we have looked at the producer's. The kernel wakes a reader that was seen to have caught up (or with
BPF_RB_FORCE_WAKEUP), so one that stores its position late could sleep over a record; hence :meth:`RingReader.wait`
never sleeps while data is pending and never sleeps for ever. On a machine with weaker ordering this file needs real
barriers.
"""

from __future__ import annotations

import mmap
import select
import time

from klasy.bpf import sys
from klasy.bpf import uapi as u
from klasy.plain import TYPE_CHECKING, Closing, suppress
from klasy.record import RUN_HEAD, Run, same_ahead, step_of

if TYPE_CHECKING:
    from klasy.bpf.maps import Map

assert u.BPF_RINGBUF_HDR_SZ == RUN_HEAD
_LENGTH = u.BPF_RINGBUF_DISCARD_BIT - 1
_COUNTED = 4096  # records at a time
_LONGEST_SLEEP = 0.25  # seconds; see the last paragraph above
_BUSY_SLEEP = 0.0005  # the kernel calls a buffer readable whose only record is reserved, but not yet submitted


class RingView:
    """The shared memory of a ring buffer, as views: ``consumer`` and ``producer`` begin with the two positions, in
    words of 8 bytes; ``data`` is the data, twice in a row. All but the mapping and the waiting.
    """

    def __init__(self, consumer: memoryview, producer: memoryview, data: memoryview) -> None:
        self._consumer = consumer
        self._producer = producer
        self._data = data
        self._words = data.cast("I")
        self._mask = len(data) // 2 - 1

    def peek(self, limit: int = 1 << 30, after: int | None = None) -> tuple[list[Run], int]:
        """Copies of the records there are now, at most ``limit``, and the position behind the last of them.

        They stay in the buffer until :meth:`consume` is called with that position: a reader that must not lose them
        does so when they are safely written. ``after``: go on from a position that was given before.
        """
        behind = self._consumer[0] if after is None else after
        runs: list[Run] = []
        # As many at a time as have one length and are all submitted: one look at their headers.
        words, mask, data, producer = self._words, self._mask, self._data, self._producer
        while behind < producer[0]:
            end = producer[0]
            while behind < end:
                at = behind & mask
                header = words[at >> 2]
                if header & u.BPF_RINGBUF_BUSY_BIT:
                    return runs, behind
                length = header & _LENGTH
                step = step_of(length)
                if header & u.BPF_RINGBUF_DISCARD_BIT:
                    behind += step
                    continue
                if not limit:
                    return runs, behind
                number = same_ahead(words, at >> 2, step >> 2, min(limit, (end - behind) // step))
                runs.append(Run(length, number, bytes(data[at : at + number * step])))
                behind += number * step
                limit -= number
        return runs, behind

    def stretch(self, most: int, after: int) -> tuple[memoryview, int]:
        """The records there are now behind a position as they lie, with their headers, and discarded ones too: at most
        ``most`` bytes, but one whole record; and the position behind them, for :meth:`consume`. The view is good until
        then.
        """
        words, mask, data = self._words, self._mask, self._data
        behind = after
        end = self._producer[0]
        while behind < end:
            at = behind & mask
            header = words[at >> 2]
            if header & u.BPF_RINGBUF_BUSY_BIT:
                break
            step = step_of(header & _LENGTH)
            room = (min(end, after + most) - behind) // step
            if room < 1 and behind > after:
                break
            behind += step * same_ahead(words, at >> 2, step >> 2, max(room, 1))
        at = after & mask
        return data[at : at + behind - after], behind

    @property
    def position(self) -> int:
        """Up to where the kernel was given its room back: so many bytes since the buffer was made."""
        return self._consumer[0]

    def consume(self, position: int) -> None:
        """Give the kernel back the room of all records before a position that :meth:`peek` returned."""
        self._consumer[0] = position

    def discard(self) -> None:
        """Give the kernel back the room of all that was written so far, unread."""
        self._consumer[0] = self._producer[0]

    def ready(self) -> bool:
        """Whether the next record can be read now."""
        position = self._consumer[0]
        if position >= self._producer[0]:
            return False
        return not self._words[(position & self._mask) >> 2] & u.BPF_RINGBUF_BUSY_BIT

    def unread(self) -> int:
        """How many records are submitted and not yet read, without those that were discarded."""
        found = 0
        runs, behind = self.peek(_COUNTED)
        while runs:
            found += sum(run.number for run in runs)
            runs, behind = self.peek(_COUNTED, behind)
        return found

    def pending(self) -> int:
        """Bytes that are written or reserved and not yet read, headers included."""
        position = self._consumer[0]  # first: it only grows towards the other
        return int(self._producer[0] - position)


class RingReader(RingView, Closing):
    """The reading end of a ring buffer map, which must be open as long as this is."""

    def __init__(self, ring: Map) -> None:
        if ring.type != u.BPF_MAP_TYPE_RINGBUF:
            raise ValueError(f"map {ring.name!r} is no ring buffer")
        self.capacity = ring.max_entries
        page = mmap.PAGESIZE
        try:
            self._consumer_map = mmap.mmap(ring.fileno(), page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            try:
                self._producer_map = mmap.mmap(
                    ring.fileno(), page + 2 * self.capacity, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
                )
            except BaseException:
                self._consumer_map.close()
                raise
        except OSError as error:
            raise sys.refused(f"mapping ring buffer {ring.name!r}", error.errno or 0) from None
        shared = memoryview(self._producer_map)
        super().__init__(memoryview(self._consumer_map).cast("Q"), shared[:page].cast("Q"), shared[page:])
        self._epoll = select.epoll()
        self._epoll.register(ring.fileno(), select.EPOLLIN)

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until there are records, or for ``timeout`` seconds (None: until there are); whether there are some.

        A signal's handler runs and its exception, KeyboardInterrupt say, comes out.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self.ready():
                return True
            left = _LONGEST_SLEEP if deadline is None else min(_LONGEST_SLEEP, deadline - time.monotonic())
            if left <= 0:
                return False
            if self._epoll.poll(left) and not self.ready():
                time.sleep(_BUSY_SLEEP)

    def fileno(self) -> int:
        """Descriptor that polls as readable when records come, to wait for several rings at once."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Unmap. Idempotent. What was not read stays in the map."""
        for view in (self._words, self._data, self._producer, self._consumer):
            view.release()
        # a part of a record that somebody still holds keeps the mapping, which then goes with it
        with suppress(BufferError):
            self._producer_map.close()
        self._consumer_map.close()
        self._epoll.close()
