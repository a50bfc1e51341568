"""The formats of trace events."""

from __future__ import annotations

from pathlib import Path

import pytest

from klasy.errors import KernelLacks
from klasy.kernel.tracepoints import LiveTracepoints, parse

FORMAT = """name: everything
ID: 12
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:char comm[16];	offset:8;	size:16;	signed:1;
	field:const void * skbaddr;	offset:24;	size:8;	signed:0;
	field:const char * const * argv;	offset:32;	size:8;	signed:0;
	field:__data_loc char[] filename;	offset:40;	size:4;	signed:1;
	field:__rel_loc u8[] data;	offset:44;	size:4;	signed:0;
	field:struct in6_addr saddr;	offset:48;	size:16;	signed:0;
	field:u16 odd;	offset:65;	size:2;	signed:0;
	field:bool success;	offset:67;	size:1;	signed:0;

print fmt: "field:%d", REC->field
"""


def test_fields() -> None:
    """Name, type, place and kind of each field; what all records begin with is left out, and so is the print format."""
    made = parse("test", "everything", FORMAT)
    assert (made.category, made.name, made.id) == ("test", "everything", 12)
    assert [(f.name, f.type, f.offset, f.kind) for f in made.fields] == [
        ("comm", "char", 8, "array"),
        ("skbaddr", "const void *", 24, "value"),
        ("argv", "const char * const *", 32, "value"),
        ("filename", "char", 40, "data_loc"),
        ("data", "u8", 44, "rel_loc"),
        ("saddr", "struct in6_addr", 48, "array"),
        ("odd", "u16", 65, "array"),
        ("success", "bool", 67, "value"),
    ]


def test_text() -> None:
    """Shown as advice may declare them: what lies in the record is a pointer."""
    assert parse("test", "everything", FORMAT).text == (
        "test:everything(char comm[16], const void *skbaddr, const char * const *argv, char *filename, u8 *data, "
        "struct in6_addr *saddr, u16 *odd, bool success)"
    )


def test_a_live_one(tmp_path: Path) -> None:
    """Categories and events are folders; tracefs' own records and klasy's probes are not offered."""
    for name in ("sched/sched_switch", "ftrace/function", "klasy_a_1/k1", "header_page"):
        (tmp_path / "events" / name).mkdir(parents=True)
    (tmp_path / "events/sched/enable").touch()
    (tmp_path / "events/sched/sched_switch/format").write_text(FORMAT)
    events = LiveTracepoints(str(tmp_path))
    assert events.names() == [("sched", "sched_switch")]
    assert events.format("sched", "sched_switch").id == 12
    with pytest.raises(KernelLacks, match="no trace event sched:gone"):
        events.format("sched", "gone")
    with pytest.raises(KernelLacks, match="no trace events"):
        LiveTracepoints(str(tmp_path / "elsewhere")).names()
