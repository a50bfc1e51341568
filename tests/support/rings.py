"""Taking records out of a ring buffer as the log's reader does."""

from __future__ import annotations

from klasy.bpf.ringbuf import RingView


def take(view: RingView, limit: int = 1 << 30) -> list[bytes]:
    """The records there are, at most so many; their room is given back."""
    runs, behind = view.peek(limit)
    assert all(run.number == len(run.records()) for run in runs)
    view.consume(behind)
    return [record for run in runs for record in run.records()]
