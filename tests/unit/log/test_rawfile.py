"""A log kept raw shows, anywhere, what the log would have shown; a malformed one is refused."""

from __future__ import annotations

from contextlib import suppress
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logrecords import FUNCTIONS, SYMBOLS, VARIABLE, fields, record, run, schema

from klasy.btf.types import Enum, Float, Member, Struct
from klasy.btf.write import write
from klasy.errors import InputError, SystemRefusal
from klasy.kernel.kallsyms import Symbols
from klasy.log import rawfile
from klasy.log.decode import Decoder, WallClock
from klasy.log.format_text import event_text
from klasy.log.rawfile import RawFile

SCHEMA = schema(*fields(("n", "int", 8, {"signed": True}), ("s", "string", 8), ("f", "symbol", 8)))
CODE = [start + 5 for _, start, _ in FUNCTIONS] + [1]
RECORDS = [record(bytes([n]) * 8 + b"caf\xe9\0\0\0\0" + CODE[n].to_bytes(8, "little"), time_ns=n) for n in range(3)]


def tables():
    """The symbols of both functions, each of its own object."""
    return {module: Symbols.build(start, [start], [start + 256], [name.encode()]) for name, start, module in FUNCTIONS}


def variables():
    """The symbols of the one variable."""
    name, start, module = VARIABLE
    return {module: Symbols.build(start, [start], [start + 256], [name.encode()])}


def contents(*schemas):
    """A file of these records, from each source."""
    head = rawfile.head(schemas, release="6.1", wall_offset=10**18, symbols=tables, variables=None, types=lambda _: b"")
    return head + b"".join(rawfile.encoded(n, run(*RECORDS)) for n in range(len(schemas)))


def shown(path):
    """Its lines, and whether it is cut short."""
    file = RawFile(str(path))
    try:
        show = lambda event: event_text(event, file.symbols)  # noqa: E731
        parts = file.texts(show, as_json=False)
        lines = (part.split("\n")[:-1] if isinstance(part, str) else part for part in parts)
        return [line for some in lines for line in some], file.cut
    finally:
        file.close()


def test_the_same_lines(tmp_path):
    """Values, the time of day and the names of code, without asking this machine."""
    path = tmp_path / "log"
    path.write_bytes(contents(SCHEMA, schema(*SCHEMA.formats[0].fields, aspect="b")))
    decoder = Decoder(SCHEMA, lambda _: None, SYMBOLS, wall=WallClock(10**18))
    live = [event_text(decoder.decode(one), SYMBOLS) for one in RECORDS]
    assert "vfs_read+0x5" in live[0]
    assert "ext_free+0x5 [ext4]" in live[1]
    others = [line.replace(" a: ", " b: ") for line in live]
    assert shown(path) == ([line for both in zip(live, others, strict=True) for line in both], False)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("named", [False, True])
def test_the_order_of_time(tmp_path, order, named):
    """Whether the records are shown one by one (with names of code) or all together."""
    wanted = schema(*SCHEMA.formats[0].fields[: 3 if named else 2])
    ones = [RECORDS[n] if named else RECORDS[n][:-8] for n in order]
    head = rawfile.head(
        [wanted], release="6.1", wall_offset=10**18, symbols=tables, variables=None, types=lambda _: b""
    )
    path = tmp_path / "log"
    path.write_bytes(head + rawfile.encoded(0, run(*ones)))
    decoder = Decoder(wanted, lambda _: None, SYMBOLS, wall=WallClock(10**18))
    assert shown(path)[0] == [event_text(decoder.decode(one), SYMBOLS) for one in sorted(ones)]


@pytest.mark.parametrize("missing", [1, 40, 75])
def test_cut_short(tmp_path, missing):
    """What is whole of it is shown."""
    path = tmp_path / "log"
    path.write_bytes(contents(SCHEMA)[:-missing])
    lines, cut = shown(path)
    assert (len(lines), cut) == (2, True)


def test_symbols_only_where_they_are_needed():
    """A log of numbers does not carry the kernel's symbols along."""
    numbers = schema(*fields(("n", "int", 8)))
    head = rawfile.head([numbers], release="6.1", wall_offset=0, symbols=None, variables=None, types=None)
    assert b"SYMS" not in head
    assert b"SYMS" in contents(SCHEMA)
    assert b"VARS" not in contents(SCHEMA)


@pytest.mark.parametrize(("template", "kind"), [("%pS, %ps", "pointer"), ("%20pS %-5ps", "int")])
def test_variables(tmp_path, template, kind):
    """Who prints addresses as symbols has those of variables named, too."""
    wanted = schema(*fields(("a", kind, 8), ("b", kind, 8)), template=template)
    places = pack("<QQ", VARIABLE[1] + 8, CODE[1])
    head = rawfile.head(
        [wanted], release="6.1", wall_offset=10**18, symbols=tables, variables=variables, types=lambda _: b""
    )
    path = tmp_path / "log"
    path.write_bytes(head + rawfile.encoded(0, run(record(places))))
    (line,), _ = shown(path)
    assert line == event_text(
        Decoder(wanted, lambda _: None, SYMBOLS, wall=WallClock(10**18)).decode(record(places)), SYMBOLS
    )
    assert "init_net+0x8" in line
    assert "ext_free [ext4]" in line


def test_types_of_programs(tmp_path):
    """What is of a user program's type goes by its own types, which the file carries: they build upon no kernel's."""
    member = Member("share", 1, 0)
    blob = write([Float("double", 8), Struct("job", 8, (member,)), Enum("kind", 4, False, (("COPY", 5),))])
    of = {"module": "a:/usr/bin/jobs"}
    typed = schema(*fields(("*job", "object", 8, of | {"type_id": 2}), ("kind", "enum", 4, of | {"type_id": 3})))
    modules = []

    def types(module):
        modules.append(module)
        return blob if module else b""

    head = rawfile.head([typed], release="6.1", wall_offset=10**18, symbols=tables, variables=None, types=types)
    path = tmp_path / "log"
    path.write_bytes(head + rawfile.encoded(0, run(record(pack("<dI", 0.25, 5)))))
    lines, _ = shown(path)
    assert modules == ["a:/usr/bin/jobs"]
    assert "kind = COPY" in lines[0]
    assert "share = 0.25" in lines[0]


def test_what_needs_the_kernels_code_is_refused():
    """Which instruction accessed the data only its code tells."""
    with pytest.raises(SystemRefusal, match="cannot be kept raw"):
        rawfile.check([SCHEMA, schema(*fields(("", "site", 8), ("", "access", 8)))])


@given(st.data())
def test_damaged(tmp_path_factory, data):
    """Whatever a file holds: it is shown, or refused in words."""
    good = contents(SCHEMA)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(max_size=9)) + good[at + data.draw(st.integers(0, 9)) :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bad)
    with suppress(InputError, SystemRefusal):
        lines, _ = shown(path)
        assert all(isinstance(line, str) for line in lines)


def test_no_log(tmp_path):
    """Another file, and none."""
    (tmp_path / "other").write_text("hello")
    with pytest.raises(InputError, match="is no log that klasy wrote"):
        RawFile(str(tmp_path / "other"))
    with pytest.raises(InputError, match="No such file"):
        RawFile(str(tmp_path / "none"))
