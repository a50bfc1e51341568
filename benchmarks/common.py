"""What the benchmarks share: repeated runs in turn, medians and ratios, and a table.

Times of an emulated guest mean nothing by themselves: only ratios within one run in one boot are reported.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
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


def timed(command: list[str]) -> float:
    """Seconds that a command takes as a whole process; its output is thrown away, its failure ends the benchmark."""
    begin = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin
