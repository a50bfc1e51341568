"""``klasy joinpoints``: of a file, what would be woven; of woven aspects, what is, with hits."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from klasy.cli.table import plural, table
from klasy.errors import EXIT_OK

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from klasy.backend.artifact import Artifact
    from klasy.weaver.counts import Count
    from klasy.weaver.woven import WovenAspect

HELP = "Show join points: of a file (a dry run), of a woven aspect, or of all that is woven, with their hits."
EXAMPLE = "  klasy joinpoints log_dequeue.asp\n  klasy joinpoints log_dequeue --json\n  klasy joinpoints"

_PLACE = ("kind", "function", "offset", "address", "module", "callee", "file", "line")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("what", nargs="?", metavar="FILE|ASPECT", help="an .asp file, or the name of a woven aspect")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--show-code", action="store_true", help="of a file: also print the BPF programs")
    parser.add_argument("--why", action="store_true", help="say why each mechanism was chosen")


def run(args: argparse.Namespace) -> int:
    """A name that ends in .asp, or is that of a file, means the file."""
    what = args.what
    if what is not None and (what.endswith(".asp") or what == "-" or os.path.isfile(what)):
        return _of_file(args)
    if args.show_code:
        from klasy.errors import UsageError

        raise UsageError("--show-code needs an .asp file")
    return _of_woven(args)


# --- a file -----------------------------------------------------------------------------------------------------------


def _of_file(args: argparse.Namespace) -> int:
    from klasy.cli.sources import read_source
    from klasy.weaver.build import build

    built = build(read_source(args.what))
    if args.json:
        import json

        documents = [d for artifact in built for d in _shadows(artifact)]
        unreached = [d for artifact in built for d in _unreached(artifact)]
        print(json.dumps({"shadows": documents, "unreached": unreached}, indent=2))
        return EXIT_OK
    from klasy.diag import render

    for artifact in built:
        for diagnostic in artifact.plan.diagnostics:
            print(render(diagnostic, colour=sys.stderr.isatty()), file=sys.stderr)
        shadows = _shadows(artifact)
        print(f"aspect {artifact.plan.aspect.name}: {plural(len(shadows), 'join point')}")
        print(_table(shadows, None, why=args.why))
        _print_unreached(_unreached(artifact))
        if args.show_code:
            from klasy.backend import show

            print(show(artifact))
    return EXIT_OK


def _shadows(artifact: Artifact) -> list[dict[str, Any]]:
    from klasy.weaver.manifest import SHADOW_COLUMNS, shadow_row

    plan = artifact.plan
    result = []
    for point in plan.joinpoints:
        place = dict(zip(SHADOW_COLUMNS, shadow_row(point.shadow), strict=True))
        head = {"aspect": plan.aspect.name, "advice": plan.aspect.advice[point.advice].label}
        result.append(head | place | {"mechanism": point.mechanism, "why": point.why})
    return result


def _unreached(artifact: Artifact) -> list[dict[str, Any]]:
    from klasy.weaver.manifest import SHADOW_COLUMNS, shadow_row

    plan = artifact.plan
    return [
        {"aspect": plan.aspect.name, "advice": plan.aspect.advice[missing.advice].label}
        | dict(zip(SHADOW_COLUMNS, shadow_row(missing.shadow), strict=True))
        | {"code": missing.code, "reason": missing.reason}
        for missing in plan.unreached
    ]


# --- what is woven ----------------------------------------------------------------------------------------------------


def _of_woven(args: argparse.Namespace) -> int:
    from klasy.weaver.woven import open_woven, read_registry

    aspects = [open_woven(args.what)] if args.what else read_registry()
    documents: list[dict[str, Any]] = []
    callers: dict[str, dict[str, int]] = {}
    unreached: list[dict[str, Any]] = []
    for woven in aspects:
        with woven:
            counts = woven.counts()
            points = [_woven_point(woven, i, counts) for i in range(len(woven.joinpoints))]
            documents += points
            unreached += [{"aspect": woven.name} | row for row in woven.unreached]
            callers[woven.name] = _named(woven.unknown_callers())
            if not args.json:
                print(f"aspect {woven.name}: {plural(len(points), 'join point')}")
                print(_table(points, counts, why=args.why))
                _print_callers(callers[woven.name])
                _print_unreached(woven.unreached)
    if args.json:
        import json

        print(json.dumps({"joinpoints": documents, "unreached": unreached, "unknown_callers": callers}, indent=2))
    elif not aspects:
        print("no aspect is woven")
    return EXIT_OK


def _woven_point(woven: WovenAspect, index: int, counts: list[Count]) -> dict[str, Any]:
    point, count = woven.joinpoints[index], counts[index]
    place = {name: getattr(point, name) for name in (*_PLACE, "callee_module", "call")}
    return {
        "aspect": woven.name,
        "advice": point.advice,
        **place,
        "mechanism": point.mechanism,
        "why": point.why,
        "hits": count.hits,
        "lost": count.lost,
        "missed": count.missed,
        "unmarked": count.unmarked,
        "missed_partly": count.partly,
        "missed_shared": count.shared,
    }


def _named(callers: dict[int, int]) -> dict[str, int]:
    if not callers:
        return {}
    from klasy.kernel.live import running_kernel
    from klasy.log.symbolize import Symbolizer

    symbols = Symbolizer(running_kernel())
    most_first = sorted(callers.items(), key=lambda item: -item[1])
    return {symbols.name(address): hits for address, hits in most_first}


# --- text -------------------------------------------------------------------------------------------------------------


def place_text(point: dict[str, Any]) -> str:
    """Where a join point lies, in a few words."""
    module = f" [{point['module']}]" if point["module"] else ""
    function = point["function"]
    where = f"{function}+{point['offset'] or 0:#x}{module}" if function else "callers not known"
    if point["kind"] == "call":
        callee = point["callee"] or "through a pointer"
        return f"{callee} <- {where}" + (" (tail call)" if point.get("call") == "tail" else "")
    return f"{function}{module}" if not point["offset"] else where


def _table(points: Sequence[dict[str, Any]], counts: Sequence[Count] | None, *, why: bool) -> str:
    head = ["ADVICE", "KIND", "JOIN POINT"]
    rows: list[list[object]] = [[p["advice"], p["kind"], place_text(p)] for p in points]
    if counts is not None:
        head += ["HITS", "LOST", "MISSED"]
        for row, count in zip(rows, counts, strict=True):
            missed = f"{count.missed + count.unmarked}"
            if count.partly:
                missed += " or more"
            if count.shared:
                missed += " (shared)"
            row += [count.hits, count.lost, missed]
    head += ["MECHANISM", "WHY"] if why else ["MECHANISM"]
    for row, point in zip(rows, points, strict=True):
        row.extend([point["mechanism"], point["why"]] if why else [point["mechanism"]])
    return table(head, rows)


def _print_callers(callers: dict[str, int]) -> None:
    if callers:
        print("hits from callers not known beforehand (indirect calls and the like), by where they return to:")
        print(table(["RETURNS TO", "HITS"], [[name, hits] for name, hits in callers.items()]))


def _print_unreached(unreached: Sequence[dict[str, Any]]) -> None:
    if unreached:
        print(f"not reached, {plural(len(unreached), 'join point')}:")
        rows = [[row["advice"], row["kind"], place_text(row), row["reason"]] for row in unreached]
        print(table(["ADVICE", "KIND", "JOIN POINT", "REASON"], rows))
