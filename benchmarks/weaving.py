"""Weaving and unweaving aspects of 1 to some thousand join points, against bpftrace in the same guest.

    klasy lab -- .venv/bin/python benchmarks/weaving.py [--rounds N] [--most N] [--no-bpftrace]

For each set of join points: from the start of the command to the first logged hit, and from Ctrl-C to the end of the
process, when all probes are gone. ``execution`` rows compare with bpftrace's ``kprobe:`` and the same wildcard,
``call .. within`` rows with a ``kprobe:FUNCTION+OFFSET`` for each call site, written out, since bpftrace does not know
who calls a function. In the other rows one probe at the callee tells thousands of calls apart: bpftrace has nothing
like it.

bpftrace takes and drops probes one by one, so that its largest sets take minutes; ``--most`` leaves them out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import KLASY

# One read each 50 ms: each hit of one process is logged, of the others none, so that printing is not what is measured.
TRAFFIC = """
import os, time
fd = os.open("/proc/self/stat", os.O_RDONLY)
while True:
    os.pread(fd, 100, 0)
    time.sleep(0.05)
"""
TIMEOUT = 900.0

EXECUTIONS = ("vfs_read", "vfs_re*", "vfs_*", "*_read", "s*")  # reading calls a function of each
CALLERS = ("ksys_pread64", "vfs_read", "*_read")
DISPATCHED = ("mutex_lock", "kfree")


class Run:
    """One command from its start to its end. ``first`` and ``last`` are the seconds that the docstring above names."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        begin = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | (environment or {}),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        errors: list[str] = []
        reader = threading.Thread(target=lambda e=process.stderr: errors.extend(e))
        reader.start()
        timer = threading.Timer(TIMEOUT, process.kill)
        timer.start()
        self.first = self.last = float("nan")
        self.said: list[str] = []
        for line in process.stdout:
            if "hit" in line:
                self.first = time.monotonic() - begin
                break
            self.said.append(line)
        rest = threading.Thread(target=lambda o=process.stdout: [None for _ in o])
        rest.start()
        time.sleep(0.2)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait()
        self.last = time.monotonic() - begin
        timer.cancel()
        reader.join()
        rest.join()
        if self.first != self.first:
            print(f"{command[0]} gave no hit: {''.join(self.said + errors)[-600:]}", file=sys.stderr)


def klasy(folder: str, pointcut: str, pid: int) -> tuple[list[str], list[dict[str, object]]]:
    """The command that weaves an aspect and follows it, and the join points that it will have."""
    aspect = Path(folder) / "many.asp"
    aspect.write_text(f'aspect many {{ pointcut {pointcut}; before() {{ if (pid == {pid}) log("hit"); }} }}\n')
    shown = subprocess.run([KLASY, "joinpoints", str(aspect), "--json"], capture_output=True, text=True, check=True)
    return [KLASY, "weave", "-f", str(aspect)], json.loads(shown.stdout)["shadows"]


def bpftrace(folder: str, probes: list[str], pid: int) -> list[str]:
    """The command that attaches probes and prints their hits."""
    program = Path(folder) / "many.bt"
    program.write_text(",\n".join(probes) + f'\n/pid == {pid}/ {{ printf("hit\\n"); }}\n')
    return ["bpftrace", "-B", "line", "--unsafe", str(program)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--most", type=int, default=5000, help="largest number of join points")
    parser.add_argument("--no-bpftrace", action="store_true")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a text file
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # else who runs this in the background hands on to ignore it
    traffic = subprocess.Popen([sys.executable, "-c", TRAFFIC])
    rows: list[tuple[str, list[str] | None]]
    print(f"kernel {os.uname().release}; seconds, medians of {args.rounds} round(s)")
    print(f"{'join points of':34} {'klasy':>21}   {'bpftrace':>21}   klasy / bpftrace")
    print(f"{'':26} {'number':>7} {'first hit':>11} {'end':>9}   {'first hit':>11} {'end':>9}   first hit   end")
    rows = [(f"execution({name})", [f"kprobe:{name}"]) for name in EXECUTIONS]
    rows += [(f"call(*) && within({name})", None) for name in CALLERS]
    rows += [(f"call({name})", []) for name in DISPATCHED]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for pointcut, known in rows:
                command, points = klasy(folder, pointcut, traffic.pid)
                sites = [point for point in points if point["mechanism"] == "kprobe"]
                probes = [f"kprobe:{site['function']}+{site['offset']}" for site in sites] if known is None else known
                if len(points) <= args.most:
                    peer = bpftrace(folder, probes, traffic.pid) if probes and not args.no_bpftrace else None
                    print(row(f"{pointcut:26} {len(points):7}", args.rounds, command, peer))
    finally:
        traffic.kill()


def row(head: str, rounds: int, ours: list[str], theirs: list[str] | None) -> str:
    """Measure one line of the table."""
    runs: list[Run] = []
    others: list[Run] = []
    for _ in range(rounds):
        runs.append(Run(ours))
        if theirs:
            others.append(Run(theirs, {"BPFTRACE_MAX_PROBES": "20000"}))
    first, last = _medians(runs)
    line = f"{head} {first:11.2f} {last:9.2f}"
    if others:
        their_first, their_last = _medians(others)
        line += f"   {their_first:11.2f} {their_last:9.2f}   {first / their_first:9.2f} {last / their_last:5.2f}"
    return line


def _medians(runs: list[Run]) -> tuple[float, float]:
    return statistics.median(run.first for run in runs), statistics.median(run.last for run in runs)


if __name__ == "__main__":
    main()
