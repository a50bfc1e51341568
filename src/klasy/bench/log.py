"""How many events a second get from a hot join point into a file, none lost: klasy as text, JSON and raw, and others.

The load makes hits as fast as it can, each of which logs three numbers; when the reader is idle again it is ended as
Ctrl-C ends it. The time counts from the first hit to the moment when the reader has become idle, and from its being
told to end to its end, for many hits and for few: the rate is the difference of the hits by that of the times, so that
what starting and ending cost is not in it. The buffers have room for all hits, and what came out is counted: where
anything is missing there is no figure.

How much CPU time an event takes, of the load above what it takes untraced and of the reader, is told beside.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from klasy.bench import own, peers
from klasy.bench.hits import FUNCTION, PRINTED, fetched, logging
from klasy.bench.measure import Limit, Missing, Report, Variant, rows, run, tell
from klasy.bench.syscall_loop import LSEEK, SyscallLoop
from klasy.errors import SystemRefusal
from klasy.log.rawfile import RawFile
from klasy.plain import NamedTuple, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from klasy.backend.artifact import Artifact
    from klasy.bench.measure import Row, Scale


FASTER = Limit("of the best other", least=2.0)
ASPECT = logging('"%d %d %d", ')
BPFTRACE = f"kfunc:{FUNCTION} {{ printf({PRINTED}); }}"
_FEW = 1000
_FIRST = 10_000  # many, until it is known how many a reader can do
_MOST = 1_000_000
_SECONDS = 2.0  # that many events are to take
_BYTES = 128  # of a buffer that a record never exceeds


class At(NamedTuple):
    """A reader at work. ``written()`` is how many events its file has when it has ended."""

    process: subprocess.Popen[bytes]
    written: Callable[[], int]


class Way(NamedTuple):
    """A reader with what it is compared as; it is made for a number of events."""

    group: str
    name: str
    role: str
    reader: Callable[[int], AbstractContextManager[At]]


class Cost(NamedTuple):
    """What a number of events took, in seconds: until all were in the file; CPU time of the load and of the reader."""

    taken: float
    load: float
    reader: float


def measure(scale: Scale) -> Report:
    """Run the experiment. ``scale.only`` names forms."""
    with SyscallLoop(LSEEK, 2, cpu=max(os.sched_getaffinity(0))) as loop:
        measured = [
            _Reading(loop, scale.seconds or _SECONDS, way)
            for way in (
                Way("text", "klasy log", "klasy", _klasy("", _lines)),
                Way("text", "bpftrace printf", "peer", _bpftrace("text")),
                Way("JSON", "klasy log --json", "klasy", _klasy("--json", _lines)),
                Way("JSON", "bpftrace -f json", "peer", _bpftrace("json")),
                Way("raw", "klasy log --raw", "klasy", _klasy("--raw", _records)),
                Way("raw", "trace-cmd record", "peer", _trace_cmd),
                Way("raw", "perf record", "peer", _perf),
            )
            if scale.wanted(way.group)
        ]
        variants = [reading.variant() for reading in measured]
        samples, missing = run(variants, scale)
    found = [_noted(row, measured) for row in compared(rows(variants, samples))]
    title = "events of three numbers each, from a hot join point into a file"
    return Report("log", title, "1000/s", tuple(found), missing, (FASTER,))


def compared(found: list[Row]) -> list[Row]:
    """The rows with klasy's rates against the best of the others of their form."""
    result = []
    for row in found:
        best = max((other.median for other in found if other.role == "peer" and other.group == row.group), default=0.0)
        result.append(replace(row, ratios={FASTER.name: row.median / best}) if best and row.role == "klasy" else row)
    return result


def _noted(row: Row, measured: list[_Reading]) -> Row:
    """With the CPU time that an event takes."""
    (costs,) = [reading.costs for reading in measured if (reading.way.group, reading.way.name) == (row.group, row.name)]
    load, reader = (statistics.median(cost[at] for cost in costs) for at in (0, 1))
    return replace(row, note=f"{load + reader:.2f} us of CPU an event: hit {load:.2f}, reader {reader:.2f}")


class _Reading:
    """One reader on the load."""

    def __init__(self, loop: SyscallLoop, wanted: float, way: Way) -> None:
        self.way = way
        self.costs: list[tuple[float, float]] = []  # us an event: of the load, of the reader
        self._loop = loop
        self._wanted = wanted
        self._many = _FIRST
        self._known = False

    def variant(self) -> Variant:
        """As the turns are taken."""
        return Variant(self.way.group, self.way.name, self.way.role, self._attach)

    @contextmanager
    def _attach(self) -> Iterator[Callable[[], float]]:
        yield self._rate

    def _rate(self) -> float:
        """Events a second, in thousands."""
        few = self._cost(_FEW)
        while True:
            many = self._cost(self._many)
            events, taken = self._many - _FEW, many.taken - few.taken
            if self._known or taken > self._wanted / 2 or self._many == _MOST:
                break
            faster = self._wanted / max(taken, self._wanted / 10)
            self._many = min(_MOST, int(self._many * faster))
        self._known = True
        if taken <= 0:
            raise Missing("the machine is too uneven: many events took no longer than few")
        untraced = self._loop.seconds(self._many) / self._many
        per_event = ((many.load - few.load) / events - untraced, (many.reader - few.reader) / events)
        self.costs.append((per_event[0] * 1e6, per_event[1] * 1e6))
        return events / taken / 1000

    def _cost(self, number: int) -> Cost:
        before = _children()
        with self.way.reader(max(number, self._many)) as at:
            peers.idle_since(at.process.pid)  # it may still be getting ready
            load, before = peers.on_cpu(self._loop.pid), before + peers.on_cpu_with_children(at.process.pid)
            begin = time.perf_counter()
            self._loop.seconds(number)
            load = peers.on_cpu(self._loop.pid) - load
            idle = peers.idle_since(at.process.pid)
            told = time.perf_counter()
            peers.end_tool(at.process)
            taken = time.perf_counter() - told + idle - begin
            reader = _children() - before
            found = at.written()
        peers.free_of(FUNCTION)
        if found < number:
            raise Missing(f"of {number} events {number - found} were lost")
        tell(f"{self.way.name}: {number} events in {taken:.2f} s")
        return Cost(taken, load, reader)


def _children() -> float:
    """Seconds of CPU time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# --- the readers ---------------------------------------------------------------


def _klasy(form: str, count: Callable[[Path], int]) -> Callable[[int], AbstractContextManager[At]]:
    @contextmanager
    def reader(number: int) -> Iterator[At]:
        words = ["log", "-f", own.NAME, *([form] if form else [])]
        with ExitStack() as stack:
            stack.enter_context(own.woven(_aspect(_room(number))))
            running = stack.enter_context(peers.tool([own.command(), *words], lambda _: own.is_read()))
            yield At(running.process, lambda: count(running.output))

    return reader


@cache
def _aspect(room: int) -> Artifact:
    return own.aspect(ASPECT, room=room)


def _room(number: int) -> int:
    """Bytes of a buffer for so many events: the next power of two."""
    return 1 << max(17, (number * _BYTES).bit_length())


def _bpftrace(form: str) -> Callable[[int], AbstractContextManager[At]]:
    @contextmanager
    def reader(number: int) -> Iterator[At]:
        pages = _room(number) // os.sysconf("SC_PAGE_SIZE")  # of each CPU
        command = ["bpftrace", "-B", "full", "-f", form, "-e", BPFTRACE]
        env = {"BPFTRACE_PERF_RB_PAGES": str(pages)}
        with peers.tool(command, lambda _: peers.probed(FUNCTION), env=env) as running:
            # before the first, it says that it attaches
            yield At(running.process, lambda: _lines(running.output) - 1)

    return reader


@contextmanager
def _trace_cmd(number: int) -> Iterator[At]:
    peers.require("trace-cmd")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="klasy-bench-")))
        name = stack.enter_context(peers.event(_event()))
        command = ["trace-cmd", "record", "-q", "-e", name, "-b", str(_room(number) >> 10), "-o", f"{folder}/trace.dat"]
        ready = (folder / "trace.dat.cpu0").exists
        running = stack.enter_context(
            peers.tool([*command, "sleep", "3600"], lambda _: ready() and peers.probed(FUNCTION))
        )
        yield At(running.process, lambda: _said(["trace-cmd", "report", "-i", f"{folder}/trace.dat"]).count(b": hit:"))


@contextmanager
def _perf(number: int) -> Iterator[At]:
    peers.require("perf")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="klasy-bench-"))
        name = stack.enter_context(peers.event(_event()))
        file = f"{folder}/perf.data"
        command = ["perf", "record", "-q", "-a", "-e", name, "-m", f"{_room(number) >> 10}K", "-o", file]
        running = stack.enter_context(peers.tool([*command, "sleep", "3600"], lambda _: peers.probed(FUNCTION)))

        def written() -> int:
            said = _said(["perf", "report", "-i", file, "--stats"]).decode()
            return sum(int(found) for found in re.findall(r"SAMPLE events: +(\d+)", said)[:1])

        yield At(running.process, written)


def _said(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise SystemRefusal(f"{command[0]} {command[1]} cannot show what it recorded: {last[-1]}")
    return done.stdout


def _event() -> str:
    """The trace event that has the same values."""
    return f"p {FUNCTION} {fetched()}"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _records(path: Path) -> int:
    file = RawFile(str(path))
    try:
        return sum(run.number for part in file.runs() for _, run in part)
    finally:
        file.close()
