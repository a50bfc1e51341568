"""The helper process's work on memory of its own: what it arms, what it refuses, what it enters into the account."""

from __future__ import annotations

import errno
import os

from hypothesis import given
from hypothesis import strategies as st

from klasy import objects
from klasy.bpf import uapi as u
from klasy.errors import KernelRefused
from klasy.objects import ENDED, FIRST_SLOT, FREE, ROW, SLOT, WANTED
from klasy.weaver import watcher
from klasy.weaver.objects import member_text, runs

OBJECT = 0xFFFF_8880_0000_1000
REGISTERS = 4


class Registers:
    """Debug registers of a few CPUs, instead of the kernel's."""

    def __init__(self) -> None:
        self.taken: dict[int, list[int]] = {}
        self.order: list[tuple[int, int]] = []
        self.gone: set[int] = set()
        self.most = REGISTERS
        self.traps = 0

    def make(self, number: int, address: int, length: int, access: int, program: int) -> watcher.Armed:
        """An object to be watched, whose events are only noted here."""
        registers = self

        class Armed(watcher.Armed):
            def arm(self, cpu: int) -> None:
                held = registers.taken.setdefault(cpu, [])
                if cpu in registers.gone:
                    raise KernelRefused("gone", errno.ENODEV)
                if address % length:
                    raise KernelRefused("not aligned", errno.EINVAL)
                if len(held) == registers.most:
                    raise KernelRefused("full", errno.ENOSPC)
                held.append(address)
                registers.order.append((address, cpu))
                self.events[cpu] = -1

            def disarm(self, cpu: int) -> None:
                self.traps += registers.traps
                del self.events[cpu]
                registers.taken[cpu].remove(address)

        return Armed(number, address, length, access, program)


class Helper:
    """A watcher, with what it works on."""

    def __init__(self, cpus: tuple[int, ...] = (0, 1), access: int = u.HW_BREAKPOINT_RW) -> None:
        self.registers = Registers()
        self.memory = memoryview(bytearray(objects.elements(1) * objects.ROW_BYTES)).cast("Q")
        self.cpus = list(cpus)
        self.now = 1_000
        self.holds: dict[int, int] = {}
        self.watcher = watcher.Watcher(
            self.memory,
            [(9, 8, access)],
            online=lambda: self.cpus,
            peek=lambda address, _: self.holds.get(address),
            make=self.registers.make,
            clock=lambda: self.now,
        )

    def ask(self, slot: int, address: int = OBJECT, **more: int) -> None:
        """What advice does."""
        words = {"address": address, "requested": self.now, "cpu": 1, "seen": 0, "runs": 0, "until": 0, "outcome": 0}
        for name, value in (words | more | {"state": WANTED}).items():
            self.memory[(FIRST_SLOT + slot) * ROW + SLOT[name]] = value
        self.memory[objects.FIRST_MEMBER * ROW + objects.MEMBER["requests"]] += 1

    def end(self, slot: int, outcome: int) -> None:
        """What unwatch does."""
        self.watcher.set_slot(slot, "outcome", outcome)
        self.watcher.set_slot(slot, "state", ENDED)

    @property
    def account(self) -> objects.Account:
        """What the memory says."""
        return objects.read(lambda row: self.memory[row * ROW : (row + 1) * ROW].tolist(), 1)


def test_a_request_is_armed_where_it_came_from_first():
    """Every CPU is watched, the one that asked first; the latency is what passed since the request."""
    h = Helper((0, 1, 2))
    h.ask(3, requested=400)
    h.watcher.serve()
    assert h.registers.order == [(OBJECT, 1), (OBJECT, 0), (OBJECT, 2)]
    (member,) = h.account.members
    assert (member.armed, member.least, member.most, member.sum) == (1, 600, 600, 600)
    assert h.account.watching == 1
    assert h.watcher.slot(3, "armed") == 1


def test_unwatch_frees_and_enters_the_account():
    """The registers are free, the slot too, and the account has how often, how long and what was missed."""
    h = Helper()
    h.ask(0)
    h.watcher.serve()
    h.registers.traps, h.now = 5, 9_000
    h.watcher.set_slot(0, "runs", 8)
    h.watcher.set_slot(0, "seen", 7)
    h.end(0, objects.BY_UNWATCH)
    h.watcher.serve()
    assert h.registers.taken == {0: [], 1: []}
    assert h.watcher.slot(0, "state") == FREE
    (request,) = h.account.recent
    assert (request.address, request.accesses, request.missed, request.ended) == (OBJECT, 7, 2, 9_000)
    assert (h.account.members[0].by_unwatch, h.account.members[0].missed, h.account.watching) == (1, 2, 0)


def test_what_has_ended_makes_room_first():
    """Four are armed, one has ended and a new one is wanted: it gets the register; a further one is refused."""
    h = Helper()
    for slot in range(4):
        h.ask(slot, OBJECT + 64 * slot)
    h.watcher.serve()
    h.end(2, objects.BY_HITS)
    h.ask(4, OBJECT + 0x1000, requested=h.now - 1)
    h.ask(5, OBJECT + 0x2000)
    h.watcher.serve()
    (member,) = h.account.members
    assert (member.armed, member.no_register, member.by_hits) == (5, 1, 1)
    assert OBJECT + 0x1000 in h.registers.taken[0]
    assert (member.served, member.unserved) == (6, 0)
    assert [objects.OUTCOMES[r.outcome] for r in h.account.recent] == ["hits", "no register"]
    assert "1 refused: no debug register free" in member_text(member, alive=True)


def test_half_a_refusal_leaves_nothing():
    """Where the second CPU has no register, the first one's is given back."""
    h = Helper()
    h.registers.taken[0] = [1, 2, 3, 4]
    h.ask(0)
    h.watcher.serve()
    assert h.registers.taken[1] == []
    assert h.account.members[0].no_register == 1


def test_ended_before_it_was_armed():
    """Such a request touches no register, and is counted by itself."""
    h = Helper()
    h.ask(0)
    h.end(0, objects.BY_UNWATCH)
    h.watcher.serve()
    assert h.registers.order == []
    assert (h.account.members[0].withdrawn, h.account.recent[0].outcome) == (1, objects.WITHDRAWN)


def test_time_is_over():
    """The deadline is told, and kept."""
    h = Helper()
    h.ask(0, until=5_000)
    h.ask(1, OBJECT + 8, until=7_000)
    h.watcher.serve()
    assert h.watcher.next_deadline() == 5_000
    h.now = 5_001
    h.watcher.serve()
    assert (h.account.members[0].by_time, h.watcher.next_deadline()) == (1, 7_000)


def test_a_time_that_never_began_is_over_too():
    """A request that waited longer than it was to last is not armed any more."""
    h = Helper()
    h.ask(0, until=1)
    h.watcher.serve()
    assert (h.account.members[0].withdrawn, h.registers.order) == (1, [])


def test_an_object_asked_for_twice_is_watched_once():
    """Two CPUs may take a slot each for it at the same moment."""
    h = Helper()
    h.ask(0)
    h.ask(1)
    h.watcher.serve()
    assert (h.account.members[0].armed, h.account.members[0].again) == (1, 1)
    assert h.registers.taken == {0: [OBJECT], 1: [OBJECT]}


def test_what_was_missed_is_told_where_it_can_be():
    """The value at the request differs from that at the arming; the old value of the first set is the later one."""
    for access in (u.HW_BREAKPOINT_RW, u.HW_BREAKPOINT_W):
        h = Helper(access=access)
        h.holds[OBJECT] = 12
        h.ask(0, first=11)
        h.watcher.serve()
        assert h.account.members[0].changed == 1
        assert h.watcher.slot(0, "first") == 12
        h.end(0, objects.BY_UNWATCH)
        h.watcher.serve()
        (request,) = h.account.recent
        assert (request.before, request.after, request.known) == (11, 12, 1)


def test_cpus_come_and_go():
    """Those that come are watched; those that went are let go, and one that goes while it is armed is no error."""
    h = Helper()
    h.registers.gone = {1}
    h.ask(0)
    h.watcher.serve()
    assert h.account.members[0].armed == 1
    h.registers.gone = set()
    h.cpus = [0, 1, 2]
    h.watcher.look_at_cpus()
    assert h.registers.taken == {0: [OBJECT], 1: [OBJECT], 2: [OBJECT]}
    h.cpus = [0]
    h.watcher.look_at_cpus()
    assert h.registers.taken == {0: [OBJECT], 1: [], 2: []}


def test_the_account_is_a_ring():
    """It keeps the latest."""
    h = Helper()
    for number in range(objects.RECENT + 5):
        h.ask(0, OBJECT + 8 * number)
        h.watcher.serve()
        h.end(0, objects.BY_UNWATCH)
        h.watcher.serve()
    recent = [request.address for request in h.account.recent]
    assert recent == [OBJECT + 8 * n for n in range(5, objects.RECENT + 5)]


@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from("wuhts")), max_size=60))
def test_whatever_is_asked_every_request_is_accounted_for(steps):
    """Registers are held by what is watched and by nothing else; each request is armed, refused or withdrawn, once."""
    h = Helper()
    asked = 0
    for slot, what in steps:
        h.now += 10
        state = h.watcher.slot(slot, "state")
        if what == "w" and state == FREE:
            h.ask(slot, OBJECT + 8 * asked, until=h.now + 45 if slot % 2 else 0)
            asked += 1
        elif what in "uh" and state == WANTED:
            h.end(slot, objects.BY_UNWATCH if what == "u" else objects.BY_HITS)
        elif what == "s":
            h.watcher.serve()
    h.watcher.serve()
    (member,) = h.account.members
    assert (member.requests, member.unserved, member.served) == (asked, 0, asked)
    assert member.armed == member.by_unwatch + member.by_hits + member.by_time + h.account.watching
    watched = {watch.address for watch in h.watcher.armed.values()}
    assert all(set(held) == watched for held in h.registers.taken.values())
    assert len(watched) <= REGISTERS


def test_who_runs():
    """This process does, if it began when it did; a pid that was given to another does not."""
    start = watcher.start_time()
    assert runs(os.getpid(), start)
    assert not runs(os.getpid(), start + 1)
    assert not runs(0, start)
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not runs(pid, watcher.state_and_start(pid)[1])  # it is a zombie
    os.waitpid(pid, 0)


def test_in_words():
    """What a person reads of a member."""
    counts = objects.Member(9, 1, 1, 1, 3, 1, 0, 0, 1_000, 9_000, 12_000, 2, 0, 0, 0, 0)
    assert member_text(counts, alive=True) == (
        "9 requests, 3 armed, 1 watched already, 2 refused: no debug register free, 1 no kernel address, 2 waiting, "
        "armed after 1/4/9 us (least/average/most), 2 had changed by then"
    )
    assert "2 not served" in member_text(counts, alive=False)
