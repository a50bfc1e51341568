"""``klasy joinpoints``: of a file, what would be woven; of woven aspects, what is, with hits."""

from __future__ import annotations

import os
import sys

from klasy.cli.table import plural, show_diagnostics, shown, table
from klasy.errors import EXIT_OK, InputError
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, TypeVar

    from klasy.backend.artifact import Artifact
    from klasy.cli.options import Arguments, Parser
    from klasy.match.plan import JoinPoint
    from klasy.match.shadow import Shadow
    from klasy.weaver.counts import Count
    from klasy.weaver.woven import WovenAspect

    T = TypeVar("T")

HELP = "Show join points: of a file (a dry run), of a woven aspect, or of all that is woven, with their hits."
EXAMPLE = (
    "  klasy joinpoints log_dequeue.asp           # what would be woven, and how\n"
    "  klasy joinpoints log_dequeue               # what is, the most frequent first\n"
    "  klasy joinpoints --json | jq '.joinpoints[] | select(.hits > 0)'"
)

_PLACE = ("kind", "function", "offset", "address", "module", "callee", "data", "file", "line", "access")
_MANY = 60  # rows of a table that are shown unless --all is given
_PARTLY, _SHARED = "+", "*"
_FEW = 20  # of join points that were never hit, and of those not reached


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("what", nargs="?", metavar="FILE|ASPECT", help="an .asp file, a woven aspect, or a ready one")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--all", action="store_true", help=f"show all, not only the first {_MANY}")
    parser.add_argument("--why", action="store_true", help="say why each mechanism was chosen")
    parser.add_argument("--show-code", action="store_true", help="of a file: also print the BPF programs")


def run(args: Arguments) -> int:
    """The name of a file, or one that no aspect can have, means a file; another a woven aspect, else a ready one."""
    what = args.what
    if what is not None and (what in ("", "-") or what.endswith(".asp") or "/" in what or os.path.isfile(what)):
        return _of_file(args)
    if what is not None and what.isidentifier() and _is_ready(what):
        return _of_file(args)
    if args.show_code:
        from klasy.errors import UsageError

        raise UsageError("--show-code needs an .asp file")
    return _of_woven(args)


def _is_ready(name: str) -> bool:
    """Whether klasy brings along an aspect of this name, and none of this name is woven."""
    from klasy.resources import shipped_path

    if shipped_path(name) is None:
        return False
    from klasy.weaver.woven import open_aspects

    try:
        (aspect,) = open_aspects([name])
    except InputError:
        return True
    aspect.close()
    return False


# --- a file -----------------------------------------------------------------------------------------------------------


def _of_file(args: Arguments) -> int:
    from klasy.cli.sources import read_source
    from klasy.weaver.kept import Shelf  # first: it stands for all that is imported with it, see klasy.pack

    source = read_source(args.what)
    shelf = Shelf([source])
    from klasy.weaver.build import build

    built = build(source)
    _show(built, args)
    sys.stdout.flush()
    shelf.keep_for_a_weave(built)
    return EXIT_OK


def _show(built: Sequence[Artifact], args: Arguments) -> None:
    for artifact in built:
        show_diagnostics(artifact.plan.diagnostics)
    if args.json:
        from klasy.cli.document import dumps

        shadows = _with_lines([d for artifact in built for d in _shadows(artifact, artifact.plan.joinpoints)])
        unreached = [d for artifact in built for d in _unreached(artifact)]
        untyped = sum(artifact.plan.untyped for artifact in built)
        print(dumps({"shadows": shadows, "unreached": unreached}, {"untyped": untyped} if untyped else None))
        return
    for number, artifact in enumerate(built):
        points = artifact.plan.joinpoints
        print("\n" * (number > 0) + f"aspect {artifact.plan.aspect.name}: {plural(len(points), 'join point')}")
        shown = _first(points, args, _MANY)
        _print_points(_with_lines(_shadows(artifact, shown)), args, more=len(points) - len(shown))
        _print_unreached(_unreached(artifact), args)
        if artifact.plan.untyped:
            print(
                f"left out: {plural(artifact.plan.untyped, 'instruction')} at a fitting offset of objects whose type "
                "is not known"
            )
        if args.show_code:
            from klasy.backend import show

            print(show(artifact))


def _shadows(artifact: Artifact, points: Sequence[JoinPoint]) -> list[dict[str, Any]]:
    from klasy.weaver.manifest import SHADOW_COLUMNS, shadow_row

    name, labels = artifact.plan.aspect.name, [advice.label for advice in artifact.plan.aspect.advice]
    columns = ("aspect", "advice", *SHADOW_COLUMNS, "mechanism", "why")
    return [
        dict(zip(columns, (name, labels[p.advice], *shadow_row(p.shadow), p.mechanism, p.why), strict=True))
        | _instruction(p.shadow)
        for p in points
    ]


def _instruction(shadow: Shadow) -> dict[str, Any]:
    """What is known of an instruction that accesses members."""
    access = shadow.access
    if access is None:
        return {}
    from klasy.flow.sites import CONFIDENCE

    try:
        text: str | None = access.disassembly
    except ImportError:  # no disassembler is here
        text = None
    return {
        "instruction": text,
        "confidence": CONFIDENCE.get(access.confidence),
        "derivation": access.derivation,
    }


def _unreached(artifact: Artifact) -> list[dict[str, Any]]:
    from klasy.weaver.manifest import SHADOW_COLUMNS, shadow_row

    plan = artifact.plan
    return [
        {"aspect": plan.aspect.name, "advice": plan.aspect.advice[missing.advice].label}
        | dict(zip(SHADOW_COLUMNS, shadow_row(missing.shadow), strict=True))
        | {"code": missing.code, "reason": missing.reason}
        | _instruction(missing.shadow)
        for missing in plan.unreached
    ]


# --- what is woven ----------------------------------------------------------------------------------------------------


def _woven(names: Sequence[str]) -> list[WovenAspect]:
    """The woven aspects of some names. A name may also be meant for a ready aspect, as the error says."""
    from klasy.weaver.woven import NotWoven, open_aspects

    try:
        return open_aspects(names)
    except NotWoven as error:
        from klasy.diag import suggest
        from klasy.resources import shipped_aspects

        near = [f"'{ready}'" for name in names for ready in suggest(name, shipped_aspects())]
        hints = [error.hint, f"ready aspects of a like name: {', '.join(near)}" if near else None]
        raise NotWoven(error.message, hint="; ".join(filter(None, hints)) or None) from None


def _of_woven(args: Arguments) -> int:
    from klasy.weaver.woven import NO_COST

    aspects = _woven([args.what] if args.what else [])
    documents: list[dict[str, Any]] = []
    callers: dict[str, dict[str, int]] = {}
    unreached: list[dict[str, Any]] = []
    accesses: list[dict[str, Any]] = []
    for number, woven in enumerate(aspects):
        with woven:
            counts = woven.counts()
            costs = woven.costs()
            points = [
                {**_woven_point(woven, i, counts), "runs": cost.runs, "run_time_ns": cost.nanoseconds}
                for i, cost in ((i, costs.get(i, NO_COST)) for i in range(len(woven.joinpoints)))
            ]
            documents += points
            missing = [{"aspect": woven.name} | row for row in woven.unreached]
            unreached += missing
            callers[woven.name] = _named(woven.unknown_callers())
            by_instruction = _accesses(woven)
            accesses += by_instruction
            if not args.json:
                if number:
                    print()
                _print_woven(woven.name, points, args)
                if woven.filter is not None:
                    print(f"hits are only those of {shown(woven.filter['text'])}")
                _print_callers(callers[woven.name], args)
                _print_objects(woven)
                if by_instruction:
                    _print_accesses(by_instruction, points, args)
                _print_unreached(missing, args)
    if args.json:
        from klasy.cli.document import dumps

        _with_lines(documents)
        tables = {"joinpoints": documents, "unreached": unreached} | ({"accesses": accesses} if accesses else {})
        print(dumps(tables, {"unknown_callers": callers}))
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
        "undecided": count.undecided,
        "left_out": count.left_out,
        "cut": count.cut,
        "denied": count.denied,
    }


_ACCESS = {0: None, 1: "read", 2: "write", 3: "read and write"}


def _accesses(woven: WovenAspect) -> list[dict[str, Any]]:
    """The instructions that accessed watched data, with the hits of each."""
    if not woven.watches_data:
        return []
    from klasy.weaver.accounts import accounts

    found = []
    for account in accounts(woven):
        point = woven.joinpoints[account.joinpoint]
        if account.counts:
            found.append(
                {
                    "aspect": woven.name,
                    "advice": point.advice,
                    "kind": point.kind,
                    "data": point.data,
                    "function": account.function,
                    "offset": account.offset,
                    "address": account.address,
                    "module": account.module,
                    "access": _ACCESS[account.does],
                    "instruction": _disassembled(account.address, account.length),
                    "hits": account.hits,
                }
            )
    return found


def _disassembled(address: int | None, length: int) -> str | None:
    """An instruction as text, where it is known and a disassembler is there."""
    if address is None or not length:
        return None
    try:
        from klasy.flow.disasm import text
    except ImportError:
        return None
    from klasy.kernel.live import running_kernel

    return text(running_kernel().text(address, length), address)


def _print_objects(woven: WovenAspect) -> None:
    """What became of the requests to watch objects."""
    if woven.watches_objects:
        from klasy.weaver import objects

        found = objects.watching(woven)
        assert found is not None
        for note in objects.notes(found):
            print(note)


def _print_accesses(accesses: list[dict[str, Any]], points: list[dict[str, Any]], args: Arguments) -> None:
    print("accessed by:")
    shown = accesses if args.all else accesses[:_FEW]
    rows: list[list[object]] = []
    for access in shown:
        module = f" [{access['module']}]" if access["module"] else ""
        where = f"{access['function']}+{access['offset']:#x}{module}" if access["function"] else "code not known"
        does = access["access"] or "not known"
        rows.append([access["kind"], access["data"], where, does, access["instruction"] or "", access["hits"]])
    print(table(["KIND", "DATA", "INSTRUCTION AT", "ACCESS", "INSTRUCTION", "HITS"], rows))
    _print_more(len(accesses) - len(shown))
    undecided = sum(point["undecided"] for point in points)
    if undecided:
        print(f"of {plural(undecided, 'hit')} it is not known whether they were reads or writes")


def _named(callers: dict[int, int]) -> dict[str, int]:
    if not callers:
        return {}
    from klasy.api import symbolizer

    symbols = symbolizer()
    most_first = sorted(callers.items(), key=lambda item: -item[1])
    return {symbols.place(address): hits for address, hits in most_first}


_LIE_SOMEWHERE = ("call", "execution", "get", "set", "access", "at")  # kinds with an instruction, if known


def _with_lines(points: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The same, with the source lines of the kernel's instructions, where debug information tells."""
    from klasy.kernel.live import running_kernel

    wanted = [p for p in points if p["kind"] in _LIE_SOMEWHERE and p["function"] and p["address"] and not p.get("line")]
    wanted = [p for p in wanted if not (p["module"] or "").startswith("/")]
    found = running_kernel().source_lines([p["address"] for p in wanted]) if wanted else {}
    for point in wanted:
        if place := found.get(point["address"]):
            point["file"], point["line"] = place
    return points


_CALLS = {"tail": " (tail call)", "inlined": " (inlined)"}  # what is not as one expects


# --- text -------------------------------------------------------------------------------------------------------------


def place_text(point: dict[str, Any]) -> str:
    """Where a join point lies, in a few words."""
    module = f" [{point['module']}]" if point["module"] else ""
    function = point["function"]
    if point.get("data") and not function:
        return str(point["data"])
    if point["module"] and point["module"].startswith("/"):
        return f"{function} [{point['module']}+{point['address']:#x}]"
    where = f"{function}+{point['offset'] or 0:#x}{module}" if function else "callers not known"
    if point["kind"] == "call":
        callee = point["callee"] or "through a pointer"
        return f"{callee} <- {where}" + _CALLS.get(point.get("call") or "", "")
    if point.get("data"):
        return f"{point['data']} in {where}"
    if point["callee"]:
        return f"{point['callee']} inlined in {where}"
    return f"{function}{module}" if not point["offset"] else where


def _print_woven(name: str, points: list[dict[str, Any]], args: Arguments) -> None:
    """The join points of a woven aspect: those with hits, the most frequent first, then the silent ones."""
    happened = sorted((p for p in points if _happened(p)), key=lambda p: -p["hits"])
    silent = [p for p in points if not _happened(p)]
    hit = sum(p["hits"] > 0 for p in points)
    hits = f", {hit} of them hit, {plural(sum(p['hits'] for p in points), 'hit')}" if hit else ""
    print(f"aspect {name}: {plural(len(points), 'join point')}{hits}")
    if happened:
        shown = _with_lines(_first(happened, args, _MANY))
        _print_points(shown, args, more=len(happened) - len(shown))
    if silent and happened:
        print(f"never hit, {plural(len(silent), 'join point')}:")
    if silent:
        shown = _with_lines(_first(silent, args, _FEW))
        _print_points(shown, args, more=len(silent) - len(shown), counted=not happened)


def _happened(point: dict[str, Any]) -> bool:
    """Whether there is something to tell of a join point: hits, or some that were not seen."""
    return bool(point["hits"] or point["lost"] or point["unmarked"] or (point["missed"] and not point["missed_shared"]))


def _first(points: Sequence[T], args: Arguments, limit: int) -> Sequence[T]:
    """Those that are shown."""
    return points if args.all or len(points) <= limit + 1 else points[:limit]


def _print_points(shown: Sequence[dict[str, Any]], args: Arguments, *, more: int, counted: bool = True) -> None:
    if shown:
        print(_table(shown, why=args.why, counted=counted))
    _print_more(more)
    if counted and shown and "hits" in shown[0]:
        _print_legend(_missed(point) for point in shown)


def _print_more(number: int) -> None:
    if number:
        print(f".. and {number} more; --all shows them")


def _table(points: Sequence[dict[str, Any]], *, why: bool, counted: bool) -> str:
    head = ["ADVICE", "KIND", "JOIN POINT"]
    rows: list[list[object]] = [[p["advice"], p["kind"], place_text(p)] for p in points]
    if counted and "hits" in points[0]:
        head += ["HITS", "LOST", "MISSED"]
        for row, point in zip(rows, points, strict=True):
            row += [point["hits"], point["lost"], _missed(point)]
        for key, title in (("denied", "DENIED"), ("left_out", "LEFT OUT"), ("cut", "LOOPS CUT")):
            if any(point[key] for point in points):
                head.append(title)
                for row, point in zip(rows, points, strict=True):
                    row.append(point[key])
    if any(point.get("line") for point in points):
        head.append("SOURCE")
        for row, point in zip(rows, points, strict=True):
            row.append(f"{point['file']}:{point['line']}" if point.get("line") else "")
    if any("instruction" in point for point in points):
        head += ["ACCESS", "INSTRUCTION", "TYPE KNOWN BY"]
        for row, point in zip(rows, points, strict=True):
            known = f"{point['confidence']}: {point['derivation']}" if "confidence" in point else ""
            row += [point.get("access") or "", point.get("instruction") or "", known]
    if any(point.get("runs") for point in points):
        head.append("COST")
        for row, point in zip(rows, points, strict=True):
            row.append(f"{point['run_time_ns'] // point['runs']} ns a run" if point["runs"] else "")
    head += ["MECHANISM", "WHY"] if why else ["MECHANISM"]
    for row, point in zip(rows, points, strict=True):
        row.extend([point["mechanism"], point["why"]] if why else [point["mechanism"]])
    return table(head, rows)


def _missed(point: dict[str, Any]) -> str:
    """What a join point missed, in a cell: hits passed over, and ends that could not be followed."""
    missed = point["missed"] + point["unmarked"]
    return f"{missed}{_PARTLY * point['missed_partly']}{_SHARED * (point['missed_shared'] and missed > 0)}"


def _print_legend(cells: Iterable[str]) -> None:
    text = "".join(cells)
    if _PARTLY in text:
        print(f"{_PARTLY} this kernel does not count all that may be missed there")
    if _SHARED in text:
        print(f"{_SHARED} the probe that missed them serves other join points, too")


def _print_callers(callers: dict[str, int], args: Arguments) -> None:
    if callers:
        print("hits from callers not known beforehand (indirect calls and the like), by where they return to:")
        rows = [[name, hits] for name, hits in callers.items()]
        shown = rows if args.all else rows[:_MANY]
        print(table(["RETURNS TO", "HITS"], shown))
        _print_more(len(rows) - len(shown))


def _print_unreached(unreached: Sequence[dict[str, Any]], args: Arguments) -> None:
    if not unreached:
        return
    print(f"not reached, {plural(len(unreached), 'join point')}:")
    shown = _first(unreached, args, _FEW)
    rows = [[row["advice"], row["kind"], place_text(row), row["reason"]] for row in shown]
    print(table(["ADVICE", "KIND", "JOIN POINT", "REASON"], rows))
    _print_more(len(unreached) - len(shown))
