"""Probes that are not klasy's, at the same places as its: whether they are still there, and still see everything."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from klasy.bpf import links, pins
from klasy.bpf import uapi as u
from support.bpf_kernel import btf_id, counter, counting_program, value
from support.livekernel import KPROBE_EVENTS, define, run, symbols

if TYPE_CHECKING:
    from types import TracebackType

PINNED = "/sys/fs/bpf/foreign_link"
_EVENTS = Path("/sys/kernel/tracing/events/foreign")
_PROFILE = Path("/sys/kernel/tracing/kprobe_profile")


class Foreign:
    """A trace event and its like at the return, a BPF trampoline whose link is pinned, and a BPF program at a kprobe,
    all of one function."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._stack = ExitStack()

    def __enter__(self) -> Foreign:
        stack, address = self._stack, symbols()[self._function]
        define(f"p:foreign/f_entry {self._function}")
        define(f"r:foreign/f_return {self._function}")
        stack.callback(define, "-:foreign/")
        (_EVENTS / "enable").write_text("1")
        stack.callback((_EVENTS / "enable").write_text, "0")
        self._counters = [stack.enter_context(counter()) for _ in range(2)]
        attach = u.BPF_TRACE_FENTRY
        options = {"expected_attach_type": attach, "attach_btf_id": btf_id(self._function)}
        with (
            counting_program(self._counters[0], u.BPF_PROG_TYPE_TRACING, **options) as program,
            links.attach_tracing(program, attach) as link,
        ):
            pins.pin(link, PINNED)
        stack.callback(os.unlink, PINNED)
        with counting_program(self._counters[1]) as program, links.perf_kprobe(address=address) as event:
            stack.enter_context(links.attach_perf_event(program, event))
        self._identity = self.identity()
        self._counts = self.counts()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @staticmethod
    def identity() -> tuple[object, ...]:
        """What there is of it: the very objects, not others like them."""
        events = [line for line in KPROBE_EVENTS.read_text().splitlines() if ":foreign/" in line]
        enabled = (_EVENTS / "enable").read_text()
        pinned = json.loads(run("bpftool", "-j", "link", "show", "pinned", PINNED))
        return events, enabled, pinned["id"], pinned["prog_id"]

    def counts(self) -> list[int]:
        """How often each of them has run so far."""
        rows = [line.split() for line in _PROFILE.read_text().splitlines()]
        events = [int(row[1]) for row in rows if row[0] in ("f_entry", "f_return")]
        return [*events, *map(value, self._counters)]

    def verify(self, passes: int) -> None:
        """They are what they were, and each has seen so many passes of the function since they were made."""
        assert self.identity() == self._identity
        seen = [now - before for now, before in zip(self.counts(), self._counts, strict=True)]
        assert seen == [passes] * 4, f"foreign probes have seen {seen}, not {passes} each"
