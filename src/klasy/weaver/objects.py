"""The helper of an aspect that watches objects, as the weaver and the other commands see it: start it, end it, ask.

What it does is in :mod:`klasy.weaver.watcher`. It belongs to the aspect: the weave starts it before the aspect is
switched on, and fails where it does not come up; whoever takes the aspect out ends it. That it runs is looked up, in
/proc, by the pid and the start time that it leaves in the aspect's map.
"""

from __future__ import annotations

import errno
import os
import select
import sys

from klasy import objects
from klasy.bpf import pins
from klasy.bpf import uapi as u
from klasy.errors import KernelRefused, SystemRefusal
from klasy.objects import MAP_BELL, MAP_OBJECTS, WORD
from klasy.plain import TYPE_CHECKING, dataclass, suppress
from klasy.weaver.watcher import FIRST_FD, READY, start_time, state_and_start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from klasy.bpf.maps import Map
    from klasy.bpf.program import Program
    from klasy.match.plan import Probe
    from klasy.objects import Account
    from klasy.weaver.woven import WovenAspect

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

_START_SECONDS = 60.0
_END_SECONDS = 10.0
_HIGH_FD = 200  # where descriptors are put aside, so that none lies where another is to go
_CODE = """import sys
sys.path.insert(0, {folder!r})
from klasy import startup
startup.install()
from klasy.weaver.watcher import main
main(sys.argv[1:])"""


# --- its life ---------------------------------------------------------------------------------------------------------


class Helper:
    """The helper of an aspect that is being woven. Unless it is told to go on it ends with the weaving process."""

    def __init__(self, pid: int, go_on: int) -> None:
        self.pid = pid
        self._go_on = go_on

    def go_on(self) -> None:
        """The aspect is pinned: who takes it out finds the helper there."""
        with suppress(BrokenPipeError):  # it was killed just now: `klasy status` will say so
            os.write(self._go_on, b"g")
        self.close()

    def close(self) -> None:
        """Let go of it; it ends, unless it was told to go on."""
        if self._go_on >= 0:
            os.close(self._go_on)
        self._go_on = -1


def start(name: str, probes: Sequence[Probe], programs: Mapping[int, Program], maps: Mapping[str, Map]) -> Helper:
    """Start the helper of an aspect and wait until it is ready. Raises SystemRefusal."""
    watches = sorted((p.watch.slot, p.index, p.watch) for p in probes if p.watch is not None and p.watch.per_object)
    texts = [
        f"{watch.piece.length}:{u.HW_BREAKPOINT_W if watch.writes_only else u.HW_BREAKPOINT_RW}"
        for _, _, watch in watches
    ]
    reading, ready = os.pipe()
    waits, go_on = os.pipe()
    try:
        given = [ready, waits, maps[MAP_OBJECTS].fileno(), maps[MAP_BELL].fileno()]
        given += [programs[index].fileno() for _, index, _ in watches]
        helper = Helper(_spawn([sys.executable, "-ISEc", _code(), name, *texts], given), go_on)
    except BaseException:
        os.close(reading)
        os.close(go_on)
        raise
    finally:
        os.close(ready)
        os.close(waits)
    try:
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        if not poll.poll(_START_SECONDS * 1000) or os.read(reading, len(READY)) != READY:
            raise SystemRefusal(f"the helper process of aspect '{name}', which arms the registers, did not come up")
    except BaseException:
        helper.close()
        with suppress(OSError):
            os.kill(helper.pid, signal.SIGKILL)
            os.waitpid(helper.pid, 0)
        raise
    finally:
        os.close(reading)
    return helper


def _code() -> str:
    from klasy import startup

    return _CODE.format(folder=os.path.dirname(startup.HERE))


def _spawn(command: list[str], given: Sequence[int]) -> int:
    """A process in a session of its own, without our terminal, with some descriptors from FIRST_FD on; no others."""
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)
    ]
    free = max(_HIGH_FD, *given) + 1
    aside = [free + number for number in range(len(given))]
    actions += [(os.POSIX_SPAWN_DUP2, fd, high) for fd, high in zip(given, aside, strict=True)]
    for number, high in enumerate(aside):
        actions += [(os.POSIX_SPAWN_DUP2, high, FIRST_FD + number), (os.POSIX_SPAWN_CLOSE, high)]
    defaults = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE]
    environment = {name: value for name, value in os.environ.items() if name == "KLASY_LAB"}
    try:
        return os.posix_spawn(
            command[0], command, environment, file_actions=actions, setsid=True, setsigmask=[], setsigdef=defaults
        )  # fmt: skip
    except OSError as error:
        raise KernelRefused("starting the helper process", error.errno or errno.EIO) from None


def end(path: str) -> None:
    """End the helper of the aspect in a directory, if there is one, and wait until its registers are free."""
    try:
        with pins.open_map(f"{path}/map_{MAP_OBJECTS}") as found:
            _end(found)
    except (KernelRefused, TypeError, OSError):
        return


def end_by_map(maps: Mapping[str, Map]) -> None:
    """The same where nothing is pinned yet."""
    if MAP_OBJECTS in maps:
        _end(maps[MAP_OBJECTS])


def _end(found: Map) -> None:
    pid, start = _words(found.lookup(bytes(4)) or bytes(objects.ROW_BYTES))[:2]
    if not pid or not runs(pid, start):
        with suppress(OSError):  # where it is a child of ours, and has ended by itself
            if pid and state_and_start(pid)[1] == start:
                os.waitpid(pid, os.WNOHANG)
        return
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if not runs(pid, start):  # it ended, and the pid is another's
            return
        signal.pidfd_send_signal(process, signal.SIGTERM)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(_END_SECONDS * 1000):
            signal.pidfd_send_signal(process, signal.SIGKILL)
            poll.poll(_END_SECONDS * 1000)
        with suppress(OSError):  # where it is a child of ours
            os.waitpid(pid, os.WNOHANG)
    except OSError:
        pass
    finally:
        os.close(process)


def runs(pid: int, start: int) -> bool:
    """Whether a process with that pid that began then runs."""
    try:
        return bool(pid) and start_time(pid) == start
    except (OSError, ValueError, IndexError):
        return False


# --- what it has done -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watching:
    """What is known of the watching of objects in an aspect. ``texts``: its members, in their order."""

    texts: tuple[str, ...]
    account: Account
    alive: bool

    @property
    def requests(self) -> int:
        """How often advice asked."""
        return sum(member.requests for member in self.account.members)

    @property
    def unserved(self) -> int:
        """Requests that nobody has served."""
        return sum(member.unserved for member in self.account.members)


def watching(aspect: WovenAspect) -> Watching | None:
    """What an aspect's helper has done; None where it watches no objects. Raises KernelRefused."""
    described = objects_of(aspect)
    if not described:
        return None
    rows = dict(aspect.map(MAP_OBJECTS).items())
    account = objects.read(lambda number: _words(rows[number.to_bytes(4, "little")]), len(described))
    return Watching(tuple(each["text"] for each in described), account, runs(account.pid, account.start))


def objects_of(aspect: WovenAspect) -> list[dict[str, Any]]:
    """What the registry entry says of the members that an aspect watches, by their number."""
    found = [probe["object"] for probe in aspect.document["probes"] if probe.get("object")]
    return sorted(found, key=lambda each: int(each["slot"]))


def missed(aspect: WovenAspect) -> dict[int, int]:
    """What the registers of objects missed, by the index of the probe: of those that are no longer watched."""
    found = watching(aspect)
    if found is None:
        return {}
    numbers = {
        index: probe["object"]["slot"] for index, probe in enumerate(aspect.document["probes"]) if probe.get("object")
    }
    return {index: found.account.members[slot].missed for index, slot in numbers.items()}


def _words(row: bytes) -> list[int]:
    return [int.from_bytes(row[at : at + WORD], "little") for at in range(0, len(row), WORD)]


def document(found: Watching) -> dict[str, object]:
    """The same in JSON, see docs/json.md; ``notes`` for people."""
    account = found.account
    return {
        "helper": {"pid": account.pid, "alive": found.alive, "wakes": account.wakes},
        "watching": account.watching if found.alive else 0,
        "members": [
            {"member": text, **member._asdict(), "unserved": member.unserved, "average": member.average}
            for text, member in zip(found.texts, account.members, strict=True)
        ],
        "requests": [_request(found.texts, request) for request in account.recent],
        "notes": notes(found),
    }


def _request(texts: Sequence[str], request: objects.Request) -> dict[str, object]:
    armed = bool(request.last)
    return {
        "member": texts[request.member],
        "address": request.address,
        "requested_ns": request.requested,
        "first_cpu_armed_after_ns": request.first if armed else None,
        "armed_after_ns": request.last if armed else None,
        "ended_ns": request.ended,
        "outcome": objects.OUTCOMES[request.outcome],
        "accesses": request.accesses,
        "missed": request.missed,
        "value_at_request": request.before,
        "value_when_armed": request.after if request.known else None,
        "joinpoint": request.joinpoint,
        "cpu": request.cpu,
    }


def notes(found: Watching) -> list[str]:
    """What is to be said of an aspect's watching, for people: a line for the helper and one for each member."""
    account = found.account
    if found.alive:
        said = [
            f"watches {account.watching} object{'s' * (account.watching != 1)} now; its helper is process {account.pid}"
        ]
    else:
        number = found.unserved
        served = f"; {number} request{'s' * (number != 1)} to watch {'was' if number == 1 else 'were'} not served"
        gone = f"its helper process (pid {account.pid}) is gone, so no object is watched any more"
        said = [f"{gone}{served * (number > 0)}: weave it anew"]
    for text, member in zip(found.texts, account.members, strict=True):
        said.append(f"{text}: " + member_text(member, alive=found.alive))
    return said


def member_text(member: objects.Member, *, alive: bool) -> str:
    """What became of the requests for a member, in words."""
    parts = [f"{member.requests} request{'s' * (member.requests != 1)}, {member.armed} armed"]
    named = (
        (member.again, "watched already"),
        (member.refused, "refused: no debug register free"),
        (member.bad_address, "no kernel address"),
        (member.failed, "failed"),
        (member.withdrawn, "ended before armed"),
        (member.unserved if alive else 0, "waiting"),
        (0 if alive else member.unserved, "not served"),
    )
    parts += [f"{number} {what}" for number, what in named if number]
    if member.armed:
        times = "/".join(f"{ns / 1000:.0f}" for ns in (member.least, member.average, member.most))
        parts.append(f"armed after {times} us (least/average/most)")
    if member.changed:
        parts.append(f"{member.changed} had changed by then")
    return ", ".join(parts)
