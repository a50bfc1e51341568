"""Logs kept as the kernel wrote them: ``klasy log --raw`` writes such a file, ``klasy log FILE`` shows it.

Writing records as they are is the cheapest a reader can do with them. A file has all that it takes to show them
elsewhere and later: the aspects' formats and join points and, where the formats need them, the kernel's symbols and
types. It is read without trust in what it says: a malformed one is refused.

    magic        ``klasy log 5``, a line
    chunks       tag (4 bytes), length of the body (8 bytes), body
      HEAD         JSON: the kernel's release, the distance of its clock to that on the wall, the sources of records
      SYMS         the functions of one object: length of its name (2), name (empty: the kernel proper), where it was
                   loaded (8), and compressed, what Symbols.dump gives
      VARS         the same of its variables
      TYPE         the kernel's BTF, or what is handed along: length of its name (record.Field.module), name, and the
                   bytes, compressed
      RECS         of length 0: from here to the end of the file there are
    records      length (4), number of the source (4), the bytes of a record, and what fills up 8

All numbers are little-endian. The records are as they lie in the kernel's buffer: of a single source whatever the
kernel has in the place of its number, and a length with BPF_RINGBUF_DISCARD_BIT is of what is no record.
"""

from __future__ import annotations

import json
import zlib
from operator import itemgetter
from struct import Struct
from struct import error as StructError

from klasy import printf
from klasy.bpf.uapi import BPF_RINGBUF_DISCARD_BIT
from klasy.btf.btf import Btf
from klasy.btf.read import BtfError
from klasy.errors import InputError, KlasyError, SystemRefusal
from klasy.kernel.datamap import variable_in
from klasy.kernel.generated import function_in
from klasy.kernel.kallsyms import Symbols
from klasy.log.decode import Decoder, WallClock
from klasy.log.event import LogPoint, Schema
from klasy.log.lines import LineDecoder, ascending
from klasy.log.symbolize import Symbolizer
from klasy.log.userspace import UserSymbols
from klasy.plain import TYPE_CHECKING, asdict
from klasy.record import HEADER_SIZE, RUN_HEAD, TYPED, Format, Run, same_ahead, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, BinaryIO

    from klasy.kernel.model import DataSymbol, Function
    from klasy.kernel.references import Reference
    from klasy.log.event import LogEvent

MAGIC = b"klasy log 5\n"
_CHUNK = Struct("<4sQ")
_NAME = Struct("<H")
_BASE = Struct("<Q")
_RECORD = Struct("<II")
assert _RECORD.size == RUN_HEAD
_NAMED = frozenset(("symbol", "stack", "pointer", "object"))  # kinds of fields in which code may be named
_NEEDS_KERNEL = {
    "site": "which instruction accessed the data",
    "call": "what arguments a system call has",
}
_LARGEST = 1 << 30  # bytes of a chunk, uncompressed
_PART = 1 << 20
# What malformed contents can come to in code that was written for what klasy itself says.
_MALFORMED = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
    *(StructError, BtfError, RecursionError, MemoryError),
)


def check(schemas: Iterable[Schema]) -> None:
    """Raise SystemRefusal for an aspect whose log cannot be shown away from the kernel that wrote it."""
    for schema in schemas:
        for entry in (entry for form in schema.formats for entry in form.fields):
            if entry.kind in _NEEDS_KERNEL:
                raise SystemRefusal(
                    f"the log of '{schema.aspect}' cannot be kept raw",
                    hint=f"only the running kernel tells {_NEEDS_KERNEL[entry.kind]}; use --json",
                )


def head(
    schemas: Sequence[Schema],
    *,
    release: str,
    wall_offset: int,
    symbols: Callable[[], Mapping[str | None, Symbols]],
    variables: Callable[[], Mapping[str | None, Symbols]],
    types: Callable[[str | None], bytes],
) -> bytes:
    """What stands before the records. ``symbols`` (functions), ``variables`` and ``types`` (the BTF of a module) are
    asked if they are needed.
    """
    sources = [
        {
            "aspect": schema.aspect,
            "advice": list(schema.advice),
            "points": [asdict(point) for point in schema.points],
            "formats": [form.to_json() for form in schema.formats],
        }
        for schema in schemas
    ]
    document = {"kernel": release, "wall_offset_ns": wall_offset, "sources": sources}
    parts = [MAGIC, _chunk(b"HEAD", json.dumps(document).encode())]
    forms = [form for schema in schemas for form in schema.formats]
    fields = [entry for form in forms for entry in form.fields]
    asked = any(each.is_symbol for form in forms for each in printf.directives(printf.parse(form.template or "")))
    if asked or any(entry.kind in _NAMED for entry in fields):
        parts += _tables(b"SYMS", symbols())
    if asked:
        parts += _tables(b"VARS", variables())
    wanted = {entry.module for entry in fields if entry.kind in TYPED}
    for module in sorted(wanted, key=lambda name: name or ""):
        parts.append(_chunk(b"TYPE", _named(module), zlib.compress(types(module), 1)))
    parts.append(_chunk(b"RECS"))
    return b"".join(parts)


def encoded(source: int, run: Run) -> bytes:
    """Records of one of several sources as they stand in the file."""
    data = bytearray(run.data)
    words = memoryview(data).cast("Q")
    words[:: run.step >> 3] = memoryview(_RECORD.pack(run.size, source) * run.number).cast("Q")
    return bytes(data)


def pieces(data: bytes | memoryview) -> list[bytes | memoryview]:
    """Records as they stand in the file, each by itself with what is no record before it."""
    found = []
    start = at = 0
    while at < len(data):
        length, _ = _RECORD.unpack_from(data, at)
        at += step_of(length & ~BPF_RINGBUF_DISCARD_BIT)
        if not length & BPF_RINGBUF_DISCARD_BIT:
            found.append(data[start:at])
            start = at
    return found


def _tables(tag: bytes, tables: Mapping[str | None, Symbols]) -> list[bytes]:
    return [
        _chunk(tag, _named(name), _BASE.pack(table.base), zlib.compress(table.dump(), 1))
        for name, table in tables.items()
    ]


def _chunk(tag: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return _CHUNK.pack(tag, len(body)) + body


def _named(name: str | None) -> bytes:
    data = (name or "").encode()
    return _NAME.pack(len(data)) + data


class RawFile:
    """One file, open for reading. Raises InputError where it cannot be read or is malformed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.cut = False  # the file ends within a record: who wrote it was killed, or its disk was full
        self._tables: dict[str | None, Symbols] = {}
        self._variables: dict[str | None, Symbols] = {}
        self._types: dict[str | None, bytes] = {}
        self._btfs: dict[str | None, Btf] = {}
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115  # closed by close()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        try:
            self._read_head()
        except _MALFORMED as error:
            self._file.close()
            raise InputError(f"{path} is no log that klasy wrote: {error}") from None

    def _read_head(self) -> None:
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            other = magic.startswith(MAGIC[:10])
            raise ValueError("it is of another version" if other else "it does not begin as one")
        document: Any = None
        while True:
            tag, length = _CHUNK.unpack(self._file.read(_CHUNK.size))
            if tag == b"RECS":
                break
            if length > _LARGEST:
                raise ValueError("a part of it is too long")
            body = self._file.read(length)
            if len(body) < length:
                raise ValueError("it ends before the records begin")
            if tag == b"HEAD":
                document = json.loads(body)
            elif tag in (b"SYMS", b"VARS"):
                name, rest = _split(body)
                (base,) = _BASE.unpack_from(rest)
                tables = self._tables if tag == b"SYMS" else self._variables
                tables[name] = Symbols.load(memoryview(_inflated(rest[_BASE.size :])), base)
            elif tag == b"TYPE":
                name, rest = _split(body)
                self._types[name] = _inflated(rest)
        if document is None:
            raise ValueError("it does not say of what it is the log")
        self.release = str(document["kernel"])
        self.symbols = Symbolizer(self, UserSymbols(proc="/dev/null"))  # the processes were another machine's
        wall = WallClock(int(document["wall_offset_ns"]))
        self._decoders = [
            Decoder(_schema(source), self.types, self.symbols, wall=wall) for source in document["sources"]
        ]

    def texts(self, show: Callable[[LogEvent], str], *, as_json: bool) -> Iterator[str | list[str]]:
        """The records as lines, some at a time, as LogReader.texts has them.

        Raises InputError, SystemRefusal for a malformed record, after the lines of those before it.
        """
        decoders = [LineDecoder(decoder, show, as_json=as_json) for decoder in self._decoders]
        for part in self.runs():
            texts = _texts(decoders, part)
            if texts is not None:
                yield from texts
                continue
            found: list[tuple[int, str]] = []
            problem: KlasyError | None = None
            try:
                for source, run in part:
                    if source >= len(decoders):
                        raise InputError(f"{self.path} has a record of nobody's")
                    self._decode(decoders[source], run, found)
            except KlasyError as error:
                problem = error
            # They were written in the order in which they were begun; each took the time a moment before that.
            yield [text for _, text in sorted(found, key=itemgetter(0))]
            if problem is not None:
                raise problem

    def _decode(self, decoder: LineDecoder, run: Run, found: list[tuple[int, str]]) -> None:
        try:
            found += filter(None, decoder.decode([run]))
        except (*_MALFORMED, KlasyError) as error:
            for one in run.split() if run.number > 1 else ():  # those before the malformed one are good
                self._decode(decoder, one, found)
            if isinstance(error, KlasyError):
                raise
            raise InputError(f"{self.path} is damaged: {error}") from None

    def runs(self) -> Iterator[list[tuple[int, Run]]]:
        """The records, some at a time, with the number of their source. Raises InputError where there cannot be one."""
        data = b""
        while part := self._file.read(_PART):
            data += part
            # the words that must be the same to be of one run: of one source the lengths alone
            several = len(self._decoders) > 1
            words = memoryview(data)[: len(data) & ~7].cast("Q" if several else "I")
            found: list[tuple[int, Run]] = []
            at = 0
            while len(data) - at >= _RECORD.size:
                length, source = _RECORD.unpack_from(data, at)
                discarded, length = length & BPF_RINGBUF_DISCARD_BIT, length & ~BPF_RINGBUF_DISCARD_BIT
                if not (discarded or length >= HEADER_SIZE) or length > _PART:
                    yield found
                    raise InputError(f"{self.path} is damaged: a record of {length} bytes")
                step = step_of(length)
                most = (len(data) - at) // step
                if not most:
                    break
                number = same_ahead(words, at // words.itemsize, step // words.itemsize, most)
                if not discarded:
                    found.append((source if several else 0, Run(length, number, data[at : at + number * step])))
                at += number * step
            yield found
            data = data[at:]
        self.cut = bool(data)

    # --- what the symbolizer and the decoders ask

    def function_at(self, address: int) -> Function | None:
        """The function whose text held an address."""
        return function_in(self._tables, address)

    def data_at(self, address: int) -> DataSymbol | None:
        """The variable that held an address."""
        return variable_in(self._variables, address)

    def access_before(self, ip: int) -> Reference | None:
        """Not known here: see :func:`check`."""
        return None

    def types(self, module: str | None) -> Btf | None:
        """The types of the kernel proper, or those handed along under a name."""
        if module not in self._btfs and module in self._types:
            self._btfs[module] = Btf(self._types[module])
        return self._btfs.get(module)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _texts(decoders: Sequence[LineDecoder], part: Sequence[tuple[int, Run]]) -> list[str] | None:
    """Records as texts of lines, where they are of one source, come in the order of time and are good."""
    sources = {source for source, _ in part}
    if len(sources) != 1 or max(sources) >= len(decoders):
        return None
    try:
        lines = decoders[sources.pop()].lines([run for _, run in part])
    except (*_MALFORMED, KlasyError):
        return None
    return [some.text for some in lines] if lines is not None and ascending(lines) else None


def _split(body: bytes) -> tuple[str | None, bytes]:
    (length,) = _NAME.unpack_from(body)
    end = _NAME.size + length
    return body[_NAME.size : end].decode() or None, body[end:]


def _inflated(data: bytes) -> bytes:
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(data, _LARGEST)
    except zlib.error:
        raise ValueError("a part of it is damaged") from None
    if not inflate.eof:
        raise ValueError("a part of it is too long, or cut short")
    return found


def _schema(source: Any) -> Schema:
    points = tuple(LogPoint(**point) for point in source["points"])
    return Schema(
        str(source["aspect"]),
        tuple(map(str, source["advice"])),
        points,
        tuple(Format.from_json(form) for form in source["formats"]),
    )
