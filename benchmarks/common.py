"""What the benchmarks share: repeated runs in turn, medians and ratios, and a table.

Times of an emulated guest mean nothing by themselves: only ratios within one run in one boot are reported.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KLASY = str(ROOT / ".venv" / "bin" / "klasy")
# Where klasy keeps what it found out about a kernel.
CACHES = [Path("/var/cache/klasy"), Path("~/.cache/klasy").expanduser()]


def measure(rounds: int, contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run the contenders in turn (A B A B ..), so that a drift of the machine hits all alike. Seconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            times[name].append(run())
            print(f"round {number + 1}/{rounds} {name}: {times[name][-1]:.3f} s", file=sys.stderr, flush=True)
    return times


def table(title: str, times: dict[str, list[float]], reference: str) -> None:
    """Print minimum, median, maximum, and the ratio of each median to the reference's."""
    base = statistics.median(times[reference])
    width = max(len(name) for name in times)
    print(f"\n{title}  (kernel {os.uname().release}, {len(times[reference])} rounds)")
    print(f"{'':{width}}  {'min s':>8} {'median s':>8} {'max s':>8}  median / {reference}")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:{width}}  {min(values):8.3f} {middle:8.3f} {max(values):8.3f}  {middle / base:.3f}")
    sys.stdout.flush()


@contextmanager
def background(program: str) -> Iterator[None]:
    """A Python program that runs meanwhile: the traffic."""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        time.sleep(1)  # a Python start takes its time here, and must not disturb what is measured
        yield
    finally:
        process.kill()
        process.wait()


def bring_in(commands: list[list[str]]) -> int:
    """Have the files that commands open lie in this machine's memory; how many they are.

    A file of the lab's guest lies on the host until it is written to, and the host is asked each time that it is
    opened. ``touch`` with a file's own time has overlayfs copy it.
    Each command is run under strace, and gets Ctrl-C after ten seconds.
    """
    found: set[Path] = set()
    for command in commands:
        with tempfile.NamedTemporaryFile("r") as trace:
            watched = ["strace", "-f", "-qq", "-e", "trace=open,openat,execve", "-o", trace.name]
            ended = ["timeout", "-s", "INT", "10", *command]
            subprocess.run(watched + ended, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            found.update(
                Path(name).resolve() for name in re.findall(r'"(/[^"]+)".* = \d+$', trace.read(), re.MULTILINE)
            )
    files = [file for file in found if file.is_file() and file.parts[1] not in ("proc", "sys", "dev", "run")]
    for file in files:
        subprocess.run(["touch", "-r", file, file], check=True)
    return len(files)


def timed(command: list[str]) -> float:
    """Seconds that a command takes as a whole process; its output is thrown away, its failure ends the benchmark."""
    begin = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin
