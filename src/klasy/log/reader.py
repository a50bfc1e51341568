"""Reads the ring buffers of woven aspects as one stream of events in the order of time."""

from __future__ import annotations

import fcntl
import heapq
import os
import select
from typing import TYPE_CHECKING, Self

from klasy.bpf.ringbuf import RingReader
from klasy.errors import SystemRefusal
from klasy.log.decode import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from klasy.bpf.maps import Map
    from klasy.btf.types import Btf
    from klasy.log.event import LogEvent, Schema
    from klasy.log.symbolize import Symbolizer

LOCKS = "/run"
_BATCH = 4096  # records taken from each buffer at a time: bounds memory and the time until they are consumed


class LogReader:
    """The reading end of one or several aspects' logs.

    Records stay in the kernel's buffer until the caller has dealt with the batch that held them: what could not be
    written (a full disk) comes again. Only one process may read an aspect's log at a time; a second is refused.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Schema, Map]],
        types: Callable[[str | None], Btf],
        symbols: Symbolizer,
        *,
        locks: str = LOCKS,
    ) -> None:
        self._readers: list[tuple[RingReader, Decoder]] = []
        self._locks: list[int] = []
        self._poll = select.poll()
        try:
            for schema, ring in sources:
                self._locks.append(_lock(locks, schema.aspect))
                reader = RingReader(ring)
                self._readers.append((reader, Decoder(schema, types, symbols)))
                self._poll.register(reader.fileno(), select.POLLIN)
        except BaseException:
            self.close()
            raise

    def batches(self, *, keep: bool = False) -> Iterator[list[LogEvent]]:
        """What is in the buffers now, in batches ordered by time; each is consumed when the next is asked for.

        With ``keep`` nothing is consumed.
        """
        after: list[int | None] = [None] * len(self._readers)
        while True:
            streams = []
            for i, (reader, decoder) in enumerate(self._readers):
                records, after[i] = reader.peek(_BATCH, after[i])
                streams.append(sorted(map(decoder.decode, records), key=_time))
            batch = list(heapq.merge(*streams, key=_time))
            if batch:
                yield batch
            if not keep:
                for (reader, _), position in zip(self._readers, after, strict=True):
                    assert position is not None
                    reader.consume(position)
            if not batch:
                return

    def wait(self, timeout: float) -> bool:
        """Sleep until there is something to read, or for ``timeout`` seconds; whether there is."""
        if len(self._readers) == 1:
            return self._readers[0][0].wait(timeout)
        self._poll.poll(timeout * 1000)
        return any(reader.ready() for reader, _ in self._readers)

    def close(self) -> None:
        """Let go of buffers and locks. Idempotent."""
        while self._readers:
            self._readers.pop()[0].close()
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _time(event: LogEvent) -> int:
    return event.time_ns


def _lock(folder: str, aspect: str) -> int:
    """A lock on the reading of an aspect's log, held until the descriptor is closed or the process ends."""
    path = f"{folder}/klasy-log-{aspect}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SystemRefusal(
            f"the log of aspect '{aspect}' is being read by another process",
            hint="each record is read once; end the other reader first",
        ) from None
    return descriptor
