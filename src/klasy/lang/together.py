"""A file and all that it imports, resolved together: the errors of all files come in one go."""

from __future__ import annotations

from klasy.diag import DiagnosticBag
from klasy.lang.imports import Importer, tell_imports
from klasy.lang.resolve import broken_places, resolve
from klasy.lang.stage import check_built
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from klasy.lang import ast


def load_with_imports(tree: ast.File, bag: DiagnosticBag) -> list[ast.Aspect]:
    """The resolved aspects of a file that imports others: those of the file itself, which alone are woven.

    ``bag`` holds the errors of the file's syntax, and gets all others.
    """
    importer = Importer(bag)
    unit = importer.load(tree, broken_places(bag))
    everything = {aspect.name: aspect for each in importer.units for aspect in each.tree.aspects}
    aspects: list[ast.Aspect] = []
    sound = not bag.errors
    for each in importer.units:
        # What is wrong in one file must not be taken for errors of syntax in the next.
        own = DiagnosticBag([item for item in bag.items if item.span is None or item.span.file is each.tree.source])
        before = len(own.items)
        aspects = resolve(each.tree, own, visible=each.visible(), everything=everything, lame=not sound,
                          whole=not bag.errors, given=each is unit)  # fmt: skip
        check_built(each.tree, own, each.broken)
        bag.items += own.items[before:]
    tell_imports(bag, importer.units)
    files = tuple(unit.files())
    return [replace(aspect, imports=files) for aspect in aspects]
