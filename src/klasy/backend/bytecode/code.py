"""A program's operations in the order of emission, with what only this backend does to them.

Three things happen here, none of which changes what the program means:

- blocks that nothing reaches are dropped (the verifier refuses them);
- a :class:`Prologue` is put first: it takes the place of the IR's Mark and finds out, once for all arms, where the
  program runs;
- a Load whose value does nothing but fill a field of the same block's record becomes a copy straight into the record:
  one read less of the stack, and no read at all where the ring buffer is full.

The IR of the compiler is left as it is: what changes is made anew.
"""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.ir import Value, Var
from klasy.compiler.irstate import StateOp
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias, TypeVar

    T = TypeVar("T")


#: What can have a place in a register or on the stack: the IR's values and variables, and the backend's own.
Local: TypeAlias = Value | Var


@dataclass(eq=False)
class Prologue(ir.Op):
    """Learn where the program runs; see :mod:`klasy.backend.bytecode.locate`. ``use`` is that of the Mark, or none."""

    use: str
    mnemonic = "prologue"


@dataclass()
class Straight:
    """One block: its label and its operations, the terminator last."""

    label: int
    ops: list[ir.Op]
    successors: tuple[int, ...]


def straighten(program: ir.Program, known: Callable[[ir.Locate], int | None] | None = None) -> list[Straight]:
    """The blocks of a program that control can reach, in their order, ready for allocation.

    ``known`` is given where a program is at one place only: the join point that a Locate will find there, or None.
    """
    blocks = {b.label: Straight(b.label, list(b.ops), tuple(s.label for s in b.successors())) for b in program.blocks}
    if known is not None:
        _resolve(list(blocks.values()), known)
    reached = _reached(blocks, program.entry.label)
    entry = reached[0].ops
    if isinstance(entry[0], ir.Mark):
        entry[0] = _like(entry[0], Prologue(entry[0].use))
    else:
        entry.insert(0, Prologue("none"))
    _copy_into_records(reached)
    _drop_silent_faults(reached)
    return reached


def _reached(blocks: dict[int, Straight], entry: int) -> list[Straight]:
    seen = {entry}
    todo = [entry]
    while todo:
        for successor in blocks[todo.pop()].successors:
            if successor not in seen:
                seen.add(successor)
                todo.append(successor)
    return [block for block in blocks.values() if block.label in seen]


def _resolve(blocks: list[Straight], known: Callable[[ir.Locate], int | None]) -> None:
    """Put the join points' ids in the place of what Locate would find."""
    ids: dict[Value, ir.Operand] = {}
    for block in blocks:
        end = block.ops[-1]
        if isinstance(end, ir.Locate):
            joinpoint = known(end)
            if joinpoint is not None:
                ids[end.dst] = joinpoint
            target = end.missing if joinpoint is None else end.found
            block.ops[-1] = _like(end, ir.Jump(target))
            block.successors = (target.label,)
    for block in blocks:
        block.ops[:] = [_substituted(op, ids) for op in block.ops]


def copy(thing: T) -> T:
    """A shallow copy. (The standard library's costs an import of some weight.)"""
    new = object.__new__(type(thing))
    new.__dict__.update(thing.__dict__)
    return new


def _substituted(op: ir.Op, ids: dict[Value, ir.Operand]) -> ir.Op:
    if not any(operand in ids for operand in op.operands() if isinstance(operand, Value)):
        return op
    changed = copy(op)
    if isinstance(changed, ir.Emit):
        changed.parts = tuple(copy(part) for part in changed.parts)
    changed.substitute(ids)
    return changed


def _like(old: ir.Op, new: ir.Op) -> ir.Op:
    new.span = old.span
    return new


def _use_counts(blocks: Iterable[Straight]) -> dict[Value, int]:
    counts: dict[Value, int] = {}
    for block in blocks:
        for op in block.ops:
            for operand in op.operands():
                if isinstance(operand, Value):
                    counts[operand] = counts.get(operand, 0) + 1
    return counts


# --- loads that only fill a record ----------------------------------------------------------------------------------


def _copy_into_records(blocks: list[Straight]) -> None:
    counts = _use_counts(blocks)
    by_label = {block.label: block for block in blocks}
    for block in blocks:
        _copy_in_block(block, counts, by_label)


def _copy_in_block(block: Straight, counts: dict[Value, int], by_label: dict[int, Straight]) -> None:
    """Loads are remembered until something stands between them and a record that would tell the difference."""
    sources: dict[Value, ir.Op] = {}  # values used once, by the operation that makes them
    gone: set[ir.Op] = set()
    for at, op in enumerate(block.ops):
        if isinstance(op, ir.Emit) and not _read_behind(op.faults, block, at, by_label):
            block.ops[at] = _with_copies(op, sources, gone)
        if isinstance(op, ir.Emit | ir.Set | ir.Get):
            sources = {v: o for v, o in sources.items() if not _sees_faults(op, o)}
        elif isinstance(op, ir.Load | ir.Extend) and counts.get(op.dst) == 1:
            sources[op.dst] = op
    block.ops[:] = [op for op in block.ops if op not in gone]


def _read_behind(faults: Var | None, block: Straight, at: int, by_label: dict[int, Straight]) -> bool:
    """Whether what a variable holds at an operation may be read after it. A copy sets the record's fault bits only."""
    todo = [(block, at + 1)]
    seen: set[int] = set()
    while todo:
        current, start = todo.pop()
        for op in current.ops[start:]:
            if isinstance(op, ir.Set) and op.var is faults:
                break
            if (isinstance(op, ir.Emit) and op.faults is faults) or (isinstance(op, ir.Get) and op.var is faults):
                return True
        else:
            todo += [(by_label[label], 0) for label in set(current.successors) - seen]
            seen.update(current.successors)
    return False


def _sees_faults(op: ir.Op, source: ir.Op) -> bool:
    """Whether ``op`` uses the variable of fault bits that ``source`` may set: it must not be moved behind it."""
    if not isinstance(source, ir.Load):
        return False
    used = op.faults if isinstance(op, ir.Emit) else op.var if isinstance(op, ir.Set | ir.Get) else None
    return used is source.faults


def _with_copies(emit: ir.Emit, sources: dict[Value, ir.Op], gone: set[ir.Op]) -> ir.Emit:
    parts = tuple(_as_copy(part, emit.faults, sources, gone) for part in emit.parts)
    if parts == emit.parts:
        return emit
    new = ir.Emit(emit.format, emit.size, emit.joinpoint, parts, emit.faults)
    new.span = emit.span
    return new


def _as_copy(part: ir.Part, faults: Var | None, sources: dict[Value, ir.Op], gone: set[ir.Op]) -> ir.Part:
    if not isinstance(part, ir.StoreField) or not isinstance(part.value, Value):
        return part
    passed: list[ir.Op] = []
    source = sources.get(part.value)
    while isinstance(source, ir.Extend) and source.bits >= 8 * part.size and isinstance(source.source, Value):
        passed.append(source)
        source = sources.get(source.source)
    if not isinstance(source, ir.Load) or source.size != part.size or source.faults is None:
        return part
    if source.faults is not faults or source.mask.bit_count() != 1:
        return part
    gone.update(passed, (source,))
    bit = source.mask.bit_length() - 1
    return ir.CopyField(part.offset, part.size, source.address, source.offset, bit, source.user)


# --- fault bits that nothing sets -----------------------------------------------------------------------------------


def _drop_silent_faults(blocks: list[Straight]) -> None:
    """Once all loads of a record are copies, its variable of fault bits is the constant 0."""
    ops = [op for block in blocks for op in block.ops]
    variables = {op.faults for op in ops if isinstance(op, ir.Emit)} - {None}
    written = {op.faults for op in ops if isinstance(op, ir.Load | ir.StringEqual | StateOp)}
    written |= {op.var for op in ops if isinstance(op, ir.Set) and op.source != 0}
    written |= {op.var for op in ops if isinstance(op, ir.Get)}
    silent = variables - written
    for block in blocks:
        block.ops[:] = [_without(op, silent) for op in block.ops if not (isinstance(op, ir.Set) and op.var in silent)]


def _without(op: ir.Op, silent: set[Var | None]) -> ir.Op:
    if isinstance(op, ir.Emit) and op.faults in silent:
        return _like(op, ir.Emit(op.format, op.size, op.joinpoint, op.parts, None))
    return op
