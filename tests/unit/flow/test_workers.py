"""Work in several processes: nothing is lost or done twice, and no process remembers more than its share."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from klasy.flow import workers


def items(count: int) -> list[tuple[str | None, int]]:
    return [("m" if number % 3 else None, number) for number in range(count)]


def echo(chunk):
    """Each item's number, as what was found, one part for each object; and which process found it."""
    parts: dict[str | None, list[str]] = {}
    for module, number in chunk:
        parts.setdefault(module, [str(os.getpid())]).append(str(number))
    return [(module, " ".join(found).encode()) for module, found in parts.items()]


def collect(found) -> tuple[Counter, set[str]]:
    seen: Counter = Counter()
    pids = set()
    for module, part in found:
        pid, *numbers = part.decode().split()
        pids.add(pid)
        seen.update((module, int(number)) for number in numbers)
    return seen, pids


@pytest.mark.parametrize("count", [1, 128, 129, 1000])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_everything_once(count, processes):
    """Every item is worked on once, and the last report of progress is of all."""
    reports = []
    seen, _ = collect(workers.run(echo, items(count), processes, lambda done, of: reports.append((done, of))))
    assert seen == Counter(items(count))
    assert reports[-1] == (count, count)


def test_the_full_are_replaced(monkeypatch):
    """A worker that has used up its share ends, and others go on where it ended: nothing is lost or done twice."""
    monkeypatch.setattr(workers, "_SHARE", 1)
    monkeypatch.setattr(workers, "MOST_MEMORY", workers._resident())
    kept = []

    def remember(chunk):
        kept.append(bytearray(4 << 20))
        return echo(chunk)

    seen, pids = collect(workers.run(remember, items(1000), 2, None))
    assert seen == Counter(items(1000))
    assert len(pids) >= 4


def test_what_fails_is_said():
    """A worker that dies is an error, not an answer with something missing."""

    def fail(_):
        raise ValueError

    with pytest.raises(workers.WorkerFailed):
        list(workers.run(fail, items(1000), 2, None))
