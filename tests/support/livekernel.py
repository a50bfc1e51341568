"""What tests of the weaver ask the running kernel, by means of their own: not those of the code under test."""

from __future__ import annotations

import os
import struct
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from klasy.bpf import links
from klasy.btf.types import Btf
from klasy.kernel.model import Function
from klasy.match.plan import Point
from klasy.weaver import watch
from support.handmade import function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KPROBE_EVENTS = Path("/sys/kernel/tracing/kprobe_events")
KPROBES = Path("/sys/kernel/debug/kprobes/list")
HOME = Path("/sys/fs/bpf/klasy")


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
    """Everything that a weave leaves in a kernel, as far as it is there now; empty after the last unweave."""
    programs = run("bpftool", "prog").splitlines()
    found = {
        "pins": "\n".join(str(path) for path in HOME.rglob("*")) or ("" if not HOME.exists() else str(HOME)),
        "events": "\n".join(definitions("klasy")),
        "links": run("bpftool", "link"),
        "programs": "\n".join(line for line in programs if "kprobe" in line or "tracing" in line),
        "kprobes": KPROBES.read_text(),
        "rcu_expedited": Path("/sys/kernel/rcu_expedited").read_text().strip().replace("0", ""),
    }
    return {what: text for what, text in found.items() if text.strip()}


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
