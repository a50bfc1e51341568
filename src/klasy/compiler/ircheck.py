"""The invariants of the IR: a list of what is broken, printed beside the IR. Runs on every program the pipeline makes.

An error found here is klasy's own fault, never the user's.
"""

from __future__ import annotations

from errno import errorcode

from klasy.compiler import ir, irstate
from klasy.compiler.ir import Block, Op, Operand, Program, Terminator, Value, Var
from klasy.compiler.irprint import render
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.record import HEADER_SIZE


def require(program: Program, *, lowered: bool = True) -> None:
    """Raise AssertionError with the annotated program if an invariant is broken. ``lowered``: as for ``check``."""
    faults = check(program, lowered=lowered)
    if faults:
        notes: dict[Op, list[str]] = {}
        for op, fault in faults:
            if op is not None:
                notes.setdefault(op, []).append(fault)
        general = [fault for op, fault in faults if op is None]
        raise AssertionError("Internal error: broken IR: " + "; ".join(general) + "\n" + render(program, notes))


def check(program: Program, *, lowered: bool = True) -> list[tuple[Op | None, str]]:
    """Every broken invariant with its operation (None: of the program). ``lowered``: signed division is gone."""
    checker = _Checker(program, lowered)
    checker.blocks()
    if not checker.faults:  # what follows walks the graph of the blocks, which must be sound for that
        checker.definitions()
        checker.variables()
    return checker.faults


class _Checker:
    def __init__(self, program: Program, lowered: bool) -> None:
        self.program = program
        self.lowered = lowered
        self.faults: list[tuple[Op | None, str]] = []
        self.defined: dict[Value, tuple[Block, int]] = {}
        self.dominators: dict[Block, set[Block]] = {}

    def fault(self, op: Op | None, text: str) -> None:
        self.faults.append((op, text))

    # --- shape

    def blocks(self) -> None:
        program = self.program
        if not program.blocks:
            self.fault(None, "no blocks")
            return
        known = set(program.blocks)
        if len({block.label for block in program.blocks}) != len(program.blocks):
            self.fault(None, "two blocks of one label")
        seen: set[int] = set()
        for block in program.blocks:
            if not block.ops or not isinstance(block.ops[-1], Terminator):
                self.fault(None, f"b{block.label} has no terminator")
            for i, op in enumerate(block.ops):
                if id(op) in seen:
                    self.fault(op, "the operation stands in two places")
                seen.add(id(op))
                if isinstance(op, Terminator):
                    if i != len(block.ops) - 1:
                        self.fault(op, "a terminator inside a block")
                    for target in op.targets:
                        if target not in known:
                            self.fault(op, f"b{target.label} is not of the program")
                        elif target is program.entry:
                            self.fault(op, "the entry is a target")
                if isinstance(op, ir.Mark) and (i != 0 or block is not program.entry):
                    self.fault(op, "a mark is not the first operation")
                self.op(op)

    def op(self, op: Op) -> None:
        for operand in op.operands():
            if isinstance(operand, int) and not ir.MIN_IMMEDIATE <= operand <= ir.MAX_IMMEDIATE:
                self.fault(op, f"immediate {operand} does not fit 64 bits signed")
        match op:
            case ir.Binary():
                if op.op not in ir.BINARY_OPS:
                    self.fault(op, f"no operator {op.op}")
                if op.width not in (32, 64):
                    self.fault(op, f"no width {op.width}")
                if self.lowered and op.op in ir.SIGNED_DIVISIONS:
                    self.fault(op, "signed division was to be expanded")
            case ir.Compare() | ir.Branch():
                if op.op not in ir.COMPARISONS:
                    self.fault(op, f"no comparison {op.op}")
            case ir.Extend():
                if not 1 <= op.bits <= 63:
                    self.fault(op, f"cannot extend from {op.bits} bits")
            case ir.Swap():
                if op.bits not in (16, 32, 64):
                    self.fault(op, f"cannot swap {op.bits} bits")
            case ir.Register():
                if op.name not in PT_REGS:
                    self.fault(op, f"no register {op.name}")
            case ir.Lookup():
                if not op.table or not all(0 <= number < 1 << 32 for number in op.table):
                    self.fault(op, "no such table")
            case ir.Observe():
                if op.what not in ir.OBSERVED:
                    self.fault(op, f"nothing observes {op.what}")
            case ir.Context():
                if op.what not in ir.CONTEXT_VALUES:
                    self.fault(op, f"no context value {op.what}")
            case ir.Count():
                if op.what not in ir.COUNTS:
                    self.fault(op, f"nothing counts {op.what}")
            case ir.WatchObject():
                if op.size not in ir.LOAD_SIZES or op.member < 0 or op.hits < 0 or op.duration < 0:
                    self.fault(op, "nothing can be watched so")
            case ir.Deny():
                if op.errno not in errorcode:
                    self.fault(op, f"no error {op.errno}")
            case ir.Limit():
                if op.slot < 0 or op.interval <= 0 or op.size <= 0:
                    self.fault(op, "no such bucket")
            case ir.Load():
                if op.size not in ir.LOAD_SIZES:
                    self.fault(op, f"no load of {op.size} bytes")
                self.mask(op)
            case ir.StringEqual():
                if b"\0" in op.literal or len(op.literal) >= ir.MAX_STRING or op.limit < len(op.literal):
                    self.fault(op, "the literal does not fit")
                self.mask(op)
            case ir.CommEqual():
                if b"\0" in op.literal or len(op.literal) >= ir.COMM_SIZE:
                    self.fault(op, "the literal does not fit")
            case ir.Emit():
                self.emit(op)
            case irstate.StateOp():
                for fault in irstate.faults(op):
                    self.fault(op, fault)

    def mask(self, op: ir.Load | ir.StringEqual) -> None:
        if not (0 < op.mask <= ir.MASK64 if op.faults is not None else op.mask == 0):
            self.fault(op, f"no mask of faults {op.mask:#x}")

    def bit(self, op: Op, bit: int) -> None:
        if not 0 <= bit <= 63:
            self.fault(op, f"no fault bit {bit}")

    def emit(self, op: ir.Emit) -> None:
        if op.size % 8 or op.size < HEADER_SIZE:
            self.fault(op, f"a record cannot have {op.size} bytes")
        end = HEADER_SIZE
        for part in sorted(op.parts, key=lambda p: p.offset):
            size = ir.COMM_SIZE
            if not isinstance(part, ir.CommField):
                size = part.size  # type: ignore[attr-defined]
            if isinstance(part, ir.StoreField) and size not in ir.LOAD_SIZES:
                self.fault(op, f"no store of {size} bytes")
            if isinstance(part, ir.CopyField | ir.StringField | ir.BufferField | ir.StackField):
                self.bit(op, part.bit)
            if isinstance(part, ir.BufferField) and (part.size % 8 or part.offset % 8 or part.size < 16):
                self.fault(op, f"no buffer of {part.size} bytes at {part.offset}")
            if part.offset < end or size <= 0:
                self.fault(op, f"the part at {part.offset} overlaps what stands before it")
            end = max(end, part.offset + size)
        if end > op.size:
            self.fault(op, f"parts end at {end}")

    # --- values: assigned once, before every use

    def definitions(self) -> None:
        for block in self.program.blocks:
            for i, op in enumerate(block.ops):
                value = op.result
                if value is None:
                    continue
                if value in self.defined:
                    self.fault(op, "the value is assigned twice")
                # A Locate's value exists in its ``found`` block only.
                self.defined[value] = (op.found, -1) if isinstance(op, ir.Locate) else (block, i)
        self.dominators = dominators(self.program)
        predecessors: dict[Block, list[Block]] = {}
        for block in self.program.blocks:
            for target in block.successors():
                predecessors.setdefault(target, []).append(block)
        for block in self.program.blocks:
            if block not in self.dominators:
                continue  # never runs
            for i, op in enumerate(block.ops):
                if isinstance(op, ir.Locate) and (predecessors.get(op.found) != [block] or op.found is op.missing):
                    self.fault(op, "its found block has another predecessor")
                for operand in op.operands():
                    self.use(op, operand, block, i)

    def use(self, op: Op, operand: Operand, block: Block, place: int) -> None:
        if isinstance(operand, int):
            return
        if operand not in self.defined:
            self.fault(op, f"{operand!r} is never assigned")
            return
        where, index = self.defined[operand]
        before = index < place if where is block else where in self.dominators[block]
        if not before:
            self.fault(op, f"{operand!r} is not assigned on every path to here")

    # --- variables: set on every path before they are read

    def variables(self) -> None:
        order = reachable(self.program)
        everything = {v for op in self.program.ops() for v in variables_of(op)}
        at_start: dict[Block, set[Var]] = {block: everything for block in order}
        at_start[self.program.entry] = set()
        changed = True
        while changed:
            changed = False
            for block in order:
                known = at_start[block] | {op.var for op in block.ops if isinstance(op, ir.Set)}
                for successor in block.successors():
                    if not at_start[successor] <= known:
                        at_start[successor] = at_start[successor] & known
                        changed = True
        names: dict[str, Var] = {}
        for block in order:
            known = set(at_start[block])
            for op in block.ops:
                for var in variables_of(op):
                    if names.setdefault(var.name, var) is not var:
                        self.fault(op, f"two variables are named {var!r}")
                    if not isinstance(op, ir.Set) and var not in known:
                        self.fault(op, f"{var!r} is not set on every path to here")
                if isinstance(op, ir.Set):
                    known.add(op.var)


def variables_of(op: Op) -> tuple[Var, ...]:
    """The variables an operation reads or writes."""
    match op:
        case ir.Get() | ir.Set():
            return (op.var,)
        case ir.Load() | ir.StringEqual() | ir.Emit() | irstate.StateOp():
            return (op.faults,) if op.faults is not None else ()
        case _:
            return ()


def reachable(program: Program) -> list[Block]:
    """The blocks that control can get to, entry first, each after one of its predecessors."""
    order = [program.entry]
    seen = {program.entry}
    for block in order:  # grows while it is walked
        for successor in block.successors():
            if successor not in seen:
                seen.add(successor)
                order.append(successor)
    return order


def dominators(program: Program) -> dict[Block, set[Block]]:
    """For each block that can be reached: the blocks on every path to it, itself included."""
    order = reachable(program)
    predecessors: dict[Block, list[Block]] = {block: [] for block in order}
    for block in order:
        for successor in block.successors():
            predecessors[successor].append(block)
    everything = set(order)
    found = {block: everything for block in order}
    found[program.entry] = {program.entry}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            new = set.intersection(*(found[p] for p in predecessors[block])) | {block}
            if new != found[block]:
                found[block] = new
                changed = True
    return found
