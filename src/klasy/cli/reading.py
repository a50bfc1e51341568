"""Reading woven aspects' logs for the commands that do it: ``klasy log`` and ``klasy weave -f``."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time

from klasy.api import identity, open_reader, still_there
from klasy.cli.interrupts import hurried
from klasy.cli.table import plural, say
from klasy.errors import SystemRefusal
from klasy.plain import TYPE_CHECKING, suppress
from klasy.weaver.counts import missed_in_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Protocol

    from klasy.cli.interrupts import Interrupts
    from klasy.log.event import LogEvent
    from klasy.log.reader import LogReader
    from klasy.log.symbolize import Symbolizer
    from klasy.weaver.watch import CpuGuard
    from klasy.weaver.woven import WovenAspect

    Buffer = bytes | memoryview

    class Output(Protocol):
        """Where records go."""

        def drain(self, *, keep: bool = False) -> None:
            """Write all that is in the buffers now."""


__all__ = ["LOOK_AROUND", "LogOutput", "follow", "identity", "losses", "open_reader", "say_losses", "still_there"]

LOOK_AROUND = 1.0  # seconds between looks whether the aspects are still woven


class WriteRefused(SystemRefusal):
    """What was to be printed could not be written; ``written`` lines could."""

    def __init__(self, error: OSError, written: int, hint: str) -> None:
        super().__init__(f"cannot write the log: {error.strerror}", hint=hint)
        self.written = written


class LogOutput:
    """Prints events. What could not be written is not taken out of the kernel's buffer, and what was written is."""

    def __init__(self, reader: LogReader, symbols: Symbolizer, *, as_json: bool, hint: str) -> None:
        """``hint`` says what becomes of the events that could not be written."""
        self._reader = reader
        self._hint = hint
        self._as_json = as_json
        self._show = renderer(symbols, as_json=as_json)

    def drain(self, *, keep: bool = False) -> None:
        """Print all that is in the buffers now. Raises WriteRefused; BrokenPipeError if nobody reads any more."""
        for batch in self._reader.texts(self._show, as_json=self._as_json, keep=keep):
            with accepted(self._reader, keep=keep):
                write_lines(batch, self._hint)


class accepted:  # used as a function
    """While a batch is written: if only a part of it could be, just that part leaves the kernel's buffer."""

    def __init__(self, reader: LogReader, *, keep: bool) -> None:
        self._reader = reader
        self._keep = keep

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, WriteRefused) and not self._keep:
            self._reader.accept(error.written)


def renderer(symbols: Symbolizer, *, as_json: bool) -> Callable[[LogEvent], str]:
    if as_json:
        from klasy.log.format_json import event_json

        return lambda event: event_json(event, symbols)
    from klasy.log.format_text import event_text

    return lambda event: event_text(event, symbols)


def write_lines(lines: Sequence[str] | str, hint: str) -> None:
    """Write lines, or a text of them, to standard output; past its buffer, so as to know what got there. Raises
    WriteRefused.
    """
    text = lines if isinstance(lines, str) else "\n".join([*lines, ""])
    if sys.stdout.encoding is None:  # text kept in memory, by who runs a command in his own process
        sys.stdout.write(text)
        return
    encoding, errors = sys.stdout.encoding, sys.stdout.errors or "strict"

    def pieces() -> list[bytes]:
        each = text.split("\n")[:-1] if isinstance(lines, str) else lines
        return [f"{line}\n".encode(encoding, errors) for line in each]

    write_all(text.encode(encoding, errors), pieces, hint)


def write_all(data: Buffer, pieces: Callable[[], Sequence[Buffer]], hint: str) -> None:
    """The same for bytes, which are those of ``pieces`` in a row: what a refusal counts."""
    sys.stdout.flush()
    descriptor = sys.stdout.fileno()
    left = memoryview(data)
    whole = len(left)
    try:
        while left:
            with hurried():
                left = left[os.write(descriptor, left) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        encoded = pieces()
        written, count, end = whole - len(left), 0, 0
        while count < len(encoded) and end + len(encoded[count]) <= written:
            end += len(encoded[count])
            count += 1
        _take_back(descriptor, written - end)
        room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise WriteRefused(error, count, hint if room else "") from None


def _take_back(descriptor: int, size: int) -> None:
    """Cut the beginning of a line that could not be finished off a file, if it is at the file's end."""
    try:
        status = os.fstat(descriptor)
        if size and stat.S_ISREG(status.st_mode) and os.lseek(descriptor, 0, os.SEEK_CUR) == status.st_size:
            os.ftruncate(descriptor, status.st_size - size)
            os.lseek(descriptor, -size, os.SEEK_CUR)
    except OSError:
        return


def nobody_reads(descriptor: int) -> bool:
    """Whether a descriptor is the end of a pipe, socket or terminal whose other end is closed."""
    import select

    ask = select.poll()
    ask.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in ask.poll(0))


def follow(
    output: Output,
    reader: LogReader,
    aspects: Sequence[WovenAspect],
    interrupts: Interrupts,
    *,
    limit: float | None = None,
    good: Callable[[], bool] = lambda: True,
) -> None:
    """Print records as they come until a signal, ``limit`` seconds are over, none of the aspects runs any more, or what
    is asked now and then is not ``good``. Of those that another command takes out it is said so.

    Raises BrokenPipeError if nobody reads any more, be there records or not.
    """
    end = None if limit is None else time.monotonic() + limit
    identities = {}
    for woven in aspects:
        woven.hold()  # so that losses can be told when another klasy has taken it out
        identities[woven.name] = identity(woven)
    guard = _cpu_guard(aspects)
    while not interrupts.requested:
        gone = [name for name, which in identities.items() if not still_there(which)]
        if guard is not None:
            for name, cpus in guard.look().items():
                came = f"CPU {', '.join(map(str, cpus))} came up"
                say(f"{came}: the data of {name} is watched there from now on")
        there = identities.keys() - gone
        on = good() and any(each.name in there and not each.stopped for each in aspects)  # before the last is read
        output.drain()
        if nobody_reads(sys.stdout.fileno()):
            raise BrokenPipeError
        for name in gone:
            path, _ = identities.pop(name)
            _say_gone(name, path)
        seconds = LOOK_AROUND if end is None else min(LOOK_AROUND, end - time.monotonic())
        if seconds <= 0 or not on:
            return
        with suppress(KeyboardInterrupt), interrupts.allowed():
            reader.wait(seconds)


def _say_gone(name: str, path: str) -> None:
    if os.path.exists(path):
        say(f"aspect '{name}' was replaced", f"klasy log -f {name} follows the one that is woven now")
    else:
        say(f"aspect '{name}' was unwoven")


def _cpu_guard(aspects: Sequence[WovenAspect]) -> CpuGuard | None:
    if not any(woven.watches_data for woven in aspects):
        return None
    from klasy.weaver.watch import CpuGuard

    return CpuGuard(aspects)


def losses(woven: WovenAspect) -> str | None:
    """What of an aspect was not logged, in one line; None where nothing was left out."""
    counts = woven.counts()
    lost = sum(count.lost for count in counts)
    missed = missed_in_all(counts)
    unmarked = sum(count.unmarked for count in counts)
    unpaired = sum(
        count.unmarked
        for point, count in zip(woven.joinpoints, counts, strict=False)
        if count.unmarked and point.kind == "syscall"
    )
    parts = []
    if lost:
        parts.append(f"{plural(lost, 'record')} lost because the buffer was full")
    if missed:
        parts.append(f"{plural(missed, 'hit')} missed because the processor was in another probe")
    if unpaired:
        parts.append(
            f"{plural(unpaired, 'system call')} seen at one end only: under way when the aspect was woven, ended "
            "with the task, refused by seccomp or a tracer, or too many at once"
        )
    if unmarked > unpaired:
        parts.append(f"{plural(unmarked - unpaired, 'return')} not followed because too many calls were under way")
    left_out = sum(count.left_out for count in counts)
    cut = sum(count.cut for count in counts)
    if left_out:
        parts.append(f"{plural(left_out, 'hit')} left out by sample or limit")
    if cut:
        parts.append(f"{plural(cut, 'loop')} ended by the bound on loops")
    unfollowed = woven.unfollowed()
    if unfollowed:
        parts.append(f"{unfollowed} of the children not followed because there were too many")
    return f"{woven.name}: {'; '.join(parts)}" if parts else None


def say_losses(aspects: Iterable[WovenAspect], *, still_woven: bool) -> None:
    """Say on standard error what was not logged, and what can be done."""
    for woven in aspects:
        if woven.states:
            _say_state_losses(woven)
        if still_woven and woven.watches_data:
            _say_coverage(woven)
        text = losses(woven)
        if text is None:
            continue
        hints = [f"klasy joinpoints {woven.name} tells where"] if still_woven else []
        if any(count.lost for count in woven.counts()):
            hints.append("weave it with a larger --buffer")
        say(text, "; ".join(hints))


def _say_coverage(woven: WovenAspect) -> None:
    from klasy.weaver import watch

    text = watch.coverage(woven)
    if text is not None:
        say(f"{woven.name}: {text}")


def _say_state_losses(woven: WovenAspect) -> None:
    from klasy.cli.stattext import loss_lines
    from klasy.weaver.states import read_losses

    found = list(zip(woven.states, read_losses(woven), strict=True))
    lines = [f"{woven.name}.{state.name}: {line}" for state, lost in found for line in loss_lines(lost)]
    if lines:
        say("\n".join(lines), "weave it with more --keys" if any(lost.full for _, lost in found) else None)
