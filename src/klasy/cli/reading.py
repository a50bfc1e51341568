"""Reading woven aspects' logs for the commands that do it: ``klasy log`` and ``klasy weave -f``."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from klasy.api import identity, open_reader, still_there
from klasy.errors import KernelRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.log.event import LogEvent
    from klasy.log.symbolize import Symbolizer
    from klasy.weaver.woven import WovenAspect

__all__ = ["identity", "losses", "open_reader", "renderer", "still_there", "write_batch"]


def renderer(symbols: Symbolizer, *, as_json: bool) -> Callable[[LogEvent], str]:
    """How events are shown: as text or as JSON lines."""
    if as_json:
        from klasy.log.format_json import event_json

        return lambda event: event_json(event, symbols)
    from klasy.log.format_text import event_text

    return lambda event: event_text(event, symbols)


def write_batch(lines: Sequence[str]) -> None:
    """Write lines to standard output and see that they got there. Raises SystemRefusal where the disk is full."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What could not be written must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        hint = None
        if error.errno == errno.ENOSPC:
            hint = "the events not written stay in the kernel's buffer; make room and run klasy log again"
        raise KernelRefused("cannot write the log", error.errno or errno.EIO, hint=hint) from None


def losses(woven: WovenAspect) -> str | None:
    """What of an aspect was not logged, in one line; None where nothing was left out."""
    counts = woven.counts()
    lost = sum(count.lost for count in counts)
    missed = sum(count.missed for count in counts)
    unmarked = sum(count.unmarked for count in counts)
    parts = []
    if lost:
        parts.append(f"{lost} records lost because the buffer was full")
    if missed:
        parts.append(f"{missed} hits missed because the processor was in another probe")
    if unmarked:
        parts.append(f"{unmarked} returns not followed because too many calls were under way")
    return f"{woven.name}: {'; '.join(parts)} (klasy joinpoints {woven.name} tells where)" if parts else None
