"""The ready aspects in tests: woven, and what they have kept and said; and a TCP connection for them to see."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from klasy.api import states
from klasy.resources import shipped_aspects

from .weaving import woven

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .weaving import Woven

#: This process, as records and keys have it.
ME = Path("/proc/self/comm").read_text().strip()


@contextmanager
def ready(name: str) -> Iterator[Woven]:
    with woven(shipped_aspects()[name]) as made:
        yield made


def values(name: str) -> dict[str, dict[tuple, object]]:
    """State by state, the value of each key."""
    return {state: {slot.key: slot.value for slot in slots} for state, slots in states(name).items()}


def entries(name: str) -> dict[str, dict[tuple, int]]:
    """Of histograms, how many values each key has."""
    return {
        state: {slot.key: sum(b.count for b in slot.buckets or ()) for slot in slots}
        for state, slots in states(name).items()
    }


def messages(made: Woven) -> list[str]:
    return [event.message or "" for event in made.events()]


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection over the loopback interface: the one that connected, the one that accepted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        yield client, accepted


def read_all(end: socket.socket, size: int) -> None:
    while size:
        size -= len(end.recv(size))
