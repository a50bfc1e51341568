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
    from klasy.lang.resolve import resolve

    bag = DiagnosticBag()
    tree = parse(file, bag)
    aspects: list[ast.Aspect] = []
    if tree is not None and tree.imports:
        from klasy.lang.together import load_with_imports

        aspects = load_with_imports(tree, bag)
    elif tree is not None:
        aspects = resolve(tree, bag)
    bag.raise_if_errors()
    return aspects
