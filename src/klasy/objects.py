"""The memory in which advice asks for objects to be watched, and the helper process says what became of it.

One array map, ``objects``, that the helper has mapped into its own memory; each element is a row of 64-bit words,
little-endian. First comes the helper's own row, then SLOTS slots, then a row of counts for each watched member, then
the account of the latest requests, as a ring.

A slot is one object's member that is, or is to be, watched. Its ``state`` says whose it is:

    FREE      nobody's. Advice takes it by compare-and-exchange:
    FILLING   the advice that took it fills it, and makes it
    WANTED    the helper arms debug registers, and sets ``armed`` before the first of them. Programs at accesses go on
              while it is WANTED; unwatch, or the last access of a bounded number, makes it
    ENDED     the helper disarms, clears ``armed``, and makes it FREE, as it does when it refuses, or the time is over

So only the helper ever leaves WANTED and ENDED for FREE, and plain stores do. A record in the ring buffer ``bell``
wakes it; what is to be done it reads here, so that a record which found no room is no loss: the ring is full of others.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAP_OBJECTS = "objects"
MAP_BELL = "bell"
BELL_BYTES = 4096

WORD = 8
ROW = 16  # words of an element
ROW_BYTES = ROW * WORD
SLOTS = 8  # more than the processor's registers: what has ended keeps its slot until the helper has disarmed it
RECENT = 64

FREE, FILLING, WANTED, ENDED = range(4)

# Why a watch ended, or that and why it never began; ``outcome`` of a request.
WATCHING, BY_UNWATCH, BY_HITS, BY_TIME, NO_REGISTER, FAILED, WITHDRAWN = range(7)
OUTCOMES = ("watched", "unwatch", "hits", "time", "no register", "failed", "ended before it was armed")


def _words(names: str) -> dict[str, int]:
    """The number of each word of a row, by its name."""
    return {name: number for number, name in enumerate(names.split())}


# The helper: its process, when that started (clock ticks since boot), records for which the bell had no room, how often
# it woke, how many requests the account has had.
HELPER = _words("pid start silent wakes recent")
SLOT = _words(
    "state armed address member requested most until seen runs last has_last first cpu joinpoint outcome armed_at"
)
# Of a member. Written by programs: requests; those for what was watched already; that found no slot; that named no
# kernel memory. The others by the helper; latencies are from the request to the last CPU's register, ns.
MEMBER = _words(
    "requests again no_slot bad_address armed no_register failed withdrawn least most sum changed missed"
    " by_unwatch by_hits by_time"
)
# A request of which no more is to come. ``first`` and ``last``: ns from the request until the first and the last CPU's
# register was armed. ``before`` and ``after``: what the member held at the request and when all were armed.
REQUEST = _words("member address requested first last ended accesses outcome before after known missed joinpoint cpu")

FIRST_SLOT = 1
FIRST_MEMBER = FIRST_SLOT + SLOTS


def elements(members: int) -> int:
    """How many elements the map has for so many watched members."""
    return FIRST_MEMBER + members + RECENT


class Member(NamedTuple):
    """What became of the requests to watch one member; see MEMBER."""

    requests: int
    again: int
    no_slot: int
    bad_address: int
    armed: int
    no_register: int
    failed: int
    withdrawn: int
    least: int
    most: int
    sum: int
    changed: int
    missed: int
    by_unwatch: int
    by_hits: int
    by_time: int

    @property
    def refused(self) -> int:
        """Requests for which no debug register was free."""
        return self.no_slot + self.no_register

    @property
    def served(self) -> int:
        """Requests of which it is known what became of them."""
        others = self.again + self.bad_address + self.failed + self.withdrawn
        return self.armed + self.refused + others

    @property
    def unserved(self) -> int:
        """Requests that nobody has served: the helper has not come to it, or is gone."""
        return max(0, self.requests - self.served)

    @property
    def average(self) -> int:
        """Of the latencies, ns."""
        return self.sum // self.armed if self.armed else 0


class Request(NamedTuple):
    """One request that is over; see REQUEST."""

    member: int
    address: int
    requested: int
    first: int
    last: int
    ended: int
    accesses: int
    outcome: int
    before: int
    after: int
    known: int
    missed: int
    joinpoint: int
    cpu: int


class Account(NamedTuple):
    """What the map says. ``pid`` 0: no helper has begun. ``watching``: how many objects are watched now."""

    pid: int
    start: int
    silent: int
    wakes: int
    watching: int
    members: tuple[Member, ...]
    recent: tuple[Request, ...]


def read(row: Callable[[int], Sequence[int]], members: int) -> Account:
    """The account out of the map's rows."""
    pid, start, silent, wakes, count = row(0)[: len(HELPER)]
    slots = [row(FIRST_SLOT + number) for number in range(SLOTS)]
    watching = sum(slot[SLOT["armed"]] != 0 and slot[SLOT["state"]] == WANTED for slot in slots)
    counts = tuple(Member(*row(FIRST_MEMBER + number)[: len(MEMBER)]) for number in range(members))
    first = FIRST_MEMBER + members
    places = [n % RECENT for n in range(max(0, count - RECENT), count)]
    recent = tuple(Request(*row(first + n)[: len(REQUEST)]) for n in places)
    return Account(pid, start, silent, wakes, watching, counts, recent)
