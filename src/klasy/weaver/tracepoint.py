"""A program to a static tracepoint: to its arguments (a raw tracepoint), or to the record of its trace event."""

from __future__ import annotations

from klasy.bpf import links
from klasy.errors import KernelRefused
from klasy.kernel.tracepoints import LiveTracepoints
from klasy.match.mechanism import ANY_SYSCALL, Mechanism
from klasy.plain import TYPE_CHECKING
from klasy.weaver.tracefs import TRACEFS

if TYPE_CHECKING:
    from klasy.bpf.links import Link
    from klasy.bpf.program import Program
    from klasy.match.plan import Probe


def attach_event(probe: Probe, loaded: Program) -> Link:
    """Attach the loaded program of an event's probe. Raises KernelRefused, KernelLacks."""
    event = f"raw_syscalls:{probe.context.value}" if probe.context in ANY_SYSCALL else probe.points[0].function.name
    category, _, name = event.partition(":")
    try:
        if probe.mechanism is Mechanism.RAW_TRACEPOINT:
            return links.attach_raw_tracepoint(loaded, name)
        # The id is asked for anew: it is another one after each load of the event's module.
        with links.perf_tracepoint(LiveTracepoints(TRACEFS).format(category, name).id) as opened:
            return links.attach_perf_event(loaded, opened)
    except KernelRefused as error:
        what = f"attaching to the event {event}"
        raise KernelRefused(what, error.errno, hint=error.hint) from None
