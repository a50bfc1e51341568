"""Directories and locks, in a directory of the test's instead of a bpffs."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from klasy.errors import SystemRefusal
from klasy.weaver import pinfs as module
from klasy.weaver.pinfs import GROUP, REGISTRY, PinFS


@pytest.fixture(autouse=True)
def _mounts_nothing(monkeypatch):
    """A test run as root must not mount a bpffs where it finds none."""
    monkeypatch.setattr(PinFS, "_mount", lambda self: None)


@pytest.fixture
def fs(tmp_path):
    """Klasy's directory, as it is in a mounted bpffs."""
    (tmp_path / "klasy").mkdir(mode=0o700)
    return PinFS(str(tmp_path))


def stage(fs, aspect="a"):
    """A staging directory with a registry entry."""
    with fs.lock():
        staging = fs.stage(aspect, fs.token())
    with open(staging.entry(REGISTRY), "w"):
        pass
    return staging


def test_a_commit_makes_the_aspect_appear_at_once(fs):
    """Before the rename there is no aspect, after it there is, and the staging directory is gone."""
    staging = stage(fs)
    assert fs.aspects() == []
    assert len(fs.stagings()) == 1
    with fs.lock():
        fs.commit(staging, "a")
    assert fs.aspects() == ["a"]
    assert fs.stagings() == []
    assert fs.is_woven("a")


def test_an_exchange_swaps_old_and_new(fs):
    """After the exchange the name is the new one's, and the staging directory holds the old one, locked."""
    old = stage(fs)
    with fs.lock():
        fs.commit(old, "a")
        old.close()
    with open(fs.path("a", "old"), "w"):
        pass
    new = stage(fs)
    with fs.lock():
        fs.exchange(new, "a")
    assert not os.path.exists(fs.path("a", "old"))
    assert os.path.exists(new.entry("old"))
    with fs.lock():
        assert fs.claim(new.name) is None
    new.close()
    with fs.lock():
        assert fs.claim(new.name) is not None


def test_a_staging_directory_is_held_until_its_process_dies(fs):
    """Of a live process it cannot be claimed; of a dead one it can, without asking for pids."""
    fork = multiprocessing.get_context("fork")
    staged, leave = fork.Event(), fork.Event()

    def weaver() -> None:
        stage(fs)
        staged.set()
        leave.wait()
        os._exit(0)  # as if killed: nothing is tidied

    child = fork.Process(target=weaver)
    child.start()
    staged.wait()
    (name,) = fs.stagings()
    with fs.lock():
        assert fs.claim(name) is None
    leave.set()
    child.join()
    with fs.lock():
        assert fs.claim(name) is not None


def test_withdrawing_takes_the_name_away_at_once(fs):
    """The aspect is gone from the list before anything of it is taken apart."""
    staging = stage(fs)
    with fs.lock():
        fs.commit(staging, "a")
        staging.close()
        withdrawn = fs.withdraw("a", fs.token())
    assert fs.aspects() == []
    assert os.path.exists(withdrawn.entry(REGISTRY))
    withdrawn.close()


def test_groups_are_claimed_by_aspects_and_by_what_is_being_woven(fs):
    """The sweep must not touch the probe events of either."""
    woven, staging = stage(fs, "a"), stage(fs, "b")
    os.symlink("/sys/kernel/tracing/events/klasy_a_1_2_3_4", woven.entry(GROUP))
    os.symlink("/sys/kernel/tracing/events/klasy_b_1_2_3_5", staging.entry(GROUP))
    with fs.lock():
        fs.commit(woven, "a")
    assert fs.claimed_groups() == {"klasy_a_1_2_3_4", "klasy_b_1_2_3_5"}


def test_the_lock_is_one_processes_at_a_time(fs, monkeypatch):
    """Who cannot get it in time says so; when it is free it is had."""
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.02)
    with fs.lock(), pytest.raises(SystemRefusal, match="has held the lock"), fs.lock():
        pytest.fail("two hold the lock")
    with fs.lock():
        pass


def test_who_waits_for_many_is_patient(fs, monkeypatch):
    """As long as the lock goes from one process to the next, nobody holds it too long."""
    holders = iter(range(1, 50))
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.02)
    monkeypatch.setattr(module, "_LOCK_LOOK", 0.0)
    monkeypatch.setattr(module, "_lock_holder", lambda _: next(holders, 50))
    with fs.lock(), pytest.raises(SystemRefusal, match="has held the lock"), fs.lock():
        pytest.fail("two hold the lock")
    assert next(holders, None) is None


def test_the_holder_of_the_lock_is_known(fs):
    """The kernel tells which process it is."""
    with fs.lock():
        descriptor = os.open(fs.home, os.O_RDONLY)
        assert module._lock_holder(descriptor) in (os.getpid(), 0)  # 0: a file system that shows another inode
        os.close(descriptor)


def test_the_lock_survives_the_removal_of_the_directory(fs):
    """Processes that lock, make the directory and remove it again never hold the lock two at a time."""
    fork = multiprocessing.get_context("fork")
    inside = fork.Value("i", 0)
    worst = fork.Value("i", 0)

    def work() -> None:
        mine = PinFS(fs.mount)
        for _ in range(50):
            with mine.lock():
                with inside.get_lock():
                    inside.value += 1
                    worst.value = max(worst.value, inside.value)
                time.sleep(0.0005)
                with inside.get_lock():
                    inside.value -= 1
                mine.tidy()

    children = [fork.Process(target=work) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert worst.value == 1


def test_a_directory_open_to_others_is_not_trusted(fs):
    """Who could put pins there could have klasy read and run what is not its own."""
    os.chmod(fs.home, 0o755)
    with pytest.raises(SystemRefusal, match="cannot be trusted"):
        fs.prepare()


def test_nothing_there_is_nothing_woven(tmp_path):
    """Without a directory there are no aspects, and that is no error."""
    fs = PinFS(str(tmp_path))
    assert fs.aspects() == []
    assert fs.stagings() == []
    assert fs.claimed_groups() == set()
    assert fs.group("a") is None


def test_entries_of_others_are_no_aspects_of_ours(fs):
    """A directory without a registry entry counts as taken, but not as woven."""
    os.mkdir(fs.path("strange"))
    assert fs.aspects() == ["strange"]
    assert not fs.is_woven("strange")
