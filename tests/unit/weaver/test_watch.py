"""What is known of debug registers without a kernel: lists of CPUs, and who may hold registers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.bpf import maps
from klasy.weaver import watch


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3\n", [0, 1, 2, 3]), ("0\n", [0]), ("0,2-3,7\n", [0, 2, 3, 7]), ("\n", [])]
)
def test_lists_of_cpus(text: str, cpus: list[int]):
    """As the kernel writes them: single numbers and ranges."""
    assert maps.cpu_list(text) == cpus


@given(st.sets(st.integers(0, 300)))
def test_any_set_of_cpus(cpus: set[int]):
    """Whatever the set, its list reads as the set."""
    assert maps.cpu_list(",".join(map(str, sorted(cpus)))) == sorted(cpus)


def process(proc: Path, pid: int, name: str, *, tracer: int = 0, files: tuple[str, ...] = ()) -> None:
    """A process of a made-up /proc."""
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n")
    (folder / "status").write_text(f"Name:\t{name}\nTracerPid:\t{tracer}\n")
    for number, target in enumerate(files):
        os.symlink(target, folder / "fd" / str(number))


def test_who_may_hold_registers(tmp_path):
    """Processes with perf events, and those that a debugger is on; by name and pid, in order, nobody else."""
    process(tmp_path, 20, "perf", files=("/dev/null", "anon_inode:[perf_event]", "anon_inode:[perf_event]"))
    process(tmp_path, 3, "victim", tracer=99)
    process(tmp_path, 100, "bash", files=("/dev/tty", "anon_inode:bpf-map"))
    (tmp_path / "self").mkdir()
    assert watch.perf_users(str(tmp_path)) == ["perf(20)"]
    assert watch.tracers(str(tmp_path)) == ["victim(3)"]


def test_a_process_that_ends_meanwhile_is_nobody(tmp_path):
    """What cannot be read any more is left out."""
    (tmp_path / "7").mkdir()
    assert watch.perf_users(str(tmp_path)) == []
    assert watch.tracers(str(tmp_path)) == []


def test_links_by_cpu():
    """The pins of a watch's links are those that taking an aspect out looks for."""
    assert watch.link_name(3, 1) == "link_3_cpu1"


class Watching:
    """An aspect that watches data."""

    name = "a"

    def __init__(self, watches_data: bool) -> None:
        self.watches_data = watches_data


def test_the_guard_looks_only_when_something_came_or_went(tmp_path, monkeypatch):
    """As long as the kernel's count of events stays, nothing is asked but once, for what came before; nothing where
    no data is watched."""
    asked = []
    monkeypatch.setattr(watch, "rearm", lambda aspects, _: asked.append(list(aspects)) or {"a": [len(asked)]})
    events = tmp_path / "seqnum"
    events.write_text("7\n")
    aspect = Watching(True)
    guard = watch.CpuGuard([aspect, Watching(False)], events=str(events))
    assert guard.look() == {"a": [1]}
    assert guard.look() == {}
    events.write_text("8\n")
    assert guard.look() == {"a": [2]}
    assert guard.look() == {}
    assert asked == [[aspect]] * 2
    idle = watch.CpuGuard([Watching(False)], events=str(events))
    events.write_text("9\n")
    assert idle.look() == {}
