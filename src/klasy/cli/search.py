"""``klasy search``: functions, data, events, types and members of the kernel, by name."""

from __future__ import annotations

import sys

from klasy.cli.table import plural, say
from klasy.diag import did_you_mean
from klasy.errors import EXIT_INPUT, EXIT_OK, SystemRefusal
from klasy.plain import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from klasy.btf.btf import Btf
    from klasy.btf.walk import Place
    from klasy.cli.options import Arguments, Parser
    from klasy.kernel.live import LiveKernel
    from klasy.kernel.model import DataSymbol, Function

HELP = "Find functions, data and events of the running kernel, with prototypes; with --types, types and members."
EXAMPLE = (
    "  klasy search 'tcp_*cwnd*'\n  klasy search 'sched:*'\n"
    "  klasy search --types sk_buff\n  klasy search --types 'tcp_sock.*cwnd*'"
)

_MANY = 200  # of each kind that are shown as text unless --all is given


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help="a name; * stands for any characters")
    parser.add_argument("--types", action="store_true", help="search types, constants and TYPE.MEMBER instead")
    parser.add_argument("--all", action="store_true", help=f"show all matches, not only the first {_MANY} of a kind")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: Arguments) -> int:
    """Search; 1 where nothing matches one of the patterns, with the names that are near."""
    from klasy.kernel.live import running_kernel

    kernel = running_kernel()
    found: dict[str, list[dict[str, Any]]] = {}
    missing = []
    for pattern in dict.fromkeys(args.patterns):
        matching = _types(kernel, pattern) if args.types else _code_and_data(kernel, pattern)
        if not any(matching.values()):
            missing.append(pattern)
        for kind, entries in matching.items():
            found.setdefault(kind, []).extend(entries)
    if len(args.patterns) > 1:  # several may match the same
        found = {kind: list({str(entry): entry for entry in entries}.values()) for kind, entries in found.items()}
    if args.json:
        import json

        print(json.dumps(found, indent=2))
    else:
        for kind, entries in found.items():
            _print(kind, entries, everything=args.all)
        for pattern in missing:
            _say_nothing_found(kernel, pattern, types=args.types)
    return EXIT_INPUT if missing else EXIT_OK


# --- functions and data -----------------------------------------------------------------------------------------------


def _code_and_data(kernel: LiveKernel, pattern: str) -> dict[str, list[dict[str, Any]]]:
    by_base: dict[tuple[str, str | None], list[Function]] = {}
    for function in kernel.functions(pattern):
        by_base.setdefault((function.base, function.module), []).append(function)
    functions = [_function(kernel, copies) for copies in by_base.values()]
    data = [_datum(kernel, symbol) for symbol in kernel.data_symbols(pattern)]
    functions.sort(key=lambda f: (not f["traceable"], str(f["name"])))
    return {"events": _events(kernel, pattern), "functions": functions, "data": data}


def _datum(kernel: LiveKernel, symbol: DataSymbol) -> dict[str, Any]:
    from klasy.match.globals import type_of

    known = type_of(kernel, symbol)
    return {"name": symbol.name, "type": known.name if known is not None else None, "module": symbol.module}


def _events(kernel: LiveKernel, pattern: str) -> list[dict[str, Any]]:
    """Trace events by their names, with or without the category."""
    from klasy.match.glob import matches

    try:
        names = kernel.tracepoints.names()
    except SystemRefusal:  # only for root to see
        return []
    found = []
    for category, name in names:
        if matches(pattern, f"{category}:{name}" if ":" in pattern else name):
            made = kernel.tracepoints.format(category, name)
            fields = [{"name": field.name, "type": field.declared_type} for field in made.fields]
            found.append({"name": f"{category}:{name}", "fields": fields, "text": made.text})
    return found


def _function(kernel: LiveKernel, copies: list[Function]) -> dict[str, Any]:
    from klasy.kernel.model import Clone, Way

    whole = next((f for f in copies if f.clone is Clone.NONE), copies[0])
    refusal = kernel.refusal(whole.address, whole, Way.KPROBE)
    prototype = whole.btf.c_prototype(whole.proto) if whole.btf and whole.proto is not None else None
    return {
        "name": whole.name if whole.clone is Clone.NONE else whole.base,
        "prototype": prototype,
        "module": whole.module,
        "clones": [f.name for f in copies if f.clone is not Clone.NONE],
        "copies": sum(f.clone is Clone.NONE for f in copies),
        "traceable": refusal is None,
        "reason": refusal.reason if refusal else None,
    }


def _event_names(kernel: LiveKernel) -> list[str]:
    try:
        return [f"{category}:{name}" for category, name in kernel.tracepoints.names()]
    except SystemRefusal:
        return []


# --- types and members ------------------------------------------------------------------------------------------------


def _parts(pattern: str) -> tuple[str, str, str]:
    """Of TYPE.MEMBER the type without its tag, the dot and the member; of a type alone the others are empty."""
    name, dot, member = pattern.partition(".")
    return name.removeprefix("struct ").removeprefix("union ").removeprefix("enum ").strip(), dot, member


def _types(kernel: LiveKernel, pattern: str) -> dict[str, list[dict[str, Any]]]:
    from klasy.btf.types import Enum, Fwd, Struct, Typedef, Union

    btf = kernel.btf
    name, dot, member = _parts(pattern)
    ids = btf.matching(name, Struct, Union, Enum, Typedef, Fwd)
    if dot:
        return {"members": [entry for i in ids for entry in _members(btf, i, member)]}
    types = []
    for i in ids:
        kind = type(btf.type(i)).__name__.lower()
        types.append({"kind": kind, "name": btf.c_name(i), "size": btf.size_of(i), "definition": btf.c_definition(i)})
    constants: list[dict[str, Any]] = [
        {"name": constant, "value": value, "enum": btf.c_name(holder)}
        for holder, value, constant in _constants(btf, name)
    ]
    enumerators = {each["name"] for each in constants}
    macros = [
        {"name": macro, "value": value, "enum": None}
        for macro, value in _macros(kernel, name)
        if macro not in enumerators
    ]
    return {"types": types, "constants": constants + macros}


def _macros(kernel: LiveKernel, pattern: str) -> Iterator[tuple[str, int]]:
    """Of the macros of the kernel's headers those that are known: the name, the value."""
    from klasy.kernel import macros
    from klasy.match.glob import is_glob, matches

    names = [each for each in macros.names(kernel) if matches(pattern, each)] if is_glob(pattern) else [pattern]
    for name in names:
        found = macros.find(name, kernel)
        if found is not None:
            yield name, found.value


def _constants(btf: Btf, pattern: str) -> list[tuple[int, int, str]]:
    """Enumeration constants, each enum's together in its order: the enum's id, the value, the name."""
    from klasy.match.glob import is_glob, matches

    if not is_glob(pattern):
        return [(holder, value, pattern) for holder, value in btf.find_constant(pattern)]
    found = [
        (holder, value, name)
        for name, places in btf.constants.items()
        if matches(pattern, name)
        for holder, value in places
    ]
    return sorted(found, key=lambda each: each[0])


def _members(btf: Btf, type_id: int, pattern: str) -> Iterator[dict[str, Any]]:
    from klasy.btf.types import Struct
    from klasy.btf.walk import members
    from klasy.kernel import member_macros
    from klasy.match.glob import matches

    if not isinstance(btf.type(type_id), Struct):
        return
    named: list[tuple[str, Place | None]] = [(place.name, place) for place in members(btf, type_id)]
    named += [(name, member_macros.find(btf, type_id, name)) for name in member_macros.names(btf, type_id)]
    for name, place in named:
        if name and place is not None and matches(pattern, name):
            path = member_macros.path_of(btf, type_id, name) if place.name != name else None
            yield {
                "type": btf.c_name(type_id),
                "member": name,
                "member_type": btf.c_name(place.type_id),
                "offset": place.byte_offset,
                "stands_for": ".".join(path) if path else None,
            }


# --- text -------------------------------------------------------------------------------------------------------------


def _print(kind: str, entries: list[dict[str, Any]], *, everything: bool) -> None:
    shown = entries if everything else entries[:_MANY]
    for entry in shown:
        print(_LINES[kind](entry, len(entries) == 1))
    if len(shown) < len(entries):
        print(f".. and {len(entries) - len(shown)} more {kind}; --all shows them", file=sys.stderr)


def _function_line(entry: dict[str, Any], _: bool) -> str:
    notes = []
    if entry["copies"] > 1:
        notes.append(f"{entry['copies']} functions of this name")
    if entry["clones"]:
        notes.append(plural(len(entry["clones"]), "compiler copy"))
    if not entry["traceable"]:
        notes.append(f"cannot be probed: {entry['reason']}")
    module = f" [{entry['module']}]" if entry["module"] else ""
    text = entry["prototype"] or f"{entry['name']}(?)"
    return f"{text}{module}" + (f"    // {'; '.join(notes)}" if notes else "")


def _datum_line(entry: dict[str, Any]) -> str:
    kind = f", {entry['type']}" if entry["type"] else ""
    return f"{entry['name']}" + (f" [{entry['module']}]" if entry["module"] else "") + f"    // data{kind}"


def _type_line(entry: dict[str, Any], alone: bool) -> str:
    if alone or not entry["size"]:
        return str(entry["definition"])
    return f"{entry['name']}    // {entry['size']} bytes"


def _member_line(entry: dict[str, Any]) -> str:
    """``stands_for``: the kernel's headers define the name as a macro."""
    meant = f", {entry['stands_for']}" if entry["stands_for"] else ""
    return f"{entry['member_type']} {entry['type']}.{entry['member']}    // offset {entry['offset']}{meant}"


_LINES: dict[str, Callable[[dict[str, Any], bool], str]] = {
    "functions": _function_line,
    "data": lambda e, _: _datum_line(e),
    "types": _type_line,
    "constants": lambda e, _: f"{e['name']} = {e['value']}    // {e['enum'] or 'a macro'}",
    "events": lambda e, _: f"{e['text']}    // event",
    "members": lambda e, _: _member_line(e),
}


def _say_nothing_found(kernel: LiveKernel, pattern: str, *, types: bool) -> None:
    hints = _among_types(kernel, pattern) if types else _among_code(kernel, pattern)
    say(f"nothing is named '{pattern}'", "; ".join(filter(None, hints)))


def _among_types(kernel: LiveKernel, pattern: str) -> Iterator[str]:
    """What may have been meant by who searched types and members."""
    from klasy.btf.types import Enum, Struct, Typedef, Union
    from klasy.btf.walk import members
    from klasy.kernel import macros, member_macros
    from klasy.match.near import near

    btf = kernel.btf
    name, dot, member = _parts(pattern)
    holders = btf.matching(name, Struct, Union) if dot else []
    if holders:
        known = {place.name for holder in holders for place in members(btf, holder) if place.name}
        known.update(name for holder in holders for name in member_macros.names(btf, holder))
        yield did_you_mean([f"{name}.{each}" for each in near(member, known)])
        return
    yield did_you_mean(
        near(name, {*btf.all_names(Struct, Union, Enum, Typedef), *btf.constant_names, *macros.names(kernel)})
    )
    with suppress(SystemRefusal):
        if not dot and kernel.functions(pattern):
            yield "functions are found without --types"


def _among_code(kernel: LiveKernel, pattern: str) -> Iterator[str]:
    """What may have been meant by who searched functions, data and events."""
    from klasy.match.near import near

    yield kernel.why_absent(pattern) or ""
    with suppress(SystemRefusal):
        if any(_types(kernel, pattern).values()):
            yield "types and members are found with --types"
    yield did_you_mean(near(pattern, _event_names(kernel) if ":" in pattern else kernel.function_names()))
