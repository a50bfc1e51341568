"""From records right to the lines that show them, for the kinds of records that make up most of a log.

A :class:`~klasy.log.event.LogEvent` of each record on the way costs several times as much as the line itself. Here
each format whose values are numbers, strings and addresses gets a function of its own, made once. It takes many records
at a time, column by column: unpacked in one step, and all put into one template by a loop that is not Python's. What
it writes is what :mod:`format_text` and :mod:`format_json` write; all other formats, and records with a fault, are
left to them.
"""

from __future__ import annotations

from struct import Struct

from klasy import printf
from klasy.log.format_text import call_text, harmless, quoted
from klasy.log.value import Pointer, text_of
from klasy.plain import TYPE_CHECKING
from klasy.record import CALL_SIZE, HEADER, HEADER_SIZE, OFFSET_FORMAT, RUN_HEAD, Run, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from klasy.log.decode import Decoder
    from klasy.log.event import LogEvent
    from klasy.log.value import Call
    from klasy.record import Field, Format

    Convert = Callable[[int | bytes], int | str]
    Decoded: TypeAlias = list[tuple[int, str] | None]
    Make = Callable[[bytes], Decoded]

_NUMBERS = {(1, True): "b", (1, False): "B", (2, True): "h", (2, False): "H"}
_NUMBERS |= {(4, True): "i", (4, False): "I", (8, True): "q", (8, False): "Q"}
_ABOUT = Struct("<IHHII16s")  # a record's header between the time and the faults
assert HEADER.format == f"<Q{_ABOUT.format[1:]}Q"
_FORMAT_AT = (RUN_HEAD + OFFSET_FORMAT) >> 1  # in words of 2 bytes
_MOST_HEADS = 4096  # remembered
_POINT = Struct("<I")  # what it begins with
_BYTES = ("string", "call")  # kinds of fields that are no numbers
_SECOND = 1_000_000_000


class LineDecoder:
    """Makes lines of one aspect's records. ``show`` makes one of an event, in the same form."""

    def __init__(self, decoder: Decoder, show: Callable[[LogEvent], str], *, as_json: bool) -> None:
        self._decoder = decoder
        self._show = show
        self._as_json = as_json
        self._made: dict[tuple[int, int], Make] = {}

    def decode(self, runs: Sequence[Run]) -> Decoded:
        """Time and line of each record, in their order; None, and errors, as Decoder.decode has them."""
        order: list[tuple[int, int]] = []  # of each record its kind: size and format
        parts: dict[tuple[int, int], list[bytes]] = {}
        for run in runs:
            if run.size < HEADER_SIZE:
                self._decoder.decode(run.records()[0])  # which raises
            numbers = memoryview(run.data).cast("H")[_FORMAT_AT :: run.step >> 1].tolist()
            kind = run.size, numbers[0]
            if numbers.count(numbers[0]) == len(numbers):
                parts.setdefault(kind, []).append(run.data)
                order += [kind] * run.number
                continue
            for number, one in zip(numbers, run.split(), strict=True):
                kind = run.size, number
                parts.setdefault(kind, []).append(one.data)
                order.append(kind)
        made = {kind: self._maker(*kind)(b"".join(datas)) for kind, datas in parts.items()}
        if len(made) == 1:
            return made.popitem()[1]
        lines = {kind: iter(found) for kind, found in made.items()}
        return [next(lines[kind]) for kind in order]

    def _maker(self, size: int, number: int) -> Make:
        """What makes the lines of records of one size and format."""
        found = self._made.get((size, number))
        if found is None:
            found = self._made[size, number] = self._make(size, number)
        return found

    def _make(self, size: int, number: int) -> Make:
        def slowly(data: bytes) -> Decoded:
            events = map(self._decoder.decode, Run(size, 0, data).records())
            return [None if event is None else (event.time_ns, self._show(event)) for event in events]

        formats = self._decoder.schema.formats
        if number >= len(formats):
            return slowly
        form = formats[number]
        converts = [self._conversion(entry) for entry in form.fields]
        names = {entry.name for entry in form.fields}
        layout = _layout(form, size)
        if layout is None or None in converts or (self._as_json and len(names) < len(form.fields)):
            return slowly
        if form.template is not None and not _numbers_suffice(form):
            return slowly
        what = self._what(form, [convert for convert in converts if convert is not None])
        head = self._json_head(form) if self._as_json else self._text_head()
        return self._by_columns(layout, what, head, slowly)

    def _by_columns(self, layout: Struct, what: _What, head: Callable[[bytes], str | None], slowly: Make) -> Make:
        """What stands before the values is the same for many records but for the time, which ``head`` leaves out."""
        heads: dict[bytes, str] = {}
        unpack, fill = layout.iter_unpack, self._fill_json if self._as_json else self._fill_text

        def lines(data: bytes) -> Decoded:
            times, abouts, faults, *values = zip(*unpack(data), strict=True)
            if any(faults):
                return slowly(data)
            if len(heads) > _MOST_HEADS:
                heads.clear()
            for about in set(abouts).difference(heads):
                found = head(about)
                if found is None:
                    return slowly(data)
                heads[about] = found
            return fill(times, map(heads.__getitem__, abouts), what.template, what.columns(values, abouts))

        return lines

    def _text_head(self) -> Callable[[bytes], str | None]:
        aspect, points = self._decoder.schema.aspect, self._decoder.schema.points
        number = len(points)
        places: dict[int, str] = {}

        def head(about: bytes) -> str | None:
            point, _, cpu, _, tid, comm = _ABOUT.unpack(about)
            place = places.get(point)
            if place is None:
                if point >= number:
                    return None
                place = places[point] = f"{aspect}: {points[point].place}: "
            return f" {cpu:3} {harmless(text_of(comm))}[{tid}] {place}"

        return head

    def _fill_text(
        self, times: Sequence[int], heads: Iterable[str], template: str, columns: list[Iterable[object]]
    ) -> Decoded:
        begin, second = self._decoder.second(times[0])
        if begin <= min(times) and max(times) < begin + _SECOND:
            micros = [(time_ns - begin) // 1000 for time_ns in times]
            texts = map(f"{second}.%06d%s{template}".__mod__, zip(micros, heads, *columns, strict=True))
        else:
            texts = map(f"%s%s{template}".__mod__, zip(map(self._decoder.clock, times), heads, *columns, strict=True))
        return list(zip(times, texts, strict=True))

    def _json_head(self, form: Format) -> Callable[[bytes], str | None]:
        from klasy.log.format_json import point_json

        schema = self._decoder.schema
        about_all = {"aspect": schema.aspect, "advice": schema.advice[form.advice]}
        points = schema.points
        number = len(points)
        places: dict[int, str] = {}

        def head(about: bytes) -> str | None:
            point, _, cpu, pid, tid, comm = _ABOUT.unpack(about)
            place = places.get(point)
            if place is None:
                if point >= number:
                    return None
                place = places[point] = _dumps(about_all | {"joinpoint": point_json(points[point])})[1:-1]
            name = _string_json(text_of(comm))
            return f', {place}, "cpu": {cpu}, "pid": {pid}, "tid": {tid}, "comm": {name}, '

        return head

    def _fill_json(
        self, times: Sequence[int], heads: Iterable[str], template: str, columns: list[Iterable[object]]
    ) -> Decoded:
        texts = map(f'{{"time_ns": %d%s{template}}}'.__mod__, zip(times, heads, *columns, strict=True))
        return list(zip(times, texts, strict=True))

    def _conversion(self, entry: Field) -> Convert | None:
        """What makes of an unpacked value what a template takes; None where that is for others to do."""
        if entry.kind == "int" and (entry.size, entry.signed) in _NUMBERS:
            return _itself
        if entry.kind == "string":
            return _string
        if entry.kind == "pointer" and not entry.signed and not Pointer(1 << 63, entry.type_name).may_be_code:
            return _itself
        if entry.kind == "call":
            return _itself  # see _call
        return None

    def _what(self, form: Format, converts: list[Convert]) -> _What:
        """What fills in the values of a format: its message, or each under its name."""
        if form.template is not None:
            return self._message(form, converts)
        parts = []
        shows: list[Convert] = []
        for entry, convert in zip(form.fields, converts, strict=True):
            if self._as_json:
                parts.append(f"{_dumps(entry.name)}: ".replace("%", "%%") + "%s")
                shows.append(_as_json(entry, convert))
            elif entry.kind == "call":
                parts.append("%s")
                shows.append(_itself)
            else:
                parts.append(f"{entry.name} = ".replace("%", "%%") + "%s")
                shows.append(_as_text(entry, convert))
        template = ", ".join(parts)
        if self._as_json:
            template = f'"values": {{{template}}}'
        return _What(template, shows, of_call=self._of_call(form))

    def _of_call(self, form: Format) -> Callable[[bytes, bytes], str] | None:
        """What shows a system call, of what a record says of its join point and of the call; None where there is none.

        It is the last field, see record.py.
        """
        if not form.fields or form.fields[-1].kind != "call":
            return None
        points, over = self._decoder.schema.points, form.fields[-1].type_name == "after"
        decode, shown = self._decoder.calls.decode, _call_json if self._as_json else call_text

        def text(about: bytes, raw: bytes) -> str:
            return shown(decode(points[_POINT.unpack_from(about)[0]].function or "", raw, over=over))

        return text

    def _message(self, form: Format, converts: list[Convert]) -> _What:
        pieces = printf.parse((form.template or "").removesuffix("\n"))
        directives = printf.directives(pieces)
        bare = [_bare(directive, entry) for directive, entry in zip(directives, form.fields, strict=True)]
        as_json = self._as_json
        if None not in bare:
            template = "".join(
                piece.replace("%", "%%") if isinstance(piece, str) else _PLAIN[piece.kind] for piece in pieces
            )
            shown = f'"message": {_dumps(template)}' if as_json else harmless(template)
            return _What(shown, [show for show in bare if show is not None])
        sizes = [entry.size for entry in form.fields]

        def message(*values: int | bytes) -> str:
            given = [(convert(value), size) for convert, value, size in zip(converts, values, sizes, strict=True)]
            text = printf.render(pieces, given)
            return f'"message": {_string_json(text)}' if as_json else harmless(text)

        return _What("%s", [], message)


class _What:
    """How values become text: Python's template, and what makes of each value what it takes; or of all one string."""

    def __init__(
        self,
        template: str,
        shows: list[Convert],
        whole: Callable[..., str] | None = None,
        of_call: Callable[[bytes, bytes], str] | None = None,
    ) -> None:
        """``of_call``: what shows the last value, a system call, of which the join point must be known."""
        self.template = template
        self._shows = shows
        self._whole = whole
        self._of_call = of_call

    def columns(self, values: Sequence[Sequence[int | bytes]], abouts: Sequence[bytes]) -> list[Iterable[object]]:
        """What the template takes, of as many records as each column of values has."""
        if self._whole is not None:
            return [map(self._whole, *values)]
        found: list[Iterable[object]] = [
            column if show is _itself else map(show, column) for show, column in zip(self._shows, values, strict=True)
        ]
        if self._of_call is not None:
            calls: Sequence[bytes] = values[-1]  # type: ignore[assignment]  # see _layout
            found[-1] = map(self._of_call, abouts, calls)
        return found


def _layout(form: Format, size: int) -> Struct | None:
    """What there is from one record of a run to the next: time, all else that a head tells, faults and the values.

    None where they do not lie in their order.
    """
    codes, at = "", HEADER_SIZE
    for entry in form.fields:
        if entry.offset < at:
            return None
        width, number = entry.size, _NUMBERS.get((entry.size, entry.signed))
        if entry.kind == "call":  # all that is left
            width = size - entry.offset
            if width < CALL_SIZE:
                return None
        codes += f"{entry.offset - at}x{number if number and entry.kind not in _BYTES else f'{width}s'}"
        at = entry.offset + width
    room = step_of(size) - RUN_HEAD
    return Struct(f"<{RUN_HEAD}xQ{_ABOUT.size}sQ{codes}{room - at}x") if at <= room else None


def _numbers_suffice(form: Format) -> bool:
    """Whether no directive of a template asks for a name, or shows an address or a system call as text."""
    directives = printf.directives(printf.parse(form.template or ""))
    return not any(
        directive.is_symbol or (entry.kind == "pointer" and directive.kind == "s") or entry.kind == "call"
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


def _call_json(call: Call) -> str:
    from klasy.log.format_json import call_json

    return _dumps(call_json(call))


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
