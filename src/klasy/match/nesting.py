"""Aspects whose programs would wait for themselves: woven into what runs while a program of theirs holds a lock.

To put a record into the ring buffer a program takes a spin lock, and so does the map of a state. Where the aspect is
woven into the taking or leaving of spin locks, another of its programs comes to run just then, on the same processor:
if that logs, too, it waits for the lock for ever, and the machine with it. The kernel keeps the programs of kprobes and
of trace events from running inside one another; those of trampolines and raw tracepoints, and some of user programs',
it lets run.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.vocabulary import LOGS
from klasy.lang.walk import nodes
from klasy.match.execution import LOCK_TAKEN, runs_under_lock
from klasy.match.mechanism import IN_PROGRAMS, TRAMPOLINES, Mechanism
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.diag import DiagnosticBag
    from klasy.match.plan import Probe

_NEST = TRAMPOLINES | IN_PROGRAMS | {Mechanism.RAW_TRACEPOINT}


def refuse_nesting(aspect: ast.Aspect, probes: Sequence[Probe], bag: DiagnosticBag) -> None:
    """An error where the probes of an aspect, more than one, are such."""
    nesting = next((probe for probe in probes if probe.mechanism in _NEST), None)
    if nesting is None:
        return
    reached = (point.function for probe in probes for point in probe.points)
    under_lock = next((f for f in reached if runs_under_lock(f) and (f.name != LOCK_TAKEN or _logs(aspect))), None)
    if under_lock is None:
        return
    bag.error(
        "waits-for-itself",
        f"this would stop the machine: {under_lock.name} is reached while klasy's own buffer is locked, and what the "
        f"aspect does by {nesting.mechanism.value} does not keep out what runs there",
        aspect.name_span,
        hints=[f"give {under_lock.name} an aspect of its own"],
    )


def _logs(aspect: ast.Aspect) -> bool:
    """Whether anything in an aspect writes a record."""
    return any(
        isinstance(node, ast.CBody)
        or (isinstance(node, ast.Apply) and isinstance(node.callee, ast.Name) and node.callee.name in LOGS)
        for part in (*[advice.body for advice in aspect.advice], *aspect.functions)
        for node in nodes(part)
    )
