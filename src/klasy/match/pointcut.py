"""The normal form of a pointcut: ways to match, each a conjunction of designators and negated designators.

``a && (b || !c)`` becomes ``a && b  ||  a && !c``. A join point is selected if one of the conjuncts holds there; what
of it is left to run time (``if``) is its guard. From each conjunct one can tell where to look for join points, which
one cannot from the tree.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klasy.diag import DiagnosticBag

Kind = ast.Call | ast.Execution | ast.Access | ast.Event | ast.Syscall
Leaf = Kind | ast.Within | ast.WithinModule | ast.WithinFile | ast.Args | ast.At | ast.Cflow | ast.If | ast.Target

KERNEL_PROPER = "vmlinux"  # what withinmodule calls the code that is in no module
MOST_CONJUNCTS = 512
MOST_SHADOWS = 20_000  # an advice with more join points is refused


@dataclass(frozen=True, slots=True)
class Literal:
    """A designator, or its negation. ``leaf`` indexes the normal form's leaves."""

    leaf: int
    positive: bool


@dataclass(frozen=True, slots=True)
class NormalForm:
    """A pointcut as an alternative of conjuncts, in source order."""

    leaves: tuple[Leaf, ...]
    conjuncts: tuple[tuple[Literal, ...], ...]


def normal_form(pointcut: ast.Pointcut, bag: DiagnosticBag) -> NormalForm | None:
    """The normal form of a resolved pointcut; None where an error was reported instead."""
    leaves: list[Leaf] = []
    conjuncts = _expand(pointcut, True, leaves)
    if conjuncts is None:
        bag.error(
            "pointcut-too-complex",
            f"this pointcut has more than {MOST_CONJUNCTS} combinations of alternatives",
            pointcut.span,
            hints=["split it over several advice"],
        )
        return None
    return NormalForm(tuple(leaves), tuple(conjuncts))


def walk(pointcut: ast.Pointcut) -> Iterator[ast.Pointcut]:
    """The pointcut and all its parts, in source order."""
    yield pointcut
    if isinstance(pointcut, ast.And | ast.Or):
        yield from walk(pointcut.left)
        yield from walk(pointcut.right)
    elif isinstance(pointcut, ast.Not | ast.Cflow):
        yield from walk(pointcut.operand)


def outside_flows(pointcut: ast.Pointcut) -> Iterator[ast.Pointcut]:
    """The parts of a pointcut that say where advice runs: all but those within ``cflow``."""
    yield pointcut
    if isinstance(pointcut, ast.And | ast.Or):
        yield from outside_flows(pointcut.left)
        yield from outside_flows(pointcut.right)
    elif isinstance(pointcut, ast.Not):
        yield from outside_flows(pointcut.operand)


def _expand(node: ast.Pointcut, positive: bool, leaves: list[Leaf]) -> list[tuple[Literal, ...]] | None:
    """The conjuncts of a part of the pointcut, or of its negation; None if there are too many."""
    if isinstance(node, ast.Not):
        return _expand(node.operand, not positive, leaves)
    if isinstance(node, ast.And | ast.Or):
        left = _expand(node.left, positive, leaves)
        right = _expand(node.right, positive, leaves)
        if left is None or right is None:
            return None
        if isinstance(node, ast.Or) == positive:
            return left + right if len(left) + len(right) <= MOST_CONJUNCTS else None
        if len(left) * len(right) > MOST_CONJUNCTS:
            return None
        return [a + tuple([literal for literal in b if literal not in a]) for a in left for b in right]
    if not isinstance(node, Leaf):
        raise TypeError(f"{type(node).__name__} in a resolved pointcut")
    leaves.append(node)
    return [(Literal(len(leaves) - 1, positive),)]
