"""What tests of the weaver ask the running kernel, by means of their own: not those of the code under test."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from klasy.bpf import links
from klasy.btf.btf import Btf
from klasy.kernel.model import Function
from klasy.match.plan import Point
from klasy.weaver import watch
from support.handmade import function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KPROBE_EVENTS = Path("/sys/kernel/tracing/kprobe_events")
KPROBES = Path("/sys/kernel/debug/kprobes/list")
HOME = Path("/sys/fs/bpf/klasy")
GRACE_SECONDS = 60.0


@cache
def symbols() -> dict[str, int]:
    """Addresses of the functions and labels of the kernel proper whose names are unique."""
    found: dict[str, int] = {}
    ambiguous = set()
    with open("/proc/kallsyms") as file:
        for line in file:
            address, kind, name, *module = line.split()
            if module or kind not in "tTwW":
                continue
            if name in found:
                ambiguous.add(name)
            found[name] = int(address, 16)
    for name in ambiguous:
        del found[name]
    return found


@cache
def btf() -> Btf:
    """The types of the running kernel."""
    return Btf(Path("/sys/kernel/btf/vmlinux").read_bytes())


def live_function(name: str) -> Function:
    """A function of the kernel proper, with its type."""
    return function(name, symbols()[name], proto=btf().find_func(name))


def entry(name: str) -> Point:
    """The entry of a function."""
    return Point(symbols()[name], live_function(name))


@cache
def text() -> tuple[int, bytes]:
    """Start and bytes of the live text, from /proc/kcore."""
    start, end = symbols()["_stext"], symbols()["_etext"]
    with open("/proc/kcore", "rb", buffering=0) as file:
        header = file.read(64)
        offset, number = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<H", header, 56)[0]
        file.seek(offset)
        table = file.read(56 * number)
        for at in range(0, len(table), 56):
            kind, _, where, address, _, _, size, _ = struct.unpack_from("<IIQQQQQQ", table, at)
            if kind == 1 and address <= start < address + size:
                file.seek(where + start - address)
                return start, file.read(end - start)
    raise AssertionError("no text in kcore")


def define(line: str) -> None:
    """Define or delete a kernel probe event. (Python's append mode will not do: tracefs refuses to seek to the end.)"""
    descriptor = os.open(KPROBE_EVENTS, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def definitions(word: str) -> list[str]:
    """The kernel probe events that bear a word."""
    return [line for line in KPROBE_EVENTS.read_text().splitlines() if word in line]


def run(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def call_sites(callee: str, limit: int, behind: str = "_stext") -> tuple[Point, ...]:
    """Places that call a function and can be probed, as the kernel itself says: up to ``limit``, from one symbol on."""
    start, code = text()
    target = symbols()[callee]
    good = []
    at = code.find(b"\xe8", symbols()[behind] - start)
    while at >= 0 and len(good) < limit:
        if start + at + 5 + int.from_bytes(code[at + 1 : at + 5], "little", signed=True) == target:
            good.append(start + at)
        at = code.find(b"\xe8", at + 1)
    kept = []
    for number, address in enumerate(good):
        with suppress(OSError):
            define(f"p:probing/p{number} {address:#x}")
            kept.append(address)
    hurried = Path("/sys/kernel/rcu_expedited")
    hurried.write_text("1")
    define("-:probing/")
    hurried.write_text("0")
    return tuple(Point(address, function("caller", address - 16)) for address in kept)


def leftovers() -> dict[str, str]:
    """Everything that a weave leaves in a kernel, as far as it is there now; empty after the last unweave.

    A link and its program go some time after the pin, when an RCU grace period has passed: on a busy machine that may
    be a while. Where nothing but those is left, they are given the time.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while (found := _leftovers()) and found.keys() <= {"links", "programs"} and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _leftovers() -> dict[str, str]:
    found = {
        "pins": "\n".join(str(path) for path in HOME.rglob("*")) or ("" if not HOME.exists() else str(HOME)),
        "events": "\n".join(definitions("klasy")),
        "links": "\n".join(f"link {number}" for number in _object_ids(_LINK_GET_NEXT_ID)),
        "programs": "\n".join(_tracing_programs()),
        "kprobes": KPROBES.read_text(),
        "rcu_expedited": Path("/sys/kernel/rcu_expedited").read_text().strip().replace("0", ""),
    }
    return {what: text for what, text in found.items() if text.strip()}


# By bpf(2), as include/uapi/linux/bpf.h has it. bpftool would take a fifth of a second in an emulated guest each time.
_SYS_BPF = 321
_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD, _LINK_GET_NEXT_ID = 11, 13, 15, 31
_TRACING_TYPES = {2: "kprobe", 5: "tracepoint", 7: "perf_event", 17: "raw_tracepoint", 26: "tracing", 29: "lsm"}
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """The result of the call, and its attributes as they are then."""
    held = ctypes.create_string_buffer(attributes, len(attributes))
    return _libc.syscall(_SYS_BPF, command, held, len(attributes)), held.raw


def _object_ids(command: int) -> Iterator[int]:
    """All links or programs."""
    number = 0
    while True:
        result, held = _bpf(command, struct.pack("<III", number, 0, 0))
        if result < 0:
            return
        number = struct.unpack_from("<I", held, 4)[0]
        yield number


def _tracing_programs() -> Iterator[str]:
    """The programs of the kinds that klasy loads."""
    for number in _object_ids(_PROG_GET_NEXT_ID):
        descriptor, _ = _bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", number, 0, 0))
        if descriptor < 0:
            continue  # it has just gone
        try:
            info = ctypes.create_string_buffer(80)
            result, _ = _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", descriptor, len(info), ctypes.addressof(info)))
            assert result == 0
        finally:
            os.close(descriptor)
        kind, name = struct.unpack_from("<I", info, 0)[0], info.raw[64:80].rstrip(b"\0").decode()
        if kind in _TRACING_TYPES:
            yield f"{number}: {_TRACING_TYPES[kind]} {name}"


def traffic(times: int = 200) -> None:
    """Make the kernel work: reads, writes, opens and mutexes, by this process."""
    for _ in range(times):
        with open("/proc/self/status", "rb") as file:
            file.read()
        reading, writing = os.pipe()
        os.write(writing, b"x")
        os.read(reading, 1)
        os.close(reading)
        os.close(writing)


@contextmanager
def raw_counters(place: int, length: int, access: int) -> Iterator[Callable[[], int]]:
    """Debug registers of the test's own on all CPUs; gives a function that adds up what they counted."""
    with ExitStack() as stack:
        events = [
            stack.enter_context(links.perf_breakpoint(place, length, access, cpu=cpu)) for cpu in watch.online_cpus()
        ]
        yield lambda: sum(int.from_bytes(os.read(event.fileno(), 8), "little") for event in events)
