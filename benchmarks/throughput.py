"""What TCP loses while the sets of its congestion window are watched.

    klasy lab -- .venv/bin/python benchmarks/throughput.py [ROUNDS]

In one boot, in turn: nothing woven; `set(struct tcp_sock.snd_cwnd)` woven, with a log of old and new; nothing again,
which shows how far the machine drifts; and the floor, trace events of the kernel's own at the same instructions that
fetch the member, with no eBPF. Two loads over the loopback: one long connection, where the window soon stands still,
and many short ones, where each begins anew: hits are reported with the times.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common import KLASY, measure, table

ASPECT = (
    'aspect cwnd { before(struct tcp_sock *t): set(struct tcp_sock.snd_cwnd) && target(t) { log("%d %d", old, new); } }'
)
TRACING = Path("/sys/kernel/tracing")
LONG = (1, 64 << 20)  # connections, bytes on each
SHORT = (150, 128 << 10)


def transfer(connections: int, size: int) -> float:
    """Seconds to send so much over so many connections, one after the other, to another process."""
    listener = socket.create_server(("127.0.0.1", 0))
    pid = os.fork()
    if not pid:
        for _ in range(connections):
            peer, _ = listener.accept()
            while peer.recv(1 << 16):
                pass
            peer.close()
        os._exit(0)
    data = bytes(1 << 16)
    begin = time.monotonic()
    for _ in range(connections):
        with socket.create_connection(listener.getsockname()) as sock:
            for _ in range(size // len(data)):
                sock.sendall(data)
    os.waitpid(pid, 0)
    listener.close()
    return time.monotonic() - begin


def klasy(*words: str) -> str:
    """The output of a command."""
    return subprocess.run([KLASY, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def define(line: str) -> None:
    """Define or delete a kprobe event."""
    descriptor = os.open(TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@contextmanager
def raw(places: list[str], offset: int) -> Iterator[None]:
    """Trace events at the same instructions, which fetch the member from the register that the site has it from."""
    for place in places:
        where, register = place.split()
        define(f"p:rawcwnd/at_{where.replace('+', '_')} {where} old=+{offset}(%{register}):u32\n")
    (TRACING / "events/rawcwnd/enable").write_text("1")
    try:
        yield
    finally:
        (TRACING / "events/rawcwnd/enable").write_text("0")
        define("-:rawcwnd/\n")


def sites() -> tuple[list[str], int]:
    """``FUNCTION+OFFSET REGISTER`` of each instruction that is woven, and where the member lies."""
    from klasy import flow
    from klasy.flow.sites import kernel_member
    from klasy.kernel.live import running_kernel

    kernel = running_kernel()
    member = kernel_member(kernel, "tcp_sock", "snd_cwnd")
    points = {point["address"] for point in json.loads(klasy("joinpoints", "cwnd", "--json"))["joinpoints"]}
    found = [access for access in flow.accesses(kernel, [member]).accesses if access.address in points]
    return [f"{a.function.name}+{a.offset} {a.base_register}" for a in found], member.offset


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        aspect = str(Path(folder) / "cwnd.asp")
        Path(aspect).write_text(ASPECT + "\n")
        klasy("weave", aspect)
        places, offset = sites()
        klasy("unweave", "cwnd")
        for name, load in (("one connection", LONG), ("short connections", SHORT)):
            hits: list[int] = []

            def woven(load: tuple[int, int] = load, hits: list[int] = hits) -> float:
                klasy("weave", aspect)
                seconds = transfer(*load)
                points = json.loads(klasy("joinpoints", "cwnd", "--json"))["joinpoints"]
                hits.append(sum(point["hits"] for point in points))
                klasy("unweave", "cwnd")
                return seconds

            def events(load: tuple[int, int] = load) -> float:
                with raw(places, offset):
                    return transfer(*load)

            contenders: dict[str, Callable[[], float]] = {
                "unwoven": lambda load=load: transfer(*load),  # type: ignore[misc]
                "woven": woven,
                "unwoven again": lambda load=load: transfer(*load),  # type: ignore[misc]
                "raw events": events,
            }
            transfer(*load)  # the first is always slower
            times = measure(rounds, contenders)
            table(f"{name}: {load[0]} of {load[1] >> 10} kB each, {len(places)} sites, hits {hits}", times, "unwoven")


if __name__ == "__main__":
    main()
