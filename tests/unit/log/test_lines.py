"""The short way from a record to its line gives what the long way gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logrecords import POINT, SYMBOLS, record, run

from klasy.log.decode import Decoder
from klasy.log.event import LogPoint, Schema
from klasy.log.format_json import event_json
from klasy.log.format_text import event_text
from klasy.log.lines import LineDecoder
from klasy.record import HEADER_SIZE, TEXT_KERNEL, Field, Format

KINDS = [
    *(
        ["int"] * 6
        + ["string"] * 3
        + ["pointer", "code", "bool", "char", "symbol", "bytes", "ip4", "ip6", "mac", "enum"]
    ),
    *("ustring", "ustring", "buffer", "joinpoint"),
]
ATTRIBUTES = ["kind", "function", "callee", "file", "line", "address", "module"]
DIRECTIVES = [
    "%d",
    "%u",
    "%x",
    "%X",
    "%i",
    "%5d",
    "%-4d",
    "%#x",
    "%lu",
    "%o",
    "%c",
    "%s",
    "%.2s",
    "%p",
    "%pS",
    "%08llx",
    "%hhu",
    "%hd",
    "%hx",
]
names = st.sampled_from(["n", "a % b", 'f("x")', "p->q", "é"])


@st.composite
def formats(draw):
    """A format of any values, with a template or without, and where each value lies."""
    fields, at = [], HEADER_SIZE
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(KINDS))
        size = {
            "int": draw(st.sampled_from([1, 2, 4, 8])),
            "string": 8,
            "bytes": 3,
            "bool": 1,
            "char": 1,
            "ip4": 4,
            "ip6": 16,
            "mac": 6,
            "enum": 4,
            "buffer": 12,
            "joinpoint": 0,
        }.get(kind, 8)
        at = -(-at // size) * size if kind == "int" else at + draw(st.integers(0, 2))
        type_name = {
            "pointer": "struct sk_buff *",
            "code": draw(st.sampled_from(["void *", "int (*)(void)"])),
            "joinpoint": draw(st.sampled_from(ATTRIBUTES)),
        }.get(kind, "")
        real = "pointer" if kind == "code" else kind
        fields.append(Field(draw(names), real, at, size, draw(st.booleans()) and kind == "int", type_name))
        at += size
    template = None
    if draw(st.booleans()):
        texts = st.sampled_from(["", " ", "%% ", "\x1b[1m", "=", "\n"])
        template = "".join(draw(texts) + draw(st.sampled_from(DIRECTIVES)) for _ in fields) + draw(texts)
    return Format(0, 0, 1, template, tuple(fields), -(-at // 8) * 8)


POINTS = (
    POINT,
    LogPoint("set", "f", 3, None, None, 0, None, None, "struct s.m", "write"),
    LogPoint("call", None, 0, "g"),
)


@given(
    form=formats(),
    data=st.binary(min_size=80, max_size=80) | st.just(bytes(80)),
    point=st.integers(0, 3),
    faults=st.sampled_from([0, 0, 0, 1, 2]),
    comm=st.sampled_from([b"bash", b"\x1b]0;x\x07", b"caf\xe9", b"two words"]),
    as_json=st.booleans(),
)
def test_the_same_lines(*, form, data, point, faults, comm, as_json):
    """Whatever the values, the faults, the name of the process; a join point that is unknown, too."""
    decoder = Decoder(Schema("a", ("before#0",), POINTS, (form,)), lambda _: None, SYMBOLS)
    show = (lambda event: event_json(event, SYMBOLS)) if as_json else (lambda event: event_text(event, SYMBOLS))
    one = record(data, time_ns=1_234_567_890_123, point=point, faults=faults, comm=comm)
    event = decoder.decode(one)
    assert LineDecoder(decoder, show, as_json=as_json).decode([run(one)]) == [(event.time_ns, show(event))]


@given(
    st.lists(formats(), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=6),
    st.data(),
    st.booleans(),
)
def test_many_at_a_time(forms, stretches, data, as_json):
    """Of several formats and sizes, mixed: each record gets its own line, over the ends of seconds and with faults."""
    decoder = Decoder(Schema("a", ("before#0",), POINTS, tuple(forms)), lambda _: None, SYMBOLS)
    show = (lambda event: event_json(event, SYMBOLS)) if as_json else (lambda event: event_text(event, SYMBOLS))
    runs = []
    for chosen, length in stretches:
        number = chosen % len(forms)
        size = forms[number].size - HEADER_SIZE
        ones = [
            record(
                data.draw(st.binary(min_size=size, max_size=size)),
                time_ns=data.draw(st.integers(0, 3_000_000_000)),
                form=data.draw(st.sampled_from([number] * 4 + [n for n, f in enumerate(forms) if f.size <= size + 48])),
                point=data.draw(st.integers(0, 3)),
                faults=data.draw(st.sampled_from([0] * 9 + [1])),
                tid=data.draw(st.integers(1, 3)),
                comm=data.draw(st.sampled_from([b"bash", b"sh"])),
            )
            for _ in range(length)
        ]
        runs.append(run(*ones))
    events = [decoder.decode(one) for each in runs for one in each.records()]
    found = LineDecoder(decoder, show, as_json=as_json).decode(runs) if runs else []
    assert found == [(event.time_ns, show(event)) for event in events]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("template", [None, "%s of %s, %s: %6d%%, %pS", "%10s|%-10s|%.1s|%#x|%s"])
def test_few_formats_need_events(as_json, template):
    """Strings of the kernel's and of programs, addresses, names of join points: the same without an event of each."""
    fields = (
        Field("path", "ustring", 48, 8),
        Field("joinpoint.function", "joinpoint", 56, 0, type_name="function"),
        Field("to", "ip4", 56, 4),
        Field("left", "int", 60, 4, True),
        Field("f", "pointer", 64, 8, type_name="void *"),
    )
    form = Format(0, 0, 1, template, fields, 72)
    decoder = Decoder(Schema("a", ("before#0",), POINTS, (form,)), lambda _: None, SYMBOLS)
    show = (lambda event: event_json(event, SYMBOLS)) if as_json else (lambda event: event_text(event, SYMBOLS))
    ones = [
        record(
            b"/x/%03d" % (n % 70)
            + b"\0"
            + bytes([n % 3])
            + bytes([10, 0, 0, n % 7])
            + (n - 5).to_bytes(4, "little", signed=True)
            + (0xFFFF_FFFF_8100_0000 + n % 2 * 0x20).to_bytes(8, "little"),
            time_ns=n,
            point=n % 3,
        )
        for n in range(100)
    ]

    def never(event):
        raise AssertionError(event)

    found = LineDecoder(decoder, never, as_json=as_json).decode([run(*ones)])
    assert found == [(event.time_ns, show(event)) for event in map(decoder.decode, ones)]
    if as_json:
        assert ["user_memory" in line for _, line in found] == [n % 3 != TEXT_KERNEL for n in range(100)]


@pytest.mark.parametrize("as_json", [False, True])
def test_numbers_take_the_short_way(as_json):
    """No event is made of them."""
    form = Format(0, 0, 1, None, (Field("n", "int", 48, 8, True), Field("p", "string", 56, 8)), 64)
    decoder = Decoder(Schema("a", ("before#0",), (POINT,), (form,)), lambda _: None, SYMBOLS)

    def never(event):
        raise AssertionError(event)

    one = run(record((5).to_bytes(8, "little") + b"abc\0\0\0\0\0"))
    ((_, text),) = LineDecoder(decoder, never, as_json=as_json).decode([one])
    assert ('"values": {"n": 5, "p": "abc"}' if as_json else 'n = 5, p = "abc"') in text
