"""Other tools that do the same, where they are installed, and the kernel's own trace events."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from klasy.bench.measure import Missing
from klasy.kernel.text import Kcore
from klasy.plain import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TRACING = Path("/sys/kernel/tracing")
GROUP = "klasy_bench"  # of trace events
_PACKAGES = {"perf": "linux-perf"}  # of Debian, where they are not named like their commands
_KPROBES = "/sys/kernel/debug/kprobes/list"
_PATIENCE = 90.0
_SETTLE = 0.3
_OPTIMISING = 5.0
_JUMP = b"\xe9"
_LOOK = 0.02  # seconds between two looks at what a reader does
_QUIET = 25  # looks in a row at which it does nothing: some ask for news only so often
_BUSY = 0.1  # of the time between two looks: more CPU time than it takes to see that there is nothing


def require(tool: str) -> None:
    """Raise Missing unless a tool is installed."""
    if shutil.which(tool) is None:
        raise Missing(f"{tool} is not installed (Debian: {_PACKAGES.get(tool, tool)})")


def heed_interrupts() -> None:
    """Who is started in the background may have been told to ignore Ctrl-C, and would hand that on to a tool."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Running(NamedTuple):
    """A tool at work: its process, and where what it prints goes."""

    process: subprocess.Popen[bytes]
    output: Path


@contextmanager
def tool(
    command: Sequence[str], ready: Callable[[int], bool], *, env: dict[str, str] | None = None
) -> Iterator[Running]:
    """Run a tool until the context ends, from the moment it is ``ready``, asked with its process's number.

    It is ended as Ctrl-C ends it. Raises Missing if it is not there, or ends before, with what it said.
    """
    require(command[0])
    heed_interrupts()
    with tempfile.TemporaryDirectory(prefix="klasy-bench-") as folder:
        output = Path(folder) / "output"
        with output.open("wb") as file, (Path(folder) / "errors").open("w+b") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=errors,
                env=os.environ | env if env else None,
                start_new_session=True,
            )
            try:
                end = time.monotonic() + _PATIENCE
                while not ready(process.pid):
                    if process.poll() is not None or time.monotonic() > end:
                        errors.seek(0)
                        raise Missing(f"{command[0]} does not do it here: {_complaint(errors.read())}")
                    time.sleep(0.05)
                time.sleep(_SETTLE)
                yield Running(process, output)
            finally:
                end_tool(process)


def _complaint(said: bytes) -> str:
    """The line of a tool's standard error that says what is wrong."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it says nothing")


def end_tool(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children as Ctrl-C does, and wait for it."""
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def when_optimised(address: int) -> None:
    """Wait until the kernel has made the kprobe at an address a jump. It does so some time after the probe was armed,
    when no task can be in the middle of what the jump replaces; its list of probes says so too early.
    """
    kcore = Kcore()
    end = time.monotonic() + _OPTIMISING
    while kcore.read(address, 1) != _JUMP and time.monotonic() < end:
        time.sleep(_LOOK)
    kcore.close()


def probed(function: str) -> bool:
    """Whether any tool has a kprobe or a trampoline on a function now."""
    for path in (_KPROBES, str(TRACING / "enabled_functions")):
        with suppress(OSError), open(path, encoding="utf-8") as file:
            for line in file:
                words = line.split()
                if function in (word.partition("+")[0] for word in words):
                    return True
    return False


def free_of(function: str) -> None:
    """Wait until no probe is on a function any more."""
    end = time.monotonic() + _PATIENCE
    while probed(function) and time.monotonic() < end:
        time.sleep(0.05)


def perf_events(process: int) -> int:
    """How many perf events a process has open."""
    found = 0
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{process}/fd"):
            with suppress(OSError):
                found += os.readlink(entry.path) == "anon_inode:[perf_event]"
    return found


def idle_since(process: int) -> float:
    """When a process and its children had done what there was to do; waits for it."""
    quiet, last, spent = 0, time.perf_counter(), on_cpu_with_children(process)
    while quiet < _QUIET:
        time.sleep(_LOOK)
        now, used = time.perf_counter(), on_cpu_with_children(process)
        if used - spent > _BUSY * _LOOK:
            quiet, last = 0, now
        else:
            quiet += 1
        spent = used
    return last


def on_cpu(process: int) -> float:
    """Seconds of CPU time of a process of one thread."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0  # it has ended


def on_cpu_with_children(process: int) -> float:
    """Seconds of CPU time of a process and its children."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        children = []
    return on_cpu(process) + sum(on_cpu(int(child)) for child in children)


# --- trace events of the kernel's own -------------------------------------------------------------------------------


def _define(line: str) -> None:
    descriptor = os.open(TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


@contextmanager
def event(definition: str) -> Iterator[str]:
    """A kprobe event, ``p NAME_PLACE fetch=..`` in the words of the kernel; its name. It is not enabled."""
    kind, _, rest = definition.partition(" ")
    try:
        _define(f"{kind}:{GROUP}/hit {rest}")
    except OSError as error:
        raise Missing(f"the kernel refuses the trace event: {error.strerror}") from None
    try:
        yield f"{GROUP}:hit"
    finally:
        _define(f"-:{GROUP}/hit")


@contextmanager
def recorded(name: str) -> Iterator[None]:
    """Have a trace event recorded in a buffer of its own, which nobody reads: what any tool with trace events costs."""
    instance = TRACING / "instances" / GROUP
    instance.mkdir()
    switch = instance / "events" / name.replace(":", "/") / "enable"
    try:
        switch.write_text("1")
        try:
            yield
        finally:
            switch.write_text("0")
    finally:
        instance.rmdir()


def event_hits() -> int:
    """How often the trace event of :func:`event` was reached."""
    for line in (TRACING / "kprobe_profile").read_text().splitlines():
        name, hits, _ = line.split()
        if name == "hit":
            return int(hits)
    return 0
