"""The registry entry of a woven aspect: all that a later process needs to list, count and decode, in one BPF map.

A frozen array of chunks: a header (magic, version, how what follows is packed, its length), then JSON, compressed where
it is long. The join points are columns, because there may be thousands. Reading tolerates entries of other versions:
they are reported as foreign, never taken apart.
"""

from __future__ import annotations

import struct

from klasy.errors import KlasyError
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, ClassVar

    from klasy.lang.ast import Advice
    from klasy.match.plan import Plan, Probe
    from klasy.match.shadow import Shadow
    from klasy.record import Format
    from klasy.state import State

CHUNK = 4096
MAGIC = b"klasyreg"
VERSION = 7
_HEADER = struct.Struct("<8sIII")  # magic, version, packing, bytes that follow
_PLAIN, _DEFLATED = 0, 1
_LONG = 32 * 1024  # bytes from which on compressing is worth the time, and the import, that it takes

SHADOW_COLUMNS = (
    "kind",
    "function",
    "offset",
    "address",
    "module",
    "callee",
    "callee_module",
    "call",
    "data",
    "file",
    "line",
    "access",
)
JOINPOINT_COLUMNS = ("id", "advice", *SHADOW_COLUMNS, "mechanism", "why")
_FILE_OFFSET = 0xFFFF_FFFF  # of the address of a function of a user program: where it is in its file
_LENGTH = ""  # where a packed table has its number of rows, beside the names of the columns
_PLAIN_KINDS = ("execution", "call")
_NOTHING_MORE = [None] * 7  # of an execution's: callee, callee_module, call, data, file, line, access
UNREACHED_COLUMNS = ("advice", *SHADOW_COLUMNS, "code", "reason")


class UnknownRegistry(KlasyError):
    """A registry entry that this klasy cannot read: of another version, damaged, or not klasy's at all."""


def pack(document: dict[str, Any]) -> list[bytes]:
    """A document as chunks for the map, each of CHUNK bytes."""
    body = _to_json(document).encode()
    packing = _PLAIN
    if len(body) > _LONG:
        import zlib

        body, packing = zlib.compress(body, 1), _DEFLATED
    data = _HEADER.pack(MAGIC, VERSION, packing, len(body)) + body
    return [data[at : at + CHUNK].ljust(CHUNK, b"\0") for at in range(0, len(data), CHUNK)]


def unpack(chunks: Sequence[bytes]) -> dict[str, Any]:
    """The inverse of :func:`pack`. Raises UnknownRegistry."""
    data = b"".join(chunks)
    if len(data) < _HEADER.size:
        raise UnknownRegistry("too short for a registry entry")
    magic, version, packing, size = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise UnknownRegistry("not a registry entry of klasy")
    if version != VERSION:
        raise UnknownRegistry(f"another klasy wove it (registry entry of version {version}, this one knows {VERSION})")
    body = data[_HEADER.size : _HEADER.size + size]  # too short a one does not parse
    try:
        document = _from_json((_inflated(body) if packing == _DEFLATED else body).decode())
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UnknownRegistry("a damaged registry entry")
    return document


# _json is the half of the module json that is in C. The other half, which klasy does not need here, brings regular
# expressions and enumerations with it: a tenth of the time that a weave takes.


def _to_json(document: dict[str, Any]) -> str:
    """As ``json.dumps``, without blanks."""
    try:
        from _json import encode_basestring_ascii, make_encoder
    except ImportError:  # a Python built without it
        import json

        return json.dumps(document, separators=(",", ":"))
    encode = make_encoder({}, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)
    return "".join(encode(document, 0))


def _refuse(value: object) -> None:
    raise TypeError(f"{value!r} cannot stand in a registry entry")


def _from_json(text: str) -> object:
    """As ``json.loads`` for what :func:`_to_json` gives. Raises ValueError."""
    try:
        from _json import make_scanner
    except ImportError:
        import json

        return json.loads(text)
    try:
        value, end = make_scanner(_Reading)(text, 0)  # type: ignore[arg-type]  # any object with these attributes
    except StopIteration:
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("more than one document")
    return value


class _Reading:
    """How JSON is read: what ``json.JSONDecoder`` is to its C half."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: ClassVar[dict[str, str]] = {}


def _inflated(body: bytes) -> bytes:
    import zlib

    try:
        return zlib.decompress(body)
    except zlib.error as error:
        raise ValueError(error) from None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a registry entry says besides the plan. Times in nanoseconds: of day, and since boot (monotonic).

    ``counts_refused``: the kernel counts the hits for which it does not run a kprobe's program (see counts.py).
    """

    time_ns: int
    monotonic_ns: int
    pid: int
    token: str
    group: str | None
    klasy: str
    release: str
    build_id: str
    boot_id: str
    counts_refused: bool
    options: dict[str, Any]


def complete(entry: dict[str, Any], circumstances: Circumstances, events: dict[int, int]) -> dict[str, Any]:
    """The document of an aspect about to be woven, of what :func:`describe` gave.

    ``events`` gives the kernel probe event of a probe, by its index.
    """
    c = circumstances
    return {
        **entry,
        "woven": {"time_ns": c.time_ns, "monotonic_ns": c.monotonic_ns, "pid": c.pid, "klasy": c.klasy},
        "kernel": {"release": c.release, "build_id": c.build_id, "boot_id": c.boot_id},
        "counts_refused": c.counts_refused,
        "options": {**c.options, **entry["options"]},
        "token": c.token,
        "group": c.group,
        "probes": [{**probe, "event": events.get(index)} for index, probe in enumerate(entry["probes"])],
    }


def describe(
    plan: Plan,
    formats: Sequence[Format],
    states: Sequence[State] = (),
    budget: float | None = None,
    types: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """What a registry entry says of an aspect, whenever it is woven. ``types``: see compiler.Compiled."""
    source = plan.aspect.source
    return {
        "aspect": plan.aspect.name,
        "source": {
            "name": source.name,
            "text": source.text,
            "imports": [{"name": file.name, "text": file.text} for file in plan.aspect.imports],
        },
        "options": {"budget": budget},
        "precedence": [list(pair) for pair in plan.aspect.order],
        "advice": [_advice(advice) for advice in plan.aspect.advice],
        "joinpoints": pack_table(
            JOINPOINT_COLUMNS,
            [[j.id, j.advice, *shadow_row(j.shadow), j.mechanism, j.why] for j in plan.joinpoints],
        ),
        "unreached": pack_table(
            UNREACHED_COLUMNS,
            [[m.advice, *shadow_row(m.shadow), m.code, m.reason] for m in plan.unreached],
        ),
        "probes": [_probe(plan, probe) for probe in plan.probes],
        "formats": [f.to_json() for f in formats],
        "states": [state.to_json() for state in states],
        "filter": plan.filter.to_json() if plan.filter else None,
        "types": {key: data.hex() for key, data in types.items()} if types else {},
    }


def _advice(advice: Advice) -> dict[str, Any]:
    """``keeps``: nobody wrote it, it keeps a control flow."""
    found: dict[str, Any] = {"label": advice.label, "kind": advice.kind.value, "line": advice.span.line}
    return found | {"keeps": True} if advice.keeps else found


def shadow_row(shadow: Shadow) -> list[Any]:
    """A shadow under SHADOW_COLUMNS. Of a source line it says what the pointcut does: others are found at reading."""
    kind, function, address, callee, _, datum, _, access, place = shadow
    call = shadow.call_kind
    if function is not None and datum is None and access is None and place is None and kind.value in _PLAIN_KINDS:
        module = function.module  # of these there may be thousands
        if module is None or module[0] != "/":
            row = [kind.value, function.name, address - function.address, address or None, module]
            if callee is None and kind.value == "execution":
                return row + _NOTHING_MORE
            names = (callee.name, callee.module) if callee is not None else (None, None)
            return [*row, *names, call.value if call else None, None, None, None, None]
    is_event = shadow.kind.value == "event"  # an event lies nowhere
    in_program = shadow.function is not None and shadow.function.in_program
    return [
        shadow.kind.value,
        shadow.function.name if shadow.function else None,
        shadow.offset if shadow.function else None,
        None if is_event else (shadow.address & _FILE_OFFSET if in_program else shadow.address) or None,
        shadow.module,
        shadow.callee.name if shadow.callee else None,
        shadow.callee.module if shadow.callee else None,
        call.value if call else None,
        shadow.data,
        shadow.place.file if shadow.place else None,
        shadow.place.line if shadow.place else None,
        shadow.access.words if shadow.access else None,
    ]


def pack_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Rows as columns; one that repeats itself much, as its distinct values and where they stand."""
    table: dict[str, Any] = {_LENGTH: len(rows)}
    for name, values in zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True):
        found = dict.fromkeys(values)
        if len(found) > len(values) // 4:
            table[name] = list(values)
        elif len(found) == 1:
            table[name] = {"of": list(found)}
        else:
            distinct = {value: index for index, value in enumerate(found)}
            table[name] = {"of": list(distinct), "at": [distinct[value] for value in values]}
    return table


def unpack_table(table: dict[str, Any]) -> dict[str, list[Any]]:
    """The columns that :func:`pack_table` packed, by name; all are of one length."""
    columns: dict[str, list[Any]] = {}
    for name, column in table.items():
        if name == _LENGTH:
            continue
        if isinstance(column, list):
            columns[name] = column
        elif "at" in column:
            values = column["of"]
            columns[name] = [values[i] for i in column["at"]]
        else:
            columns[name] = column["of"] * table[_LENGTH]
    return columns


def table_length(table: dict[str, Any]) -> int:
    """How many rows were packed."""
    return int(table[_LENGTH])


def _probe(plan: Plan, probe: Probe) -> dict[str, Any]:
    from klasy.match.runs import whole
    from klasy.weaver.attribution import served

    return {
        "name": probe.name,
        "mechanism": probe.mechanism.value,
        "context": probe.context.value,
        "points": [
            [point.address, point.function.name, point.address - point.function.address, point.function.module]
            for point in probe.points
        ],
        "joinpoints": served(plan, probe),
        "whole": whole(plan, probe),
        "takes_notes": probe.takes_notes,
        "watch": _watch(probe),
        "object": _object(probe),
    }


def _watch(probe: Probe) -> dict[str, Any] | None:
    """What is watched, where that is how the probe works."""
    watch = probe.watch
    if watch is None or watch.per_object:
        return None
    return {
        "slot": watch.slot,
        "text": watch.data.piece_text(watch.piece),
        "address": watch.piece.address,
        "length": watch.piece.length,
        "writes_only": watch.writes_only,
        "joinpoints": sorted(i for arm in probe.arms for i in arm.by_address.values()),
    }


def _object(probe: Probe) -> dict[str, Any] | None:
    """The member of objects that is watched, where that is how the probe works."""
    watch = probe.watch
    if watch is None or not watch.per_object:
        return None
    return {
        "slot": watch.slot,
        "text": watch.data.text,
        "length": watch.piece.length,
        "writes_only": watch.writes_only,
        "joinpoints": sorted(i for arm in probe.arms for i in arm.by_address.values()),
    }
