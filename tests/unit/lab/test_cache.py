"""The lab's cache: where it is, and that two labs or a killed one cannot spoil it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from klasy.lab.cache import all_or_nothing, keep_newest, lab_cache, locked


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/h"}, "/h/.cache/klasy/lab"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/klasy/lab"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "relative"}, "/h/.cache/klasy/lab"),
        ({"HOME": "/h", "XDG_CACHE_HOME": ""}, "/h/.cache/klasy/lab"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "KLASY_CACHE": "/k"}, "/k/lab"),
    ],
)
def test_place(environment: dict[str, str], expected: str) -> None:
    """KLASY_CACHE, else XDG_CACHE_HOME where it is absolute, else ~/.cache."""
    assert lab_cache(environment) == Path(expected)


def test_all_appears_whole(tmp_path: Path) -> None:
    """A directory under work is not to be seen until the work is done."""
    target = tmp_path / "a" / "kernel"
    with all_or_nothing(target) as fresh:
        (fresh / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert os.listdir(target.parent) == ["kernel"]


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    """An error within the work leaves neither the directory nor a part of it."""

    def fail_halfway() -> None:
        with all_or_nothing(tmp_path / "kernel") as fresh:
            (fresh / "file").write_text("x")
            raise ValueError("disk full")

    with pytest.raises(ValueError, match="disk full"):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_leftover_of_a_killed_lab_is_cleared(tmp_path: Path) -> None:
    """What a predecessor left half done vanishes with the next attempt; a neighbour's work stays."""
    (tmp_path / ".kernel.partial-dead" / "sub").mkdir(parents=True)
    (tmp_path / ".kernel2.partial-alive").mkdir()
    with all_or_nothing(tmp_path / "kernel"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".kernel2.partial-alive", "kernel"]


def test_lock_admits_one_at_a_time(tmp_path: Path) -> None:
    """The second to come is told that it waits, and enters when the first has left."""
    waiting = threading.Event()
    order = []

    def second() -> None:
        with locked(tmp_path / "lock", waiting.set):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_keep_newest(tmp_path: Path) -> None:
    """The last modified stay, files and directories alike."""
    for age, name in enumerate(["newest", "newer", "old", "oldest"]):
        path = tmp_path / name
        if age % 2:
            path.mkdir()
            (path / "inside").touch()
        else:
            path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    keep_newest(tmp_path.iterdir(), 2)
    assert sorted(os.listdir(tmp_path)) == ["newer", "newest"]
