"""How often places in the kernel are passed, counted by kernel probe events of the run's own: not by klasy's means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from support.livekernel import define, symbols

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

    from klasy.weaver.counts import Count

_TRACING = Path("/sys/kernel/tracing")
_PROFILE = _TRACING / "kprobe_profile"
_HURRY = Path("/sys/kernel/rcu_expedited")


class Passed(NamedTuple):
    """Of one place: how often the kernel ran its probe, and how often it could not."""

    hits: int
    missed: int


class Account:
    """One event with a probe at each of some addresses of the kernel proper. The kernel counts each by itself."""

    def __init__(self, addresses: Sequence[int], name: str = "account") -> None:
        self.addresses = tuple(addresses)
        self._name = name
        self._enable = _TRACING / "events" / "stress" / name / "enable"

    def __enter__(self) -> Self:
        base = symbols()["_text"]
        for address in self.addresses:  # raw addresses are refused for the second probe of an event
            define(f"p:stress/{self._name} _text+{address - base:#x}")
        self._enable.write_text("1")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _HURRY.write_text("1")
        self._enable.write_text("0")
        define(f"-:stress/{self._name}")
        _HURRY.write_text("0")

    def read(self) -> list[Passed]:
        """The counts, in the order of the addresses."""
        rows = [line.split() for line in _PROFILE.read_text().splitlines()]
        found = [Passed(int(hits), int(missed)) for name, hits, missed in rows if name == self._name]
        assert len(found) == len(self.addresses)
        return found


class Reading(NamedTuple):
    """klasy's counts of the same places, between two readings of the account's: for there is no one moment for both."""

    before: list[Passed]
    counts: list[Count]
    after: list[Passed]


def reading(account: Account, counts: Callable[[], list[Count]]) -> Reading:
    """What both say now."""
    return Reading(account.read(), counts(), account.read())


def disagreements(first: Reading, last: Reading, conditional: Collection[int] = ()) -> list[tuple[int, str]]:
    """The places, by number, of which what klasy counted between two readings cannot be what the kernel did.

    klasy may have missed hits where it says so; it must not have counted any that the kernel did not pass.
    ``conditional``: places where not each passage is a hit.
    """
    found = []
    for number in range(len(first.counts)):
        hits = last.counts[number].hits - first.counts[number].hits
        missed = last.counts[number].missed - first.counts[number].missed
        most = sum(last.after[number]) - sum(first.before[number])
        least = last.before[number].hits - first.after[number].hits
        if hits > most or (hits + missed < least and number not in conditional):
            found.append((number, f"klasy: {hits} hits and {missed} missed; the kernel: from {least} to {most}"))
    return found
