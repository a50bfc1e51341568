"""Aspects whose programs would wait for themselves: woven into what runs while a program of theirs holds a lock.

To put a record into the ring buffer a program takes a spin lock, and so it does to put an element into the map of a
state. Where an aspect is woven into what is reached meanwhile, spin locks themselves above all, another of its programs
comes to run just then, on the same processor. If that takes the lock, too, it waits for it for ever, and the machine
with it; and so do two processors of which each holds a lock (of two elements, of two aspects) that the other's second
program wants. The kernel keeps the programs of kprobes, of trace events and of debug registers from running inside one
another, whoever's they are; those of trampolines and raw tracepoints, and some of user programs', it lets run. So all
programs of such an aspect have to be of the first sort: among them nobody holds a lock and wants another.
"""

from __future__ import annotations

from klasy.match.execution import runs_under_lock
from klasy.match.mechanism import IN_PROGRAMS, TRAMPOLINES, Mechanism
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Function, Kernel
    from klasy.lang import ast
    from klasy.match.plan import Probe

_NEST = TRAMPOLINES | IN_PROGRAMS | {Mechanism.RAW_TRACEPOINT}


def refuse_nesting(aspect: ast.Aspect, probes: Sequence[Probe], kernel: Kernel, bag: DiagnosticBag) -> None:
    """An error where the probes of an aspect are such."""
    nesting = next((probe for probe in probes if probe.mechanism in _NEST), None)
    if nesting is None:
        return
    under_lock = next((function for function in _reached(probes, kernel) if runs_under_lock(function)), None)
    if under_lock is None:
        return
    bag.error(
        "waits-for-itself",
        f"this would stop the machine: {under_lock.name} is reached while what klasy keeps is locked, and what the "
        f"aspect does by {nesting.mechanism.value} does not keep out what runs there",
        aspect.name_span,
        hints=[f"give {under_lock.name} an aspect of its own" if len(probes) > 1 else _ALONE],
    )


_ALONE = "take nothing of the event, or what its record has: those programs the kernel keeps out"


def _reached(probes: Sequence[Probe], kernel: Kernel) -> Iterator[Function]:
    """The functions in which programs run; of watched data those that are known to access it."""
    for probe in probes:
        yield from [point.function for point in probe.points]
        for behind in probe.watch.kinds if probe.watch is not None else ():
            function = kernel.function_at(behind - 1)
            if function is not None:
                yield function
