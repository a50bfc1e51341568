"""Tests that need root and a real kernel; they run inside the lab's guest (``make test`` boots one for each kernel).

Outside the guest all are skipped for one reason; KLASY_KERNEL_TESTS=1 makes that reason a failure, so that a run that
was meant to test the kernel cannot pass by testing nothing.
"""

from __future__ import annotations

import functools
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@functools.cache
def reason_to_skip() -> str | None:
    """Why nothing here can run on this machine, or None."""
    if not os.environ.get("KLASY_LAB"):
        return "not in the lab's guest (run: klasy lab -- .venv/bin/python -m pytest tests/kernel)"
    if os.geteuid() != 0:
        return "not root"
    if not Path("/sys/kernel/tracing/kprobe_events").exists():
        return "this kernel has no kprobes, or tracefs is not mounted"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail, before any fixture of a kernel test touches the kernel."""
    if (reason := reason_to_skip()) is not None:
        if os.environ.get("KLASY_KERNEL_TESTS") == "1":
            pytest.fail(f"kernel test cannot run: {reason}", pytrace=False)
        pytest.skip(reason)
    for marker in item.iter_markers("only_on"):
        (release,) = marker.args
        if not os.uname().release.startswith(f"{release}."):
            pytest.skip(f"runs on {release} only: what it tests is much the same on every kernel, and takes long")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """The descriptor of an open file on a file system of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "klasy", tmp_path], check=True)
    descriptor = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)
    subprocess.run(["umount", tmp_path], check=True)


@functools.cache
def relays() -> list[Path]:
    """Where it can be seen what those wait for who carry the output of tests to the host (klasy.lab's agent.sh)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        name, _, parent = stat.read_text().split()[1:4]
        if (name, parent) == ("(cat)", "1"):
            found.append(stat.with_name("wchan"))
    return found


@pytest.fixture(autouse=True)
def _output_is_away() -> None:
    """What a test before this one printed is on its way no more: to carry it on is to read, and to wait for a pipe.

    Of the reads that a test counts, and the tasks in a flow, none is then another's; only for a while, on a machine
    that is very busy.
    """
    deadline = time.monotonic() + 10
    while any(relay.read_text() != "pipe_read" for relay in relays()) and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Many tests call umask, which is harmless to probe; the next test's files are to be readable all the same."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """A test that weaves leaves nothing in the kernel."""
    from support.livekernel import leftovers  # not where nothing runs but the reason above is told

    yield
    assert leftovers() == {}


@pytest.fixture(scope="module")
def loopback() -> None:
    """The loopback interface is up."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.fixture
def unwoven_after() -> Iterator[None]:
    """What a test leaves woven on purpose goes by one command, all of it."""
    from support.commands import klasy_command
    from support.livekernel import leftovers

    yield
    if leftovers():
        klasy_command("unweave")
    assert leftovers() == {}
