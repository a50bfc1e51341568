"""Work in several processes at once, by fork: what was loaded before is shared, and what they find comes by pipes.

All of them together keep within ``MOST_MEMORY``: there are no more of them than have room, and one that has remembered
more than its share is replaced by a fresh one, which goes on where it ended.
"""

from __future__ import annotations

import gc
import os
import select
import struct

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Item = tuple[str | None, int]
    Work = Callable[[Sequence[Item]], list[tuple[str | None, bytes]]]

_CHUNK = 128  # functions between two reports, at most
_CHUNKS = 16  # for each process, if there are few functions: some take a hundred times as long as others
_FEWEST = 8
_HEAD = struct.Struct("<IiI")  # functions done, length of the object's name (-1: the kernel proper), bytes of the part
_END, _FULL = -2, -3  # in the place of the name: all done; the worker's share of memory is used up

MOST_MEMORY = 900 << 20  # bytes, of this process and all workers; a good tenth less than what is promised
_SHARE = 60 << 20  # bytes; a worker with less would be replaced all the time
_PAGE = os.sysconf("SC_PAGE_SIZE")


class WorkerFailed(RuntimeError):
    """A process that should have analysed functions died."""


def run(
    work: Work, items: Sequence[Item], processes: int | None, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str | None, bytes]]:
    """Do work on all items; what it gives, as it comes. ``progress`` hears how many items are done, of how many."""
    free = MOST_MEMORY - _resident()
    count = min(processes or len(os.sched_getaffinity(0)), max(1, free // _SHARE))
    size = max(_FEWEST, min(_CHUNK, len(items) // (count * _CHUNKS)))
    chunks = [items[at : at + size] for at in range(0, len(items), size)]
    count = min(count, len(chunks))
    done = 0
    if len(chunks) == 1 or processes == 1:
        for chunk in chunks:
            yield from work(chunk)
            done += len(chunk)
            if progress:
                progress(done, len(items))
        return
    # What this process will keep of what they find grows, too: it counts as a worker.
    share = free // (count + 1)
    pids: dict[int, int] = {}
    buffers: dict[int, bytearray] = {}
    left: dict[int, Sequence[Sequence[Item]]] = {}

    def start(mine: Sequence[Sequence[Item]]) -> None:
        reader, pid = _start(work, mine, share)
        pids[reader], buffers[reader], left[reader] = pid, bytearray(), mine

    try:
        for number in range(count):
            start(chunks[number::count])
        while buffers:
            for reader in select.select(list(buffers), [], [])[0]:
                data = os.read(reader, 1 << 20)
                if not data:
                    raise WorkerFailed("a process that analysed functions died")
                buffers[reader] += data
                while (part := _take(buffers[reader])) is not None:
                    functions, name, contents = part
                    if name in (_END, _FULL):
                        del buffers[reader]
                        rest = left.pop(reader)[functions:]
                        if rest:
                            start(rest)
                        break
                    done += functions
                    if progress:
                        progress(done, len(items))
                    yield name, contents  # type: ignore[misc]
    finally:
        for reader, pid in pids.items():
            os.close(reader)
            if reader in buffers:
                os.kill(pid, 15)
            os.waitpid(pid, 0)


def _resident() -> int:
    """Bytes of memory that this process holds, what it shares included."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


def _start(work: Work, chunks: Sequence[Sequence[Item]], share: int) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return reader, pid
    status = 1
    try:
        os.close(reader)
        gc.disable()  # a function leaves no cycles; looking for some costs an eighth, and copies shared pages
        most = _resident() + share
        done = 0
        while done < len(chunks) and (not done or _resident() <= most):
            _send(writer, chunks[done], work)
            done += 1
        _write(writer, _HEAD.pack(done, _END if done == len(chunks) else _FULL, 0))
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


def _take(buffer: bytearray) -> tuple[int, str | int | None, bytes] | None:
    """A whole message from the beginning of a buffer: functions done and what was found in an object, or how many
    chunks were done and why the worker ended."""
    if len(buffer) < _HEAD.size:
        return None
    functions, name, length = _HEAD.unpack_from(buffer)
    if name in (_END, _FULL):
        return functions, name, b""
    start = _HEAD.size + max(name, 0)
    if len(buffer) < start + length:
        return None
    module = buffer[_HEAD.size : start].decode() if name >= 0 else None
    contents = bytes(buffer[start : start + length])
    del buffer[: start + length]
    return functions, module, contents
