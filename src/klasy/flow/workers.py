"""Work in several processes at once, by fork: what was loaded before is shared, and what they find comes by pipes."""

from __future__ import annotations

import os
import select
import struct

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Item = tuple[str | None, int]
    Work = Callable[[Sequence[Item]], list[tuple[str | None, bytes]]]

_CHUNK = 128  # functions between two reports
_HEAD = struct.Struct("<IiI")  # functions done, length of the object's name (-1: the kernel proper), bytes of the part
_END = _HEAD.pack(0, -2, 0)


class WorkerFailed(RuntimeError):
    """A process that should have analysed functions died."""


def run(
    work: Work, items: Sequence[Item], processes: int | None, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str | None, bytes]]:
    """Do work on all items; what it gives, as it comes. ``progress`` hears how many items are done, of how many."""
    chunks = [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)]
    count = min(processes or len(os.sched_getaffinity(0)), len(chunks))
    done = 0
    if count <= 1:
        for chunk in chunks:
            yield from work(chunk)
            done += len(chunk)
            if progress:
                progress(done, len(items))
        return
    pipes: dict[int, int] = {}
    buffers: dict[int, bytearray] = {}
    try:
        for number in range(count):
            reader, pid = _start(work, chunks[number::count])
            pipes[reader] = pid
            buffers[reader] = bytearray()
        while buffers:
            for reader in select.select(list(buffers), [], [])[0]:
                data = os.read(reader, 1 << 20)
                if not data:
                    raise WorkerFailed("a process that analysed functions died")
                buffers[reader] += data
                while (part := _take(buffers[reader])) is not None:
                    functions, module, contents = part
                    if contents is None:
                        del buffers[reader]
                        break
                    done += functions
                    if progress:
                        progress(done, len(items))
                    yield module, contents
    finally:
        for reader, pid in pipes.items():
            os.close(reader)
            if reader in buffers:
                os.kill(pid, 15)
            os.waitpid(pid, 0)


def _start(work: Work, chunks: Sequence[Sequence[Item]]) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return reader, pid
    status = 1
    try:
        os.close(reader)
        for chunk in chunks:
            _send(writer, chunk, work)
        _write(writer, _END)
        status = 0
    finally:
        os._exit(status)


def _send(writer: int, chunk: Sequence[Item], work: Work) -> None:
    functions = len(chunk)
    for module, part in work(chunk):
        name = (module or "").encode()
        _write(writer, _HEAD.pack(functions, len(name) if module is not None else -1, len(part)) + name + part)
        functions = 0


def _write(writer: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(writer, rest) :]


def _take(buffer: bytearray) -> tuple[int, str | None, bytes | None] | None:
    """A whole message from the beginning of a buffer; its contents are None for the last."""
    if len(buffer) < _HEAD.size:
        return None
    functions, name, length = _HEAD.unpack_from(buffer)
    if name == -2:
        return 0, None, None
    start = _HEAD.size + max(name, 0)
    if len(buffer) < start + length:
        return None
    module = buffer[_HEAD.size : start].decode() if name >= 0 else None
    contents = bytes(buffer[start : start + length])
    del buffer[: start + length]
    return functions, module, contents
