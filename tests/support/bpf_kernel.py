"""What the tests of live BPF objects share. Only inside the lab's guest."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from klasy.bpf import maps, program, sys
from klasy.bpf import uapi as u
from klasy.bpf.asm import assemble
from klasy.bpf.insn import R0, R1, R2, atomic_add, exit_, load_map_value, mov
from klasy.btf.btf import Btf
from klasy.btf.types import Func

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klasy.bpf.maps import Map
    from klasy.bpf.program import Program

KINDS = (u.BPF_PROG_GET_NEXT_ID, u.BPF_MAP_GET_NEXT_ID, u.BPF_LINK_GET_NEXT_ID)
ZERO = bytes(4)

COUNT = assemble([load_map_value(R1, "hits"), mov(R2, 1), atomic_add(R1, 0, R2), mov(R0, 0), exit_()])  # hits[0] += 1


@functools.cache
def btf_id(function: str) -> int:
    """BTF id of a function of the kernel itself."""
    (number,) = kernel_btf().find(function, Func)
    return number


@functools.cache
def kernel_btf() -> Btf:
    """The kernel's types."""
    return Btf(Path("/sys/kernel/btf/vmlinux").read_bytes())


@contextlib.contextmanager
def counter() -> Iterator[Map]:
    """A map of one u64."""
    with maps.create("array", name="hits", key_size=4, value_size=8, max_entries=1) as hits:
        yield hits


def value(hits: Map) -> int:
    """The number in it."""
    return int.from_bytes(hits.lookup(ZERO) or b"", "little")


def counting_program(hits: Map, kind: int = u.BPF_PROG_TYPE_KPROBE, **options: int) -> Program:
    """Counts its runs."""
    return program.load(kind, COUNT, name="count", maps={"hits": hits}, **options)


def call_umask(times: int) -> None:
    """Make the kernel run __x64_sys_umask so many times: a function that nothing else in an idle guest calls."""
    for _ in range(times):
        os.umask(0o022)


def _objects() -> set[tuple[int, int]]:
    return {(kind, number) for kind in KINDS for number in sys.object_ids(kind)}


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Every test gives back its descriptors, and leaves no program, map or link in the kernel."""
    gc.collect()  # what tests before left to it, files of the kernel model say, is not to go in the midst of this one
    descriptors, objects = sorted(os.listdir("/proc/self/fd")), _objects()
    yield
    deadline = time.monotonic() + 60  # the kernel frees programs and maps after a grace period
    while _objects() - objects and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _objects() - objects == set()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
