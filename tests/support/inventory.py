"""What there is in the kernel of probes, programs and what holds them, asked of the kernel and not of klasy.

The reliability runs (tests/stress) compare such inventories: one before and one after whatever they do to klasy.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from klasy.bpf import links, maps, program, sys
from klasy.bpf import uapi as u
from klasy.errors import KernelRefused
from support.livekernel import HOME, KPROBE_EVENTS, KPROBES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

ENABLED_FUNCTIONS = Path("/sys/kernel/tracing/enabled_functions")
HURRY = Path("/sys/kernel/rcu_expedited")
SETTLE_SECONDS = 10.0  # the kernel frees programs and maps some time after the last that holds them has gone

_TOKEN = re.compile(r"[0-9a-f]+_\d+_[0-9a-f]+_\d+")
_ADDRESSES = re.compile(r"0x[0-9a-f]+|\(____ptrval____\)")


class Inventory(NamedTuple):
    """What there is, each kind as a multiset of what does not change from one weave of an aspect to the next."""

    links: Counter[str]
    programs: Counter[str]
    maps: Counter[str]
    events: Counter[str]
    kprobes: Counter[str]
    traced: Counter[str]
    pins: Counter[str]
    helpers: Counter[str]
    hurry: Counter[str]

    def __sub__(self, other: Inventory) -> Inventory:  # type: ignore[override]
        """What is here and not there."""
        return Inventory(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    def __bool__(self) -> bool:
        return any(self)

    def text(self) -> str:
        """What is in it, a line for each thing."""
        lines = [
            f"{kind}: {number} x {what}"
            for kind, held in zip(self._fields, self, strict=True)
            for what, number in sorted(held.items())
        ]
        return "\n".join(lines)

    def sizes(self) -> dict[str, int]:
        """How many there are of each kind."""
        return {kind: sum(held.values()) for kind, held in zip(self._fields, self, strict=True)}


def inventory() -> Inventory:
    """All there is now."""
    return Inventory(
        links=Counter(_objects(u.BPF_LINK_GET_NEXT_ID, links.open_id, lambda link: f"type {link.type}")),
        programs=Counter(_objects(u.BPF_PROG_GET_NEXT_ID, program.open_id, lambda prog: f"{prog.name} {prog.type}")),
        maps=Counter(
            _objects(u.BPF_MAP_GET_NEXT_ID, maps.open_id, lambda held: f"{held.name} {held.type} {held.max_entries}")
        ),
        events=Counter(_ADDRESSES.sub("@", _TOKEN.sub("N", line)) for line in KPROBE_EVENTS.read_text().splitlines()),
        kprobes=Counter(" ".join(line.split()[1:3]) for line in KPROBES.read_text().splitlines()),
        traced=Counter(line.split()[0] for line in ENABLED_FUNCTIONS.read_text().splitlines() if line[:1].isalnum()),
        pins=Counter(_TOKEN.sub("N", str(path.relative_to(HOME.parent))) for path in HOME.parent.rglob("*")),
        helpers=Counter(helpers()),
        hurry=Counter({"rcu_expedited"} if HURRY.read_text().strip() != "0" else ()),
    )


def settled(wanted: Callable[[Inventory], bool], seconds: float = SETTLE_SECONDS) -> Inventory:
    """The inventory once it is as wanted, or as it is when that takes too long."""
    deadline = time.monotonic() + seconds
    while not wanted(found := inventory()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def helpers() -> list[str]:
    """The helper processes of aspects that watch objects."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, IndexError):
            if folder.name.isdecimal() and (name := (folder / "stat").read_text().split()[1]) == "(klasy-watch)":
                found.append(name)
    return found


def _objects(command: int, opened: Callable[[int], Any], described: Callable[[Any], str]) -> Iterator[str]:
    """What there is of one kind. (bpftool prog would load a program of its own to tell whose they are.)"""
    for number in sys.object_ids(command):
        with suppress(KernelRefused), opened(number) as held:  # it may go at any moment
            yield described(held.info())


# --- the health of the kernel -----------------------------------------------------------------------------------------

# What the kernel says when something is wrong with itself; tests may make it say other things.
_COMPLAINTS = re.compile(
    r"WARNING:|BUG:|Oops|general protection|Call Trace|unable to handle|rcu.*stall|soft lockup|hung task|"
    r"blocked for more than|refcount_t|list_(add|del) corruption|use-after-free|Kernel panic|lockdep|"
    r"scheduling while atomic|kprobes?: (Failed|disabled)|ftrace bug|Unregister.*fail",
    re.IGNORECASE,
)


class KernelLog:
    """What the kernel complains of from now on."""

    def __init__(self) -> None:
        self._descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def complaints(self) -> list[str]:
        """Its complaints since this was made or asked the last time."""
        found = []
        while True:
            try:
                record = os.read(self._descriptor, 1 << 14)
            except BlockingIOError:
                return found
            except BrokenPipeError:  # it has overwritten what was not read in time: go on with what there is
                found.append("(the kernel's log ran over)")
                continue
            line = record.decode(errors="replace").partition(";")[2].splitlines()[0]
            if _COMPLAINTS.search(line):
                found.append(line)

    def close(self) -> None:
        """Be done with it."""
        os.close(self._descriptor)


def memory() -> dict[str, int]:
    """kB of memory: what is available, what the kernel's own objects take, per-CPU memory, and vmalloc's."""
    wanted = ("MemAvailable", "Slab", "SUnreclaim", "Percpu", "VmallocUsed", "KernelStack")
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {row[0][:-1]: int(row[1]) for row in rows if row[0][:-1] in wanted}
