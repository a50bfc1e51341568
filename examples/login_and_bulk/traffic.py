"""A session and a bulk transfer over one slow link, in one kernel: two network namespaces, a pair of veth devices.

The session is somebody who types: a small message every 60 ms, answered by an echo. The bulk transfer sends as fast as
TCP lets it, over eight connections at once: TCP lets each have about two segments in the device's queue.
``traffic.py DISCIPLINE SECONDS`` prints the round-trip times of the session that the typist saw, in ms.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time

RATE = "4mbit"
INTERACTIVE = 6  # TC_PRIO_INTERACTIVE: what a login asks for; only prio cares
CONNECTIONS = 8  # of the bulk transfer
SESSION, BULK = 7022, 7001
HERE, THERE = "10.99.0.1", "10.99.0.2"
DISCIPLINES = {
    "fifo": "pfifo limit 60",  # first come, first served
    "fair": "sfq perturb 0",  # a queue for each flow, served in turn
    "prio": "prio",  # what asks for little delay goes first
}


def main(discipline: str, seconds: float) -> None:
    """Set the link up, run both, take it down."""
    _link(discipline)
    try:
        times = _run(seconds)
    finally:
        subprocess.run(["ip", "netns", "del", "there"], check=False)
        subprocess.run(["ip", "link", "del", "here"], check=False, stderr=subprocess.DEVNULL)
    times.sort()
    print(f"{len(times)} keys, echo after {times[len(times) // 2]:.1f} ms (median), {times[-1]:.1f} ms (worst)")


def _link(discipline: str) -> None:
    commands = f"""
        modprobe -a veth sch_tbf sch_sfq sch_prio
        ip netns add there
        ip link add here type veth peer name there netns there
        ip link set here gso_max_segs 1
        ip addr add {HERE}/24 dev here
        ip link set here up
        ip -n there addr add {THERE}/24 dev there
        ip -n there link set there up
        ip -n there link set lo up
        tc qdisc add dev here root handle 1: tbf rate {RATE} burst 4000 limit 1000000
        tc qdisc add dev here parent 1:1 {DISCIPLINES[discipline]}
    """
    for line in commands.strip().splitlines():
        subprocess.run(line.split(), check=True)


def _run(seconds: float) -> list[float]:
    servers = [_server(SESSION), _server(BULK)]
    threading.Thread(target=_echo, args=(servers[0],), daemon=True).start()
    threading.Thread(target=_swallow, args=(servers[1],), daemon=True).start()
    end = time.monotonic() + seconds
    for _ in range(CONNECTIONS):
        threading.Thread(target=_transfer, args=(end,), daemon=True).start()
    time.sleep(0.5)
    times = []
    with socket.create_connection((THERE, SESSION)) as session:
        session.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, INTERACTIVE)
        while time.monotonic() < end:
            begun = time.monotonic()
            session.sendall(b"k" * 32)
            session.recv(64)
            times.append((time.monotonic() - begun) * 1000)
            time.sleep(0.06)
    return times


def _server(port: int) -> socket.socket:
    """A socket that listens in the other namespace: a thread may be in another one than its process."""
    made: list[socket.socket] = []

    def make() -> None:
        _enter("there")
        made.append(socket.create_server((THERE, port)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def _enter(namespace: str) -> None:
    import ctypes

    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _echo(server: socket.socket) -> None:
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(64):
        connection.sendall(data)


def _swallow(server: socket.socket) -> None:
    connections = [server.accept()[0] for _ in range(CONNECTIONS)]
    while ready := select.select(connections, [], [])[0]:
        for connection in ready:
            connection.recv(1 << 16)


def _transfer(end: float) -> None:
    with socket.create_connection((THERE, BULK)) as connection:
        connection.settimeout(1)
        while time.monotonic() < end:
            try:
                connection.send(bytes(1 << 14))
            except TimeoutError:
                continue


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
