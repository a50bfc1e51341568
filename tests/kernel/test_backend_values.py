"""What a program of the IR means, the running kernel makes of it: random programs over known memory."""

from __future__ import annotations

import os
import struct
import threading
from random import Random

import pytest
from support.backend import generate, plan, probe
from support.bpf_kernel import no_leaks  # noqa: F401
from support.irgen import MEMORY, TEXTS, Generator
from support.livebackend import Woven, live, set_fsuid

from klasy.backend import show
from klasy.bpf import links, maps, program
from klasy.bpf import uapi as u
from klasy.bpf.asm import assemble
from klasy.bpf.insn import R0, R1, R2, exit_, load_map_value, mov, store
from klasy.compiler import ireval
from klasy.compiler.ireval import World
from klasy.compiler.irprint import render
from klasy.errors import InputError
from klasy.match.mechanism import Context
from klasy.match.plan import Point
from klasy.record import HEADER_SIZE

FUNCTION = live("__sys_setfsuid")
PROGRAMS = 25
SIZE, START = 1 << 18, 1 << 16  # room around, so that whatever is near can be read in both worlds


@pytest.fixture(scope="module")
def memory():
    """Bytes that we can write, where the kernel can read them; and their address there."""
    with (
        maps.create("array", name="memory", key_size=4, value_size=SIZE, max_entries=1, flags=u.BPF_F_MMAPABLE) as held,
        maps.create("array", name="address", key_size=4, value_size=8, max_entries=1) as address,
    ):
        tell = assemble(
            [load_map_value(R1, "address"), load_map_value(R2, "memory"), store(R1, 0, R2), mov(R0, 0), exit_()]
        )
        with (
            program.load(u.BPF_PROG_TYPE_KPROBE, tell, maps={"address": address, "memory": held}) as loaded,
            links.perf_kprobe(address=FUNCTION.address) as event,
            links.attach_perf_event(loaded, event),
        ):
            set_fsuid(0)
        mapped = held.mmap()
        yield mapped, int.from_bytes(address.lookup(bytes(4)) or b"", "little")
        mapped.close()


@pytest.mark.parametrize("context", [Context.FENTRY, Context.ENTRY])
def test_values_in_the_kernel(memory, context: Context) -> None:
    """Records, faults and hits of random programs are those of the IR's interpreter."""
    mapped, base = memory
    one = probe(context, points=[Point(FUNCTION.address, FUNCTION)], arms=[{FUNCTION.address: 0}])
    with open("/proc/self/comm", "rb") as file:
        comm = file.read().strip()
    us = os.getpid() << 32 | threading.get_native_id()
    compared = 0
    for seed in range(PROGRAMS):
        random = Random(seed * 7 + len(context.value))
        made = Generator(
            random, random.choice([10, 30, 60]), base=base + START, arguments=0, contexts=["pid_tgid", "uid_gid"]
        ).make()
        data = bytearray(random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randint(0, 255)]) for _ in range(MEMORY))
        for _ in range(4):
            at, text = random.randint(0, 128), random.choice(TEXTS) + b"\0"
            data[at : at + len(text)] = text
        mapped[START : START + MEMORY] = bytes(data)

        def read(address: int, size: int) -> bytes | None:
            start = address - base
            return mapped[start : start + size] if start >= 0 and start + size <= SIZE else None

        world = World(read, context={"pid_tgid": us, "uid_gid": 0}, comm=comm)
        try:
            artifact = generate([made], plan(one))
        except InputError:
            continue
        expected = ireval.run(made, world)
        note = f"seed {seed}\n{render(made)}\n{show(artifact)}"
        with Woven(artifact) as aspect:
            set_fsuid(0)
            ours = [(head, values) for head, values in aspect.records() if head[4] << 32 | head[5] == us]
            hits = [n for n, count in enumerate(aspect.hits()) for _ in range(count)]
        assert hits == sorted(expected.hits), note
        got = [(head[1], head[2], head[7], bytes(HEADER_SIZE) + values) for head, values in ours]
        wanted = [(each.joinpoint, each.format, each.faults, each.data) for each in expected.logged]
        assert got == wanted, note
        compared += len(wanted)
    assert compared > PROGRAMS


def test_the_memory_is_where_it_is_said(memory) -> None:
    """The address of the bytes is one of the kernel's."""
    mapped, base = memory
    mapped[:8] = struct.pack("<Q", 42)
    assert base >> 56 == 0xFF
