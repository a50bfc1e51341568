"""What advice does with state, to IR: keys, values, which bucket of a histogram.

A value or key that came of memory which could not be read is 0, as everywhere; the update is made, and counted as a
fault of the state.
"""

from __future__ import annotations

from klasy.compiler import ir, irstate, tree
from klasy.compiler.irstate import Step
from klasy.compiler.spaces import of_process
from klasy.compiler.statetree import StateAdd, StateAssign, StateChange, StateDelete, StateExpr, StateRead, StateStmt
from klasy.compiler.types import Bool, Integer, String
from klasy.plain import TYPE_CHECKING
from klasy.state import LOST_FAULT, lhist_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.compiler.ir import Operand, Part, Var
    from klasy.compiler.lowerexpr import ExpressionLowering
    from klasy.compiler.statetree import StateVariable
    from klasy.compiler.types import CType

_SIGN = ir.MIN_IMMEDIATE  # the sign bit alone


def value(low: ExpressionLowering, node: tree.Expr) -> Operand:
    """The value of an expression on state."""
    assert isinstance(node, StateExpr), f"no lowering of {node!r}"
    if isinstance(node, StateRead):
        return _read(low, node, _key(low, node.state, node.keys))
    changed = _watched(low, node.state, node, lambda: _change(low, node))
    assert changed is not None
    return changed


def statement(low: ExpressionLowering, node: tree.Stmt) -> None:
    """Lower a statement on state."""
    assert isinstance(node, StateStmt), f"no lowering of {node!r}"
    _watched(low, node.state, node, lambda: _run(low, node))


# --- faults -----------------------------------------------------------------------------------------------------------


def _watched(
    low: ExpressionLowering, state: StateVariable, node: StateExpr | StateStmt, run: Callable[[], Operand | None]
) -> Operand | None:
    """Run the lowering of an update; count where a load on the way to it failed."""
    build = low.build
    parts = [part for part in node.keys if not isinstance(part, tree.Stack)]  # a stack is the backend's to count
    if not any(low.may_fault(part) for part in (*parts, getattr(node, "value", None))):
        return run()
    faults: Var = build.var(f"{state.name}.faults")
    build.set(faults, 0)
    outer = low.faults, low.bit
    low.faults, low.bit = faults, 0
    result = run()
    low.faults, low.bit = outer
    failed, behind = build.block(), build.block()
    build.branch("ne", build.get(faults), 0, failed, behind)
    build.begin(failed)
    build.add(irstate.CountState(state.placed, (), None, 0, LOST_FAULT))
    build.jump(behind)
    build.begin(behind)
    return result


# --- keys -------------------------------------------------------------------------------------------------------------


def _key(low: ExpressionLowering, state: StateVariable, keys: Sequence[tree.Expr]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for declared, expr in zip(state.keys, keys, strict=True):
        field = declared.field
        if isinstance(expr, tree.JoinPointAttribute | tree.Stack):
            from klasy.compiler import placekeys

            parts.append(placekeys.part(low, field, expr))
        elif isinstance(expr, tree.Formatted):
            parts.append(ir.StoreField(field.offset, field.size, low.value(expr.value)))
        elif isinstance(expr, tree.Memory):
            address, at = low.address(expr.pointer)
            parts.append(ir.CopyField(field.offset, field.size, address, at, 0, of_process(expr.pointer)))
        elif not isinstance(declared.type, String):
            parts.append(ir.StoreField(field.offset, field.size, low.value(expr)))
        elif isinstance(expr, tree.Comm) and field.size >= ir.COMM_SIZE:
            parts.append(ir.CommField(field.offset))
        elif isinstance(expr, tree.Literal):
            parts += _literal(field.offset, expr.value.encode())
        else:
            assert isinstance(expr, tree.StringAt), expr
            address, at = low.address(expr.pointer)
            size = min(field.size, expr.limit + 1)
            parts.append(ir.StringField(field.offset, size, address, at, 0, expr.user))
    return tuple(parts)


def _literal(offset: int, text: bytes) -> list[Part]:
    """The bytes of a string that is known, in as few stores as may be; ``offset`` is a multiple of 8."""
    parts: list[Part] = []
    for at in range(0, len(text), 8):
        number = int.from_bytes(text[at : at + 8], "little", signed=False)
        parts.append(ir.StoreField(offset + at, 8, number - (1 << 64) if number >> 63 else number))
    return parts


# --- scalars ----------------------------------------------------------------------------------------------------------


def _read(low: ExpressionLowering, node: StateExpr, key: tuple[Part, ...]) -> Operand:
    state = node.state
    match state.kind:
        case "scalar":
            return _narrow(low, _word(low, node, key, 0), node.type)
        case "min" | "max":
            word = _word(low, node, key, 0)
            extreme = low.build.binary("xor", word, _SIGN if state.kind == "max" else ir.MAX_IMMEDIATE)
            return low.build.binary("mul", extreme, low.build.compare("ne", word, 0))  # 0 where there is none
        case "avg":
            number = _word(low, node, key, 0)
            return low.build.binary("sdiv", _word(low, node, key, 1), number)
    return _word(low, node, key, 0)


def _word(low: ExpressionLowering, node: StateExpr, key: tuple[Part, ...], word: int) -> Operand:
    low.build.span = node.span
    dst = low.build.value()
    low.build.add(irstate.ReadState(node.state.placed, key, *low.watching, dst, word))
    return dst


def _narrow(low: ExpressionLowering, word: Operand, kind: CType) -> Operand:
    """The value of a type in a word, of which steps in 64 bits may have left more than the type holds."""
    if isinstance(kind, Integer) and not isinstance(kind, Bool):
        return low.build.extend(word, kind.bits, kind.signed)
    return word


def _change(low: ExpressionLowering, node: StateExpr) -> Operand:
    """Write or change a scalar; its value, as the expression has it."""
    build, state = low.build, node.state
    key = _key(low, state, node.keys)
    if isinstance(node, StateAssign):
        old = _read(low, node, key) if node.old else None
        new = low.value(node.value)
        build.span = node.span
        build.add(irstate.WriteState(state.placed, key, *low.watching, new))
        return new if old is None else old
    assert isinstance(node, StateChange)
    operand = low.value(node.value)
    build.span = node.span
    if node.negative:
        operand = build.binary("sub", 0, operand)
    dst = build.value()
    build.add(irstate.ChangeState(state.placed, key, *low.watching, (Step(node.op, 0, operand),), dst))
    word: Operand = dst if node.old else build.binary(node.op, dst, operand)
    return _narrow(low, word, node.type)


# --- aggregations -----------------------------------------------------------------------------------------------------


def _run(low: ExpressionLowering, node: StateStmt) -> None:
    build, state = low.build, node.state
    key = _key(low, state, node.keys)
    if isinstance(node, StateDelete):
        build.span = node.span
        build.add(irstate.DeleteState(state.placed, key, *low.watching))
        return
    assert isinstance(node, StateAdd)
    number = low.value(node.value)
    build.span = node.span
    build.add(irstate.ChangeState(state.placed, key, *low.watching, _steps(low, state, number)))


def _steps(low: ExpressionLowering, state: StateVariable, number: Operand) -> tuple[Step, ...]:
    build = low.build
    match state.kind:
        case "count" | "sum":
            return (Step("add", 0, number),)
        case "avg":
            return Step("add", 0, 1), Step("add", 1, number)
        case "max":
            return (Step("max", 0, build.binary("xor", number, _SIGN)),)
        case "min":
            return (Step("max", 0, build.binary("xor", number, ir.MAX_IMMEDIATE)),)
        case "hist":
            return (Step("add", _power(low, number), 1),)
    assert state.bounds is not None, f"{state.kind} is no aggregation"
    return (Step("add", _step(low, number, state.bounds), 1),)


def _power(low: ExpressionLowering, number: Operand) -> Operand:
    """The bucket of a power-of-two histogram: 0 below 0, 1 for 0, else 2 and the place of the highest bit."""
    build = low.build
    rest: Operand = number
    place: Operand | None = None
    for bits in (32, 16, 8, 4, 2):
        above = build.compare("ugt", rest, (1 << bits) - 1)
        shift = build.binary("shl", above, bits.bit_length() - 1)
        rest = build.binary("lshr", rest, shift)
        place = shift if place is None else build.binary("or", place, shift)
    assert place is not None
    place = build.binary("or", place, build.binary("lshr", rest, 1))
    bucket = build.binary("add", place, build.binary("sub", 2, build.compare("eq", number, 0)))
    return build.binary("mul", bucket, build.compare("sge", number, 0))


def _step(low: ExpressionLowering, number: Operand, bounds: tuple[int, int, int]) -> Operand:
    """The bucket of a linear histogram: 0 below the first step, one for each step, one from the last on."""
    build = low.build
    start, end, width = bounds
    step = build.binary("udiv", build.binary("sub", number, start), width)
    not_below = build.compare("sge", number, start)
    inside = build.binary("mul", build.binary("add", step, 1), not_below)
    above = build.compare("sge", number, end)
    below_end = build.binary("xor", above, 1)
    kept = build.binary("mul", inside, below_end)
    return build.binary("add", kept, build.binary("mul", above, lhist_steps(bounds) + 1))
