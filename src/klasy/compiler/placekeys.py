"""Join points as keys of state: ``count hits[joinpoint.function]``, ``count by[stack()]``.

What a join point is called its program does not know. It knows the join point's number, so the key is the number of
the first join point of the aspect that is called the same, and who reads the state finds the name by that. The key of
a stack is where the kernel keeps the stack, and such a number for the place where it begins.
"""

from __future__ import annotations

from klasy.compiler import ir, tree
from klasy.compiler.builder import MOST_RANGES
from klasy.compiler.builtins.stacks import KERNEL, USER
from klasy.compiler.lower import Body
from klasy.compiler.types import Shown
from klasy.match.shadow import JoinPointKind
from klasy.plain import TYPE_CHECKING
from klasy.record import Field
from klasy.state import stack_key_bytes

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from klasy.compiler.checkexpr import ExprChecker
    from klasy.compiler.ir import Operand, Part
    from klasy.compiler.lower import Called
    from klasy.compiler.lowerexpr import ExpressionLowering
    from klasy.compiler.types import CType
    from klasy.match.plan import JoinPoint

_SIZE = 4  # bytes of such a number
_ATTRIBUTES = {
    name: Shown(_SIZE, f"a join point's {name}")
    for name in ("kind", "function", "callee", "file", "line", "address", "module")
}
_STACKS = {KERNEL: "stack", USER: "ustack"}
_PLACE = "place"  # what is one and the same beginning of a stack


# --- types ------------------------------------------------------------------------------------------------------------


def declared(checker: ExprChecker, expr: tree.Expr) -> CType | None:
    """The type of a key that is declared by an expression; None where it is no such key, or there was an error."""
    if isinstance(expr, tree.Stack):
        return expr.type
    if not isinstance(expr, tree.JoinPointAttribute):
        return None
    return _ATTRIBUTES[expr.attribute]


def field(name: str, kind: CType, end: int) -> Field:
    """How a key of such a type is kept and decoded, with the next place for it behind ``end``."""
    if kind in _STACKS:
        return Field(name, _STACKS[kind], -(-end // 8) * 8, stack_key_bytes(user=kind is USER))
    attribute = next(name for name, known in _ATTRIBUTES.items() if known is kind)
    return Field(name, "joinpoint", -(-end // _SIZE) * _SIZE, _SIZE, type_name=attribute)


def fits(checker: ExprChecker, expr: tree.Expr, to: CType) -> bool:
    """Whether an expression can be a key of such a type. What cannot be known of its join points is an error."""
    if not isinstance(expr, tree.JoinPointAttribute):
        return expr.type is to
    if _ATTRIBUTES.get(expr.attribute) is not to:
        return False
    if checker.watching:
        checker.error(
            "bad-key",
            f"where an access happens that a debug register sees is known when it is read, so '{expr.span.text}' is no "
            "key here",
            expr.span,
            "log it, or keep a state for this advice alone",
        )
    return True


# --- numbers ----------------------------------------------------------------------------------------------------------


def numbers(called: Called, attribute: str) -> list[int]:
    """By the number of each join point, that of the first one whose attribute is the same."""
    if attribute not in called.numbers:
        first: dict[Hashable, int] = {}
        names = (_name(joinpoint, attribute) for joinpoint in called.joinpoints)
        called.numbers[attribute] = [first.setdefault(name, number) for number, name in enumerate(names)]
    return called.numbers[attribute]


def _name(joinpoint: JoinPoint, attribute: str) -> Hashable:
    """As the reader shows it, but that no two addresses are taken for one."""
    shadow = joinpoint.shadow
    match attribute:
        case "kind":
            return shadow.kind
        case "function":
            return shadow.function.name if shadow.function else None
        case "callee":
            return shadow.callee.name if shadow.callee else None
        case "file":
            return shadow.place.file if shadow.place else None
        case "line":
            return shadow.place.line if shadow.place else None
        case "module":
            # of a caller that is not known nobody knows it
            return shadow.module, shadow.kind is JoinPointKind.CALL and shadow.function is None
    return shadow.address, shadow.call_kind


def runs(first: Sequence[int], ids: Sequence[int]) -> list[tuple[int, int | None]]:
    """``first[id]`` of ascending ``ids`` in pieces: the first id of each, and what all of the piece have.

    None for what they have: each its own id.
    """
    found: list[tuple[int, int | None]] = []
    for number in ids:
        has = None if first[number] == number else first[number]
        if not found or found[-1][1] != has:
            found.append((number, has))
    return found


# --- lowering ---------------------------------------------------------------------------------------------------------


def part(body: ExpressionLowering, place: Field, expr: tree.Expr) -> Part:
    """The part of a key that an expression is."""
    assert isinstance(body, Body), "state is the business of advice"
    if isinstance(expr, tree.Stack):
        return ir.StackKey(place.offset, 0 if expr.user else _number(body, _PLACE), expr.user)
    assert isinstance(expr, tree.JoinPointAttribute), expr
    return ir.StoreField(place.offset, place.size, _number(body, expr.attribute))


def _number(body: Body, attribute: str) -> Operand:
    """The number that stands for the join point at which the program runs."""
    first = numbers(body.called, attribute)
    if isinstance(body.joinpoint, int):
        return first[body.joinpoint]
    pieces = runs(first, sorted({*body.arm.joinpoints}))
    if len(pieces) < 2:  # none where the program is at no join point
        return body.joinpoint if not pieces or pieces[0][1] is None else pieces[0][1]
    build = body.build
    if len(pieces) > MOST_RANGES:
        return build.lookup(body.joinpoint, first[: max(body.arm.joinpoints) + 1])
    found, behind = build.var(attribute), build.block()
    blocks = {has: build.block() for _, has in pieces}
    build.choose(body.joinpoint, [(start, blocks[has]) for start, has in pieces])
    for has, block in blocks.items():
        build.begin(block)
        build.set(found, body.joinpoint if has is None else has)
        build.jump(behind)
    build.begin(behind)
    return build.get(found)
