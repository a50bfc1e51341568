"""Run every check and every test: on this machine, and inside the lab's guest on each supported kernel.

``make test`` calls it. Two jobs run side by side: a guest in software emulation keeps one core busy. The tests of each
kernel are two jobs, so that both cores are busy to the end. Each job's output is shown whole when it ends. Arguments
choose jobs by name (``tests/vm/run.py lint kernel-6.1``); ``--list`` shows the names.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from klasy.lab.kernels import KERNELS

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PYTEST = [sys.executable, "-m", "pytest"]
GUEST_SECONDS = 1000  # four such jobs, two at a time, are to end within half an hour with all the others
HALVES = 2
LANES = 2

QUICK_JOBS = {
    "lint": [str(BIN / "ruff"), "check", "."],
    "format": [str(BIN / "ruff"), "format", "--check", "."],
    "types": [str(BIN / "mypy")],
    "imports": [str(BIN / "lint-imports")],
}
HOST_JOBS = {
    "host": [*PYTEST, "tests", "--ignore=tests/kernel", "--ignore=tests/vm"],
    "vm": [*PYTEST, "tests/vm"],
}
GUEST_TESTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/kernel").rglob("test_*.py"))
GUEST_JOBS = {
    f"kernel-{kernel.name}-{half + 1}": [
        str(BIN / "klasy"), "lab", "--kernel", kernel.name, "--timeout", str(GUEST_SECONDS), "--",
        *PYTEST, *GUEST_TESTS[half::HALVES], "-p", "no:cacheprovider", "--durations=20",
    ]
    for half in range(HALVES)
    for kernel in KERNELS
}  # fmt: skip
JOBS = QUICK_JOBS | GUEST_JOBS | HOST_JOBS  # what takes seconds, then the longest first
# KLASY_KERNEL_TESTS: a kernel test that would be skipped in the guest fails.
ENVIRONMENT = os.environ | {"KLASY_KERNEL_TESTS": "1"}


class Report:
    """What the lanes have found so far; they share the screen through it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.lines: list[str] = []
        self.failed = False

    def begin(self, name: str) -> None:
        """Say that a job has begun: some take minutes."""
        with self._lock:
            print(f"== {name}: started", flush=True)

    def end(self, name: str, status: int, seconds: float, output: bytes) -> None:
        """Show a job's whole output and remember how it ended."""
        line = f"{name}: {'ok' if status == 0 else f'FAILED (exit status {status})'}, {seconds:.0f} s"
        with self._lock:
            self.failed |= status != 0
            self.lines.append(line)
            sys.stdout.flush()
            sys.stdout.buffer.write(output.rstrip() + b"\n")
            print(f"== {line}\n", flush=True)


def run_lane(jobs: queue.SimpleQueue[tuple[str, list[str]]], report: Report) -> None:
    """Run jobs until there are no more, whatever fails."""
    while True:
        try:
            name, argv = jobs.get_nowait()
        except queue.Empty:
            return
        report.begin(name)
        started = time.monotonic()
        done = subprocess.run(
            argv, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
        report.end(name, done.returncode, time.monotonic() - started, done.stdout)


def main(arguments: list[str]) -> int:
    """Run the jobs named, or all; 0 when all is well, 1 when a job failed, 2 for a name that is none."""
    if "--list" in arguments:
        print("\n".join(JOBS))
        return 0
    report = Report()
    jobs: queue.SimpleQueue[tuple[str, list[str]]] = queue.SimpleQueue()
    unknown = set(arguments)
    for name, argv in JOBS.items():
        named = [argument for argument in arguments if f"{name}-".startswith(f"{argument}-")]
        unknown.difference_update(named)
        if named or not arguments:
            jobs.put((name, argv))
    if unknown:
        print(f"no such job: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    lanes = [threading.Thread(target=run_lane, args=(jobs, report)) for _ in range(LANES)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    print("\n".join(report.lines))
    print("all is well" if not report.failed else "something FAILED")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
