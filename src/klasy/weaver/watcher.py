"""The helper process of an aspect that watches objects: the one process that klasy leaves behind.

The kernel lets no program arm a debug register, so somebody must. This process sleeps until advice rings
(:mod:`klasy.objects`), opens a perf event on every CPU for each object that is wanted, and closes those of each that is
done with. It holds all of them: when it ends, however it ends, the kernel frees the registers.

It is started by the weave with what it needs as descriptors, and knows neither the file system nor the aspect. The
machine's requests are served before most others (SCHED_FIFO), for what happens until then is not seen.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import sys
import time

from klasy import objects
from klasy.bpf import links
from klasy.bpf import sys as calls
from klasy.bpf import uapi as u
from klasy.errors import KernelRefused
from klasy.objects import HELPER, MEMBER, REQUEST, ROW, SLOT
from klasy.plain import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Callable

READY = b"ready"
# From here on: a pipe to say that it is ready; one that says that it is to go on, and ends where the weave has failed,
# or was killed; the map; the bell; then the programs, by their member's number.
FIRST_FD = 3
GIVEN = 4  # before the programs
_ONLINE = "/sys/devices/system/cpu/online"
_UEVENT = 15  # NETLINK_KOBJECT_UEVENT
_KERNEL_GROUP = 1
_NAME = "klasy-watch"


class Armed:
    """An object that is watched: its events, by CPU."""

    def __init__(self, number: int, address: int, length: int, access: int, program: int) -> None:
        self.number = number
        self.address = address
        self.length = length
        self.access = access
        self.program = program
        self.attributes = links.breakpoint_attributes(address, length, access)
        self.events: dict[int, int] = {}
        self.traps = 0
        self.request = [0] * len(REQUEST)

    def arm(self, cpu: int) -> None:
        """Watch on a CPU. Raises KernelRefused.

        The event counts from its opening on: what comes before it has its program is known to be missed. To open it
        disabled and enable it then would take two more calls, each of which interrupts the CPU.
        """
        event = calls.perf_event_open(self.attributes, "watching an object", cpu=cpu)
        try:
            calls.ioctl(event, u.PERF_EVENT_IOC_SET_BPF, self.program, "attaching to a debug register")
        except BaseException:
            os.close(event)
            raise
        self.events[cpu] = event

    def disarm(self, cpu: int) -> None:
        """No more on a CPU; what its event counted is kept."""
        event = self.events.pop(cpu)
        with suppress(OSError):
            self.traps += int.from_bytes(os.read(event, 8), "little")
        os.close(event)


class Watcher:
    """Serves the slots. ``words``: the map's memory. ``programs``: descriptor, bytes, kind of access by member."""

    def __init__(
        self,
        words: memoryview,
        programs: list[tuple[int, int, int]],
        *,
        online: Callable[[], list[int]],
        peek: Callable[[int, int], int | None] = lambda address, size: None,
        make: Callable[[int, int, int, int, int], Armed] = Armed,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.words = words
        self.programs = programs
        self.online = online
        self.peek = peek
        self.make = make
        self.clock = clock
        self.armed: dict[int, Armed] = {}
        self.cpus = online()

    # --- the shared memory

    def slot(self, number: int, name: str) -> int:
        """A word of a slot."""
        return int(self.words[(objects.FIRST_SLOT + number) * ROW + SLOT[name]])

    def set_slot(self, number: int, name: str, value: int) -> None:
        """Set it."""
        self.words[(objects.FIRST_SLOT + number) * ROW + SLOT[name]] = value

    def count(self, member: int, name: str, by: int = 1) -> None:
        """Add to what only the helper counts of a member."""
        self.words[(objects.FIRST_MEMBER + member) * ROW + MEMBER[name]] += by

    # --- serving

    def serve(self) -> None:
        """Do all that is to be done now: first free registers, then arm them."""
        self.words[HELPER["wakes"]] += 1
        for number in range(objects.SLOTS):
            state = self.slot(number, "state")
            until = self.slot(number, "until")
            if state == objects.ENDED:
                self.end(number, self.slot(number, "outcome") or objects.BY_UNWATCH)
            elif state == objects.WANTED and until and self.clock() > until:
                self.end(number, objects.BY_TIME)
        wanted = [n for n in range(objects.SLOTS) if n not in self.armed and self.slot(n, "state") == objects.WANTED]
        for number in sorted(wanted, key=lambda n: self.slot(n, "requested")):
            self.begin(number)

    def next_deadline(self) -> int | None:
        """When the next watch ends by its time: ns, monotonic."""
        return min((until for number in self.armed if (until := self.slot(number, "until"))), default=None)

    def begin(self, number: int) -> None:
        """Arm the registers for a slot, or say why not."""
        member, address = self.slot(number, "member"), self.slot(number, "address")
        if not 0 <= member < len(self.programs):
            self.set_slot(number, "state", objects.FREE)
            return
        if any(other.address == address and self.slot(n, "member") == member for n, other in self.armed.items()):
            self.count(member, "again")  # two CPUs asked at the same moment
            self.set_slot(number, "state", objects.FREE)
            return
        program, length, access = self.programs[member]
        watch = self.make(number, address, length, access, program)
        request = watch.request
        for name in ("member", "address", "requested", "joinpoint", "cpu"):
            request[REQUEST[name]] = self.slot(number, name)
        request[REQUEST["before"]] = self.slot(number, "first")
        writes_only = access == u.HW_BREAKPOINT_W
        if not writes_only:
            self.look(watch)  # behind the arming it would itself be an access
        self.set_slot(number, "armed", 1)
        here = request[REQUEST["cpu"]]
        # What comes next comes most likely on the CPU that asked.
        for cpu in sorted(self.cpus, key=lambda cpu: cpu != here):
            try:
                watch.arm(cpu)
            except KernelRefused as error:
                if error.errno == errno.ENODEV:
                    continue  # it has just gone offline
                self.refuse(watch, objects.NO_REGISTER if error.errno == errno.ENOSPC else objects.FAILED)
                return
            if len(watch.events) == 1:
                request[REQUEST["first"]] = self.clock() - request[REQUEST["requested"]]
        latency = self.clock() - request[REQUEST["requested"]]
        request[REQUEST["last"]] = latency
        self.set_slot(number, "armed_at", latency)
        if writes_only:
            self.look(watch)
        self.armed[number] = watch
        row = (objects.FIRST_MEMBER + member) * ROW
        least = self.words[row + MEMBER["least"]]
        self.words[row + MEMBER["least"]] = min(least, latency) if self.words[row + MEMBER["armed"]] else latency
        self.words[row + MEMBER["most"]] = max(self.words[row + MEMBER["most"]], latency)
        self.count(member, "sum", latency)
        self.count(member, "armed")

    def look(self, watch: Armed) -> None:
        """What the member holds now: whether it has changed since the request, and the old value of the first set."""
        after = None if self.slot(watch.number, "seen") else self.peek(watch.address, watch.length)
        if after is None or self.slot(watch.number, "seen"):
            return
        request = watch.request
        request[REQUEST["after"]], request[REQUEST["known"]] = after, 1
        self.set_slot(watch.number, "first", after)
        if after != request[REQUEST["before"]]:
            self.count(request[REQUEST["member"]], "changed")

    def refuse(self, watch: Armed, outcome: int) -> None:
        """There is no register, or the kernel does not take the address."""
        self._release(watch)
        self._record(watch, outcome)
        self.count(watch.request[REQUEST["member"]], "no_register" if outcome == objects.NO_REGISTER else "failed")

    def end(self, number: int, outcome: int) -> None:
        """A watch is over."""
        watch = self.armed.pop(number, None)
        member = self.slot(number, "member")
        if watch is None:
            watch = self.make(number, self.slot(number, "address"), 0, 0, -1)
            for name in ("member", "address", "requested", "joinpoint", "cpu"):
                watch.request[REQUEST[name]] = self.slot(number, name)
            watch.request[REQUEST["before"]] = self.slot(number, "first")
            self._release(watch)
            self._record(watch, objects.WITHDRAWN)
            self.count(member, "withdrawn")
            return
        name = {objects.BY_UNWATCH: "by_unwatch", objects.BY_HITS: "by_hits", objects.BY_TIME: "by_time"}[outcome]
        self._release(watch)
        self._record(watch, outcome)
        self.count(member, "missed", watch.request[REQUEST["missed"]])
        self.count(member, name)

    def _release(self, watch: Armed) -> None:
        """Disarm, and give the slot back."""
        for cpu in list(watch.events):
            watch.disarm(cpu)
        watch.request[REQUEST["accesses"]] = self.slot(watch.number, "seen")
        watch.request[REQUEST["missed"]] = max(0, watch.traps - self.slot(watch.number, "runs"))
        self.set_slot(watch.number, "armed", 0)
        self.set_slot(watch.number, "state", objects.FREE)

    def _record(self, watch: Armed, outcome: int) -> None:
        """Enter a request that is over into the account."""
        watch.request[REQUEST["ended"]] = self.clock()
        watch.request[REQUEST["outcome"]] = outcome
        number = int(self.words[HELPER["recent"]])
        row = (objects.FIRST_MEMBER + len(self.programs) + number % objects.RECENT) * ROW
        for index, value in enumerate(watch.request):
            self.words[row + index] = value
        self.words[HELPER["recent"]] = number + 1

    # --- CPUs

    def look_at_cpus(self) -> None:
        """CPUs have come or gone: events die with theirs, and those that came are watched too."""
        now = self.online()
        gone = set(self.cpus) - set(now)
        self.cpus = now
        for watch in self.armed.values():
            for cpu in gone & watch.events.keys():
                watch.disarm(cpu)
            for cpu in now:
                if cpu not in watch.events:
                    with suppress(KernelRefused):
                        watch.arm(cpu)


def online_cpus() -> list[int]:
    """The CPUs that run."""
    from klasy.bpf.maps import cpu_list

    with open(_ONLINE, encoding="ascii") as file:
        return cpu_list(file.read())


def run(programs: list[tuple[int, int, int]]) -> None:
    """Serve for ever, once the aspect is woven; a signal ends it."""
    ready, go_on, map_fd, bell_fd = range(FIRST_FD, FIRST_FD + GIVEN)
    page = mmap.PAGESIZE
    size = objects.elements(len(programs)) * objects.ROW_BYTES
    words = memoryview(mmap.mmap(map_fd, size + page - 1 & ~(page - 1))).cast("Q")
    heard = memoryview(mmap.mmap(bell_fd, page)).cast("Q")
    rung = memoryview(mmap.mmap(bell_fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)).cast("Q")
    events = _cpu_events()
    watcher = Watcher(words, programs, online=online_cpus, peek=_peek())
    poll = select.poll()
    poll.register(bell_fd, select.POLLIN)
    if events >= 0:
        poll.register(events, select.POLLIN)
    _rehearse(watcher)
    _hurry()
    words[HELPER["start"]] = start_time()
    words[HELPER["pid"]] = os.getpid()
    os.write(ready, READY)
    os.close(ready)
    if not os.read(go_on, 1):
        return
    os.close(go_on)
    while True:
        heard[0] = rung[0]  # before the slots are looked at: what rings later wakes again
        watcher.serve()
        deadline = watcher.next_deadline()
        # rounded up: not to be awake just before it
        wait = None if deadline is None else max(0, deadline - time.monotonic_ns()) // 1_000_000 + 1
        for fd, _ in poll.poll(wait):
            if fd == events:
                _drain(events)
                watcher.look_at_cpus()


def _rehearse(watcher: Watcher) -> None:
    """Go once through what a request takes, on memory of its own: the first time takes several times as long.

    The registers are not touched: an address of user space in a made-up slot, on which no CPU is asked.
    """
    made_up = memoryview(bytearray(len(watcher.words) * objects.WORD)).cast("Q")
    actor = Watcher(made_up, [(-1, 8, u.HW_BREAKPOINT_W)], online=lambda: [], peek=lambda address, size: 0)
    for _ in range(3):
        for state in (objects.WANTED, objects.ENDED):
            actor.set_slot(0, "state", state)
            actor.serve()
            actor.next_deadline()


def start_time(pid: int | str = "self") -> int:
    """When a process started, in clock ticks since boot. Raises OSError where there is none, or it is a zombie."""
    state, start = state_and_start(pid)
    if state in "ZX":
        raise ProcessLookupError(errno.ESRCH, "it has ended")
    return start


def state_and_start(pid: int | str) -> tuple[str, int]:
    """The letter of a process's state, and when it started. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        stat = file.read()
    fields = stat[stat.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[19])


def _peek() -> Callable[[int, int], int | None]:
    """What reads the kernel's memory."""
    from klasy.errors import SystemRefusal
    from klasy.kernel.text import Kcore

    try:
        memory = Kcore()
    except (SystemRefusal, OSError):
        return lambda address, size: None

    def read(address: int, size: int) -> int | None:
        try:
            return int.from_bytes(memory.read(address, size), "little")
        except (SystemRefusal, OSError):
            return None

    return read


def _cpu_events() -> int:
    """A socket on which the kernel says that something came or went, CPUs among it; -1 where there is none."""
    import _socket

    try:
        found = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK,
                               _UEVENT)  # fmt: skip
        found.bind((0, _KERNEL_GROUP))
    except OSError:
        return -1
    return found.detach()


def _drain(fd: int) -> None:
    with suppress(OSError):  # nothing is left; or some were lost, which is no matter
        while os.read(fd, 8192):
            pass


def _hurry() -> None:
    """Be served before what is not in a hurry; the memory of what only the start needed goes back."""
    import gc
    import resource

    with suppress(OSError, ValueError):  # an event for each CPU of each object: with many CPUs, more than is usual
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.collect()
    gc.freeze()
    gc.disable()  # what it does makes no cycles
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(_NAME)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def main(arguments: list[str]) -> None:
    """``ASPECT BYTES:ACCESS ..``: for each member; its program is the descriptor in that place."""
    os.chdir("/")
    programs = []
    for index, text in enumerate(arguments[1:]):
        length, access = text.split(":")
        programs.append((FIRST_FD + GIVEN + index, int(length), int(access)))
    run(programs)


if __name__ == "__main__":
    main(sys.argv[1:])
