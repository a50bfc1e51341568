"""From the text of an aspect to its resolved tree. Knows no kernel and no BPF; lark stays in here."""

from __future__ import annotations

from klasy.diag import DiagnosticBag
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.lang import ast
    from klasy.source import SourceFile


def parse_file(file: SourceFile) -> ast.File:
    """The tree of an aspect file as written. Raises InputError with all syntax errors of the file."""
    from klasy.lang.parser import parse

    bag = DiagnosticBag()
    tree = parse(file, bag)
    bag.raise_if_errors()
    assert tree is not None  # nothing comes back only where an error was said
    return tree


def load(file: SourceFile) -> list[ast.Aspect]:
    """The resolved aspects of a file, ready to be matched.

    Raises InputError with everything that is wrong with the file and can be known without a kernel, in one go.
    """
    from klasy.lang.parser import parse

    bag = DiagnosticBag()
    aspects = resolved(parse(file, bag), bag)
    bag.raise_if_errors()
    return aspects


def resolved(tree: ast.File | None, bag: DiagnosticBag) -> list[ast.Aspect]:
    """The resolved aspects of a tree, which are whole only if the bag has no errors then; of no tree none."""
    from klasy.lang.resolve import resolve

    if tree is None:
        return []
    if tree.imports:
        from klasy.lang.together import load_with_imports

        return load_with_imports(tree, bag)
    return resolve(tree, bag)
