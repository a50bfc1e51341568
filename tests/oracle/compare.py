#!/usr/bin/env python3
"""Judge klasy's static sites by the oracle: recall of each member, and every miss with what surrounds it.

    .venv/bin/python tests/oracle/compare.py oracle-6.1.json static-6.1.json [verify-6.1.json] > accuracy-6.1.md

Three sorts of accesses that the oracle caught are told apart from the rest and counted on their own: those of the
memory routines (``memcpy`` and the like know no types; the call of them is what could be a site), those of the slab
allocator (its list of free objects runs through the members of dead ones), and those of functions that are handed a
pointer to a part of the object (``mutex_lock(&pipe->mutex)`` accesses a mutex, and cannot know whose).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

try:
    from oracle.causes import cause as why
except ImportError:  # run as a program
    from causes import cause as why  # type: ignore[import-not-found, no-redef]

_ROUTINES = re.compile(
    r"(__)?(memcpy|memset|memmove|memcpy_fromio|memcmp|strn?cpy|strscpy|strscpy_pad|strncmp|strcmp|strlen|strnlen|copy_user\w*"
    r"|copy_from_user|copy_to_user|csum_partial\w*|rep_(movs|stos)\w*|clear_page\w*|copy_page\w*|clear_user\w*)"
    r"(_erms|_orig|_generic|_fast_string|_unrolled|_rep_good|_alternative)*"
)
_ALLOCATOR = re.compile(
    r"kmem_cache_(alloc|free)\w*|__kmem_cache_\w+|_+slab_(alloc|free)\w*|slab_\w+|get_freepointer\w*|set_freepointer"
    r"|init_object|setup_object|shuffle_freelist|allocate_slab|get_partial\w*|(__)?kmalloc\w*|kfree|__kmalloc\w*|memcg_slab\w*"
    r"|build_detached_freelist|__unfreeze_partials|deactivate_slab|do_slab_free|__slab_free|flush_cpu_slab|put_cpu_partial"
)
_BEFORE = 10


@dataclass
class Tally:
    """How many, by distinct instructions and by executions."""

    distinct: int = 0
    count: int = 0

    def add(self, count: int) -> None:
        """One more instruction, executed so often."""
        self.distinct += 1
        self.count += count

    def share(self, whole: Tally) -> tuple[float, float]:
        """What part this is of the whole: by instructions, by executions. Nothing of nothing is all of it."""
        by_distinct = self.distinct / whole.distinct if whole.distinct else 1.0
        return by_distinct, self.count / whole.count if whole.count else 1.0


@dataclass
class Judged:
    """One member's account."""

    name: str
    caught: Tally = field(default_factory=Tally)  # of the sorts that a type can be known for
    found: Tally = field(default_factory=Tally)  # of these, those among the static sites
    routines: Tally = field(default_factory=Tally)
    allocator: Tally = field(default_factory=Tally)
    parts: Tally = field(default_factory=Tally)
    absent: Tally = field(default_factory=Tally)  # in modules that the analysis had not before it
    static: int = 0
    untyped: int = 0
    kinds_differ: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    misses: list[tuple[dict[str, Any], str]] = field(default_factory=list)  # site, cause


def sort_of(site: dict[str, Any], known: Iterable[str], struct: str) -> str:
    """Which sort an access is that is no static site: routine, allocator, part or typed."""
    name = site["function"].split(".")[0]
    if _ROUTINES.fullmatch(name):
        return "routine"
    if _ALLOCATOR.fullmatch(name):
        return "allocator"
    return "part" if _is_part(site, list(known), struct) else "typed"


def _is_part(site: dict[str, Any], known: list[str], struct: str) -> bool:
    """Whether the instruction was typed, as an access of something that lies within objects of the struct.

    The register shows where that something begins: within the object, not at its start, and it is of another type;
    or at its start, for the first member (sock_common in sock).
    """
    if not known or site["delta"] is None:
        return False
    for line in known:
        what, _, rest = line.partition(" at ")
        if what in {"unknown", "no access seen here"} or not rest or what == f"struct {struct}":
            return False
    return True


def judge(name: str, seen: dict[str, Any], static: dict[str, Any]) -> Judged:
    """Compare what was caught of a member with its static sites."""
    result = Judged(name, static=len(static["sites"]), untyped=static["untyped"])
    for site in seen["sites"]:
        count = site["count"]
        match = static["sites"].get(site["place"])
        if match is None and site["module"] and site["place"] not in static["known"]:
            result.absent.add(count)
            continue
        known = static["known"].get(site["place"], [])
        sort = "typed" if match else sort_of(site, known, seen["struct"])
        if sort != "typed":
            {"routine": result.routines, "allocator": result.allocator, "part": result.parts}[sort].add(count)
            continue
        result.caught.add(count)
        if match is None:
            result.misses.append((site, "; ".join(known) or "not looked at"))
            continue
        result.found.add(count)
        # of a copy between two such objects the oracle may have had only the one or the other under watch
        if match["kind"] != site["kind"] and not (match.get("copies") and site["kind"] in match["kind"]):
            result.kinds_differ.append((site, match["kind"]))
    return result


def judge_all(oracle: dict[str, Any], static: dict[str, Any]) -> list[Judged]:
    """All members that both know."""
    return [
        judge(name, seen, static["members"][name])
        for name, seen in oracle["members"].items()
        if name in static["members"]
    ]


def total(judged: Iterable[Judged]) -> Judged:
    """All of them together."""
    whole = Judged("all")
    for one in judged:
        for field_name in ("caught", "found", "routines", "allocator", "parts", "absent"):
            mine, theirs = getattr(whole, field_name), getattr(one, field_name)
            mine.distinct += theirs.distinct
            mine.count += theirs.count
        whole.static += one.static
        whole.untyped += one.untyped
        whole.kinds_differ += one.kinds_differ
        whole.misses += one.misses
    return whole


def table(judged: list[Judged], verified: dict[str, Any] | None = None) -> Iterator[str]:
    """The table of recall, and of precision where it was measured, as Markdown."""
    columns = ["member", "caught: instructions", "executions", "recall by instruction", "by execution"]
    columns += ["read/write agrees", "by part", "memory routines", "allocator", "static sites", "untyped"]
    if verified:
        columns += ["objects checked", "precision"]
    yield "| " + " | ".join(columns) + " |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for one in [*judged, total(judged)]:
        by_distinct, by_count = one.found.share(one.caught)
        cells = [
            f"`{one.name}`" if one.name != "all" else "**all**",
            one.caught.distinct, one.caught.count, f"{by_distinct:.1%}", f"{by_count:.1%}",
            f"{one.found.distinct - len(one.kinds_differ)}/{one.found.distinct}",
            one.parts.distinct, one.routines.distinct, one.allocator.distinct, one.static, one.untyped,
        ]  # fmt: skip
        if verified:
            cells += _precision(one.name, verified)
        yield "| " + " | ".join(map(str, cells)) + " |"


def _precision(name: str, verified: dict[str, Any]) -> list[str]:
    right, wrong = 0, 0
    for member, seen in verified["members"].items():
        if name in {"all", member}:
            right += seen["right"]
            wrong += seen["wrong"]
    return [str(right + wrong), f"{right / (right + wrong):.2%}" if right + wrong else "-"]


def causes(judged: list[Judged]) -> Counter[str]:
    """How many missed instructions have which cause, in short."""
    found: Counter[str] = Counter()
    for one in judged:
        for site, cause in one.misses:
            found[f"{short(cause)}; base register: {origin(site)}"] += 1
    return found


def origin(site: dict[str, Any]) -> str:
    """Where the base register came from, by the instructions before: what the analysis would have had to follow."""
    base = site["base"]
    if not base:
        return "no base register"
    names = {f"r{base}", f"e{base}"} if base[0] != "r" else {base, f"{base}d"}
    for line in reversed(site["context"]):
        _, _, text = line.partition(" ")
        name, _, operands = text.partition(" ")
        target, _, source = operands.partition(", ")
        if name == "call" and base in {"ax", "cx", "dx", "si", "di", "r8", "r9", "r10", "r11"}:
            return "the result of a call" if base == "ax" else "a register that a call changes"
        if target not in names or name in {"cmp", "test", "push"}:
            continue
        if name == "pop" or (name.startswith("mov") and ("[rsp" in source or "[rbp" in source)):
            return "the stack"
        if name.startswith("mov") and "gs:" in source:
            return "per-CPU data"
        if name.startswith("mov") and "[rip" in source:
            return "a global variable"
        if name.startswith("mov") and "[" in source:
            return "loaded from memory"
        if name.startswith("mov"):
            return "copied from another register"
        if name in {"lea", "add", "sub", "and", "or"}:
            return "computed (container_of, a tagged pointer, an array)"
        return f"{name}"
    return "further up"


def short(cause: str) -> str:
    """A cause without its numbers."""
    if cause.startswith("unknown at"):
        return "no type"
    if " at " in cause:
        return "typed as " + cause.partition(" at ")[0]
    return cause


def missed_table(judged: list[Judged]) -> Iterator[str]:
    """Every missed instruction in one row, with all the members that it is a miss of, the most executed first."""
    rows: dict[str, tuple[dict[str, Any], str, list[str], int]] = {}
    for one in judged:
        for site, cause in one.misses:
            known = rows.setdefault(site["place"], (site, cause, [], 0))
            rows[site["place"]] = (*known[:2], [*known[2], one.name], max(known[3], site["count"]))
    whole: dict[str, Tally] = {}
    for site, _, _, count in rows.values():
        whole.setdefault(why(site["function"]), Tally()).add(count)
    yield "| cause | instructions | executions |"
    yield "|---|---:|---:|"
    for words, tally in sorted(whole.items(), key=lambda row: -row[1].distinct):
        yield f"| {words} | {tally.distinct} | {tally.count} |"
    yield ""
    yield "| instruction | members | executions | what the analysis has | base register from | cause |"
    yield "|---|---|---:|---|---|---|"
    for site, cause, names, count in sorted(rows.values(), key=lambda row: -row[3]):
        where = f"`{site['function']}+{site['offset']:#x}` `{site['text']}`"
        listed = ", ".join(f"`{name}`" for name in names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        yield f"| {where} | {listed} | {count} | {short(cause)} | {origin(site)} | {why(site['function'])} |"


def misses(judged: list[Judged]) -> Iterator[str]:
    """Every miss with its context, the most executed first."""
    for one in judged:
        for site, cause in sorted(one.misses, key=lambda miss: -miss[0]["count"]):
            where = f"{site['place']} {site['function']}+{site['offset']:#x}"
            yield f"{one.name}: {where} ({site['kind']}, {site['count']} times)"
            yield f"    {site['text']}    base - object = {site['delta']}    seen on {', '.join(site['subjects'])}"
            yield f"    cause: {cause}; base register: {origin(site)}"
            for line in site["context"][-_BEFORE:]:
                yield f"        {line}"


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("oracle")
    parser.add_argument("static")
    parser.add_argument("verified", nargs="?")
    parser.add_argument("--misses", action="store_true", help="every miss with the instructions before it")
    parser.add_argument("--table", action="store_true", help="every missed instruction in one row")
    arguments = parser.parse_args()
    documents = []
    for path in (arguments.oracle, arguments.static, arguments.verified):
        if path:
            with open(path) as file:
                documents.append(json.load(file))
    oracle, static, *verified = documents
    if oracle["kernel"] != static["kernel"]:
        sys.exit(f"the oracle is of {oracle['kernel']}, the sites are of {static['kernel']}")
    judged = judge_all(oracle, static)
    if arguments.table:
        print("\n".join(missed_table(judged)))
        return
    if arguments.misses:
        print("\n".join(misses(judged)))
        return
    print("\n".join(table(judged, verified[0] if verified else None)))
    if absent := total(judged).absent.distinct:
        print(f"\n{absent} instructions lie in modules that were not loaded where the sites were looked for.")
    print("\nCauses of the misses, by instructions:\n")
    for cause, count in causes(judged).most_common():
        print(f"- {count}: {cause}")
    differing = [(one.name, *pair) for one in judged for pair in one.kinds_differ]
    if differing:
        print("\nRead or write told differently:\n")
        for name, site, kind in differing:
            print(
                f"- {name}: {site['function']}+{site['offset']:#x} `{site['text']}`: {site['kind']} here, {kind} there"
            )


if __name__ == "__main__":
    main()
