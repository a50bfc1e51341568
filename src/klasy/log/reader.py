"""Reads the ring buffers of woven aspects as one stream of events in the order of time."""

from __future__ import annotations

import select
import time
from _operator import itemgetter  # what operator itself is but a shell of: see tests/unit/test_imports.py

from klasy.bpf.ringbuf import RingReader
from klasy.log.decode import Decoder, WallClock
from klasy.log.readlock import LOCKS, ReadLock
from klasy.plain import TYPE_CHECKING, Closing
from klasy.record import RUN_HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import Any, TypeAlias, TypeVar

    from klasy.bpf.maps import Map
    from klasy.btf.btf import Btf
    from klasy.log.event import LogEvent, Schema
    from klasy.log.lines import LineDecoder
    from klasy.log.symbolize import Symbolizer
    from klasy.record import Run

    T = TypeVar("T")
    # What records come to, each with its time; None: nobody's.
    Decoded: TypeAlias = list[tuple[int, T] | None]
    Decode: TypeAlias = Callable[[Sequence[Run]], Decoded[T]]

_BATCH = 4096  # records taken from each buffer at a time: bounds memory and the time until they are consumed
_STRETCH = 1 << 18  # bytes, the same for who takes them as they lie; no more than an eighth of the buffer
_FAST = 1 << 15  # bytes a second: some hundred records
_BURST = 1 << 26  # bytes a second, for which there is to be room whatever came before
_REST, _LEAST_REST = 0.01, 0.001  # seconds


class LogReader(Closing):
    """The reading end of one or several aspects' logs.

    Records stay in the kernel's buffer until the caller has dealt with the batch that held them: what could not be
    written (a full disk) comes again. Only one process may read an aspect's log at a time; a second is refused.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Schema, Map]],
        types: Callable[[str | None], Btf | None],
        symbols: Symbolizer,
        *,
        locks: str = LOCKS,
    ) -> None:
        self._streams: list[_Stream] = []
        self._batch: list[Any] | None = []  # None: records of one stream in the order in which they lie there
        self._looked = time.monotonic()
        self._show: tuple[Callable[[LogEvent], str], bool] | None = None
        self._line_decoders: list[LineDecoder] = []
        self._locks: list[ReadLock] = []
        self._poll = select.poll()
        self._wall = wall = WallClock()
        try:
            for schema, ring in sources:
                self._locks.append(ReadLock(locks, schema.aspect))
                reader = RingReader(ring)
                self._streams.append(_Stream(reader, Decoder(schema, types, symbols, wall=wall)))
                self._poll.register(reader.fileno(), select.POLLIN)
        except BaseException:
            self.close()
            raise

    def batches(self, *, keep: bool = False) -> Iterator[list[LogEvent]]:
        """What is in the buffers now, in batches ordered by time; each is consumed when the next is asked for.

        With ``keep`` nothing is consumed.
        """
        for batch in self._batches([_events(stream.decoder) for stream in self._streams], keep):
            yield [event for _, event in batch]

    def lines(self, show: Callable[[LogEvent], str], *, as_json: bool, keep: bool = False) -> Iterator[list[str]]:
        """The same as ``show`` shows it (as JSON or as text), and faster than event by event."""
        decoders = self._decoders(show, as_json)
        for batch in self._batches([decoder.decode for decoder in decoders], keep):
            yield [text for _, text in batch]

    def texts(self, show: Callable[[LogEvent], str], *, as_json: bool, keep: bool = False) -> Iterator[str | list[str]]:
        """The same, where it can be had for less as one text, in which each line has its end."""
        if len(self._streams) > 1:
            yield from self.lines(show, as_json=as_json, keep=keep)
            return
        self._batch = None
        for batch in self._streams[0].texts(self._decoders(show, as_json)[0], keep):
            self._batch = None if isinstance(batch, str) else batch
            yield batch if isinstance(batch, str) else [text for _, text in batch]

    def _decoders(self, show: Callable[[LogEvent], str], as_json: bool) -> list[LineDecoder]:
        from klasy.log.lines import LineDecoder

        if self._show != (show, as_json):
            self._show = show, as_json
            self._line_decoders = [LineDecoder(stream.decoder, show, as_json=as_json) for stream in self._streams]
        return self._line_decoders

    def raw(self, *, keep: bool = False) -> Iterator[memoryview | list[tuple[int, Run]]]:
        """The same as it lies in the buffers, each record with the number of the source it comes from.

        Of a single source: the kernel's memory itself, good until the next is asked for, see RingView.stretch. Its
        records come in the order in which they were begun, which is nearly that of time.
        """
        if len(self._streams) == 1:
            self._batch = None
            yield from self._streams[0].stretches(keep)
            return
        for batch in self._batches([_raw(number) for number in range(len(self._streams))], keep):
            yield [run for _, run in batch]

    def _batches(self, decodes: Sequence[Decode[T]], keep: bool) -> Iterator[list[tuple[int, T]]]:
        for stream, decode in zip(self._streams, decodes, strict=True):
            stream.begin(decode)
        # What comes while the buffers are looked at, one after the other, waits for the next time: of a buffer that was
        # looked at first, what is older than that would come behind it.
        latest = self._wall.now() if len(self._streams) > 1 else None
        while True:
            for stream in self._streams:
                stream.fill()
            # Of a stream that may have more, what is younger than its last record has to wait for it.
            full = [stream.pending[-1][0] for stream in self._streams if stream.pending and stream.may_have_more]
            horizon = min([*full, latest] if latest is not None else full, default=None)
            batch = _merged([stream.take(horizon) for stream in self._streams])
            if batch:
                self._batch = batch
                yield batch
            if not keep:
                for stream in self._streams:
                    stream.consume()
            if not batch:
                return

    def accept(self, number: int) -> None:
        """Of the batch that was given last only the first ``number`` records were dealt with: consume those now.

        For who cannot go on, because a disk is full: without it the whole batch comes again.
        """
        if self._batch is None:
            self._streams[0].consume_first(number)
            return
        done = {id(one) for one in self._batch[:number]}
        for stream in self._streams:
            stream.consume_only(done)

    def wait(self, timeout: float) -> bool:
        """Sleep until there is something to read, or for ``timeout`` seconds; whether there is.

        Where records come fast, a moment longer, so that they come together: to be woken for each few of them, and to
        look around each time, costs more than the reading.
        """
        rest = min(timeout, self._rest())
        if rest:
            time.sleep(rest)
            timeout -= rest
        if len(self._streams) == 1:
            return self._streams[0].reader.wait(timeout)
        self._poll.poll(timeout * 1000)
        return any(stream.reader.ready() for stream in self._streams)

    def _rest(self) -> float:
        """How long to let records come together: 0 unless they come fast, and never so long that a buffer fills up."""
        now = time.monotonic()
        since, self._looked = max(now - self._looked, 1e-6), now
        rates = [stream.came() / since for stream in self._streams]
        if max(rates) < _FAST:
            return 0.0
        rests = (
            stream.reader.capacity / max(8 * rate, _BURST) for stream, rate in zip(self._streams, rates, strict=True)
        )
        rest = min(_REST, *rests)
        return rest if rest > _LEAST_REST else 0.0

    def close(self) -> None:
        """Let go of buffers and locks. Idempotent."""
        while self._streams:
            self._streams.pop().reader.close()
        while self._locks:
            self._locks.pop().release()


class _Stream:
    """One aspect's buffer, with what was taken out of it and not yet handed on: decoded, with the time of each."""

    def __init__(self, reader: RingReader, decoder: Decoder) -> None:
        self.reader = reader
        self._came = reader.position
        self.pending: list[Any] = []
        self.may_have_more = True
        self.decoder = decoder
        self._decode: Decode[Any] = _events(decoder)
        self._start: int | None = None
        self._position: int | None = None
        # What lies between the two, as it lies there; None for a record that is nobody's.
        self._taken: list[Any] = []

    def begin(self, decode: Decode[Any] | None = None) -> None:
        """Begin where the kernel's buffer begins: what was taken and not consumed comes again. ``decode`` makes of
        records what is handed on; it is not needed by who takes them as they lie.
        """
        if decode is not None:
            self._decode = decode
        self.pending = []
        self.may_have_more = True
        self._position = None
        self._taken = []

    def fill(self) -> None:
        """Take the next records if there are none left, and the buffer had not given all it held."""
        if self.pending or not self.may_have_more:
            return
        self.decoder.wall.look()
        self._start = self._position
        runs, self._position = self.reader.peek(_BATCH, self._start)
        self.may_have_more = sum(run.number for run in runs) == _BATCH
        self._taken = self._decode(runs)
        # They lie in the order in which they were begun; each took the time a moment before that.
        self.pending = sorted(filter(None, self._taken), key=_time)

    def texts(self, decoder: LineDecoder, keep: bool) -> Iterator[str | list[tuple[int, str]]]:
        """The records as lines, some at a time: as one text, or each with its time, in the order of that."""
        from klasy.log.lines import ascending

        self.begin()
        while True:
            self.decoder.wall.look()
            self._start = self.reader.position if self._position is None else self._position
            runs, self._position = self.reader.peek(_BATCH, self._start)
            lines = decoder.lines(runs)
            gapless = self._position - self._start == sum(len(run.data) for run in runs)
            if lines is not None and gapless and ascending(lines):
                for some in lines:
                    yield some.text
                    self._start += len(some.times) * runs[0].step
                    if not keep:
                        self.reader.consume(self._start)
            else:
                self._taken = decoder.decode(runs) if lines is None else [one for some in lines for one in some.each()]
                yield sorted(filter(None, self._taken), key=_time)
                if not keep:
                    self.reader.consume(self._position)
            if sum(run.number for run in runs) < _BATCH:
                return

    def stretches(self, keep: bool) -> Iterator[memoryview]:
        """The records as they lie in the buffer, some at a time."""
        self._start = self.reader.position
        most = min(_STRETCH, self.reader.capacity // 8)
        while True:
            stretch, behind = self.reader.stretch(most, self._start)
            with stretch:
                if not stretch:
                    return
                yield stretch
            self._start = behind
            if not keep:
                self.reader.consume(behind)

    def came(self) -> int:
        """How many bytes were consumed since this was asked last."""
        before, self._came = self._came, self.reader.position
        return self._came - before

    def take(self, horizon: int | None) -> list[Any]:
        """Hand on what there is up to a time, or all."""
        if horizon is None or self.pending[-1:] == [] or self.pending[-1][0] <= horizon:
            taken, self.pending = self.pending, []
            return taken
        number = next(i for i, (time_ns, _) in enumerate(self.pending) if time_ns > horizon)
        taken, self.pending = self.pending[:number], self.pending[number:]
        return taken

    def consume(self) -> None:
        """Give the kernel back the room of what was handed on, once all that was taken with it is, too."""
        if not self.pending and self._position is not None:
            self.reader.consume(self._position)

    def consume_only(self, done: Collection[int]) -> None:
        """Give back the room of the first records, as far as ``done`` holds the id of what each was decoded to."""
        left = (i for i, one in enumerate(self._taken) if one is not None and id(one) not in done)
        self.consume_first(next(left, len(self._taken)))

    def consume_first(self, number: int) -> None:
        """Give back the room of the first records."""
        if number:
            _, position = self.reader.peek(number, self._start)
            self.reader.consume(position)


def _merged(parts: list[list[Any]]) -> list[Any]:
    """Events of several streams, each in the order of time, in that order."""
    if len(parts) == 1:
        return parts[0]
    import heapq

    return list(heapq.merge(*parts, key=_time))


_time = itemgetter(0)


def _events(decoder: Decoder) -> Decode[LogEvent]:
    def events(runs: Sequence[Run]) -> Decoded[LogEvent]:
        decoded = (decoder.decode(record) for run in runs for record in run.records())
        return [None if event is None else (event.time_ns, event) for event in decoded]

    return events


def _raw(source: int) -> Decode[tuple[int, Run]]:
    return lambda runs: [
        (int.from_bytes(one.data[RUN_HEAD : RUN_HEAD + 8], "little"), (source, one))
        for run in runs
        for one in run.split()
    ]
