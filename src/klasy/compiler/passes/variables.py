"""Takes out variables that hold one constant, and those that nobody reads."""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.ir import Op, Program, Var
from klasy.compiler.irstate import StateOp


def remove_variables(program: Program) -> None:
    """Leave only variables that are read and whose value is not known beforehand."""
    read: set[Var] = set()
    written: dict[Var, set[object]] = {}
    for op in program.ops():
        match op:
            case ir.Get():
                read.add(op.var)
            case ir.Set():
                written.setdefault(op.var, set()).add(op.source)
            case ir.Load() | ir.StringEqual() | StateOp() if op.faults is not None:
                written.setdefault(op.faults, set()).add(op)
            case ir.Emit() if op.faults is not None:
                read.add(op.faults)
    constants = {
        var: value
        for var, sources in written.items()
        if len(sources) == 1 and isinstance(value := next(iter(sources)), int)
    }
    for block in program.blocks:
        block.ops = [kept for op in block.ops if (kept := _without(op, read, constants)) is not None]


def _without(op: Op, read: set[Var], constants: dict[Var, int]) -> Op | None:
    match op:
        case ir.Set() if op.var not in read or op.var in constants:
            # Where it is constant the Emit may still name it: handled below, in this same walk.
            return None
        case ir.Get() if op.var in constants:
            copy = ir.Copy(op.dst, constants[op.var])
            copy.span = op.span
            return copy
        case ir.Load() | ir.StringEqual() | StateOp() if op.faults is not None and op.faults not in read:
            op.faults, op.mask = None, 0
        case ir.Emit() if op.faults is not None and op.faults in constants:
            assert constants[op.faults] == 0, "a fault word begins as 0"
            op.faults = None
    return op
