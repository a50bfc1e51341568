"""Instruction lengths and call sites, against capstone, over the text in the snapshots of the lab's kernels."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from klasy.kernel import insn_x86_64 as insn
from klasy.kernel.model import CallKind, Clone
from klasy.kernel.snapshot import SnapshotKernel

capstone = pytest.importorskip("capstone")

SNAPSHOTS = Path(__file__).parents[1] / "data" / "kernels"


@functools.cache
def snapshot(name):
    return SnapshotKernel.load(str(SNAPSHOTS / f"{name}.snapshot"))


@functools.cache
def held(name):
    """The functions whose text the snapshot holds: (function, code, capstone's instructions)."""
    kernel = snapshot(name)
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    found = []
    for address, code in kernel._ranges:
        function = kernel.function_at(address)
        if function and (function.address, function.size) == (address, len(code)):
            found.append((function, code, list(disassembler.disasm_lite(code, address))))
    return found


@pytest.mark.parametrize("name", ["6.1", "6.12"])
def test_lengths(name):
    """Every instruction of every function is as long as capstone says; where capstone gives up, so may we."""
    count = 0
    for function, code, instructions in held(name):
        ours = [(function.address + at, size) for at, size in insn.instructions(code, 0, len(code))]
        theirs = [(address, size) for address, size, _, _ in instructions]
        assert ours[: len(theirs)] == theirs, function
        count += len(theirs)
    assert count > 100_000


def independent(name, wanted):
    """Sites of calls and of tail calls to functions, by address, out of capstone's text."""
    kernel = snapshot(name)
    by_address = {function.address: function for function in wanted}
    sites = {}
    for function, _, instructions in held(name):
        for address, size, mnemonic, operands in instructions:
            word = mnemonic.split()[-1]
            if not (word == "call" or word.startswith("j")) or not operands.startswith("0x"):
                continue
            callee = by_address.get(int(operands, 16))
            if callee is None:
                continue
            if word == "call":
                sites[address] = (CallKind.DIRECT, size, callee.name)
            elif callee.address != function.address and not (
                function.clone is Clone.COLD and function.base == callee.base
            ):
                sites[address] = (CallKind.TAIL, size, callee.name)
    return kernel, sites


@pytest.mark.parametrize("name", ["6.1", "6.12"])
@pytest.mark.parametrize("pattern", ["skb_dequeue", "kfree", "consume_skb", "putname", "tcp_*"])
def test_callers(name, pattern):
    """callers() finds the sites that a whole disassembly finds, each with its kind, length and callee."""
    kernel = snapshot(name)
    wanted = [function for function in kernel.functions(pattern) if function.clone is not Clone.COLD]
    _, sites = independent(name, wanted)
    ours = {site.address: (site.kind, site.length, site.callee.name) for site in kernel.callers(wanted)}
    assert ours == sites
    assert len(sites) > 10


@pytest.mark.parametrize("name", ["6.1", "6.12"])
def test_calls_in(name):
    """calls_in() finds every call instruction of a function, and none else; through pointers and thunks as INDIRECT."""
    kernel = snapshot(name)
    count = 0
    for function, _, instructions in held(name)[::5]:
        theirs = set()
        for address, _, mnemonic, operands in instructions:
            if mnemonic.split()[-1] == "call":
                target = kernel.function_at(int(operands, 16)) if operands.startswith("0x") else None
                if not operands.startswith("0x") or (target and target.address == int(operands, 16)):
                    theirs.add(address)
        ours = kernel.calls_in([function])
        assert {site.address for site in ours if site.kind is not CallKind.TAIL} == theirs, function
        for site in ours:
            assert (site.callee is None) == (site.kind is CallKind.INDIRECT)
        count += len(ours)
    assert count > 1000
