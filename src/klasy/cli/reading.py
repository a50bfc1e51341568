"""Reading woven aspects' logs for the commands that do it: ``klasy log`` and ``klasy weave -f``."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from klasy.errors import KernelRefused, SystemRefusal
from klasy.log.event import LogPoint, Schema
from klasy.log.reader import LogReader
from klasy.log.symbolize import Symbolizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.btf.types import Btf
    from klasy.kernel.model import Function, Kernel
    from klasy.log.event import LogEvent
    from klasy.weaver.woven import WovenAspect


class _LateKernel:
    """The running kernel's symbols and types, read when a record first needs them."""

    def function_at(self, address: int) -> Function | None:
        return _kernel().function_at(address)

    def types(self, module: str | None) -> Btf:
        kernel = _kernel()
        if module is None:
            return kernel.btf
        found = kernel.module_btf(module)
        if found is None:
            raise SystemRefusal(f"the types of module {module} are gone: it was unloaded since the aspect was woven")
        return found


def _kernel() -> Kernel:
    from klasy.kernel.live import running_kernel

    return running_kernel()


Identity = tuple[str, int]


def identity(woven: WovenAspect) -> Identity:
    """What tells this weave of an aspect from a later one of the same name: its directory and that one's inode."""
    return woven.path, os.stat(woven.path).st_ino


def still_there(which: Identity) -> bool:
    """Whether a weave is still in the kernel."""
    path, inode = which
    try:
        return os.stat(path).st_ino == inode
    except OSError:
        return False


def schema(woven: WovenAspect) -> Schema:
    """What the log reader needs to know of a woven aspect."""
    points = tuple(
        LogPoint(j.kind, j.function, j.offset or 0, j.callee, j.module, j.address or 0, j.file, j.line)
        for j in woven.joinpoints
    )
    return Schema(woven.name, tuple(woven.advice_labels), points, woven.formats)


def open_reader(aspects: Sequence[WovenAspect]) -> tuple[LogReader, Symbolizer]:
    """A reader of the logs of woven aspects, and the symbols to show its events with."""
    kernel = _LateKernel()
    symbols = Symbolizer(kernel)
    return LogReader([(schema(woven), woven.events()) for woven in aspects], kernel.types, symbols), symbols


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
