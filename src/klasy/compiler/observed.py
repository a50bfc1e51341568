"""``value``, ``old`` and ``new``: what the advice of data pointcuts finds, typed by the data.

Of numbers and pointers they are values that the probe took; of anything larger ``value`` is the place itself.
"""

from __future__ import annotations

from klasy.compiler import tree
from klasy.compiler.types import ULONG, CType, Integer, Pointer, pointer_to, same
from klasy.match.datum import MemberData
from klasy.match.shadow import JoinPointKind
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.compiler.checkexpr import ExprChecker
    from klasy.compiler.formats import Layout
    from klasy.lang import ast
    from klasy.match.datum import Datum, WatchedMember
    from klasy.source import Span

_OF_WRITES = ("old", "new")


@dataclass(frozen=True, slots=True)
class DataNames:
    """What the data names mean in one advice.

    ``accesses`` are those it runs at; ``others``: it runs at join points of another kind, too. ``known`` is false where
    matching failed: then the names have no type, and no fault is found with them.
    """

    accesses: Sequence[tuple[JoinPointKind, Datum | MemberData | WatchedMember]]
    others: bool = False
    known: bool = True

    @property
    def by_register(self) -> bool:
        """Whether a debug register sees any of the accesses: where they happen is known when they do."""
        return any(not isinstance(datum, MemberData) for _, datum in self.accesses)

    def check(self, checker: ExprChecker, node: ast.Name) -> tree.Expr | None:
        """The expression for one of the names; None where an error was reported."""
        if not self.known:
            return None
        name = node.name
        if self.others:
            checker.error(
                "no-data-here",
                f"'{name}' is known at accesses to data, and this advice runs at other join points, too",
                node.span,
                "write two advice",
            )
            return None
        read = next((datum for kind, datum in self.accesses if kind is not JoinPointKind.SET), None)
        if name in _OF_WRITES and read is not None:
            hint = "what was read, or written, is 'value'"
            message = f"'{name}' is known at writes, and this advice runs at other accesses to '{read.text}'"
            checker.error("no-data-here", message, node.span, hint)
            return None
        kind = self._type(checker, node)
        if kind is None:
            return None
        sure = all(datum.is_sure for _, datum in self.accesses)
        if isinstance(kind, Integer | Pointer):
            return tree.Observed(kind, node.span, "old" if name == "old" else "new", sure)
        if name == "old":
            checker.error(
                "no-old-value",
                f"what '{self.accesses[0][1].text}' was before is not known: only numbers and pointers are remembered",
                node.span,
                f"it is of type '{kind.name}': name a member of it",
            )
            return None
        address = tree.Observed(pointer_to(kind), node.span, "address", sure)
        return tree.Place(kind, node.span, address, 0, struct=(0, kind.size))

    def _type(self, checker: ExprChecker, node: ast.Name) -> CType | None:
        """The type of all the data."""
        (_, first), *rest = self.accesses
        kind = checker.types.of_data(first.type)
        for _, other in rest:
            different = checker.types.of_data(other.type)
            if not same(kind, different):
                checker.error(
                    "data-types-differ",
                    f"'{node.name}' would be of type '{kind.name}' for '{first.text}', and '{different.name}' for "
                    f"'{other.text}'",
                    node.span,
                    "write an advice for each",
                )
                return None
        return kind

    def lay_out(self, layout: Layout, span: Span) -> None:
        """The fields of a record that tell which instruction accessed the data, and how. They are not shown."""
        if any(isinstance(datum, MemberData) for _, datum in self.accesses):
            return  # the join point says it all
        layout.add("site", 8, tree.Observed(ULONG, span, "ip", True))
        layout.add("access", 8, tree.Observed(ULONG, span, "kind", True))
