"""Whole programs at accesses to members, run in the interpreter of BPF with the registers of each instruction."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.backend import Runner, registers
from support.compiling import values_of

from klasy.compiler import lowermember
from klasy.compiler.ireval import World
from klasy.flow import sites
from klasy.kernel.snapshot import SnapshotKernel
from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver.build import build

SNAPSHOTS = Path(__file__).parent.parent.parent / "data" / "kernels"
OBJECT = 0xFFFF_8880_0000_4000
OLD = 0x0000_0017
WIDE = {"e": "r"}


@pytest.mark.parametrize("most", [lowermember.MOST_RANGES, 2], ids=["by comparing", "by a table"])
@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_the_congestion_window(release: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each store the program logs the object, what memory holds, and the register that the disassembler names."""
    monkeypatch.setattr(lowermember, "MOST_RANGES", most)
    kernel = SnapshotKernel.load(str(SNAPSHOTS / f"{release}.snapshot"))
    text = """aspect a { before(struct tcp_sock *t): set(struct tcp_sock.snd_cwnd) && target(t) {
        log((unsigned long)t, old, new, value); } }"""
    (artifact,) = build(SourceFile("a.asp", text), kernel, PlanOptions())
    offset = sites.kernel_member(kernel, "tcp_sock", "snd_cwnd").offset

    def read(address: int, size: int) -> bytes | None:
        memory = bytes(offset) + OLD.to_bytes(4, "little") + bytes(64)
        at = address - OBJECT
        return memory[at : at + size] if 0 <= at <= len(memory) - size else None

    assert any(spec.name.startswith("look") for spec in artifact.maps) == (most == 2)
    runner = Runner(artifact, World(read=read))
    stores = 0
    for joinpoint in artifact.plan.joinpoints:
        access = joinpoint.shadow.access
        assert access is not None
        match = re.fullmatch(r"mov dword ptr \[(\w+) \+ (0x\w+)\], e(\w\w)", access.disassembly)
        if match is None:
            continue
        stores += 1
        base, displacement, source = match[1].removeprefix("r"), int(match[2], 16), match[3]
        base = base if not base.isdigit() else f"r{base}"
        values = {base: OBJECT + offset - displacement, source: 0x7777_0000_002A}
        outcome = runner.run(registers(ip=access.address + 1, **values))
        assert outcome.hits == [joinpoint.id]
        assert values_of(artifact.formats[0], outcome.logged[0].data)[-4:] == [OBJECT, OLD, 0x2A, 0x2A]
        assert outcome.logged[0].faults == 0
    assert stores > 10
