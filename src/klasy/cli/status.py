"""``klasy status``: what is woven."""

from __future__ import annotations

import os
import time

from klasy.cli.stopped import how_stopped
from klasy.cli.table import duration, plural, shown, table
from klasy.errors import EXIT_OK, KernelRefused
from klasy.plain import TYPE_CHECKING, asdict
from klasy.weaver.counts import missed_in_all
from klasy.weaver.woven import WovenAspect, foreign, read_registry

if TYPE_CHECKING:
    from typing import Any

    from klasy.cli.options import Arguments, Parser

HELP = "Show the woven aspects: since when, join points, hits, losses, cost."
EXAMPLE = "  klasy status\n  klasy status --json | jq '.aspects[].hits'"


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: Arguments) -> int:
    """Read the registry and the counters; print."""
    aspects = []
    ages = []  # on a clock that nobody sets
    for woven in read_registry():
        with woven:
            try:
                if _taken_out(woven):
                    continue
                aspects.append(_summary(woven))
                ages.append((time.monotonic_ns() - woven.monotonic_ns) / 1e9)
            except KernelRefused:
                if os.path.exists(woven.path):
                    raise  # else it has just been taken out
    strange = foreign()
    if args.json:
        import json

        print(json.dumps({"aspects": aspects, "unreadable": strange}, indent=2))
        return EXIT_OK
    if aspects:
        print(_table(aspects, ages))
        for aspect in aspects:
            for note in _notes(aspect):
                print(f"{aspect['aspect']}: {note}")
    elif not strange:
        print("no aspect is woven")
    for name, reason in strange.items():
        print(f"{shown(name)}: cannot be read: {shown(reason)}; klasy unweave {shown(name)} takes it out")
    return EXIT_OK


def _taken_out(woven: WovenAspect) -> bool:
    """Take out an aspect that has stopped itself, if nothing goes with it: no unread log, no state."""
    if not woven.stopped or woven.states:
        return False
    from klasy.cli.stopped import take_out, unread

    return not unread(woven) and bool(take_out([woven]))


def _summary(woven: WovenAspect) -> dict[str, Any]:
    counts = woven.counts()
    cost = woven.cost()
    return {
        "aspect": woven.name,
        "source": woven.source_name,
        "since_ns": woven.since_ns,
        "active": woven.active,
        "stopped": how_stopped(woven) if woven.stopped else None,
        "stillborn": not (woven.active or woven.stopped),
        "states": len(woven.states),
        "joinpoints": len(counts),
        "unreached": len(woven.unreached),
        "hits": woven.hits(counts),
        "lost": sum(count.lost for count in counts),
        "state_lost": _state_lost(woven),
        "unmarked": sum(count.unmarked for count in counts),
        "missed": missed_in_all(counts),
        "missed_partly": any(count.partly for count in counts),
        "undecided": sum(count.undecided for count in counts),
        "left_out": sum(count.left_out for count in counts),
        "cut": sum(count.cut for count in counts),
        "denied": sum(count.denied for count in counts),
        "gone": _gone(woven),
        "coverage": _coverage(woven),
        "objects": _objects(woven),
        "filter": woven.filter,
        "filter_ended": _filter_ended(woven),
        "budget": woven.budget,
        "unfollowed": woven.unfollowed(),
        "runs": cost.runs,
        "run_time_ns": cost.nanoseconds,
    }


def _notes(aspect: dict[str, Any]) -> list[str]:
    """What is to be known of an aspect's counts besides."""
    notes = [f"only {shown(aspect['filter']['text'])}"] if aspect["filter"] else []
    notes += map(shown, aspect["filter_ended"])
    if aspect["gone"]:
        taken, modules = aspect["gone"]["joinpoints"], ", ".join(aspect["gone"]["modules"])
        went = f"{plural(taken, 'join point')} went with the module {modules}, which was unloaded"
        notes.append(f"{went}, and did not come back with it; klasy weave --replace weaves it anew")
    if aspect["coverage"]:
        notes.append(aspect["coverage"])
    if aspect["objects"]:
        notes += aspect["objects"]["notes"]
    if aspect["unfollowed"]:
        notes.append(f"{aspect['unfollowed']} of the children not followed: there were too many")
    name = aspect["aspect"]
    if aspect["denied"]:
        notes.append(f"{plural(aspect['denied'], 'hit')} denied")
    if aspect["stillborn"]:
        why = "by hand or because klasy was killed while it wove it"
        notes.append(f"is switched off, {why}; klasy unweave {name} takes it out")
    elif not aspect["active"]:
        rest = f"{aspect['stopped']}; klasy log {name} shows the rest of its log"
        kept = f", klasy stat {name} what it has kept; klasy unweave {name} takes it out"
        notes.append(f"{rest}{kept if aspect['states'] else ', and takes it out'}")
    if aspect["left_out"]:
        notes.append(f"{plural(aspect['left_out'], 'hit')} left out by sample or limit")
    if aspect["cut"]:
        notes.append(f"{plural(aspect['cut'], 'loop')} ended by the bound on loops")
    if aspect["undecided"]:
        notes.append(f"of {plural(aspect['undecided'], 'hit')} it is not known whether they were reads or writes")
    return notes


def _gone(woven: WovenAspect) -> dict[str, Any] | None:
    """What went with a module."""
    from klasy.weaver.gone import gone

    found = gone(woven)
    return asdict(found) if found else None


def _filter_ended(woven: WovenAspect) -> list[str]:
    if woven.filter is None:
        return []
    from klasy.cli.filters import ended

    return ended(woven.filter)


def _coverage(woven: WovenAspect) -> str | None:
    if not woven.watches_data:
        return None
    from klasy.weaver import watch

    return watch.coverage(woven)


def _objects(woven: WovenAspect) -> dict[str, Any] | None:
    """What became of the requests to watch objects."""
    if not woven.watches_objects:
        return None
    from klasy.weaver import objects

    found = objects.watching(woven)
    assert found is not None
    return objects.document(found)


def _state_lost(woven: WovenAspect) -> int:
    """How many updates of its states were not made."""
    if not woven.states:
        return 0
    from klasy.weaver.states import losses_in_all

    return losses_in_all(woven).lost


def _table(aspects: list[dict[str, Any]], ages: list[float]) -> str:
    head = ("ASPECT", "WOVEN FOR", "JOIN POINTS", "HITS", "LOST", "MISSED", "COST", "SOURCE")
    rows = [
        (
            a["aspect"] if a["active"] else f"{a['aspect']} (stopped)",
            duration(age),
            a["joinpoints"],
            a["hits"],
            a["lost"] + a["state_lost"],
            f"{a['missed'] + a['unmarked']}{'+' * a['missed_partly']}",
            f"{a['run_time_ns'] // a['runs']} ns a run" if a["runs"] else "not measured",
            a["source"],
        )
        for a, age in zip(aspects, ages, strict=True)
    ]
    return table(head, rows)
