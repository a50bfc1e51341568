"""What it costs a program that its system calls are traced: a file I/O loop under klasy and under other tools.

A turn of the load opens a file, reads and writes some of it, closes it and asks for its state: five calls of the
kernel and nothing else, so all of a tracer's cost shows. Of each tool what it gives goes to a file: calls with their
arguments, strings and results, then the same with the stack of the program at each call. Only the load is traced. Told
is how long a turn takes; ``overhead`` is how much longer it does than untraced, in percent.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from klasy.bench import own, peers
from klasy.bench.measure import Missing, Report, Variant, rows, run, tell
from klasy.bench.syscall_loop import FILE_CALLS, FRAMES, Loop, file_code
from klasy.plain import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klasy.bench.measure import Row, Scale

STRINGS, STACKS = "calls with their strings", "the same with the stacks of the program"
OVERHEAD = "overhead %"
_SAMPLES = 5
_SECONDS = 0.05  # of a sample
_FEWEST = 10  # turns in a sample
_BYTES = 3072  # of a buffer that a call does not exceed, with its stack
_MOST_ROOM = 1 << 25
# The calls of the load, with what bpftrace is to keep of each for its end: format and arguments.
_CALLS = {
    "openat": ('"%d, %s, %x"', ("dfd", "str:filename", "flags")),
    "read": ('"%d, %lx, %d"', ("fd", "buf", "count")),
    "write": ('"%d, %lx, %d"', ("fd", "buf", "count")),
    "close": ('"%d"', ("fd",)),
    "newstat": ('"%s, %lx"', ("str:filename", "statbuf")),
}


def measure(scale: Scale) -> Report:
    """Run the experiment. ``scale.only`` names groups."""
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="klasy-bench-"))) / "file"
        path.write_bytes(bytes(4096))
        bench = _Bench(stack.enter_context(Loop(file_code(str(path)), cpu=max(os.sched_getaffinity(0)))), scale)
        variants = [variant for variant in bench.variants() if scale.wanted(variant.group)]
        samples, missing = run(variants, scale, each=_SAMPLES)
    notes = (
        f"a turn is {FILE_CALLS} system calls, made at the end of {FRAMES} frames",
        *(f"{name}: {seconds:.1f} s to build and to weave" for name, seconds in bench.woven_in.items()),
    )
    return Report(
        "syscalls",
        "a file I/O loop whose system calls are traced",
        "us",
        compared(rows(variants, samples)),
        missing,
        (),
        notes,
    )


def compared(found: list[Row]) -> tuple[Row, ...]:
    """The rows with how much longer than untraced each takes."""
    bare = {row.group: row.median for row in found if row.role == "reference"}
    return tuple(
        replace(row, ratios={OVERHEAD: 100 * (row.median / bare[row.group] - 1)})
        if row.group in bare and row.role != "reference"
        else row
        for row in found
    )


class _Bench:
    """The variants on one load."""

    def __init__(self, loop: Loop, scale: Scale) -> None:
        self.woven_in: dict[str, float] = {}
        self._loop = loop
        self._seconds = scale.seconds or _SECONDS
        self._turns = max(_FEWEST, loop.calls_in(self._seconds))

    def variants(self) -> list[Variant]:
        """All that is compared."""
        mine = f"if(pid == {self._loop.pid})"
        opens = (
            f"after(int dfd, const char *filename, int flags) returning (long result): syscall(openat) && {mine} "
            '{ log("%s[%u] openat(%d, %s, %#x) = %d", comm, pid, dfd, filename, flags, result); }'
        )
        own_calls = f"after(): syscall(*) && {mine} {{ log(joinpoint); }}"
        with_stacks = f"after(): syscall(*) && {mine} {{ log(joinpoint, ustack()); }}"
        return [
            Variant(STRINGS, "untraced", "reference", self._untraced),
            Variant(STRINGS, "klasy, the opens only", "klasy", lambda: self._klasy("opens", opens)),
            Variant(STRINGS, "klasy, all system calls", "klasy", lambda: self._klasy("calls", own_calls)),
            Variant(STRINGS, "bpftrace, these five", "peer", lambda: self._bpftrace("")),
            Variant(STRINGS, "perf trace", "peer", lambda: self._perf_trace([])),
            Variant(STRINGS, "strace", "peer", lambda: self._strace([])),
            Variant(STACKS, "untraced", "reference", self._untraced),
            Variant(STACKS, "klasy, all system calls", "klasy", lambda: self._klasy("calls and stacks", with_stacks)),
            Variant(STACKS, "bpftrace, these five", "peer", lambda: self._bpftrace("ustack")),
            Variant(STACKS, "perf trace --call-graph fp", "peer", lambda: self._perf_trace(["--call-graph", "fp"])),
            Variant(STACKS, "strace -k", "peer", lambda: self._strace(["-k"])),
        ]

    @contextmanager
    def _untraced(self) -> Iterator[Callable[[], float]]:
        self._loop.seconds(_FEWEST)
        yield lambda: self._turn(self._turns)

    def _turn(self, turns: int) -> float:
        """Microseconds of a turn."""
        return self._loop.seconds(turns) / turns * 1e6

    def _traced(self, process: int) -> Iterator[Callable[[], float]]:
        """Gives what measures a turn, with as many as a sample has time for; the tool has done with those before."""
        peers.idle_since(process)
        known = self._turn(_FEWEST)
        turns = max(_FEWEST, min(self._turns, int(self._seconds * 1e6 / known)))

        def sample() -> float:
            found = self._turn(turns)
            peers.idle_since(process)
            return found

        yield sample

    @contextmanager
    def _klasy(self, name: str, body: str) -> Iterator[Callable[[], float]]:
        room = min(_MOST_ROOM, 1 << (self._turns * FILE_CALLS * _BYTES).bit_length())
        begin = time.perf_counter()
        artifact = own.aspect(body, room=room)
        built = time.perf_counter() - begin
        with ExitStack() as stack:
            begin = time.perf_counter()
            woven = stack.enter_context(own.woven(artifact))
            self.woven_in[name] = built + time.perf_counter() - begin
            tell(f"{name}: {built:.1f} s to build, {self.woven_in[name] - built:.1f} s to weave")
            command = [own.command(), "log", "-f", own.NAME]
            running = stack.enter_context(peers.tool(command, lambda _: own.is_read()))
            yield from self._traced(running.process.pid)
            counts = woven.counts()
            hits, lost = sum(count.hits for count in counts), sum(count.lost for count in counts)
            if lost or not hits:
                raise Missing(f"klasy lost {lost} of {hits} records")

    @contextmanager
    def _bpftrace(self, stacks: str) -> Iterator[Callable[[], float]]:
        pages = _MOST_ROOM // os.sysconf("SC_PAGE_SIZE")
        command = ["bpftrace", "-B", "full", "-e", bpftrace_program(self._loop.pid, stacks)]
        env = {"BPFTRACE_PERF_RB_PAGES": str(pages)}
        ready = 2 * len(_CALLS)
        with peers.tool(command, lambda process: peers.perf_events(process) >= ready, env=env) as running:
            yield from self._traced(running.process.pid)
            peers.end_tool(running.process)
            _complete("bpftrace", running.output)

    @contextmanager
    def _perf_trace(self, more: list[str]) -> Iterator[Callable[[], float]]:
        peers.require("perf")
        with tempfile.TemporaryDirectory(prefix="klasy-bench-") as folder:
            output = Path(folder) / "output"
            command = ["perf", "trace", "-m", "16M", *more, "-p", str(self._loop.pid), "-o", str(output)]
            with peers.tool(command, lambda process: peers.perf_events(process) > 0) as running:
                yield from self._traced(running.process.pid)
                peers.end_tool(running.process)
                _complete("perf trace", output)

    @contextmanager
    def _strace(self, more: list[str]) -> Iterator[Callable[[], float]]:
        with tempfile.TemporaryDirectory(prefix="klasy-bench-") as folder:
            output = Path(folder) / "output"
            command = ["strace", *more, "-p", str(self._loop.pid), "-o", str(output)]
            with peers.tool(command, lambda _: _is_traced(self._loop.pid)) as running:
                yield from self._traced(running.process.pid)
                peers.end_tool(running.process)
                _complete("strace", output)


def bpftrace_program(pid: int, stacks: str) -> str:
    """Prints each call at its end, with its arguments, strings and result; ``stacks``: what gives a stack, or empty."""
    parts = []
    for call, (form, arguments) in _CALLS.items():
        kept = [_kept(argument) for argument in arguments]
        values = ", ".join(f"@{call}{n}[tid]" for n in range(len(kept)))
        keep = " ".join(f"@{call}{n}[tid] = {value};" for n, value in enumerate(kept))
        gone = " ".join(f"delete(@{call}{n}[tid]);" for n in range(len(kept)))
        line = f'"{call}({form[1:-1]}) = %d\\n", {values}, args->ret'
        if stacks:
            line = f'"{call}({form[1:-1]}) = %d\\n%s\\n", {values}, args->ret, {stacks}'
        parts.append(f"tracepoint:syscalls:sys_enter_{call} /pid == {pid}/ {{ {keep} }}")
        parts.append(f"tracepoint:syscalls:sys_exit_{call} /pid == {pid}/ {{ printf({line}); {gone} }}")
    return "\n".join(parts)


def _kept(argument: str) -> str:
    kind, _, name = argument.rpartition(":")
    return f"str(args->{name})" if kind else f"args->{name}"


def _complete(tool: str, output: Path) -> None:
    """Raise Missing if a tool has shown none of the calls, or says that it lost some."""
    text = output.read_text(errors="replace")
    if "openat(" not in text:
        raise Missing(f"{tool} showed none of the calls")
    lost = [line for line in text.splitlines() if line.startswith(("Lost ", "LOST "))]
    if lost:
        raise Missing(f"{tool}: {lost[0]}")


def _is_traced(process: int) -> bool:
    status = Path(f"/proc/{process}/status").read_text()
    return "TracerPid:\t0\n" not in status
