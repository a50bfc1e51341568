"""From an address to the join point there: a tree of comparisons for a few addresses, a hash map for many.

A comparison with an address of kernel text is one instruction (it is a sign-extended 32-bit constant), so that a tree
over 32 addresses takes 5 or 6 of them; a lookup in a hash map costs a call, a hash and a bucket walk.

One map serves all arms of a program: its value holds the id for each arm in turn, as a u32.
"""

from __future__ import annotations

import struct

from klasy.backend.artifact import MapSpec
from klasy.backend.bytecode.arithmetic import compare_constant
from klasy.bpf import uapi
from klasy.bpf.insn import R0, jump_if, load, load_imm
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klasy.backend.bytecode.code import Local
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.bpf.insn import Reg

_KEY = struct.Struct("<Q")
TREE_LIMIT = 32
NONE = 0xFFFFFFFF  # in a map: the arm does not run there


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a search goes: to ``found`` with the id in ``dst``, or to ``missing``."""

    dst: Local
    found: str
    missing: str


class Table:
    """Addresses, and for each the id per column (arm), or None."""

    def __init__(self, name: str, columns: Sequence[Mapping[int, int]]) -> None:
        self.name = name
        self.columns = columns
        self.addresses = sorted({address for column in columns for address in column})

    @property
    def is_small(self) -> bool:
        """Whether a tree is better than a map."""
        return len(self.addresses) <= TREE_LIMIT

    def is_total(self, column: int) -> bool:
        """Whether the column has an id for every address."""
        return len(self.columns[column]) == len(self.addresses)

    def spec(self) -> MapSpec:
        """The map that holds the table."""
        value = struct.Struct(f"<{len(self.columns)}I")
        columns = [[column.get(address, NONE) for address in self.addresses] for column in self.columns]
        rows = tuple(zip(map(_KEY.pack, self.addresses), map(value.pack, *columns) if columns else (), strict=True))
        return MapSpec(
            name=self.name,
            type="hash",
            key_size=8,
            value_size=value.size,
            max_entries=max(1, len(rows)),
            flags=uapi.BPF_F_RDONLY_PROG,
            initial=rows,
            frozen=True,
        )

    # --- code

    def search(self, e: Emitter, key: Reg, column: int, goal: Goal) -> None:
        """Look for the address in ``key``, which is not r1."""
        leaves: list[tuple[str, int]] = []
        _tree(e, key, sorted(self.columns[column].items()), goal, leaves)
        for label, joinpoint in leaves:
            e.asm.label(label)
            _finish(e, goal, joinpoint)

    def fetch(self, e: Emitter, entry: Reg, column: int, goal: Goal) -> None:
        """The same where ``entry`` is what a lookup in the map gave."""
        # where the arm is not found the place of its id may hold something else still
        register = e.result(goal.dst) if self.is_total(column) else R0
        e.asm.emit(jump_if(entry, "==", 0, goal.missing), load(register, entry, 4 * column, 4))
        if not self.is_total(column):
            e.asm.emit(jump_if(register, "==", -1, goal.missing, width=32))
        e.keep(goal.dst, register)
        e.go(goal.found)


def _finish(e: Emitter, goal: Goal, joinpoint: int) -> None:
    register = e.result(goal.dst)
    e.asm.emit(load_imm(register, joinpoint))
    e.keep(goal.dst, register)
    e.go(goal.found)


def _tree(e: Emitter, key: Reg, rows: list[tuple[int, int]], goal: Goal, leaves: list[tuple[str, int]]) -> None:
    if not rows:
        e.go(goal.missing)
    elif len(rows) <= 3:
        for address, joinpoint in rows[:-1]:
            label = e.asm.fresh_label("at")
            leaves.append((label, joinpoint))
            compare_constant(e, (key, "==", address), label)
        compare_constant(e, (key, "!=", rows[-1][0]), goal.missing)
        _finish(e, goal, rows[-1][1])
    else:
        middle = len(rows) // 2
        upper = e.asm.fresh_label("upper")
        compare_constant(e, (key, ">=", rows[middle][0]), upper)
        _tree(e, key, rows[:middle], goal, leaves)
        e.asm.label(upper)
        _tree(e, key, rows[middle:], goal, leaves)
