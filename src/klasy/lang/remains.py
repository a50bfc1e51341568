"""What of a file with errors is sound: it can be judged further, so that a kernel's errors come with the language's."""

from __future__ import annotations

from klasy.diag import DiagnosticBag
from klasy.lang import ast
from klasy.lang.parser import parse
from klasy.lang.scope import broken_places, is_broken
from klasy.lang.walk import free_names
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.source import SourceFile


def sound_parts(file: SourceFile) -> list[ast.Aspect]:
    """The resolved aspects of a file, without the statements and advice that have errors.

    An aspect that has them elsewhere is left out. More is left out rather than less: nothing may be called wrong
    because something else is. Of a file without errors it is everything.
    """
    from klasy.lang import resolved

    bag = DiagnosticBag()
    tree = parse(file, bag)
    syntax = broken_places(bag)
    aspects = resolved(tree, bag)
    if tree is None or not bag.errors:
        return aspects
    if any(error.span is None or error.span.file is not file for error in bag.errors):
        return []  # in what it imports
    places = broken_places(bag)
    kept = [left for aspect in tree.aspects if (left := _sound_aspect(aspect, places, syntax)) is not None]
    again = DiagnosticBag()
    # The order between aspects is for those that are woven.
    aspects = resolved(replace(tree, aspects=tuple(kept), precedence=()), again) if kept else []
    return aspects if not again.errors else []


def _sound_aspect(aspect: ast.AspectDecl, places: Sequence[int], syntax: Sequence[int]) -> ast.AspectDecl | None:
    """An aspect without what has errors at these offsets; None where nothing sure can be said of the rest.

    ``syntax``: those of them that are the syntax's.
    """
    inside = [place for place in places if is_broken(aspect, (place,))]
    if not inside:
        return aspect
    if not all(any(is_broken(advice, (place,)) for advice in aspect.advice) for place in inside):
        return None  # in what its advice shares
    left = [(advice, _sound_advice(advice, inside, syntax)) for advice in aspect.advice]
    kept = tuple(sound for _, sound in left if sound is not None)
    if not kept or "watch" in aspect.span.text:  # what one advice watches, another asks for
        return None
    lost = {param.name for advice, sound in left if sound is None for param in advice.params}
    keys = [key for state in aspect.state for key in state.keys if isinstance(key, ast.Expr)]
    if any(name.name in lost for key in keys for name in free_names(key)):
        return None  # a key is of the type of a parameter, and that may be another one's now
    return replace(aspect, advice=kept)


def _sound_advice(advice: ast.AdviceDecl, places: Sequence[int], syntax: Sequence[int]) -> ast.AdviceDecl | None:
    """An advice without the statements that have errors; None where they lie elsewhere, or are the syntax's."""
    inside = [place for place in places if is_broken(advice, (place,))]
    if not inside:
        return advice
    body = advice.body
    whole = any(place in syntax or not is_broken(body, (place,)) for place in inside)
    if whole or not isinstance(body, ast.Block) or advice.kind is ast.AdviceKind.AROUND:
        return None
    # The place of an error may be right behind a statement, and then is the next one's, too.
    wrong = [part for part in body.body if is_broken(part, inside)]
    # What another statement declares, or where it leads, may matter to those behind it.
    simple = all(isinstance(part, ast.ExprStmt | ast.Delete | ast.Return | ast.Break | ast.Continue) for part in wrong)
    return replace(advice, body=replace(body, body=tuple(p for p in body.body if p not in wrong) if simple else ()))
