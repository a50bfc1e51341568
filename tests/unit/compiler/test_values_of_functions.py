"""buf, ip4, ip6, mac, ntohs, ntohl, ustr: what a record holds and how it is shown, against Python's own account."""

from __future__ import annotations

import ipaddress
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.backend import Runner, trampoline_context
from support.compiling import BASE, compile_text, errors_of, memory_world
from support.fakekernel import FakeKernel
from support.logrecords import SYMBOLS

from klasy import backend
from klasy.compiler.ireval import World, run
from klasy.lang import load
from klasy.log.decode import Decoder
from klasy.log.event import LogPoint, Schema
from klasy.log.format_json import event_json
from klasy.log.format_text import event_text
from klasy.match import plan_aspect
from klasy.record import HEADER, HEADER_SIZE
from klasy.source import SourceFile

KERNEL = FakeKernel("""
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
struct in_addr { u32 s_addr; };
struct in6_addr { union { u8 u6_addr8[16]; u16 u6_addr16[8]; } in6_u; };
struct s {
    u32 ip; u16 port; u8 n; unsigned int few : 5; int many; long wide; struct in_addr in; struct in6_addr six;
    u8 mac[6]; u32 words[4]; char text[8]; struct s *next; u8 *bytes;
};
void f(struct s *p, char *user, long n);
""")
HEAD = "aspect a { pointcut execution(f(struct s *p, char *user, long n)); before(struct s *p, char *user, long n) "
USER = 0x7F00_0000_1000


def shown(body: str, memory: bytes = bytes(256), n: int = 0, user: bytes = b"") -> tuple[str, object]:
    """What is logged, as text and as JSON: through the IR's interpreter and the backend, which must agree."""
    text = f"{HEAD} {{ {body} }} }}"
    compiled = compile_text(text, KERNEL)
    arguments = (BASE, USER, n & (1 << 64) - 1)
    kernel = memory_world(memory, arguments)

    def read_user(address: int, size: int) -> bytes | None:
        start = address - USER
        return user[start : start + size] if start >= 0 and start + size <= len(user) else None

    world = World(kernel.read, arguments, 0, kernel.context, b"bash", [0], read_user)
    (record,) = run(compiled.programs[0], world).logged
    (aspect,) = load(SourceFile("test.asp", text))
    made = backend.generate(plan_aspect(aspect, KERNEL), compiled)
    runner = Runner(made, world)
    runner.machine.user.write(USER, user)
    (same,) = runner.run(trampoline_context(arguments), trampoline=3).logged
    assert (same.data, same.faults) == (record.data, record.faults)
    data = HEADER.pack(0, 0, 0, 1, 7, 8, b"bash", record.faults) + record.data[HEADER_SIZE:]
    schema = Schema("a", ("before#0",), (LogPoint("execution", "f", 0, None),), compiled.formats)
    event = Decoder(schema, lambda _: KERNEL.btf, SYMBOLS).decode(data)
    document = json.loads(event_json(event, SYMBOLS))
    return event_text(event, SYMBOLS).split("execution f: ", 1)[1], document.get("values") or document["message"]


def member(name: str) -> int:
    """Where a member of ``struct s`` lies."""
    from klasy.btf.types import Struct
    from klasy.btf.walk import find_member

    place = find_member(KERNEL.btf, KERNEL.btf.find("s", Struct)[0], name)
    assert place is not None
    return place.byte_offset


def memory(name: str, content: bytes) -> bytes:
    """A struct with one member set."""
    return (bytes(member(name)) + content).ljust(256, b"\0")


@given(st.integers(0, 0xFFFF_FFFF))
def test_ip4(number: int):
    """An address is shown as socket.inet_ntoa has it, of a number and of a struct in_addr alike."""
    raw = number.to_bytes(4, "big")
    assert shown("log(ip4(p->ip));", memory("ip", raw)) == (
        f"ip4(p->ip) = {socket.inet_ntoa(raw)}",
        {"ip4(p->ip)": socket.inet_ntoa(raw)},
    )
    assert shown('log("%s", ip4(p->in));', memory("in", raw))[1] == socket.inet_ntoa(raw)


@given(st.binary(min_size=16, max_size=16) | st.sampled_from([bytes(16), bytes(15) + b"\1", bytes(10) + b"\xff" * 6]))
def test_ip6(raw: bytes):
    """An address is shown as RFC 5952 has it; read back it is the same 16 bytes, whatever points to it."""
    for expression in ("&p->six", "p->six.in6_u.u6_addr8", "p->six.in6_u.u6_addr16", "(void *)&p->six"):
        text = shown(f'log("%s", ip6({expression}));', memory("six", raw))[1]
        assert ipaddress.IPv6Address(text).packed == raw
        assert text == socket.inet_ntop(socket.AF_INET6, raw)


@given(st.binary(min_size=6, max_size=6))
def test_mac(raw: bytes):
    """Six bytes in hexadecimal with colons between."""
    expected = ":".join(f"{byte:02x}" for byte in raw)
    assert shown("log(mac(p->mac));", memory("mac", raw)) == (f"mac(p->mac) = {expected}", {"mac(p->mac)": expected})


@given(st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF))
def test_byte_order(ip: int, port: int):
    """ntohs and ntohl are numbers that can be computed with, and are those of the socket module."""
    raw = ip.to_bytes(4, "little") + port.to_bytes(2, "little")
    body = "log(ntohs(p->port), ntohl(p->ip), ntohs(p->ip), ntohl(p->port) + 1, ntohs(80) == p->port, i++, ntohs(i));"
    values = list(shown("int i = 0; " + body, memory("ip", raw))[1].values())
    assert values == [
        *(socket.ntohs(port), socket.ntohl(ip), socket.ntohs(ip & 0xFFFF), (socket.ntohl(port) + 1) & 0xFFFF_FFFF),
        *(int(port == socket.htons(80)), 0, 256),
    ]


@given(st.integers(-3, 400), st.binary(min_size=300, max_size=300))
def test_buffers_of_a_length_to_be_computed(n: int, content: bytes):
    """As many bytes as asked for; beyond what the record has room for they are cut, and the log says how many."""
    wanted = max(0, n)
    text, values = shown("log(buf(p, n));", content, n)
    if wanted <= 256:
        assert (text, values) == (f"buf(p, n) = {content[:wanted].hex(' ')}", {"buf(p, n)": content[:wanted].hex()})
    else:
        assert text.endswith(f" .. {wanted - 256} more")
        assert values == {"buf(p, n)": {"hex": content[:256].hex(), "left_out": wanted - 256}}


@given(st.integers(0, 255), st.binary(min_size=256, max_size=256))
def test_buffers_bounded_by_their_form(n: int, content: bytes):
    """What the form of the length tells is kept whole: a narrow type, a mask, a bit-field, a remainder."""
    at = member("n")
    content = content[:at] + bytes([n, 0, 0, 0]) + content[at + 4 :]
    for length, size in (("p->n", n), ("p->n & 15", n & 15), ("p->n % 10", n % 10), ("(p->n ? 3 : 5)", 3 if n else 5)):
        assert shown(f"log(buf(p, {length}));", content)[1] == {f"buf(p, {length})": content[:size].hex()}
    assert shown("log(buf(p->text, 3), buf(&p->six, 16));", content)[1] == {
        "buf(p->text, 3)": content[member("text") :][:3].hex(),
        "buf(&p->six, 16)": content[member("six") :][:16].hex(),
    }


def test_record_sizes():
    """A record has room for what can be asked for, no more."""
    for length, size in (("p->n", 8 + 256), ("p->few", 8 + 32), ("n & 1023", 8 + 1024), ("n", 8 + 256), ("12", 12)):
        (form,) = compile_text(f"{HEAD} {{ log(buf(p, {length})); }} }}", KERNEL).formats
        assert form.fields[0].size == size, length


def test_what_cannot_be_read():
    """A buffer or address in memory that is not there is a fault, as any other load is."""
    text, values = shown(
        "log(buf(p->next, 4), buf(p->next, n), ip6(p->next->six.in6_u.u6_addr8), mac(p->bytes), p->n);", n=4
    )
    assert list(values.values()) == [None, None, None, None, 0]
    assert text.count("<bad address>") == 4


def test_user_strings():
    """ustr reads the process's memory and not the kernel's; it compares with a literal, and is cut at 127 bytes."""
    assert shown(
        'log(ustr(user), ustr((unsigned long)user), ustr(user) == "/etc", ustr(user) == "/et");', user=b"/etc\0"
    )[1] == {
        "ustr(user)": "/etc",
        "ustr((unsigned long)user)": "/etc",
        'ustr(user) == "/etc"': 1,
        'ustr(user) == "/et"': 0,
    }
    assert shown('log("%s", ustr(user));', user=b"x" * 200)[1] == "x" * 127
    assert shown("log(ustr(user), str(user));", user=b"")[1] == {"ustr(user)": None, "str(user)": None}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("log(buf(p, 0));", "a length of 0 bytes: there is nothing to log"),
        ("log(buf(p, 20000));", "a record holds at most 16384 bytes"),
        ("log(buf(p, p));", "a length must be an integer, and this is 'struct s *'"),
        ("log(buf(p->ip, 4));", "'p->ip' is 'u32': buf(p, n) takes an address"),
        ("log(buf(p->six, 4));", "&p->six is its address"),
        ("log(ip4(p->port));", "'p->port' is 'u16': ip4() takes 32 bits in network byte order"),
        ("log(ip4(&p->ip));", "ip4(*&p->ip) is of what it points to"),
        ("log(ip6(p));", "'p' leads to "),
        ("log(mac(&p->in));", "'&p->in' leads to 4 bytes, 'struct in_addr', and a MAC address has 6 bytes"),
        ("log(ntohs(p));", "ntohs() takes a number, and 'p' is 'struct s *'"),
        ("log(ustr(p->n));", "ustr() takes a user space address"),
        ("log(ip4(p->ip) + 1);", "'+' needs integers, and 'ip4(p->ip)' is an IPv4 address"),
        ("if (buf(p, 4)) log(1);", "a condition must be a number or a pointer, and this is a row of bytes"),
        ("u32 x = ip4(p->ip); log(x);", "'x' is 'u32', and 'ip4(p->ip)' is an IPv4 address"),
        ('log("%d", ip4(p->ip));', "'%d' needs an integer, and 'ip4(p->ip)' is an IPv4 address"),
        ("mac(p->mac);", "'mac(p->mac)' has no effect"),
    ],
)
def test_errors(body: str, message: str):
    """What is wrong is said in the aspect's own terms."""
    assert message in errors_of(f"{HEAD} {{ {body} }} }}", KERNEL)


@pytest.mark.parametrize("expression", ["str(p->text)", "comm", "*p", "p->six", "buf(p, n)", "ip4(p->ip)", "user"])
def test_values_that_nobody_uses(expression: str):
    """A value that is no number can stand alone as well as one that is: a warning, and nothing comes of it."""
    text = f"{HEAD} {{ {expression}; log(n); }} }}"
    assert f"warning: '{expression}' has no effect" in errors_of(text, KERNEL)
    assert shown(f"{expression}; log(n);", n=5)[1] == {"n": 5}


def test_effects_within_what_nobody_uses():
    """What is changed on the way to a value that is not used is changed."""
    assert shown("int i = 0; buf(p, i++); ip4(i++); str(p->text + i++); log(i);")[1] == {"i": 3}
