"""From records right to the lines that show them, for the kinds of records that make up most of a log.

A :class:`~klasy.log.event.LogEvent` of each record on the way costs several times as much as the line itself. Here
each format whose values are numbers, strings and addresses gets a function of its own, made once: it unpacks a record
in one step and fills in a template. What it writes is what :mod:`format_text` and :mod:`format_json` write; all other
formats, and records with a fault, are left to them.
"""

from __future__ import annotations

from struct import Struct

from klasy import printf
from klasy.log.format_text import harmless, quoted
from klasy.log.value import Pointer, text_of
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.record import HEADER, HEADER_SIZE, OFFSET_FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.log.decode import Decoder
    from klasy.log.event import LogEvent
    from klasy.record import Field, Format

    Convert = Callable[[int | bytes], int | str]
    What = Callable[[Sequence[int | bytes]], str]

_NUMBERS = {(1, True): "b", (1, False): "B", (2, True): "h", (2, False): "H"}
_NUMBERS |= {(4, True): "i", (4, False): "I", (8, True): "q", (8, False): "Q"}


class LogLine(NamedTuple):
    """A record as it is shown."""

    time_ns: int
    text: str


class LineDecoder:
    """Makes lines of one aspect's records. ``show`` makes one of an event, in the same form."""

    def __init__(self, decoder: Decoder, show: Callable[[LogEvent], str], *, as_json: bool) -> None:
        self._decoder = decoder
        self._show = show
        self._as_json = as_json
        self._made: dict[int, Callable[[bytes], LogLine | None]] = {}

    def decode(self, record: bytes) -> LogLine | None:
        """The line of a record; None, and errors, as Decoder.decode has them."""
        number = int.from_bytes(record[OFFSET_FORMAT : OFFSET_FORMAT + 2], "little")
        made = self._made.get(number)
        if made is None:
            made = self._made[number] = self._make(number)
        return made(record)

    def _slowly(self, record: bytes) -> LogLine | None:
        event = self._decoder.decode(record)
        return None if event is None else LogLine(event.time_ns, self._show(event))

    def _make(self, number: int) -> Callable[[bytes], LogLine | None]:
        formats = self._decoder.schema.formats
        if number >= len(formats):
            return self._slowly
        form = formats[number]
        converts = [self._conversion(entry) for entry in form.fields]
        names = {entry.name for entry in form.fields}
        layout = _layout(form)
        if layout is None or None in converts or (self._as_json and len(names) < len(form.fields)):
            return self._slowly
        if form.template is not None and not _numbers_suffice(form):
            return self._slowly
        what = self._what(form, [convert for convert in converts if convert is not None])
        return self._json(form, layout, what) if self._as_json else self._text(form, layout, what)

    def _text(self, form: Format, layout: Struct, what: What) -> Callable[[bytes], LogLine | None]:
        aspect, points, clock = self._decoder.schema.aspect, self._decoder.schema.points, self._decoder.clock
        places = [f"{aspect}: {point.place}: " for point in points]
        names: dict[bytes, str] = {}
        unpack = layout.unpack_from

        def line(record: bytes) -> LogLine | None:
            time_ns, point, _, cpu, _, tid, comm, faults, *values = unpack(record)
            if faults or point >= len(places):
                return self._slowly(record)
            name = names.get(comm)
            if name is None:
                name = names[comm] = harmless(text_of(comm))
            return LogLine(time_ns, f"{clock(time_ns)} {cpu:3} {name}[{tid}] {places[point]}{what(values)}")

        return line

    def _json(self, form: Format, layout: Struct, what: What) -> Callable[[bytes], LogLine | None]:
        from klasy.log.format_json import point_json

        schema = self._decoder.schema
        about = {"aspect": schema.aspect, "advice": schema.advice[form.advice]}
        heads = [_dumps(about | {"joinpoint": point_json(point)})[1:-1] for point in schema.points]
        names: dict[bytes, str] = {}
        unpack = layout.unpack_from

        def line(record: bytes) -> LogLine | None:
            time_ns, point, _, cpu, pid, tid, comm, faults, *values = unpack(record)
            if faults or point >= len(heads):
                return self._slowly(record)
            name = names.get(comm)
            if name is None:
                name = names[comm] = _string_json(text_of(comm))
            text = (
                f'{{"time_ns": {time_ns}, {heads[point]}, "cpu": {cpu}, "pid": {pid}, "tid": {tid}, "comm": {name}, '
                f"{what(values)}}}"
            )
            return LogLine(time_ns, text)

        return line

    def _conversion(self, entry: Field) -> Convert | None:
        """What makes of an unpacked value what a template takes; None where that is for others to do."""
        if entry.kind == "int" and (entry.size, entry.signed) in _NUMBERS:
            return _itself
        if entry.kind == "string":
            return _string
        if entry.kind == "pointer" and not entry.signed and not Pointer(1 << 63, entry.type_name).may_be_code:
            return _itself
        return None

    def _what(self, form: Format, converts: list[Convert]) -> What:
        """What fills in the values of a format: its message, or each under its name."""
        if form.template is not None:
            return self._message(form, converts)
        parts = []
        shows: list[Convert] = []
        for entry, convert in zip(form.fields, converts, strict=True):
            if self._as_json:
                parts.append(f"{_dumps(entry.name)}: ".replace("%", "%%") + "%s")
                shows.append(_as_json(entry, convert))
            else:
                parts.append(f"{entry.name} = ".replace("%", "%%") + "%s")
                shows.append(_as_text(entry, convert))
        template = ", ".join(parts)
        if self._as_json:
            template = f'"values": {{{template}}}'
        return _filled(template, shows)

    def _message(self, form: Format, converts: list[Convert]) -> What:
        pieces = printf.parse((form.template or "").removesuffix("\n"))
        directives = printf.directives(pieces)
        bare = [_bare(directive, entry) for directive, entry in zip(directives, form.fields, strict=True)]
        as_json = self._as_json
        if None not in bare:
            template = "".join(
                piece.replace("%", "%%") if isinstance(piece, str) else _PLAIN[piece.kind] for piece in pieces
            )
            shown = f'"message": {_dumps(template)}' if as_json else harmless(template)
            return _filled(shown, [show for show in bare if show is not None])
        sizes = [entry.size for entry in form.fields]

        def message(values: Sequence[int | bytes]) -> str:
            given = [(convert(value), size) for convert, value, size in zip(converts, values, sizes, strict=True)]
            text = printf.render(pieces, given)
            return f'"message": {_string_json(text)}' if as_json else harmless(text)

        return message


def _layout(form: Format) -> Struct | None:
    """The header and the values of a record, in one; None where they do not lie in their order."""
    codes, at = "", HEADER_SIZE
    for entry in form.fields:
        if entry.offset < at:
            return None
        number = None if entry.kind == "string" else _NUMBERS.get((entry.size, entry.signed))
        codes += f"{entry.offset - at}x{number or f'{entry.size}s'}"
        at = entry.offset + entry.size
    return Struct(HEADER.format + codes)


def _numbers_suffice(form: Format) -> bool:
    """Whether no directive of a template asks for a name, or shows an address as text."""
    directives = printf.directives(printf.parse(form.template or ""))
    return not any(
        directive.is_symbol or (entry.kind == "pointer" and directive.kind == "s")
        for directive, entry in zip(directives, form.fields, strict=True)
    )


_PLAIN = {"d": "%d", "i": "%d", "u": "%d", "x": "%x", "X": "%X"}  # directives that Python shows alike


def _bare(directive: printf.Directive, entry: Field) -> Convert | None:
    """What makes of a number what Python's directive shows as ours does; None where there is none."""
    if entry.kind != "int" or directive.kind not in _PLAIN or directive.flags or directive.width:
        return None
    if directive.precision is not None:
        return None
    if directive.kind in "di" or not entry.signed:
        return _itself
    mask = (1 << 8 * entry.size) - 1
    return lambda value: int(value) & mask


def _filled(template: str, shows: list[Convert]) -> What:
    """What fills a template of Python's with values, each as it is to be shown."""
    if all(show is _itself for show in shows):
        return lambda values: template % tuple(values)
    return lambda values: template % tuple([show(value) for show, value in zip(shows, values, strict=True)])


def _itself(value: int | bytes) -> int | str:
    return value  # type: ignore[return-value]  # a number: bytes are what strings are unpacked to


def _string(value: int | bytes) -> int | str:
    return text_of(value)  # type: ignore[arg-type]  # the other way round


def _dumps(value: object) -> str:
    import json  # not for text: see tests/unit/test_imports.py

    return json.dumps(value, ensure_ascii=False)


def _string_json(text: str) -> str:
    from klasy.log.format_json import text_json

    return _dumps(text_json(text))


def _as_text(entry: Field, convert: Convert) -> Convert:
    """What shows a value on its own, as value_text does."""
    if entry.kind == "string":
        return lambda value: quoted(str(convert(value)))
    if entry.kind == "pointer":
        return lambda value: f"{int(value):#x}" if value else "NULL"
    return _itself


def _as_json(entry: Field, convert: Convert) -> Convert:
    """The same as value_json does."""
    if entry.kind == "string":
        return lambda value: _string_json(str(convert(value)))
    if entry.kind == "pointer":
        return lambda value: f'"{int(value):#x}"'
    return _itself
