"""The order of aspects at one join point: with ``precedence a, b;`` a's ``before`` runs first and a's ``after`` last.

What runs first at one place follows from how the probes got there and in which order. The kernel's rules:

    kprobes at one address, fentry of one function, fexit of one function   the younger first
    kretprobes of one function                                              the older first
    different mechanisms at one join point                                  TIMES, whatever their age

(kernel/kprobes.c, add_new_kprobe; kernel/bpf/trampoline.c, __bpf_trampoline_link_prog; kernel/trace/rethook.c, where
the last return address that was hooked comes back first; an ftrace-based kprobe runs before the trampoline that the
same ftrace call jumps to, a kprobe behind a function's hook after both, and a kretprobe's return lies outside of the
trampoline.) Aspects that are woven together are attached in the order that this needs. What is woven already stays as
it is: where the order cannot be had, weaving is refused.
"""

from __future__ import annotations

from klasy.errors import InputError
from klasy.match.mechanism import Context
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.weaver import manifest
from klasy.weaver.attribution import served

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from klasy.match.plan import Plan

# In which order probes are attached; of each class, whether the aspect that goes before is attached first.
CLASSES: tuple[tuple[frozenset[Context], bool], ...] = (
    (frozenset((Context.FENTRY,)), False),
    (frozenset((Context.FEXIT,)), True),
    (frozenset((Context.RETURN,)), False),
    (frozenset((Context.ENTRY,)), False),
    (frozenset((Context.BODY,)), False),
    (frozenset((Context.SITE,)), False),
    (frozenset((Context.TAIL,)), False),
    (frozenset((Context.BEHIND, Context.ACCESSED)), True),
)
ORDERED = frozenset(context for contexts, _ in CLASSES for context in contexts)
# What comes first at one join point, by the values of Context.
TIMES = {"site": 0, "tail": 0, "entry": 1, "fentry": 2, "body": 3, "fexit": 4, "return": 5, "behind": 6}
_OLDER_FIRST = "return"

Place = tuple[str, int, "str | None", str]  # kind, address, callee, before or after
Way = tuple[str, str]  # context, mechanism


class Spots(NamedTuple):
    """Where an aspect runs: how, and what to call the place."""

    ways: dict[Place, set[Way]]
    names: dict[Place, str]


class Order:
    """What must go before what. ``pairs`` come from the aspects to weave and from those that are woven."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs: set[tuple[str, str]] = set()
        for first, second in pairs:
            self._add(first, second)

    def _add(self, first: str, second: str) -> None:
        if (second, first) in self.pairs:
            raise InputError(
                f"'{first}' and '{second}' cannot each go before the other",
                hint="the files that they are in, or those of woven aspects, declare both: change one 'precedence'",
            )
        firsts = [first, *(a for a, b in self.pairs if b == first)]
        seconds = [second, *(b for a, b in self.pairs if a == second)]
        self.pairs.update((a, b) for a in firsts for b in seconds)

    def sorted(self, names: Sequence[str]) -> list[str]:
        """The names, each before those that it goes before; else as they are."""
        left, found = list(names), []
        while left:
            name = next(n for n in left if not any((other, n) in self.pairs for other in left))
            left.remove(name)
            found.append(name)
        return found

    def check(self, plans: Mapping[str, Plan], woven: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise InputError where an order cannot be had. ``woven``: documents of what stays woven, by name."""
        spots: dict[str, Spots] = {}
        for first, second in sorted(self.pairs):
            if not {first, second} & plans.keys() or not {first, second} <= plans.keys() | woven.keys():
                continue
            for name in (first, second):
                if name not in spots:
                    spots[name] = of_plan(plans[name]) if name in plans else of_document(woven[name])
            self._check(first, second, spots, plans)

    def _check(self, first: str, second: str, spots: Mapping[str, Spots], plans: Mapping[str, Plan]) -> None:
        one, other = spots[first], spots[second]
        for place in sorted(one.ways.keys() & other.ways.keys(), key=str):
            wanted = first if place[3] == "before" else second
            alike = one.ways[place] == other.ways[place]  # several ways: each meets its like, as in tail calls' marks
            for way in sorted(one.ways[place]):
                for another in [way] if alike else sorted(other.ways[place]):
                    why = _obstacle(first, second, wanted, (way, another), plans)
                    if why:
                        raise InputError(
                            f"'{first}' cannot go before '{second}' at the {place[0]} of {one.names[place]}, in "
                            f"'{place[3]}' advice: {why[0]}",
                            hint=why[1],
                        )


def _obstacle(
    first: str, second: str, wanted: str, ways: tuple[Way, Way], plans: Mapping[str, Plan]
) -> tuple[str, str] | None:
    """Why of two ways the ``wanted`` aspect's does not come first, and what to do; None where it does."""
    (context, mechanism), (other_context, other_mechanism) = ways
    for each in (mechanism, other_mechanism):
        if each.endswith(".multi"):
            return f"the kernel's order of {each} probes is not known", "select fewer functions"
    if not {context, other_context} <= TIMES.keys():
        return "of accesses to data the order is the kernel's", "write both in one aspect, where advice runs as written"
    if context != other_context:
        if TIMES[context] == TIMES[other_context]:
            return None
        comes_first = first if TIMES[context] < TIMES[other_context] else second
        if comes_first == wanted:
            return None
        return (
            f"'{first}' is there by {mechanism} and '{second}' by {other_mechanism}, of which the kernel has an order "
            "of its own",
            "let both pointcuts select the same functions, or write both in one aspect",
        )
    if first in plans and second in plans:
        return None  # they are attached as it needs
    younger, older = (first, second) if first in plans else (second, first)
    if (older if context == _OLDER_FIRST else younger) == wanted:
        return None
    return (
        f"'{older}' is woven already, and what comes later would run too {'late' if wanted == younger else 'early'}",
        f"weave both in one command: klasy weave --replace, with the files of '{first}' and '{second}'",
    )


def of_plan(plan: Plan) -> Spots:
    """Where an aspect would run."""
    contexts = [(probe.context.value, probe.mechanism.value, _flat(served(plan, probe))) for probe in plan.probes]
    rows = [
        (
            point.shadow.kind.value,
            point.shadow.address,
            point.shadow.callee.name if point.shadow.callee else None,
            plan.aspect.advice[point.advice].kind.value,
            point.shadow.function.name if point.shadow.function else None,
        )
        for point in plan.joinpoints
    ]
    return _spots(rows, contexts)


def of_document(document: Mapping[str, Any]) -> Spots:
    """Where a woven aspect runs, by its registry entry."""
    columns = manifest.unpack_table(document["joinpoints"])
    kinds = [advice["kind"] for advice in document["advice"]]
    rows = [
        (kind, address or 0, callee, kinds[advice], function)
        for kind, address, callee, advice, function in zip(
            columns["kind"], columns["address"], columns["callee"], columns["advice"], columns["function"], strict=True
        )
    ]
    return _spots(rows, [(p["context"], p["mechanism"], _flat(p["joinpoints"])) for p in document["probes"]])


def _flat(lists: Iterable[Iterable[int]]) -> set[int]:
    return {number for numbers in lists for number in numbers}


def _spots(
    rows: Sequence[tuple[str, int, str | None, str, str | None]], contexts: Iterable[tuple[str, str, Iterable[int]]]
) -> Spots:
    spots = Spots({}, {})
    for context, mechanism, ids in contexts:
        for number in ids:
            kind, address, callee, timing, function = rows[number]
            known = context in TIMES
            if known and (TIMES[context] >= TIMES["fexit"]) != (timing == "after"):
                continue  # it writes a mark only
            place = (kind if known else "access", address, callee, timing)
            spots.ways.setdefault(place, set()).add((context, mechanism))
            spots.names[place] = f"{callee} in {function}" if callee and function else callee or function or "data"
    return spots
