"""A file and all that it imports, resolved together: the errors of all files come in one go."""

from __future__ import annotations

from klasy.diag import DiagnosticBag
from klasy.lang.imports import Importer, tell_imports
from klasy.lang.resolve import has_inheritance, resolve
from klasy.lang.scope import broken_places
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
    sound = not bag.errors
    # What is wrong in one file must not be taken for errors of syntax in the next: each has a bag of its own.
    bags = {
        each.tree.source: DiagnosticBag([d for d in bag.items if d.span is None or d.span.file is each.tree.source])
        for each in importer.units
    }
    before = {file: len(own.items) for file, own in bags.items()}
    inheritance = None
    if has_inheritance(everything.values()):
        from klasy.lang.inherit import Inheritance

        visible = {each.tree.source: [a.name for a in (*each.tree.aspects, *each.visible())] for each in importer.units}
        inheritance = Inheritance(everything, visible, bags)
    aspects: list[ast.Aspect] = []
    for each in importer.units:
        own = bags[each.tree.source]
        aspects = resolve(each.tree, own, visible=each.visible(), everything=everything, lame=not sound,
                          whole=not bag.errors, given=each is unit, inheritance=inheritance)  # fmt: skip
        bag.items += own.items[before[each.tree.source] :]
    tell_imports(bag, importer.units)
    files = tuple(unit.files())
    order: tuple[tuple[str, str], ...] = ()
    if any(each.tree.precedence for each in importer.units):
        from klasy.lang.precedence import order_of

        order = order_of([each.tree for each in importer.units], None, bag)
    return [replace(aspect, imports=files, order=order) for aspect in aspects]
