"""Stacks out of records: frames, names, what is cut or lost, in text and JSON; symbols of real files against nm."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logrecords import FUNCTIONS, SYMBOLS, Code, record, schema

from klasy.log.decode import Decoder
from klasy.log.elf import ElfFile, NoElf
from klasy.log.event import LogPoint, Schema
from klasy.log.format_json import event_json
from klasy.log.format_text import event_text
from klasy.log.symbolize import Symbolizer
from klasy.log.userspace import UserSymbols
from klasy.log.value import UserFrame, UserStack
from klasy.record import (
    HEADER_SIZE,
    STACK_BENEATH,
    STACK_FRAMES,
    STACK_OWN,
    STACK_OWN_UNLESS_TAIL,
    STACK_SIZE,
    USER_FRAME,
    USER_FRAME_ADDRESS,
    USER_FRAME_BESIDE,
    USER_FRAME_BUILD_ID,
    USER_FRAMES,
    USER_STACK_SIZE,
    Field,
)

VFS_READ, EXT_FREE = FUNCTIONS[0][1], FUNCTIONS[1][1]
STACK = Field("stack()", "stack", HEADER_SIZE, STACK_SIZE)
USER = Field("ustack()", "ustack", HEADER_SIZE, USER_STACK_SIZE)


def kernel(first: int, *frames: int) -> bytes:
    """A kernel stack as a record holds it."""
    return b"".join(n.to_bytes(8, "little") for n in (first, *frames)).ljust(STACK_SIZE, b"\0")


def event(data: bytes, field: Field = STACK, point: LogPoint | None = None, template: str | None = None, **header):
    """A decoded record."""
    made = schema(field, template=template)
    if point is not None:
        made = Schema(made.aspect, made.advice, (point,), made.formats)
    found = Decoder(made, lambda _: None, SYMBOLS).decode(record(data, **header))
    assert found is not None
    return found


def lines(shown) -> list[str]:
    """The lines of a stack in text."""
    return event_text(shown, SYMBOLS).split("\n")[1:]


def test_frames():
    """Each frame is a line: the join point exactly, then return addresses, each in the function of its call."""
    shown = event(kernel(STACK_OWN, VFS_READ + 5, EXT_FREE + 0x20, VFS_READ + 256, 0x1234))
    assert lines(shown) == [
        "        vfs_read+0x0",
        "        ext_free+0x20 [ext4]",
        "        vfs_read+0x100",
        "        0x1234",
    ]
    frames = json.loads(event_json(shown, SYMBOLS))["values"]["stack()"]
    assert frames[1] == {"function": "ext_free", "offset": 0x20, "module": "ext4", "address": f"{EXT_FREE + 0x20:#x}"}
    assert frames[3] == {"function": None, "offset": None, "module": None, "address": "0x1234"}


@pytest.mark.parametrize(
    ("first", "tail", "expected"),
    [
        (STACK_BENEATH, False, ["vfs_read+0x0", "vfs_read+0x80"]),  # it called itself: the caller must stay
        (STACK_OWN, True, ["vfs_read+0x0"]),
        (STACK_OWN_UNLESS_TAIL, False, ["vfs_read+0x0"]),
        (STACK_OWN_UNLESS_TAIL, True, ["vfs_read+0x0", "vfs_read+0x80"]),
    ],
)
def test_the_first_frame(first, tail, expected):
    """Where the join point's function has no frame (any more) its place comes before; else in its frame's place."""
    point = LogPoint("call", "vfs_read", 0, "f", None, VFS_READ, tail=tail)
    assert [line.strip() for line in lines(event(kernel(first, VFS_READ + 0x80), point=point))] == expected


def test_a_caller_that_is_not_known():
    """Its own frame is the best that is known of it."""
    point = LogPoint("call", None, 0, "f")
    assert lines(event(kernel(STACK_OWN_UNLESS_TAIL, EXT_FREE + 9), point=point)) == ["        ext_free+0x9 [ext4]"]


@given(st.integers(0, STACK_FRAMES))
def test_depth(depth: int):
    """All frames are shown; that there may be more is said only where no room was left."""
    shown = event(kernel(STACK_OWN, *[VFS_READ + 1] * depth))
    found = lines(shown) if depth else []
    assert len(found) == depth + (depth == STACK_FRAMES)
    assert (found[-1:] == ["        .."]) == (depth == STACK_FRAMES)
    assert len(json.loads(event_json(shown, SYMBOLS))["values"]["stack()"]) == depth
    if not depth:
        assert event_text(shown, SYMBOLS).endswith("stack() = (none)")


def test_a_lost_stack():
    """A stack that the kernel could not take is no empty one."""
    shown = event(kernel(STACK_OWN), faults=1)
    assert event_text(shown, SYMBOLS).endswith("stack() = <no stack>")
    document = json.loads(event_json(shown, SYMBOLS))
    assert (document["values"], document["faults"]) == ({"stack()": None}, ["stack()"])


def test_in_a_format():
    """Its lines stay lines, and a string that was logged beside it cannot make any."""
    made = schema(STACK, Field("name", "string", HEADER_SIZE + STACK_SIZE, 16), template="at %s by %s")
    data = kernel(STACK_OWN, VFS_READ, EXT_FREE + 1) + b"evil\n  root+0x0".ljust(16, b"\0")
    shown = Decoder(made, lambda _: None, SYMBOLS).decode(record(data))
    assert shown is not None
    assert event_text(shown, SYMBOLS).split("\n") == [
        event_text(shown, SYMBOLS).split("\n")[0],
        "        vfs_read+0x0",
        "        ext_free+0x1 [ext4] by evil\\n  root+0x0",
    ]


# --- of processes


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """A program with a function whose callers are known, and a build id."""
    folder = tmp_path_factory.mktemp("bin")
    source = folder / "p.c"
    source.write_text("int inner(int x) { return x * 3; }\nint main(int c, char **v) { return inner(c) + c; }\n")
    subprocess.run(
        ["gcc", "-O0", "-fno-omit-frame-pointer", "-Wl,--build-id=sha1", "-o", folder / "p", source], check=True
    )
    return folder / "p"


def nm(path: Path) -> dict[str, int]:
    """Addresses of functions, by binutils."""
    out = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
    return {line.split()[2]: int(line.split()[0], 16) for line in out.splitlines() if line.split()[1] in "Tt"}


def build_id(path: Path) -> bytes:
    """By binutils."""
    out = subprocess.run(["readelf", "-n", path], check=True, capture_output=True, text=True).stdout
    return bytes.fromhex(out.partition("Build ID: ")[2].split()[0])


def file_offset(path: Path, address: int) -> int:
    """Where in the file the code of an address lies, by binutils."""
    out = subprocess.run(["readelf", "-lW", path], check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        fields = line.split()
        if fields[:1] == ["LOAD"]:
            offset, start, size = (int(fields[i], 16) for i in (1, 2, 4))
            if start <= address < start + size:
                return address - start + offset
    raise AssertionError(hex(address))


def user(*frames: tuple[int, bytes, int], caller: tuple[int, bytes, int] = (0, b"", 0)) -> bytes:
    """A stack of a process as a record holds it."""
    return b"".join(USER_FRAME.pack(*frame) for frame in (caller, *frames)).ljust(USER_STACK_SIZE, b"\0")


def symbolizer(**options) -> Symbolizer:
    """One that looks for files only where it is told."""
    made = Symbolizer(Code())
    made._user = UserSymbols(**{"proc": "/nowhere", "debug": "/nowhere", "folders": (), **options})
    return made


def test_a_process_that_has_ended(program):
    """Build id and offset name the function as nm has it, in whatever folder the file is found."""
    names, ident = nm(program), build_id(program)
    data = user(
        (USER_FRAME_BUILD_ID, ident, file_offset(program, names["inner"] + 4)),
        (USER_FRAME_BUILD_ID, ident, file_offset(program, names["main"] + 16)),
        (USER_FRAME_BUILD_ID, b"\1" * 20, 0x1234),
        (USER_FRAME_ADDRESS, bytes(20), 0x7F00_0000_1234),
    )
    shown = event(data, USER, pid=123)
    symbols = symbolizer(folders=(str(program.parent),))
    text = event_text(shown, symbols).split("\n")[1:]
    assert text == [
        "        inner+0x4 [p]",
        "        main+0x10 [p]",
        f"        build id {'01' * 20}+0x1234",
        "        0x7f0000001234",
    ]
    frames = json.loads(event_json(shown, symbols))["values"]["ustack()"]
    assert [frame["function"] for frame in frames] == ["inner", "main", None, None]
    assert frames[0]["file"] == str(program)
    assert frames[0]["build_id"] == ident.hex()


@pytest.mark.parametrize("template", [None, "by %s"])
def test_names_that_command_a_terminal(program, tmp_path, template):
    """A file's name and a function's are its maker's choice: shown, they stay in their line, and do nothing there."""
    evil = tmp_path / "bin" / "p\x1b[31m\n\udcff"
    evil.parent.mkdir()
    content = program.read_bytes()
    assert content.count(b"\0inner\0") == 1
    evil.write_bytes(content.replace(b"\0inner\0", b"\0i\n\x1b[m\0"))
    data = user((USER_FRAME_BUILD_ID, build_id(program), file_offset(program, nm(program)["inner"] + 4)))
    symbols = symbolizer(folders=(str(evil.parent),))
    shown = Decoder(schema(USER, template=template), lambda _: None, symbols).decode(record(data))
    assert shown is not None
    text = event_text(shown, symbols)
    assert text.endswith(("= " if template is None else "by ") + "\n        i\\n\\x1b[m+0x4 [p\\x1b[31m\\n\\xff]")
    if template is None:
        (frame,) = json.loads(event_json(shown, symbols).encode())["values"]["ustack()"]
        assert frame["file"] == f"{evil.parent}/p\x1b[31m\n\\xff"


def test_a_process_that_lives(tmp_path):
    """An address is looked up in what the process has mapped; not if another process has its number by now."""
    with open("/proc/self/maps") as maps:
        line = next(row for row in maps if " r-xp " in row and "libc.so" in row)
    address = int(line.split("-")[0], 16) + 0x10
    data = user((USER_FRAME_ADDRESS, bytes(20), address))
    pid = os.getpid()
    now = event(data, USER, pid=pid, time_ns=1 << 62)
    (frame,) = json.loads(event_json(now, symbolizer(proc="/proc")))["values"]["ustack()"]
    assert frame["file"] == line.split()[5]
    assert frame["file_offset"] == int(line.split()[2], 16) + 0x10
    before = event(data, USER, pid=pid, time_ns=1)
    (frame,) = json.loads(event_json(before, symbolizer(proc="/proc")))["values"]["ustack()"]
    assert (frame["file"], frame["address"]) == (None, f"{address:#x}")


def test_the_caller_that_the_kernel_leaves_out():
    """It comes behind the innermost frame, and is none of those by whose number a stack counts as cut."""
    one, other, caller = ((USER_FRAME_ADDRESS, bytes(20), address) for address in (0x10, 0x20, 0x30))
    assert lines(event(user(one, other, caller=caller), USER)) == ["        0x10", "        0x30", "        0x20"]
    assert lines(event(user(*[one] * (USER_FRAMES - 1), caller=caller), USER))[-1] == "        0x10"
    assert lines(event(user(*[one] * USER_FRAMES, caller=caller), USER))[-1] == "        .."
    beside = (USER_FRAME_BESIDE, bytes(20), (1 << 64) - 4)
    assert lines(event(user(one, other, caller=beside), USER)) == ["        0x10", "        0xc", "        0x20"]
    named = (USER_FRAME_BUILD_ID, b"b" * 20, 0x10)
    assert lines(event(user(named, caller=beside), USER)) == [
        f"        build id {'62' * 20}+{at}" for at in ("0x10", "0xc")
    ]
    assert lines(event(user(caller=caller), USER)) == []  # what was not taken has no part that is right


def test_an_address_before_what_is_mapped():
    """The kernel gives it the build id of the file mapped next, with an offset below 0: it is no frame."""
    one, beside = ((USER_FRAME_BUILD_ID, b"b" * 20, offset) for offset in (0x10, (1 << 64) - 0x400000))
    shown = f"        build id {'62' * 20}+0x10"
    assert lines(event(user(one, beside), USER)) == [shown]
    assert lines(event(user(one, beside, one), USER)) == [shown, shown]
    assert lines(event(user(*[one] * (USER_FRAMES - 1), beside), USER)) == [*[shown] * (USER_FRAMES - 1), "        .."]


def test_the_file_that_the_aspect_is_woven_into(program):
    """It lies where nobody would look; its process has ended."""
    data = user((USER_FRAME_BUILD_ID, build_id(program), file_offset(program, nm(program)["inner"])))
    point = LogPoint("execution", "inner", 0, None, str(program))
    made, symbols = schema(USER), symbolizer()
    made = Schema(made.aspect, made.advice, (point,), made.formats)
    shown = Decoder(made, lambda _: None, symbols).decode(record(data))
    assert shown is not None
    assert event_text(shown, symbols).split("\n")[1:] == ["        inner+0x0 [p]"]


def test_files_of_containers(program, tmp_path):
    """Files of one name in two containers are two; one that its process's root does not lead to is found by its
    mapping."""
    other = tmp_path / "outside"
    other.write_bytes(Path("/bin/true").read_bytes())
    for pid, file in (("100", other), ("200", program)):
        (tmp_path / pid / "root/app").mkdir(parents=True)
        (tmp_path / pid / "root/app/p").write_bytes(file.read_bytes())
        (tmp_path / pid / "maps").write_text("00001000-00002000 r-xp 00000000 00:01 1    /app/p\n")
    offset = file_offset(program, nm(program)["inner"]) + 4
    stack = UserStack(200, 0, (UserFrame(build_id(program), offset),), cut=False)
    names = UserSymbols(str(tmp_path), "/nowhere", ())
    names.frames(UserStack(100, 0, (UserFrame(build_id(other), 0),), cut=False))
    (frame,) = names.frames(stack)
    assert (frame["function"], frame["offset"], frame["file"]) == ("inner", 4, "/app/p")
    (tmp_path / "200/root/app/p").unlink()
    (tmp_path / "200/map_files").mkdir()
    (tmp_path / "200/map_files/1000-2000").symlink_to(program)
    (frame,) = UserSymbols(str(tmp_path), "/nowhere", ()).frames(stack)
    assert (frame["function"], frame["offset"], frame["file"]) == ("inner", 4, str(program))


def test_separate_debug_information(program, tmp_path):
    """A stripped file takes its names from the file of debug information with its build id."""
    names, ident = nm(program), build_id(program)
    stripped = tmp_path / "bin" / "p"
    stripped.parent.mkdir()
    debug = tmp_path / "debug" / ident.hex()[:2] / f"{ident.hex()[2:]}.debug"
    debug.parent.mkdir(parents=True)
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(["strip", "-o", stripped, program], check=True)
    offset = file_offset(program, names["inner"] + 1)
    assert ElfFile(str(stripped), "p").function_at(offset) is None
    assert ElfFile(str(stripped), "p").function_at(offset, str(tmp_path / "debug")) == ("inner", 1)
    assert ElfFile(str(stripped), "p").function_at(1 << 40) is None


def test_every_function_of_a_library():
    """The dynamic symbols of the C library, each by its own offset."""
    with open("/proc/self/maps") as maps:
        path = Path(next(row.split()[5] for row in maps if "libc.so" in row))
    file = ElfFile(str(path), str(path))
    out = subprocess.run(["nm", "-D", "-S", "--defined-only", path], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in out.splitlines()]
    by_address: dict[int, set[str]] = {}
    for row in rows:
        if len(row) == 4 and row[2] in "TWi":
            by_address.setdefault(int(row[0], 16), set()).add(row[3].partition("@")[0])
    assert len(by_address) > 1000
    for address in sorted(by_address)[::37]:
        found = file.function_at(file_offset(path, address))
        assert found is not None
        assert found[0] in by_address[address]
        assert found[1] == 0


@given(st.binary(max_size=200), st.booleans())
def test_broken_files(content: bytes, magic: bool):
    """What is no ELF file, or a broken one, is refused as such; nothing else happens."""
    path = f"/tmp/klasy-test-broken-{os.getpid()}"
    Path(path).write_bytes(b"\x7fELF\2\1\1" + content if magic else content)
    try:
        ElfFile(path, path).function_at(0)
    except NoElf:
        pass
    finally:
        os.unlink(path)


def test_depth_of_user_stacks():
    """That there may be more is said where no room was left."""
    frames = [(USER_FRAME_BUILD_ID, b"\1" * 20, 7)] * USER_FRAMES
    assert event_text(event(user(*frames), USER), symbolizer()).endswith("        ..")
    assert not event_text(event(user(*frames[1:]), USER), symbolizer()).endswith("..")
    assert event_text(event(user(), USER), symbolizer()).endswith("ustack() = (none)")
