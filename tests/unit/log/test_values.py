"""Bytes of records to values, and values to text and JSON."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exprgen import leaves_of
from support.fakekernel import FakeKernel
from support.logrecords import SYMBOLS, decoded, fields, record, schema

from klasy.btf.types import Struct
from klasy.errors import SystemRefusal
from klasy.log.decode import Decoder, attribute
from klasy.log.event import LogPoint, Schema
from klasy.log.format_json import event_json, value_json
from klasy.log.format_text import event_text, harmless, message_text, value_text
from klasy.log.memory import decode
from klasy.log.value import (
    Char,
    CodeAddress,
    Elements,
    EnumValue,
    Fault,
    Pointer,
    Record,
    Value,
    text_of,
)

KERNEL = FakeKernel("""
enum color { RED = -3, GREEN = 5 };
struct inner { short a; union { int b; unsigned char c[4]; }; signed char d; };
struct s {
    unsigned int b3 : 3; int b5 : 5; unsigned int b13 : 13; int b11 : 11;
    unsigned long w40 : 40; long w20 : 20; _Bool flag : 1;
    char c; unsigned char uc; short sh; int i; unsigned long ul; _Bool yes; enum color color; enum color e : 6;
    struct inner in; int ai[4]; char name[8]; unsigned char bytes[8]; struct s *next; int (*call)(int x);
    long many[70]; struct inner two[2];
};
int f(struct s *p);
""")
BTF = KERNEL.btf
STRUCT = BTF.find("s", Struct)[0]
SIZE = BTF.size_of(STRUCT)
VFS_READ = 0xFFFF_FFFF_8100_0000
EXT_FREE = 0xFFFF_FFFF_C000_0000
INIT_NET = 0xFFFF_FFFF_8200_0000


def text(value: Value) -> str:
    return value_text(value, SYMBOLS)


def as_json(value: Value):
    return value_json(value, SYMBOLS)


def flat(value: Value, prefix: str = "p->") -> dict[str, int]:
    """The numbers in a struct by the expression that reads each."""
    if isinstance(value, Record):
        found: dict[str, int] = {}
        for name, member in value.members:
            if isinstance(member, Record) and not name:
                found |= flat(member, prefix)
            else:
                found |= flat(member, f"{prefix}{name}" + ("." if isinstance(member, Record) else ""))
        return found
    if isinstance(value, Elements):
        return {f"{prefix}[{i}]": v for i, item in enumerate(value.items) for v in flat(item, "").values()}
    if isinstance(value, EnumValue | Char):
        return {prefix: value.value}
    return {prefix: int(value)} if isinstance(value, int) else {}


@given(st.randoms(use_true_random=False))
def test_a_struct_is_decoded_as_its_members_read(rng: random.Random):
    """Every number in a struct decoded whole is what reading that member alone gives, by other code."""
    memory = rng.randbytes(SIZE)
    found = flat(decode(BTF, STRUCT, memory))
    compared = 0
    for leaf in leaves_of(BTF, STRUCT, "p"):
        if leaf.count and f"{leaf.text}[0]" in found:
            for index in range(leaf.count):
                assert found[f"{leaf.text}[{index}]"] == leaf.read(memory, index)
        elif not leaf.count:
            assert found[leaf.text] == leaf.read(memory), leaf
        compared += 1
    assert compared > 20


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"eth0\0\0\0\0", "eth0"),
        (b"no-nul!!", "no-nul!!"),
        (b"\0" * 8, ""),
        (b"a\0garbage"[:8], "a"),
        (b"\x1b[2J\0\0\0\0", [27, 91, 50, 74, 0, 0, 0, 0]),
    ],
)
def test_char_arrays(raw, value):
    """A char array is a string where it can be one: text up to a NUL, or nothing but NULs; else its numbers."""
    place = next(m for m in BTF.type(STRUCT).members if m.name == "name")
    shown = decode(BTF, place.type_id, raw)
    assert (as_json(shown) if isinstance(shown, Elements) else shown) == value


def test_long_arrays():
    """Text says how many elements it leaves out; JSON leaves out none; all zero is C's {}."""
    place = next(m for m in BTF.type(STRUCT).members if m.name == "many")
    value = decode(BTF, place.type_id, b"".join(n.to_bytes(8, "little") for n in range(70)))
    assert as_json(value) == list(range(70))
    assert text(value).startswith("{ 0, 1, 2, ")
    assert text(value).endswith(", 63, .. 6 more }")
    assert text(decode(BTF, place.type_id, bytes(560))) == "{}"
    assert text(decode(BTF, place.type_id, bytes(552) + b"1" * 8)).endswith(", 0, .. 6 more }")


@pytest.mark.parametrize(
    ("value", "shown", "document"),
    [
        (True, "true", True),
        (-1, "-1", -1),
        ((1 << 64) - 1, "18446744073709551615", (1 << 64) - 1),
        ("plain", '"plain"', "plain"),
        ('a "b" \\', '"a \\"b\\" \\\\"', 'a "b" \\'),
        ("two\nlines", '"two\\nlines"', "two\nlines"),
        ("\x1b[31m\x07\x9b", '"\\x1b[31m\\x07\\x9b"', "\x1b[31m\x07\x9b"),
        ("\u202eevil", '"\\u202eevil"', "\u202eevil"),
        ("\udcff", '"\\xff"', "\\xff"),
        (b"\x01\xff", "01 ff", "01ff"),
        (Fault(), "<bad address>", None),
        (Char(97), "97 'a'", 97),
        (Char(39), "39 '\\''", 39),
        (Char(-1), "-1", -1),
        (Char(0), "0", 0),
        (Pointer(0, "struct s *"), "NULL", "0x0"),
        (Pointer(0xFFFF_8880_0000_1000, "void *"), "0xffff888000001000", "0xffff888000001000"),
        (Pointer(VFS_READ, "void (*)(void)"), "vfs_read", "vfs_read"),
        (Pointer(EXT_FREE, "void (*)(void)"), "ext_free [ext4]", "ext_free [ext4]"),
        (Pointer(VFS_READ + 5, "void *"), "vfs_read+0x5", "vfs_read+0x5"),
        (Pointer(VFS_READ, "struct s *"), f"{VFS_READ:#x}", f"{VFS_READ:#x}"),
        (CodeAddress(VFS_READ + 5), "vfs_read+0x5", "vfs_read+0x5"),
        (CodeAddress(0x1234), "0x1234", "0x1234"),
        (EnumValue(5, "GREEN"), "GREEN", "GREEN"),
        (EnumValue(6, None), "6", 6),
        (Elements("int [0]", ()), "{}", []),
        (Record("struct empty", None, ()), "(struct empty) {}", {}),
    ],
)
def test_values_as_text_and_json(value, shown, document):
    """Each kind of value, as people and as programs read it."""
    assert text(value) == shown
    assert as_json(value) == document
    assert json.loads(json.dumps(as_json(value))) == document


def test_a_struct_as_text_and_json():
    """Members one a line, nested ones indented; those of anonymous unions belong to the outer struct in JSON."""
    inner = decode(BTF, BTF.find("inner", Struct)[0], b"\x01\0\0\0" + b"\x02\0\0\0" + b"\xff\0\0\0", 0x1000)
    assert text(inner).splitlines() == [
        "(struct inner *) 0x1000 {",
        "    a = 1,",
        "    {",
        "        b = 2,",
        "        c = { 2, 0, 0, 0 },",
        "    },",
        "    d = -1,",
        "}",
    ]
    assert as_json(inner) == {"a": 1, "b": 2, "c": [2, 0, 0, 0], "d": -1}


@given(st.binary(max_size=40))
def test_what_is_logged_cannot_command_a_terminal(raw):
    """Whatever bytes a user's program hands in: as text there is nothing but printable characters, as JSON ASCII only
    where it matters, and both tell the same string."""
    value = text_of(raw)
    assert text(value).isprintable()
    assert harmless(value).isprintable()
    assert message_text(value).replace("\t", "").isprintable()
    document = as_json(value)
    document.encode("utf-8")
    if b"\0" not in raw:
        try:
            assert document == raw.decode("utf-8")
        except UnicodeDecodeError:
            assert "\\x" in document


# --- records


def test_header():
    """Who, when and where come from the header."""
    event = decoded(b"", time_ns=123_456, pid=4242, tid=4243, cpu=3, comm=b"kworker/0:1")
    assert (event.time_ns, event.pid, event.tid, event.cpu, event.comm) == (123_456, 4242, 4243, 3, "kworker/0:1")
    assert (event.aspect, event.advice, event.joinpoint.function) == ("a", "before#0", "vfs_read")


def test_a_hostile_name_of_a_task():
    """A task may call itself what it likes."""
    event = decoded(b"\x01", ("x", "int", 1), comm=b"\x1b[2J\n\xff\0")
    line = event_text(event, SYMBOLS)
    assert line.isprintable()
    assert " \\x1b[2J\\n\\xff[8] a: execution vfs_read: x = 1" in line
    assert json.loads(event_json(event, SYMBOLS))["comm"] == "\x1b[2J\n\\xff"


def test_each_kind_of_field():
    """Each kind of field is read from its own bytes, by its size and sign."""
    event = decoded(
        b"\xff\xff" + b"\xfe" + b"\x01" + b"A" + b"\xfd\xff\xff\xff" + VFS_READ.to_bytes(8, "little") * 2 + b"hi\0x",
        ("u", "int", 2),
        ("s", "int", 1, {"signed": True}),
        ("b", "bool", 1),
        ("c", "char", 1, {"signed": True}),
        ("e", "enum", 4, {"signed": True, "type_id": BTF.find("color")[0]}),
        ("p", "pointer", 8, {"type_name": "struct s *"}),
        ("f", "symbol", 8),
        ("t", "string", 4),
        ("k", "joinpoint", 0, {"type_name": "kind"}),
        ("a", "joinpoint", 0, {"type_name": "address"}),
        ("l", "joinpoint", 0, {"type_name": "line"}),
        types=BTF,
    )
    assert dict(event.values) == {
        "u": 65535,
        "s": -2,
        "b": True,
        "c": Char(65),
        "e": EnumValue(-3, "RED"),
        "p": Pointer(VFS_READ, "struct s *"),
        "f": CodeAddress(VFS_READ),
        "t": "hi",
        "k": "execution",
        "a": Pointer(VFS_READ, "char *"),
        "l": 0,
    }
    assert event_text(event, SYMBOLS).endswith(
        "u = 65535, s = -2, b = true, c = 65 'A', e = RED, p = 0xffffffff81000000, f = vfs_read, t = \"hi\", "
        'k = "execution", a = 0xffffffff81000000, l = 0'
    )


def test_a_whole_object_has_its_address():
    """The field before an object holds its address and is not shown apart."""
    data = (0x1000).to_bytes(8, "little") + bytes(12)
    inner = BTF.find("inner", Struct)[0]
    event = decoded(data, ("p", "address", 8), ("p", "object", 12, {"type_id": inner}), types=BTF)
    ((name, value),) = event.values
    assert name == "p"
    assert isinstance(value, Record)
    assert value.address == 0x1000


def test_types_that_are_gone():
    """Where a module was unloaded, what is of its types is still shown: as bytes, or as a number."""
    event = decoded(b"\x01\x02" + b"\x05", ("o", "object", 2), ("e", "enum", 1), types=None)
    assert dict(event.values) == {"o": b"\x01\x02", "e": EnumValue(5, None)}


def test_faults():
    """A fault's bit makes the value of its position a fault, an address field counting with its object."""
    described = [("a", "int", 1), ("o", "address", 8), ("o", "object", 12, {"type_id": BTF.find("inner", Struct)[0]})]
    event = decoded(bytes(22), *described, ("b", "int", 1), types=BTF, faults=0b110)
    assert event.faults == ("o", "b")
    assert dict(event.values) == {"a": 0, "o": Fault(), "b": Fault()}
    assert json.loads(event_json(event, SYMBOLS))["values"] == {"a": 0, "o": None, "b": None}


def test_the_last_bit_of_faults_is_shared():
    """Values from the 64th on share the last bit."""
    event = decoded(bytes(70), *((f"v{n}", "int", 1) for n in range(70)), faults=1 << 63)
    assert event.faults == tuple(f"v{n}" for n in range(63, 70))


@pytest.mark.parametrize(
    ("template", "kind", "size", "data", "message"),
    [
        ("%d", "int", 4, b"\xff\xff\xff\xff", "4294967295"),
        ("%5u|", "int", 1, b"\x07", "    7|"),
        ("%s", "string", 4, b"ab\0c", "ab"),
        ("%s", "string", 4, b"\x1b[m\0", "\x1b[m"),
        ("%s", "bool", 1, b"\x01", "true"),
        ("%d", "bool", 1, b"\x01", "1"),
        ("%p", "pointer", 8, VFS_READ.to_bytes(8, "little"), "0xffffffff81000000"),
        ("%pS", "symbol", 8, (VFS_READ + 1).to_bytes(8, "little"), "vfs_read+0x1"),
        ("%pS", "symbol", 8, VFS_READ.to_bytes(8, "little"), "vfs_read+0x0"),
        ("%ps", "symbol", 8, (EXT_FREE + 1).to_bytes(8, "little"), "ext_free [ext4]"),
        ("%pS", "pointer", 8, INIT_NET.to_bytes(8, "little"), "init_net+0x0"),
        ("%ps", "int", 8, (INIT_NET + 8).to_bytes(8, "little"), "init_net"),
        ("%pS", "int", 8, (INIT_NET + 256).to_bytes(8, "little"), "0xffffffff82000100"),
        ("%s", "symbol", 8, INIT_NET.to_bytes(8, "little"), "0xffffffff82000000"),
        ("%s", "symbol", 8, VFS_READ.to_bytes(8, "little"), "vfs_read"),
        ("%x", "pointer", 8, b"\x10" + bytes(7), "10"),
        ("value %d\n", "int", 1, b"\x01", "value 1"),
        ("100%%: %d", "int", 1, b"\x01", "100%: 1"),
    ],
)
def test_templates(template, kind, size, data, message):
    """A format shows its values as its directives say; the newline of C's habit at its end is left out."""
    event = decoded(data, ("x", kind, size), template=template)
    assert event.message == message
    line = event_text(event, SYMBOLS)
    assert line.isprintable()
    assert json.loads(event_json(event, SYMBOLS))["message"] == message


def test_a_fault_in_a_template():
    """What could not be read is said in the place where it would stand."""
    event = decoded(bytes(5), ("x", "int", 4), ("y", "int", 1), template="%d and %d", faults=1)
    assert event.message == "<bad address> and 0"
    assert event.faults == ("x",)


def test_what_is_no_record():
    """Bytes that cannot be a record of the aspect are refused, not guessed at."""
    decoder = Decoder(schema(*fields(("x", "int", 4))), lambda _: None, SYMBOLS)
    with pytest.raises(SystemRefusal, match="no header"):
        decoder.decode(b"short")
    with pytest.raises(SystemRefusal, match="unknown format 5"):
        decoder.decode(record(bytes(4), form=5))
    assert decoder.decode(record(bytes(4), point=99)).joinpoint.place == "a join point not known"


def test_json_has_the_documented_fields():
    """An event in JSON has the fields that docs/json.md names, and no others."""
    event = decoded(b"\x01", ("x", "int", 1))
    document = json.loads(event_json(event, SYMBOLS))
    assert list(document) == ["time_ns", "aspect", "advice", "joinpoint", "cpu", "pid", "tid", "comm", "values"]
    assert document["joinpoint"] == {"kind": "execution", "function": "vfs_read", "offset": 0, "callee": None}
    with_fault = json.loads(event_json(decoded(b"\x01", ("x", "int", 1), faults=1, template="%d"), SYMBOLS))
    assert list(with_fault)[-2:] == ["message", "faults"]
    assert "\n" not in event_json(event, SYMBOLS)


def test_the_clock_is_set_meanwhile(monkeypatch):
    """The time of day of what is read follows a clock that was set; the order on the monotonic clock stays."""
    wall = [1_000_000_000_000_000_000]
    monkeypatch.setattr("klasy.log.decode.time.monotonic_ns", lambda: 0)
    monkeypatch.setattr("klasy.log.decode.time.time_ns", lambda: wall[0])
    decoder = Decoder(schema(*fields(("x", "int", 4))), lambda _: None, SYMBOLS)
    shown = []
    for step in (0, -3_600_000_000_000, 1_000_000, 61_000_000_000):  # a millisecond is jitter, and no step
        wall[0] += step
        decoder.wall.look()
        event = decoder.decode(record(bytes(4), time_ns=5000))
        assert event.time_ns == 5000
        shown.append(event.clock[2:])
    assert shown == [":46:40.000005", ":46:40.000005", ":46:40.000005", ":47:41.001005"]


def test_tabs_of_a_message_stay() -> None:
    """A template's tabs line up columns, as printf's do; all else that could drive a terminal is made visible."""
    assert message_text("a\tb\x1b[2J\tc") == "a\tb\\x1b[2J\tc"


def test_a_hostile_name_of_a_function() -> None:
    """Functions of user programs are named by their makers; text has them so that they do nothing, JSON as they are."""
    point = LogPoint("execution", "f\x1b[2J\ng", 0, None, "/tmp/\x1b[m")
    made = schema(*fields(("x", "int", 1)))
    decoder = Decoder(Schema(made.aspect, made.advice, (point,), made.formats), lambda _: None, SYMBOLS)
    event = decoder.decode(record(b"\x01"))
    assert event is not None
    line = event_text(event, SYMBOLS)
    assert line.isprintable()
    assert line.endswith("a: execution f\ufffd[2J\ufffdg [/tmp/\ufffd[m]: x = 1")
    assert json.loads(event_json(event, SYMBOLS))["joinpoint"]["function"] == "f\x1b[2J\ng"


def test_where_a_join_point_lies() -> None:
    """In a module or in the kernel proper; of a call by a caller that is not known nobody knows it."""
    points = [
        LogPoint("call", "dummy_setup", 0x21, "ether_setup", "dummy"),
        LogPoint("call", "tcp_ack", 0x21, "kfree"),
        LogPoint("call", None, 0, "ether_setup"),
        LogPoint("event", None, 0, None),
    ]
    assert [attribute(point, "module") for point in points] == ["dummy", "vmlinux", "", "vmlinux"]
    assert attribute(points[2], "function") == ""
