"""What the scenarios have in common: they run their actions in turn, and none of them is fatal."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable

Subject = tuple[str, int, int]  # kind of object (see kmem.Objects.find), process, descriptor or -1
TRUE = "/bin/true"


def read(path: str) -> None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.read()


def patient(sock: socket.socket, seconds: float = 1.0) -> socket.socket:
    """Let the kernel do the waiting: Python's own timeouts make a socket non-blocking."""
    sock.settimeout(None)
    whole = int(seconds)
    timeout = struct.pack("ll", whole, int((seconds - whole) * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    return sock


def drain(sock: socket.socket) -> None:
    """Read what there is and what comes at once."""
    while select.select([sock], [], [], 0.02)[0] and sock.recv(1 << 18, socket.MSG_DONTWAIT):
        pass


def run(*command: str) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)


class Scenario:
    """What all share: the actions in order, each on its own, none fatal."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(dir="/dev/shm")
        self.open()

    def open(self) -> None:
        """Make the objects."""

    def close(self) -> None:
        """Do away with them."""

    def subjects(self) -> dict[str, Subject]:
        """The objects now open, by name."""
        return {}

    def actions(self) -> list[Callable[[], object]]:
        """What a step does, in this order."""
        return []

    def step(self, limit: float) -> list[str]:
        """All actions once, and again while there is time; says which failed and which were never begun."""
        failed = []
        started = now = time.monotonic()
        passes = 0
        while not passes or now - started < limit / 8:
            for action in self.actions():
                if (now := time.monotonic()) > started + limit:
                    if not passes:
                        failed.append(f"{action.__name__}: no time")
                    continue
                try:
                    action()
                except OSError as error:
                    failed.append(f"{action.__name__}: {error}")
            passes += 1
        return sorted(set(failed))

    def churn(self) -> None:
        """The objects' end and the birth of others, several times."""
        for _ in range(3):
            self.close()
            self.open()
