"""Weaves and unweaves under traffic, one after the other, of every kind of aspect: nothing leaks, and each works.

Everything a weave makes is looked for at intervals: links, programs, maps, kprobes, trace events, pins, descriptors of
this process, the kernel's complaints. Memory is judged by its trend: what the first quarter of the rounds takes is for
caches, behind it none may go that grows with the rounds.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from support.inventory import KernelLog, inventory, memory, settled
from support.livekernel import traffic

from klasy.kernel.live import LiveKernel
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.session import machine_of, weave
from klasy.weaver.unweave import unweave
from stress.versions import MORE, VERSIONS, work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stress import Figures

FULL, SMALL = 1000, 4

TIMES = 2  # the work that must be counted, in each round
LOOKS = 20  # so often, but not more often than all of four rounds, is looked for leaks
KB_A_ROUND = 8  # the kernel's own memory may grow by; an aspect's ring buffer alone takes 1,024


def run(size: int, seed: int) -> Figures:
    """``size`` rounds."""
    print(f"churn: seed {seed}")
    rng = random.Random(seed)
    kernel = LiveKernel()
    machine = machine_of(kernel)
    every = VERSIONS | MORE
    kinds = {name: every[name] for name in rng.sample(sorted(every), min(size, len(every)))}
    built = {name: build(SourceFile(f"{name}.asp", kind.text), kernel) for name, kind in kinds.items()}
    points = {name: len(made[0].plan.joinpoints) for name, made in built.items()}
    hits: Counter[str] = Counter()
    took: dict[str, list[float]] = {"weave": [], "unweave": []}
    samples: list[tuple[int, dict[str, int]]] = []
    with ExitStack() as stack:
        log = KernelLog()
        stack.callback(log.close)
        stack.callback(unweave)
        nothing = inventory()
        stack.enter_context(busy_kernel())
        descriptors: list[int] = []
        order = [name for _ in range(size // len(kinds) + 1) for name in rng.sample(sorted(kinds), len(kinds))]
        for number, name in enumerate(order[:size], 1):
            begun = time.monotonic()
            (aspect,) = weave(built[name], machine)
            took["weave"].append(time.monotonic() - begun)
            with aspect:
                before = sum(count.hits for count in aspect.counts())
                work(TIMES)
                found = sum(count.hits for count in aspect.counts()) - before
                assert kinds[name].fits(found, TIMES), f"round {number}, {name}: {found} hits"
                hits[name] += found
            begun = time.monotonic()
            unweave([aspect.name])
            took["unweave"].append(time.monotonic() - begun)
            if number % max(4, size // LOOKS) == 0:
                left = settled(lambda found: not found - nothing) - nothing
                assert not left, f"round {number} has left\n{left.text()}"
                assert not nothing - inventory(), f"round {number} has taken away what was not its"
                gc.collect()
                descriptors.append(len(os.listdir("/proc/self/fd")))  # the kernel's memory stays open from the first on
                assert descriptors[-1] == descriptors[0], descriptors
                samples.append((number, memory()))
        complaints = log.complaints()
        assert not complaints, complaints
    growth = {what: slope(samples, what) for what in samples[0][1]}
    grown = {what: round(rate, 2) for what, rate in growth.items()}
    if size >= 10 * LOOKS:
        for what in ("SUnreclaim", "Percpu", "VmallocUsed", "KernelStack"):
            assert growth[what] < KB_A_ROUND, f"{what} grows by {grown[what]} kB a round"
        assert growth["MemAvailable"] > -KB_A_ROUND, f"available memory shrinks by {-grown['MemAvailable']} kB a round"
    return {
        "rounds": size,
        "kinds, with their join points": ", ".join(f"{name} {number}" for name, number in points.items()),
        "hits counted": dict(hits),
        "left over": 0,
        "complaints of the kernel": 0,
        "kB a round, by trend": grown,
        "seconds, median": {what: round(statistics.median(times), 3) for what, times in took.items()},
    }


def slope(samples: list[tuple[int, dict[str, int]]], what: str) -> float:
    """By how much something grows with each round, by least squares, without the first quarter."""
    later = samples[len(samples) // 4 :]
    if len(later) < 2:
        return 0.0
    return statistics.linear_regression([n for n, _ in later], [values[what] for _, values in later]).slope


@contextmanager
def busy_kernel() -> Iterator[None]:
    """Another process makes the kernel work: files, pipes, opens, TCP and UDP over the loopback device."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            _traffic()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _traffic() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            taken, _ = listener.accept()
            with taken:
                while data := taken.recv(65536):
                    taken.sendall(data[:100])

    threading.Thread(target=serve, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        while os.getppid() != 1:
            with socket.create_connection(listener.getsockname()) as client:
                for _ in range(5):
                    client.sendall(b"x" * 20_000)
                    client.recv(100)
            for _ in range(20):
                datagrams.sendto(b"x" * 500, datagrams.getsockname())
                datagrams.recv(1000)
            traffic(10)
            time.sleep(0.01)
