"""The order of aspects at one join point, as files declare it: ``precedence a, b;``."""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.pointcuts import near
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klasy.diag import DiagnosticBag
    from klasy.source import Span


def order_of(
    files: Iterable[ast.File], visible: Mapping[str, ast.AspectDecl] | None, bag: DiagnosticBag
) -> tuple[tuple[str, str], ...]:
    """All pairs that the declarations of files imply, that which goes before first.

    Errors go to the bag: names that are not ``visible`` (None: they were looked at before), rings.
    """
    above: dict[tuple[str, str], Span] = {}
    for file in files:
        for declaration in file.precedence:
            names = declaration.names
            if visible is not None:
                _check_names(declaration, visible, bag)
            for index, first in enumerate(names):
                for second in names[index + 1 :]:
                    if first == second:
                        bag.error("contradictory-order", f"'{first}' cannot go before itself", declaration.span)
                        return ()
                    _add(above, first, second, declaration.span, bag)
    return tuple(above)


def _check_names(declaration: ast.Precedence, visible: Mapping[str, ast.AspectDecl], bag: DiagnosticBag) -> None:
    for name in declaration.names:
        aspect = visible.get(name)
        if aspect is None:
            hints = near(name, list(visible)) or ["import the file that it is in"]
            bag.error("unknown-aspect", f"there is no aspect '{name}' here", declaration.span, hints=hints)
        elif aspect.abstract:
            bag.error(
                "abstract-aspect",
                f"'{name}' is abstract, so it is at no join point",
                declaration.span,
                hints=["name the aspects that extend it"],
                related=[(aspect.name_span, "the aspect")],
            )


def _add(above: dict[tuple[str, str], Span], first: str, second: str, span: Span, bag: DiagnosticBag) -> None:
    """Add a pair and all that follow from it, unless the opposite is there."""
    if (second, first) in above:
        related = [(above[second, first], "the opposite follows from this")]
        bag.error("contradictory-order", f"'{first}' and '{second}' cannot each go before the other", span,
                  related=related)  # fmt: skip
        return
    firsts = [first, *(a for a, b in above if b == first)]
    seconds = [second, *(b for a, b in above if a == second)]
    for a in firsts:
        for b in seconds:
            above.setdefault((a, b), span)
