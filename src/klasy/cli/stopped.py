"""Aspects that have switched themselves off by ``stop()``: a klasy command takes them out, and says so.

A program cannot unweave itself: it can only see to it that nothing of the aspect runs any more.
"""

from __future__ import annotations

from klasy.cli.table import say
from klasy.errors import KernelRefused
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.weaver.woven import WovenAspect


def how_stopped(woven: WovenAspect) -> str:
    """What has become of an aspect that does not run any more: behind its name."""
    over = woven.over_budget()
    if over is None:
        return "has stopped itself"
    taken, span = over  # no time is between where the window begins at the end of the first run, which spent all that
    when = f"within {span / 1e6:.3g} ms" if span >= taken else "at once"
    return f"was over its budget ({taken / 1e6:.3g} ms of processor time {when}) and has stopped itself"


def stopped(aspects: Iterable[WovenAspect]) -> list[WovenAspect]:
    """Those that have stopped themselves. Not those that are not there any more."""
    found = []
    for woven in aspects:
        try:
            if woven.stopped:
                found.append(woven)
        except KernelRefused:
            continue
    return found


def take_out(aspects: Iterable[WovenAspect]) -> list[str]:
    """Unweave aspects that have stopped themselves and whose log has been read; their names.

    What an aspect has kept in states would go with it: it stays, and how to go on is said.
    """
    from klasy.weaver.unweave import unweave
    from klasy.weaver.woven import NotWoven, open_woven

    gone = []
    for woven in aspects:
        if woven.states:
            hint = f"klasy stat {woven.name} shows what it has kept, klasy unweave {woven.name} takes it out"
            say(f"aspect '{woven.name}' {how_stopped(woven)}", hint)
        else:
            try:
                with open_woven(woven.name) as present:
                    if not present.stopped:
                        continue  # another has been woven in its place
                how = how_stopped(woven)
                unweave([woven.name])
            except NotWoven:
                continue  # another klasy was quicker
            say(f"aspect '{woven.name}' {how}, and is unwoven now")
            gone.append(woven.name)
    return gone


def unread(woven: WovenAspect) -> bool:
    """Whether there is something in its log that nobody has read, or that cannot be told."""
    from klasy.bpf.ringbuf import RingReader

    try:
        reader = RingReader(woven.events())
    except KernelRefused:
        return True
    try:
        return reader.pending() > 0
    finally:
        reader.close()
