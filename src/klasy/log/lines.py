"""From records right to the lines that show them, for the kinds of records that make up most of a log.

A :class:`~klasy.log.event.LogEvent` of each record on the way costs several times as much as the line itself. Here
each format whose values are numbers, strings and addresses gets a function of its own, made once. It takes many records
at a time, column by column, each column unpacked in one step, and what differs from line to line is put between what
does not by one join: Python's templates go through what they hold character by character, which took most of the time.
What it writes is what :mod:`format_text` and :mod:`format_json` write; all other formats, and records with a fault, are
left to them.
"""

from __future__ import annotations

from _bisect import bisect_left
from itertools import chain, repeat
from struct import Struct

from klasy import printf
from klasy.log.columns import NUMBERS, alike, columns_of, interleaved, texts
from klasy.log.format_text import call_text, harmless, message_text, quoted
from klasy.log.value import Pointer, text_of
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.record import HEADER, HEADER_SIZE, OFFSET_FORMAT, RUN_HEAD, Run, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeAlias

    from klasy.log.columns import Column, Show, Texts
    from klasy.log.decode import Decoder
    from klasy.log.event import LogEvent
    from klasy.log.value import Call
    from klasy.record import Field, Format

    Convert = Callable[[int | bytes], int | str]
    Decoded: TypeAlias = list[tuple[int, str] | None]
    Make = Callable[[bytes], "Lines | None"]
    Kind = tuple[int, int]  # of records: their size and format
    # The beginnings of lines, with the end of the one before, one for all or one for each; and what stands behind.
    Stamps = tuple[list[str], list[str]]

_ABOUT = Struct("<IHHII16s")  # a record's header between the time and the faults
assert HEADER.format == f"<Q{_ABOUT.format[1:]}Q"
_FORMAT_AT = (RUN_HEAD + OFFSET_FORMAT) >> 1  # in words of 2 bytes
# in words of 8
_TIME_AT = RUN_HEAD >> 3
_ABOUT_AT = range(_TIME_AT + 1, _TIME_AT + 1 + (_ABOUT.size >> 3))
_FAULTS_AT = _ABOUT_AT.stop
_MOST_HEADS = 4096  # remembered
_POINT = Struct("<I")  # what it begins with
_THREE_DIGITS: list[str] = []  # of each number below 1000, once they are needed
_SECOND, _MILLISECOND, _MICROSECOND = 1_000_000_000, 1_000_000, 1000
_DENSE = _MILLISECOND // 10  # between records, on average: then there is something to win by their milliseconds
_PORTION = 512  # records at a time: what is made of more on the way does not stay in the caches
_MANY = 64  # records from which on it pays to look for what they have in common


class Lines(NamedTuple):
    """Lines of records, in their order: the time of each, whether these ascend; all the lines, each with its end."""

    times: list[int]
    ascend: bool
    text: str

    def each(self) -> list[tuple[int, str]]:
        """The lines by themselves, each with its time and without its end."""
        return list(zip(self.times, self.text[:-1].split("\n"), strict=True))


def ascending(lines: Sequence[Lines]) -> bool:
    """Whether all come in the order of time."""
    times = [time_ns for some in lines for time_ns in (some.times[0], some.times[-1])]
    return all(some.ascend for some in lines) and times == sorted(times)


class LineDecoder:
    """Makes lines of one aspect's records. ``show`` makes one of an event, in the same form."""

    def __init__(self, decoder: Decoder, show: Callable[[LogEvent], str], *, as_json: bool) -> None:
        self._decoder = decoder
        self._show = show
        self._as_json = as_json
        self._made: dict[Kind, Make | None] = {}

    def decode(self, runs: Sequence[Run]) -> Decoded:
        """Time and line of each record, in their order; None, and errors, as Decoder.decode has them."""
        order, parts = self._kinds(runs)
        made = {kind: self._decode(kind, b"".join(datas)) for kind, datas in parts.items()}
        if len(made) == 1:
            return made.popitem()[1]
        lines = {kind: iter(found) for kind, found in made.items()}
        return [next(lines[kind]) for kind in order]

    def lines(self, runs: Sequence[Run]) -> list[Lines] | None:
        """The lines of all records, some at a time; None where these are of several kinds or want closer looking at:
        then :meth:`decode` has them.
        """
        _, parts = self._kinds(runs)
        if len(parts) != 1:
            return None
        ((kind, datas),) = parts.items()
        make = self._maker(kind)
        found = []
        for some in _portions(kind, b"".join(datas)):
            lines = None if make is None else make(some)
            if lines is None:
                return None
            found.append(lines)
        return found

    def _kinds(self, runs: Sequence[Run]) -> tuple[list[Kind], dict[Kind, list[bytes]]]:
        """Of each record its kind, and the records of each kind."""
        order: list[Kind] = []
        parts: dict[Kind, list[bytes]] = {}
        for run in runs:
            if run.size < HEADER_SIZE:
                self._decoder.decode(run.records()[0])  # which raises
            numbers = memoryview(run.data).cast("H")[_FORMAT_AT :: run.step >> 1]
            if alike(numbers):
                kind = run.size, numbers[0]
                parts.setdefault(kind, []).append(run.data)
                order += [kind] * run.number
                continue
            for number, one in zip(numbers.tolist(), run.split(), strict=True):
                kind = run.size, number
                parts.setdefault(kind, []).append(one.data)
                order.append(kind)
        return order, parts

    def _decode(self, kind: Kind, data: bytes) -> Decoded:
        """Of records of one kind."""
        make = self._maker(kind)
        found: Decoded = []
        for some in _portions(kind, data):
            lines = None if make is None else make(some)
            if lines is not None:
                found += lines.each()
                continue
            events = map(self._decoder.decode, Run(kind[0], 0, some).records())
            found += [None if event is None else (event.time_ns, self._show(event)) for event in events]
        return found

    def _maker(self, kind: Kind) -> Make | None:
        """What makes the lines of records of one kind, unless one has to look at each; None where that is always so."""
        if kind not in self._made:
            self._made[kind] = self._make(*kind)
        return self._made[kind]

    def _make(self, size: int, number: int) -> Make | None:
        formats = self._decoder.schema.formats
        if number >= len(formats):
            return None
        form = formats[number]
        converts = [self._conversion(entry) for entry in form.fields]
        names = {entry.name for entry in form.fields}
        columns = columns_of(form, size) if form.fields or form.template else None
        if columns is None or None in converts or (self._as_json and len(names) < len(form.fields)):
            return None
        if form.template is not None and not _numbers_suffice(form):
            return None
        what = self._what(form, [convert for convert in converts if convert is not None])
        if any("\n" in literal for literal in what.literals):
            return None
        head = self._json_head(form) if self._as_json else self._text_head()
        return self._by_columns(step_of(size), columns, what, head)

    def _by_columns(self, step: int, columns: list[Column], what: _What, head: Callable[[bytes], str | None]) -> Make:
        """What stands before the values is the same for many records but for the time, which ``head`` leaves out."""
        heads: dict[bytes, str | None] = {}
        words_of_each = step >> 3
        about_of_each = Struct(f"<{_ABOUT_AT.start << 3}x{_ABOUT.size}s{step - (_FAULTS_AT << 3)}x")
        stamps = self._stamps_json if self._as_json else self._stamps_text

        def make(data: bytes) -> Lines | None:
            words = memoryview(data).cast("Q")
            faults = words[_FAULTS_AT::words_of_each]
            if faults[0] or not alike(faults):
                return None
            abouts: Sequence[bytes] = (data[_ABOUT_AT.start << 3 : _FAULTS_AT << 3],)
            if not all(alike(words[at::words_of_each]) for at in _ABOUT_AT):
                abouts = list(chain.from_iterable(about_of_each.iter_unpack(data)))
            if len(heads) > _MOST_HEADS:
                heads.clear()
            for about in set(abouts).difference(heads):
                begin = head(about)
                heads[about] = None if begin is None or "\n" in begin else begin + what.literals[0]
            befores = [heads[about] for about in abouts]
            if None in befores:
                return None
            times = words[_TIME_AT::words_of_each].tolist()
            ascend = times == sorted(times)
            values = what.columns([column(data) for column in columns], abouts)
            return Lines(times, ascend, interleaved(*stamps(times, ascend), befores, values, what.literals))

        return make

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

    def _stamps_text(self, times: list[int], ascend: bool) -> Stamps:
        """Local times of day."""
        first, last = times[0], times[-1]
        if ascend and len(times) >= _MANY and last - first < len(times) * _DENSE:
            return self._stamps_by_milliseconds(times)
        begin, second = self._decoder.second(first)
        if not ascend:
            first, last = min(times), max(times)
        if begin <= first and last < begin + _SECOND:
            micros = [(time_ns - begin) // _MICROSECOND for time_ns in times]
            return [f"\n{second}."], list(map("%06d".__mod__, micros))
        return ["\n"], list(map(self._decoder.clock, times))

    def _stamps_by_milliseconds(self, times: list[int]) -> Stamps:
        """The same of times that ascend, many of them in a millisecond."""
        if not _THREE_DIGITS:
            _THREE_DIGITS.extend(f"{number:03}" for number in range(1000))
        digits, done = _THREE_DIGITS, 0
        befores: list[str] = []
        stamps: list[str] = []
        while done < len(times):
            begin, second = self._decoder.second(times[done])
            number = (times[done] - begin) // _MILLISECOND
            begin += number * _MILLISECOND
            end = bisect_left(times, begin + _MILLISECOND, done)
            befores += [f"\n{second}.{digits[number]}"] * (end - done)
            stamps += [digits[(time_ns - begin) // _MICROSECOND] for time_ns in times[done:end]]
            done = end
        return befores, stamps

    def _stamps_json(self, times: list[int], _: bool) -> Stamps:
        return ['\n{"time_ns": '], list(map(repr, times))

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

    def _conversion(self, entry: Field) -> Convert | None:
        """What makes of an unpacked value what a template takes; None where that is for others to do."""
        if entry.kind == "int" and (entry.size, entry.signed) in NUMBERS:
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
        literals: list[str] = []
        shows: list[Show] = []
        for entry, convert in zip(form.fields, converts, strict=True):
            if self._as_json:
                literals.append(f"{_dumps(entry.name)}: ")
                shows.append(_as_json(entry, convert))
            elif entry.kind == "call":
                literals.append("")
                shows.append(repr)
            else:
                literals.append(f"{entry.name} = ")
                shows.append(_as_text(entry, convert))
        literals = [f", {literal}" if at else literal for at, literal in enumerate(literals)]
        if self._as_json:
            literals = ['"values": {' + "".join(literals[:1]), *literals[1:]]
        literals.append("}}" if self._as_json else "")
        return _What(literals, shows, of_call=self._of_call(form))

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
        begin, end = ('"message": ', "}") if self._as_json else ("", "")
        shown = _string_json if self._as_json else message_text
        if None in bare:
            sizes = [entry.size for entry in form.fields]

            def message(*values: int | bytes) -> str:
                given = [(convert(value), size) for convert, value, size in zip(converts, values, sizes, strict=True)]
                return shown(printf.render(pieces, given))

            return _What([begin, end], [], message)
        quote = 1 if self._as_json else 0
        literals = [begin + '"' * quote]
        for piece in pieces:
            if isinstance(piece, str):
                text = shown(piece)
                literals[-1] += text[quote : len(text) - quote]
            else:
                literals.append("")
        literals[-1] += '"' * quote + end
        return _What(literals, [show for show in bare if show is not None])


def _portions(kind: Kind, data: bytes) -> Iterator[bytes]:
    """Records of one kind, some at a time."""
    most = step_of(kind[0]) * _PORTION
    return (data[at : at + most] for at in range(0, len(data), most))


class _What:
    """How values become text: what stands before, between and behind them, and what shows each; or all as one."""

    def __init__(
        self,
        literals: list[str],
        shows: list[Show],
        whole: Callable[..., str] | None = None,
        of_call: Callable[[bytes, bytes], str] | None = None,
    ) -> None:
        """``of_call``: what shows the last value, a system call, of which the join point must be known."""
        self.literals = literals
        self._shows = shows
        self._whole = whole
        self._of_call = of_call

    def columns(self, values: list[list[Any]], abouts: Sequence[bytes]) -> list[Texts]:
        """The texts between the literals, of as many records as each column of values has. ``abouts``: of each record,
        or of all.
        """
        whole = self._whole
        if whole is not None:
            return [texts(list(zip(*values, strict=True)), lambda row: whole(*row))]
        calls = None if self._of_call is None else values.pop()
        found: list[Texts] = [texts(column, show) for show, column in zip(self._shows, values, strict=False)]
        if calls is not None and self._of_call is not None:
            found.append(list(map(self._of_call, abouts if len(abouts) > 1 else repeat(abouts[0]), calls)))
        return found


def _numbers_suffice(form: Format) -> bool:
    """Whether no directive of a template asks for a name, or shows an address or a system call as text."""
    directives = printf.directives(printf.parse(form.template or ""))
    return not any(
        directive.is_symbol or (entry.kind == "pointer" and directive.kind == "s") or entry.kind == "call"
        for directive, entry in zip(directives, form.fields, strict=True)
    )


_PLAIN: dict[str, Show] = {"d": repr, "i": repr, "u": repr, "x": "%x".__mod__, "X": "%X".__mod__}  # Python's like ours


def _bare(directive: printf.Directive, entry: Field) -> Show | None:
    """What shows a number as a directive does, where Python has that at hand; else None."""
    if entry.kind != "int" or directive.kind not in _PLAIN or directive.flags or directive.width:
        return None
    if directive.cut:
        return None
    if directive.precision is not None:
        return None
    show = _PLAIN[directive.kind]
    if directive.kind in "di" or not entry.signed:
        return show
    mask = (1 << directive.bits(entry.size)) - 1
    return lambda value: show(value & mask)


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


def _as_text(entry: Field, convert: Convert) -> Show:
    """What shows a value on its own, as value_text does."""
    if entry.kind == "string":
        return lambda value: quoted(str(convert(value)))
    if entry.kind == "pointer":
        return lambda value: f"{value:#x}" if value else "NULL"
    return repr


def _as_json(entry: Field, convert: Convert) -> Show:
    """The same as value_json does."""
    if entry.kind == "string":
        return lambda value: _string_json(str(convert(value)))
    if entry.kind == "pointer":
        return lambda value: f'"{value:#x}"'
    return repr
