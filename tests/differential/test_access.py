"""What instructions do to memory, and which name an address: against capstone, over the lab's kernels' text."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from klasy.kernel import access_x86_64, references
from klasy.kernel.snapshot import SnapshotKernel

capstone = pytest.importorskip("capstone")
from capstone import x86  # noqa: E402

SNAPSHOTS = Path(__file__).parents[1] / "data" / "kernels"

# Where capstone's table is wrong or means something else: it calls the operand of lea, nop and prefetch read, that of
# cmpxchg read only and that of setcc read; the operands of string instructions it does not always have.
QUIRKS = {"lea", "nop", "cmpxchg", "cmpxchg8b", "cmpxchg16b", "insb", "insd", "outsb", "outsd", "test"}


def _is_quirk(mnemonic: str) -> bool:
    word = mnemonic.rsplit(maxsplit=1)[-1]
    return word in QUIRKS or word.startswith(("set", "prefetch"))


@pytest.mark.parametrize("name", ["6.1", "6.12"])
def test_kinds(name: str) -> None:
    """Every operand in memory is read, written or both as capstone says, its quirks aside."""
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.detail = True
    kernel = SnapshotKernel.load(str(SNAPSHOTS / f"{name}.snapshot"))
    kinds: collections.Counter[int] = collections.Counter()
    for address, code in kernel._ranges[::8]:
        for found in disassembler.disasm(code, address):
            theirs = 0
            for operand in found.operands:
                if operand.type == x86.X86_OP_MEM:
                    theirs |= operand.access
            ours = access_x86_64.access(bytes(found.bytes)) & references.KNOWN
            if not _is_quirk(found.mnemonic):
                assert ours == theirs, (found.mnemonic, found.op_str, found.bytes.hex())
                kinds[ours] += 1
    assert all(kinds[kind] > 100 for kind in (0, 1, 2, 3))


@pytest.mark.parametrize("name", ["6.1", "6.12"])
def test_direct_references(name: str) -> None:
    """The instructions that name some addresses of data are those that capstone shows with these addresses."""
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.detail = True
    kernel = SnapshotKernel.load(str(SNAPSHOTS / f"{name}.snapshot"))
    places: dict[int, set[int]] = {}
    for address, code in kernel._ranges[::8]:
        function = kernel.function_at(address)
        if function is None or (function.address, function.size) != (address, len(code)):
            continue
        for found in disassembler.disasm(code, address):
            for operand in found.operands:
                memory = operand.mem if operand.type == x86.X86_OP_MEM else None
                if memory and memory.base == x86.X86_REG_RIP and not memory.segment and not _is_quirk(found.mnemonic):
                    places.setdefault(found.address + found.size + memory.disp, set()).add(found.address)
    wanted = sorted(places, key=lambda place: (-len(places[place]), place))[:10]
    assert len(wanted) == 10
    for place in wanted:
        ours = {reference.address for reference in references.direct(kernel, place, 1)}
        assert places[place] <= ours, hex(place)
