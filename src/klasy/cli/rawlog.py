"""``klasy log --raw`` and ``klasy log FILE``: logs kept as the kernel wrote them."""

from __future__ import annotations

import os
import sys
from functools import partial

from klasy.api import schema
from klasy.cli.reading import accepted, renderer, write_all, write_lines
from klasy.cli.table import say
from klasy.errors import EXIT_OK, UsageError
from klasy.kernel.live import running_kernel
from klasy.log import rawfile
from klasy.log.decode import WallClock
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.cli.options import Arguments
    from klasy.log.reader import LogReader
    from klasy.weaver.woven import WovenAspect


def check(args: Arguments) -> None:
    """Raise UsageError for what does not go with --raw."""
    if args.json:
        raise UsageError("--raw does not go with --json", hint="klasy log --json FILE shows a raw log as JSON")
    if os.isatty(sys.stdout.fileno()):
        raise UsageError("--raw is nothing to look at", hint="klasy log --raw > FILE, then klasy log FILE")


class RawOutput:
    """Writes records as they are. What could not be written is not taken out of the kernel's buffer."""

    def __init__(self, reader: LogReader, aspects: Sequence[WovenAspect], *, hint: str) -> None:
        self._reader = reader
        self._hint = hint
        schemas = [schema(aspect) for aspect in aspects]
        rawfile.check(schemas)
        handed = {key: data for aspect in aspects for key, data in aspect.types.items()}
        head = rawfile.head(
            schemas,
            release=os.uname().release,
            wall_offset=WallClock().offset,
            symbols=lambda: {**running_kernel().symbols, **running_kernel().generated.tables()},
            variables=lambda: running_kernel().data_map.tables,
            types=lambda name: handed.get(name, b"") if name is not None else _kernels_types(),
        )
        write_all(head, lambda: [head], hint)

    def drain(self, *, keep: bool = False) -> None:
        """Write all that is in the buffers now. Raises WriteRefused; BrokenPipeError if nobody reads any more."""
        for batch in self._reader.raw(keep=keep):
            data = batch if isinstance(batch, memoryview) else b"".join(rawfile.encoded(*each) for each in batch)
            with accepted(self._reader, keep=keep):
                write_all(data, partial(rawfile.pieces, data), self._hint)


def _kernels_types() -> bytes:
    try:
        with open("/sys/kernel/btf/vmlinux", "rb") as file:
            return file.read()
    except OSError:
        return b""


def show(paths: Sequence[str], args: Arguments) -> int:
    """Print what files hold, one after the other."""
    for option in ("follow", "keep", "raw"):
        if getattr(args, option):
            raise UsageError(f"--{option} is for the logs of woven aspects, not for a file")
    if len(paths) < len(args.aspects):
        raise UsageError("give names of woven aspects or files of klasy log --raw, not both")
    for path in paths:
        _show(path, as_json=args.json)
    return EXIT_OK


def _show(path: str, *, as_json: bool) -> None:
    file = rawfile.RawFile(path)
    try:
        for lines in file.texts(renderer(file.symbols, as_json=as_json), as_json=as_json):
            write_lines(lines, "")
        if file.cut:
            say(f"{path} ends in the middle of a record")
    finally:
        file.close()
