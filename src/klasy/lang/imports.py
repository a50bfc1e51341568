"""Imports: the files that an aspect file names, read and parsed, each once.

An import is a path below the folder of the file that was given to klasy, written from the folder of the file that
imports it; or the name of an aspect file that ships with klasy. Nothing outside these two folders is opened, whatever
links there are. A text that is no file (standard input, a string) has no folder, and imports what ships with klasy.

An import makes names known; it weaves nothing. So a file sees the aspects of the files that it imports itself, and
all aspects that are read together have names of their own.
"""

from __future__ import annotations

import os
import stat

from klasy.diag import Diagnostic, DiagnosticBag
from klasy.plain import TYPE_CHECKING, dataclass, replace
from klasy.source import MAX_SIZE, SourceFile, Span, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.lang import ast

SUFFIX = ".asp"
MOST_FILES = 100


@dataclass(eq=False)
class Unit:
    """A file with those that it imports. ``broken``: where its syntax is; ``place``: the real path, if it is a file."""

    tree: ast.File
    broken: tuple[int, ...]
    place: str | None
    imports: list[tuple[ast.Import, Unit]]

    def files(self) -> list[SourceFile]:
        """The files that it imports, directly or not, each once."""
        found: dict[SourceFile, None] = {}
        for _, unit in self.imports:
            found[unit.tree.source] = None
            found.update(dict.fromkeys(unit.files()))
        return list(found)

    def visible(self) -> list[ast.AspectDecl]:
        """The aspects of the files that it imports itself."""
        return [aspect for _, unit in self.imports for aspect in unit.tree.aspects]


class _Refused(Exception):
    """An import that cannot be: ``args`` are the error's code and message, and a hint or nothing."""


class Importer:
    """Reads the imports of one file that was given to klasy. ``units`` are all files, the deepest first."""

    def __init__(self, bag: DiagnosticBag) -> None:
        self.bag = bag
        self.units: list[Unit] = []
        self._by_place: dict[str, Unit] = {}
        self._open: list[tuple[str, Span | None]] = []  # the files being read, each with the import that led to it
        self._roots: list[str] = []

    def load(self, tree: ast.File, broken: Sequence[int]) -> Unit:
        """All that a file imports, and so on."""
        path = tree.source.path
        place = os.path.realpath(path) if path is not None else None
        self._roots = [os.path.dirname(place)] if place is not None else []
        self._open.append((place or tree.source.name, None))
        unit = self._unit(tree, broken, place)
        self._check_names()
        return unit

    def _unit(self, tree: ast.File, broken: Sequence[int], place: str | None) -> Unit:
        unit = Unit(tree, tuple(broken), place, [])
        seen: dict[str, ast.Import] = {}
        for statement in tree.imports:
            try:
                found, shown = self._find(statement.path, unit)
            except _Refused as refusal:
                code, message, *hints = refusal.args
                self.bag.error(code, message, statement.span, hints=hints)
                continue
            if found in seen:
                self.bag.error("imported-twice", f"'{statement.path}' is imported twice", statement.span,
                               related=[(seen[found].span, "the first time")])  # fmt: skip
                continue
            seen[found] = statement
            imported = self._read(found, shown, statement)
            if imported is not None:
                unit.imports.append((statement, imported))
        self.units.append(unit)
        return unit

    def _read(self, found: str, shown: str, statement: ast.Import) -> Unit | None:
        if found in self._by_place:
            return self._by_place[found]
        ring = [place for place, _ in self._open]
        if found in ring:
            spans = [span for _, span in self._open[ring.index(found) + 1 :] if span is not None]
            self.bag.error(
                "import-cycle",
                f"'{statement.path}' is imported while it is being read: it imports this file itself"
                if spans
                else f"'{statement.path}' is this file itself",
                statement.span,
                related=[(span, "it is on the way here by this import") for span in spans],
            )
            return None
        if len(self._by_place) >= MOST_FILES:
            self.bag.error("too-many-imports", f"more than {MOST_FILES} files are imported", statement.span)
            return None
        try:
            file = SourceFile(shown, _content(found, statement.path), found)
        except _Refused as refusal:
            code, message, *hints = refusal.args
            self.bag.error(code, message, statement.span, hints=hints)
            return None
        from klasy.lang.parser import parse

        bag = DiagnosticBag()
        tree = parse(file, bag)
        broken = tuple(d.span.start for d in bag.errors if d.span is not None)
        self.bag.items += bag.items
        unit = None
        if tree is not None:
            self._open.append((found, statement.span))
            unit = self._unit(tree, broken, found)
            self._open.pop()
            self._by_place[found] = unit
        return unit

    # --- where a file is ---

    def _find(self, path: str, unit: Unit) -> tuple[str, str]:
        """The real path of what is imported, and the name that it is shown under. Raises _Refused."""
        if not path or "\0" in path or not path.isprintable():
            raise _Refused("bad-import", f"'{path}' is no file name")
        if os.path.isabs(path):
            raise _Refused("import-outside", f"'{path}' is an absolute path",
                           "an import is written from the folder of its file: 'lib/tcp.asp'")  # fmt: skip
        if not path.endswith(SUFFIX):
            raise _Refused("bad-import", f"'{path}' is no aspect file", f"write its whole name: '{path}{SUFFIX}'")
        if unit.place is not None:
            here = os.path.dirname(unit.place)
            real = os.path.realpath(os.path.join(here, path))
            if os.path.lexists(os.path.join(here, path)):
                root = self._root(here)
                if not _below(real, root):
                    raise _Refused(
                        "import-outside",
                        f"'{path}' lies outside the folder of the file that is woven",
                        "imports stay in that folder and those in it, links included",
                    )
                name = os.path.join(os.path.dirname(unit.tree.source.name), path)
                return real, os.path.normpath(name) if ".." not in path else name
        return self._shipped(path, unit)

    def _root(self, here: str) -> str:
        """The folder that what is imported from ``here`` must lie in: that of the file that was given, or klasy's."""
        shipped = _shipped_folder()
        if shipped and _below(here + "/", shipped):
            return shipped
        return self._roots[0] if self._roots else here

    def _shipped(self, path: str, unit: Unit) -> tuple[str, str]:
        folder = _shipped_folder()
        if folder and "/" not in path:
            real = os.path.join(folder, path)
            if os.path.isfile(real):
                return real, f"klasy/aspects/{path}"
        from klasy.diag import did_you_mean, suggest  # only errors need it

        names = _aspects_in(folder)
        hints = []
        if unit.place is not None:
            here = os.path.join(os.path.dirname(unit.place), os.path.dirname(path))
            prefix = os.path.dirname(path) + "/" if "/" in path else ""
            if _below(os.path.realpath(here) + "/", self._root(os.path.dirname(unit.place))):
                names = [prefix + name for name in _aspects_in(here)] + names
            where = f"beside '{os.path.basename(unit.tree.source.name)}'"
        else:
            where = "with klasy, and what is no file can import nothing else"
        close = suggest(path, names)
        if close:
            hints = [did_you_mean(close[:1])]
        raise _Refused("missing-import", f"there is no file '{path}' {where}", *hints)

    def _check_names(self) -> None:
        """All aspects that are read together must be told apart by name."""
        first: dict[str, ast.AspectDecl] = {}
        for unit in self.units:
            for aspect in unit.tree.aspects:
                other = first.setdefault(aspect.name, aspect)
                if other is not aspect and other.span.file is not aspect.span.file:
                    self.bag.error(
                        "duplicate-aspect",
                        f"two aspects are named '{aspect.name}', and one of them is imported",
                        aspect.name_span,
                        related=[(other.name_span, "the other is here")],
                    )


def tell_imports(bag: DiagnosticBag, units: Sequence[Unit]) -> None:
    """Say of the first error in each imported file where it is imported."""
    where = {unit.tree.source: statement.span for each in units for statement, unit in each.imports}
    told: set[SourceFile] = set()
    for index in sorted(range(len(bag.items)), key=lambda i: _start(bag.items[i])):
        item = bag.items[index]
        file = item.span.file if item.span is not None else None
        if file is not None and file in where and file not in told:
            told.add(file)
            if any(span == where[file] for span, _ in item.related):
                continue
            bag.items[index] = replace(item, related=(*item.related, (where[file], "imported here")))


def _start(item: Diagnostic) -> int:
    return item.span.start if item.span is not None else -1


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _shipped_folder() -> str | None:
    from klasy.resources import aspects_folder

    return aspects_folder()


def _aspects_in(folder: str | None) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX)) if folder else []
    except OSError:
        return []


def _content(path: str, written: str) -> str:
    """The text of a file. ``path`` has no links in it; what has become one since is refused. Raises _Refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Refused("bad-import", f"'{written}' is no file")
            if os.readlink(f"/proc/self/fd/{descriptor}") != path:
                raise _Refused("import-outside", f"'{written}' was moved while it was opened")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_SIZE + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _Refused("unreadable-import", f"cannot read '{written}': {error.strerror}") from None
    try:
        return decode(data)
    except ValueError as error:
        raise _Refused("unreadable-import", f"cannot read '{written}': it {error}") from None
