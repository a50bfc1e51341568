"""Uses again what was computed before: values of variables, results of equal operations, loads of the same memory.

What is known flows from a block into one that has no other predecessor, and ends where paths meet.
"""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.ir import Block, Op, Operand, Program, Value, Var
from klasy.compiler.ircheck import reachable
from klasy.compiler.irstate import StateOp


def reuse(program: Program) -> None:
    """Replace repeated work by what was computed before, and drop what a variable is set to and nobody reads.

    Loads of one place give one value: the memory is read once, as if at one moment. Where both watch for faults in
    one word, and one never runs without the other, the first watches for both. So it does before the second would
    have: a fault word gains bits only, between being set to a constant and being read for good.
    """
    predecessors: dict[Block, list[Block]] = {}
    order = reachable(program)
    for block in order:
        for successor in block.successors():
            predecessors.setdefault(successor, []).append(block)
    ends: dict[Block, _Known] = {}
    replaced: dict[Value, Operand] = {}
    for block in order:
        before = predecessors.get(block, [])
        alone = len(before) == 1 and before[0] in ends
        known = ends[before[0]].copy() if alone else _Known()
        known.here = set()
        block.ops = [op for op in block.ops if not known.serves(op, replaced)]
        _drop_overwritten(block)
        ends[block] = known


class _Known:
    """What is known at a point of a program."""

    def __init__(self) -> None:
        self.variables: dict[Var, Operand] = {}
        self.results: dict[tuple[object, ...], Value] = {}
        self.loads: dict[tuple[object, ...], ir.Load] = {}
        self.here: set[Op] = set()  # the loads of the present block

    def copy(self) -> _Known:
        new = _Known()
        new.variables, new.results, new.loads = self.variables.copy(), self.results.copy(), self.loads.copy()
        return new

    def serves(self, op: Op, replaced: dict[Value, Operand]) -> bool:
        """Whether an operation's value is known already (it is then in ``replaced``); learns from it if not."""
        op.substitute(replaced)
        match op:
            case ir.Get():
                if op.var in self.variables:
                    replaced[op.dst] = self.variables[op.var]
                    return True
                self.variables[op.var] = op.dst
            case ir.Set():
                self.variables[op.var] = op.source
                if isinstance(op.source, int):
                    self.forget_loads(op.var)
            case ir.Load():
                return self.serves_load(op, replaced)
            case ir.StringEqual() | StateOp() if op.faults is not None:
                self.variables.pop(op.faults, None)
            case (
                ir.Binary()
                | ir.Extend()
                | ir.Swap()
                | ir.Compare()
                | ir.Argument()
                | ir.Result()
                | ir.Observe()
                | ir.Register()
                | ir.Lookup()
            ):
                key = _key(op)
                if key in self.results:
                    assert op.result is not None
                    replaced[op.result] = self.results[key]
                    return True
                self.results[key] = op.dst
            case ir.Context() if op.what not in ir.CHANGING:
                key = _key(op)
                if key in self.results:
                    replaced[op.dst] = self.results[key]
                    return True
                self.results[key] = op.dst
        return False

    def serves_load(self, op: ir.Load, replaced: dict[Value, Operand]) -> bool:
        key = (op.address, op.offset, op.size, op.user)
        first = self.loads.get(key)
        if op.faults is not None:
            self.variables.pop(op.faults, None)
        if first is not None and self.watches(first, op):
            first.mask |= op.mask
            replaced[op.dst] = first.dst
            return True
        self.loads[key] = op
        self.here.add(op)
        return False

    def watches(self, first: ir.Load, op: ir.Load) -> bool:
        """Whether an earlier load can watch for the faults of another too."""
        if op.faults is None:
            return True
        return op.faults is first.faults and (first in self.here or not op.mask & ~first.mask)

    def forget_loads(self, faults: Var) -> None:
        """The word begins anew: loads from before do not tell of it."""
        self.loads = {key: load for key, load in self.loads.items() if load.faults is not faults}


def _key(op: Op) -> tuple[object, ...]:
    return (type(op), *(value for name, value in vars(op).items() if name not in ("dst", "span")))


def _drop_overwritten(block: Block) -> None:
    """Drop what a variable is set to where the same block sets it again before anything reads it."""
    overwritten: set[Var] = set()
    kept: list[Op] = []
    for op in reversed(block.ops):
        match op:
            case ir.Set():
                if op.var in overwritten:
                    continue
                overwritten.add(op.var)
            case ir.Get():
                overwritten.discard(op.var)
            case ir.Load() | ir.StringEqual() | ir.Emit() | StateOp() if op.faults is not None:
                overwritten.discard(op.faults)
        kept.append(op)
    block.ops = kept[::-1]
