"""Whole aspects woven into the running kernel, and an account of the same events that is not klasy's."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from klasy.cli.reading import open_reader
from klasy.kernel.live import LiveKernel
from klasy.log.format_json import event_json
from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.features import RunningFeatures
from klasy.weaver.session import machine_of, weave
from klasy.weaver.unweave import unweave
from support.livekernel import define, symbols

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from klasy.backend import Options
    from klasy.log.event import LogEvent
    from klasy.weaver.woven import WovenAspect

TRACING = Path("/sys/kernel/tracing")
HITS, MISSED = 1, 2  # columns of kprobe_profile
ROOT = Path(__file__).resolve().parents[2]


class Woven:
    """One woven aspect, with what a test asks of it."""

    def __init__(self, aspect: WovenAspect) -> None:
        self.aspect = aspect

    def events(self) -> list[LogEvent]:
        """Everything logged since the last call."""
        reader, self._symbols = open_reader([self.aspect])
        with reader:
            return [event for batch in reader.batches() for event in batch]

    def mine(self) -> list[LogEvent]:
        """What this process caused to be logged since the last call."""
        return [event for event in self.events() if event.pid == os.getpid()]

    def as_json(self, event: LogEvent) -> dict:
        """An event as klasy log --json shows it."""
        return json.loads(event_json(event, self._symbols))

    def hits(self, advice: int = 0) -> dict[tuple[str | None, int], int]:
        """Hits of one advice by (function, offset) of the join point."""
        found: dict[tuple[str | None, int], int] = {}
        label = self.aspect.advice_labels[advice]
        for point, count in zip(self.aspect.joinpoints, self.aspect.counts(), strict=True):
            if point.advice == label:
                key = (point.function, point.offset or 0)
                found[key] = found.get(key, 0) + count.hits
        return found

    def missed(self) -> int:
        """Hits of all join points at which the kernel could run no program; what may be several's is each's."""
        return sum(count.missed for count in self.aspect.counts())

    def total(self, advice: int = 0) -> int:
        """All hits of one advice."""
        return sum(self.hits(advice).values())


@contextmanager
def woven(text: str, *, force: str | None = None, limits: Options | None = None) -> Iterator[Woven]:
    """Weave the only aspect of a text; take it out at the end."""
    kernel = LiveKernel()
    options = PlanOptions(RunningFeatures(), force)
    artifacts = build(SourceFile("test.asp", text), kernel, options, limits)
    (aspect,) = weave(artifacts, machine_of(kernel))
    try:
        with aspect:
            yield Woven(aspect)
    finally:
        unweave([aspect.name])


def traced(event: str, cause: Callable[[], object], *, trigger: str = "") -> str:
    """What the trace says of a kernel probe event, ``PLACE ARGUMENTS``, while something causes it."""
    define(f"p:account/event {event}")
    folder = TRACING / "events/account/event"
    if trigger:
        (folder / "trigger").write_text(trigger)
    (folder / "enable").write_text("1")
    try:
        (TRACING / "trace").write_text("")
        cause()
        return (TRACING / "trace").read_text()
    finally:
        (folder / "enable").write_text("0")
        if trigger:
            (folder / "trigger").write_text(f"!{trigger}")
        define("-:account/event")
        (TRACING / "trace").write_text("")


class Account:
    """How often places of the kernel were passed, by trace events of the test's own and their profile."""

    def __init__(self, places: Sequence[str]) -> None:
        self.places = list(places)

    def __enter__(self) -> Account:
        for number, place in enumerate(self.places):
            define(f"p:account/a{number} {place}")
        (TRACING / "events/account/enable").write_text("1")
        self._start = self._read(HITS)
        return self

    def __exit__(self, *_: object) -> None:
        (TRACING / "events/account/enable").write_text("0")
        define("-:account/")

    def _read(self, column: int) -> dict[str, int]:
        rows = (line.split() for line in (TRACING / "kprobe_profile").read_text().splitlines())
        return {row[0]: int(row[column]) for row in rows if row[0].startswith("a") and row[0][1:].isdigit()}

    def passed(self) -> dict[str, int]:
        """Passes of each place since the account was opened."""
        now = self._read(HITS)
        return {place: now[f"a{n}"] - self._start[f"a{n}"] for n, place in enumerate(self.places)}

    def missed(self) -> int:
        """Passes of all places that the account could not see: an interrupt came upon another probe."""
        return sum(self._read(MISSED).values())


def disagreements(
    woven: Woven, account: Account, places: Mapping[tuple[str | None, int], str], act: Callable[[], object]
) -> dict[tuple[str | None, int], str]:
    """The join points of the first advice of which what klasy counts while something is done cannot be what the account
    counts. ``places``: the account's place of each.

    There is no one moment at which both can be read, and to read them passes such places too. So klasy is asked before
    and after each look at the account: what it counts within is no more than that, and what it counts without no less,
    but for what either says that it missed.
    """
    outside, first, inside = woven.hits(), account.passed(), woven.hits()
    missed, unseen = woven.missed(), account.missed()
    act()
    within, last, without = woven.hits(), account.passed(), woven.hits()
    missed, unseen = woven.missed() - missed, account.missed() - unseen
    wrong = {}
    for key, place in places.items():
        least, passed, most = within[key] - inside[key], last[place] - first[place], without[key] - outside[key]
        if not least - unseen <= passed <= most + missed:
            wrong[key] = f"klasy: {least} to {most} hits, {missed} missed; the account: {passed}, {unseen} missed"
    return wrong


def place(kernel: LiveKernel, address: int) -> str:
    """An address as trace events take it: from the start of the text, or from a symbol of a module."""
    function = kernel.function_at(address)
    assert function is not None
    if function.module:
        return f"{function.module}:{function.name}+{address - function.address}"
    return f"_text+{address - symbols()['_text']}"
