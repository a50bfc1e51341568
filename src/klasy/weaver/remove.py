"""The way out of the kernel: take apart what is pinned in a directory.

First the programs are switched off, then the links go, which disarms the probes, then the definitions of kernel probe
events, and last the maps and the directory. A process killed on the way leaves a staging directory with what is not
yet done; the next sweep goes on from there.
"""

from __future__ import annotations

import errno
import os
import time

from klasy.backend.artifact import CONTROL_ACTIVE, CONTROL_SIZE, MAP_CONTROL, MAP_EVENTS
from klasy.bpf import pins
from klasy.errors import KernelRefused
from klasy.plain import TYPE_CHECKING, suppress
from klasy.weaver.tracefs import KprobeEvents, expedited_rcu

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.bpf.maps import Map
    from klasy.weaver.pinfs import PinFS, Staging

LINK_PREFIX = "link_"
MAP_PREFIX = "map_"
_BUSY_SECONDS = 20.0


def remove(pinfs: PinFS, staging: Staging, on_unread: Callable[[int], None] | None = None) -> None:
    """Remove a staging directory and all that hangs on it. The lock must be held.

    ``on_unread`` is called with the number of records in its log that nobody has read, if there are any. Raises
    KernelRefused or OSError if something stays; then the directory stays too, for a later try.
    """
    with expedited_rcu(pinfs.hurry):
        switch(staging.path, on=False)
        if os.path.exists(f"{staging.path}/map_objects"):
            from klasy.weaver import objects

            objects.end(staging.path)
        drop_links(staging.path)
        group = pinfs.group(staging.name)
        if group is not None:
            delete_events(KprobeEvents(), group)
        if on_unread is not None and (number := _unread(staging.path)):
            on_unread(number)
        _remove_tree(staging.path)


def _unread(path: str) -> int:
    """How many records are in the log of an aspect; 0 where what is left of it has no log."""
    from klasy.bpf.ringbuf import RingReader

    try:
        with pins.open_map(f"{path}/{MAP_PREFIX}{MAP_EVENTS}") as events, RingReader(events) as reader:
            return reader.unread()
    except (KernelRefused, TypeError):
        return 0


def switch(path: str, *, on: bool) -> None:
    """Let the programs of an aspect run, or return at once from now on. No error where there is no switch."""
    with suppress(KernelRefused, TypeError), pins.open_map(f"{path}/{MAP_PREFIX}{MAP_CONTROL}") as switches:
        set_switch(switches, on=on)


def set_switch(switches: Map, *, on: bool) -> None:
    """The same by the aspect's map MAP_CONTROL. Raises KernelRefused."""
    control = bytearray(CONTROL_SIZE)
    control[CONTROL_ACTIVE : CONTROL_ACTIVE + 4] = int(on).to_bytes(4, "little")
    switches.update(bytes(4), bytes(control))


def drop_links(path: str) -> None:
    """Unpin all links of a directory, and wait until they are detached.

    The kernel leaves the detaching to a worker if it is the pin that goes last. If it is a descriptor, it is done when
    close returns; so each link is opened first.
    """
    for name in sorted(_listdir(path)):
        if not name.startswith(LINK_PREFIX):
            continue
        entry = f"{path}/{name}"
        try:
            held = pins.open_pin(entry)
        except KernelRefused:
            pins.unpin(entry)
            continue
        with held:
            pins.unpin(entry)


def delete_events(events: KprobeEvents, group: str) -> None:
    """Delete a group of kernel probe events, whose links are gone. Waits for those who still hold one of the links."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            events.delete(group)
        except KernelRefused as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _remove_tree(path: str) -> None:
    for name in _listdir(path):
        entry = f"{path}/{name}"
        if os.path.isdir(entry) and not os.path.islink(entry):
            _remove_tree(entry)
        else:
            with suppress(FileNotFoundError):
                os.unlink(entry)
    with suppress(FileNotFoundError):
        os.rmdir(path)


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
