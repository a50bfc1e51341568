"""From records right to the lines that show them, for the kinds of records that make up most of a log.

A :class:`~klasy.log.event.LogEvent` of each record on the way costs several times as much as the line itself. Here
each format whose values stand in its records by themselves gets a function of its own, made once. It takes many records
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
from klasy.log.columns import alike, columns_of, interleaved, is_number, texts
from klasy.log.decode import BY_ITSELF, attribute
from klasy.log.format_text import harmless, message_text, quoted, value_text
from klasy.log.value import Pointer, text_of
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.record import HEADER, HEADER_SIZE, OFFSET_FORMAT, RUN_HEAD, TEXT_KERNEL, Run, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeAlias

    from klasy.log.columns import Column, Show, Texts
    from klasy.log.decode import Decoder
    from klasy.log.event import LogEvent
    from klasy.log.value import Value
    from klasy.record import Field, Format

    Decoded: TypeAlias = list[tuple[int, str] | None]
    Make = Callable[[bytes], "Lines | None"]
    Kind = tuple[int, int]  # of records: their size and format
    # The beginnings of lines, with the end of the one before, one for all or one for each; and what stands behind.
    Stamps = tuple[list[str], list[str]]
    # Makes the texts between two literals, of the columns of values and of what each record, or all, says of itself.
    Part = Callable[[list[list[Any]], Sequence[bytes]], Texts]

_ABOUT = Struct("<IHHII16s")  # a record's header between the time and the faults
assert HEADER.format == f"<Q{_ABOUT.format[1:]}Q"
_FORMAT_AT = (RUN_HEAD + OFFSET_FORMAT) >> 1  # in words of 2 bytes
# in words of 8
_TIME_AT = RUN_HEAD >> 3
_ABOUT_AT = range(_TIME_AT + 1, _TIME_AT + 1 + (_ABOUT.size >> 3))
_FAULTS_AT = _ABOUT_AT.stop
_MOST_HEADS = 4096  # remembered
_POINT = Struct("<I")  # what it begins with
_LAST_ADDRESS = (1 << 64) - 1
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
            if run.number == 1 or alike(numbers):
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
        names = {entry.name for entry in form.fields}
        columns = columns_of(form, size) if form.fields or form.template else None
        if columns is None or (self._as_json and form.template is None and len(names) < len(form.fields)):
            return None
        what = self._what(form)
        if what is None or any("\n" in literal for literal in what.literals):
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
            values = [column(data) for column in columns]
            found = [part(values, abouts) for part in what.parts]
            return Lines(times, ascend, interleaved(*stamps(times, ascend), befores, found, what.literals))

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

    def _what(self, form: Format) -> _What | None:
        """What fills in the values of a format: its message, or each under its name. None where it takes more than the
        values by themselves, the join point and what the system call is.
        """
        if any(entry.kind not in BY_ITSELF and entry.kind not in ("joinpoint", "call") for entry in form.fields):
            return None
        if form.template is None:
            directives: Sequence[printf.Directive | None] = [None] * len(form.fields)
            literals = self._names(form)
        else:
            pieces = printf.parse(form.template.removesuffix("\n"))
            directives = printf.directives(pieces)
            literals = self._between(pieces)
        parts = [
            self._part(at, entry, directive)
            for at, (entry, directive) in enumerate(zip(form.fields, directives, strict=True))
        ]
        if self._as_json:
            before, behind = ('"values": {', "}") if form.template is None else ('"message": "', '"')
            literals = [before + literals[0], *literals[1:]]
            literals[-1] += behind
            users = [at for at, entry in enumerate(form.fields) if entry.kind == "ustring"]
            if users:
                parts.append(_user_memory(form, users))
                literals.append("")
            literals[-1] += "}"
        return _What(literals, parts)

    def _names(self, form: Format) -> list[str]:
        """What stands before each value, and behind the last, where each is shown under its name."""
        literals = []
        for at, entry in enumerate(form.fields):
            name = f"{_dumps(entry.name)}: " if self._as_json else f"{entry.name} = "
            if entry.kind == "call" and not self._as_json:
                name = ""
            literals.append(f", {name}" if at else name)
        return [*literals, ""]

    def _between(self, pieces: Sequence[printf.Piece]) -> list[str]:
        """What a message has before each value, and behind the last."""
        literals = [""]
        for piece in pieces:
            if isinstance(piece, str):
                literals[-1] += self._said(piece)
            else:
                literals.append("")
        return literals

    def _said(self, text: str) -> str:
        """A part of a message."""
        return _string_json(text)[1:-1] if self._as_json else message_text(text)

    def _part(self, at: int, entry: Field, directive: printf.Directive | None) -> Part:
        """What shows a value, the ``at``-th."""
        points, decoder, shown = self._decoder.schema.points, self._decoder, self._shown(entry, directive)
        if entry.kind == "joinpoint":

            def of_point(number: int) -> str:
                return shown(attribute(points[number], entry.type_name))

            return lambda _, abouts: texts(_points(abouts), of_point) if len(abouts) > 1 else of_point(*_points(abouts))
        if entry.kind == "call":
            decode, over = decoder.calls.decode, entry.type_name == "after"

            def call(numbered: tuple[int, bytes]) -> str:
                number, raw = numbered
                return shown(decode(points[number].function or "", raw, over=over))

            def calls(values: list[list[Any]], abouts: Sequence[bytes]) -> Texts:
                numbers = _points(abouts) if len(abouts) > 1 else repeat(*_points(abouts))
                return texts(list(zip(numbers, values[at], strict=False)), call)

            return calls
        show = self._quickly(entry, directive) or self._stored(entry, shown)
        return lambda values, _: texts(values[at], show)

    def _shown(self, entry: Field, directive: printf.Directive | None) -> Callable[[Value], str]:
        """What shows a value of any kind, under its name or by a directive."""
        symbols, printable, size = self._decoder.symbols, self._decoder.printable, entry.size
        if directive is not None:
            return lambda value: self._said(printf.show(directive, printable(directive, value), size))
        if not self._as_json:
            return lambda value: value_text(value, symbols)
        from klasy.log.format_json import value_json

        return lambda value: _dumps(value_json(value, symbols))

    def _stored(self, entry: Field, shown: Callable[[Value], str]) -> Show:
        """The same of what stands in the record."""
        if not is_number(entry):
            value = self._decoder.value
            return lambda raw: shown(value(entry, raw))
        if entry.kind == "pointer":
            return lambda number: shown(Pointer(number, entry.type_name))
        return shown

    def _quickly(self, entry: Field, directive: printf.Directive | None) -> Show | None:
        """The same for what most logs are made of."""
        if entry.kind == "int" and is_number(entry):
            return repr if directive is None else _bare(directive, entry)
        if is_number(entry) and directive is None and not Pointer(_LAST_ADDRESS, entry.type_name).may_be_code:
            if self._as_json:
                return lambda address: f'"{address:#x}"'
            return lambda address: f"{address:#x}" if address else "NULL"
        if entry.kind == "string" and (directive is None or directive.text == "%s"):
            if directive is not None:
                return lambda raw: self._said(text_of(raw))
            if self._as_json:
                return lambda raw: _string_json(text_of(raw))
            return lambda raw: quoted(text_of(raw))
        return None


class _What(NamedTuple):
    """How values become text: what stands before, between and behind them, and what shows each."""

    literals: list[str]
    parts: list[Part]


def _points(abouts: Sequence[bytes]) -> list[int]:
    """The numbers of join points."""
    return [_POINT.unpack_from(about)[0] for about in abouts]


def _user_memory(form: Format, users: Sequence[int]) -> Part:
    """What names the values that were read from a process's memory, ``users`` or some of them."""
    names = [form.fields[at].name for at in users]

    def show(ends: tuple[int, ...]) -> str:
        found = [name for name, end in zip(names, ends, strict=True) if end != TEXT_KERNEL]
        return f', "user_memory": {_dumps(found)}' if found else ""

    return lambda values, _: texts(list(zip(*[[raw[-1] for raw in values[at]] for at in users], strict=True)), show)


def _portions(kind: Kind, data: bytes) -> Iterator[bytes]:
    """Records of one kind, some at a time."""
    most = step_of(kind[0]) * _PORTION
    return (data[at : at + most] for at in range(0, len(data), most))


_PLAIN: dict[str, Show] = {"d": repr, "i": repr, "u": repr, "x": "%x".__mod__, "X": "%X".__mod__}  # Python's like ours


def _bare(directive: printf.Directive, entry: Field) -> Show | None:
    """What shows a number as a directive does, where Python has that at hand; else None."""
    if directive.kind not in _PLAIN or directive.flags or directive.width:
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


def _dumps(value: object) -> str:
    import json  # not for text: see tests/unit/test_imports.py

    return json.dumps(value, ensure_ascii=False)


def _string_json(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'  # in a tenth of the time
    from klasy.log.format_json import text_json

    return _dumps(text_json(text))
