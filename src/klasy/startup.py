"""Imports klasy's modules out of one file: a weave needs some 140 of them, and finding each costs more than running it.

The file, ``__pycache__/klasy-<interpreter>.pack`` beside this one, holds the compiled code of every module with the
size and modification time of its source, as ``.pyc`` files do. A module whose source differs is imported the usual
way, and the pack is written anew when the command has ended, where the folder can be written: it is a cache, and all
works the same without it. What makes it quick, with what each saves of a weave (millions of instructions, of 190):

- no search for files, and less to read: docstrings, annotations and what is for type checkers only is left out (25);
- the modules that are needed together lie together, see BUNDLES: marshal holds what they share once (7), and they
  are run in the order in which they import each other, without importlib's doings around each (11).

In an emulated guest, where klasy is tested, a million instructions take 3 ms.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False  # the real one is in typing, which costs as much as a tenth of a start
if TYPE_CHECKING:
    import ast
    from collections.abc import Iterator
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any
else:
    ModuleSpec = type(__spec__)
    ModuleType = type(sys)

_HERE = os.path.dirname(os.path.abspath(__file__))
_MAGIC = b"klasypk2"

# What commands import together: a bundle is these modules and all that they import when they are run, but for what is
# in a bundle before. Who imports the first one has all of them run. A unit test holds this against what a weave needs.
BUNDLES = (
    (
        "klasy.cli.main",
        "klasy.cli.sources",
    ),
    (
        "klasy.weaver.build",
        "klasy.backend.bytecode.emit",
        "klasy.btf.ctext",
        "klasy.compiler.driver",
        "klasy.kernel.live",
        "klasy.kernel.patchsites",
        "klasy.kernel.traceable",
        "klasy.lang.parser",
        "klasy.lang.stage",
        "klasy.match.planner",
        "klasy.weaver.features",
    ),
    (
        "klasy.weaver.session",
        "klasy.cli.interrupts",
        "klasy.cli.reading",
        "klasy.log.format_text",
        "klasy.log.reader",
        "klasy.log.symbolize",
        "klasy.weaver.attribution",
        "klasy.weaver.unweave",
    ),
)


Entry = tuple[bool, int, int, int]  # is a package, mtime in ns and size of its source, number of its bundle
Bundle = tuple[int, int, tuple[str, ...]]  # where its code lies, how long it is, its modules as they are run


def pack_path() -> str:
    """Where the pack of this interpreter is."""
    return os.path.join(_HERE, "__pycache__", f"klasy-{sys.implementation.cache_tag}.pack")


class PackFinder:
    """Finds klasy's modules in the pack. Stands before the finders that look for files."""

    def __init__(self, path: str) -> None:
        self._entries: dict[str, Entry] = {}
        self._bundles: list[Bundle] = []
        self._codes: dict[str, CodeType] = {}  # of the bundles that were read
        try:
            self._open(path)
        except (OSError, ValueError, EOFError, TypeError):
            self._entries = {}
        self.stale = not self._entries

    def _open(self, path: str) -> None:
        # Like a .pyc, the pack is trusted as far as the folder of the sources is: who can write there can do all.
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # stays open: another klasy may put a new one there
        head = os.read(self._file, len(_MAGIC) + 4)
        if head.startswith(_MAGIC):
            size = int.from_bytes(head[len(_MAGIC) :], "little")
            folder, entries, bundles = marshal.loads(os.read(self._file, size))
            if folder == _HERE:  # the names in the code are of that place
                self._entries, self._bundles = entries, bundles

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of a module of ours whose source is still the one that was packed."""
        if not name.startswith("klasy."):
            return None
        if not self._is_current(name):
            self.stale = True
            return None
        try:
            names = self._read(name)
        except (OSError, ValueError, EOFError, TypeError):
            self.stale = True
            return None
        if name == names[-1]:
            self._run(names[:-1])
        return self._spec(name)

    def _is_current(self, name: str) -> bool:
        entry = self._entries.get(name)
        if entry is None:
            return False
        is_package, mtime, size, _ = entry
        try:
            found = os.stat(source_path(name, is_package))
        except OSError:
            return False
        return found.st_mtime_ns == mtime and found.st_size == size

    def _read(self, name: str) -> tuple[str, ...]:
        """Read the bundle of a module, unless that was done; the bundle's modules. The last one stands for all."""
        offset, size, names = self._bundles[self._entries[name][3]]
        if name not in self._codes:
            codes = marshal.loads(os.pread(self._file, size, offset))
            self._codes.update(zip(names, codes, strict=True))
        return names

    def _run(self, names: tuple[str, ...]) -> None:
        """Import modules that import only what was imported before: nothing is left for importlib to find out."""
        modules = sys.modules
        for name in names:
            parent, _, own = name.rpartition(".")
            if name in modules or parent not in modules:
                continue  # a package that imports its parts runs after them, and they are importlib's
            if not self._is_current(name):
                return  # importlib gets there, and to the others
            spec = self._spec(name)
            modules[name] = module = ModuleType(name)
            module.__spec__ = spec
            module.__loader__ = self  # type: ignore[assignment]  # it is one
            module.__file__ = spec.origin
            module.__package__ = spec.parent
            if spec.submodule_search_locations is not None:
                module.__path__ = spec.submodule_search_locations
            try:
                exec(self._codes[name], module.__dict__)
            except BaseException:
                modules.pop(name, None)
                raise
            setattr(modules[parent], own, module)

    def _spec(self, name: str) -> ModuleSpec:
        is_package = self._entries[name][0]
        source = source_path(name, is_package)
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]  # it is a loader
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The usual kind of module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        exec(self._codes[module.__name__], module.__dict__)

    def get_source(self, name: str) -> str | None:
        """The source text, for tracebacks."""
        with open(source_path(name, self._entries[name][0]), encoding="utf-8") as file:
            return file.read()

    def get_code(self, name: str) -> CodeType:
        """The code, for ``python -m``."""
        self._read(name)
        return self._codes[name]

    def is_package(self, name: str) -> bool:
        """Whether a module is a package."""
        return self._entries[name][0]


def source_path(name: str, is_package: bool) -> str:
    """The source file of a module of ours."""
    place = name.replace(".", "/")[len("klasy") :]
    return f"{_HERE}{place}/__init__.py" if is_package else f"{_HERE}{place}.py"


def install() -> PackFinder:
    """From now on import from the pack, where there is one that this interpreter can use."""
    finder = PackFinder(pack_path())
    sys.meta_path.insert(0, finder)
    if sys.flags.no_site:
        sys.meta_path.append(PackagesFinder())
    return finder


class PackagesFinder:
    """The last finder of a Python that was started without ``site`` (-S): the first module that nobody else finds has
    it look for installed packages after all. That takes 12 million instructions, and a weave needs none of them."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of a module of an installed package."""
        if "." in name:
            return None
        sys.meta_path.remove(self)
        from importlib.machinery import PathFinder

        find_packages()
        return PathFinder.find_spec(name)


def find_packages() -> None:
    """From now on installed packages can be imported, and asked for, where Python was started without ``site``."""
    if sys.flags.no_site and "site" not in sys.modules:
        import site

        site.main()
        own = os.path.dirname(_HERE)
        if own in sys.path:  # last, as for an editable installation: its klasy.egg-info is of no use
            sys.path.remove(own)
            sys.path.append(own)


# --- writing ----------------------------------------------------------------------------------------------------------


def is_current() -> bool:
    """Whether the pack holds every module as its source is now."""
    finder = PackFinder(pack_path())
    names = [_module_name(path)[0] for path in _sources()]
    return not finder.stale and all(finder._is_current(name) for name in names)


def _sources() -> Iterator[str]:
    for folder, folders, files in os.walk(_HERE):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        for file in sorted(files):
            if file.endswith(".py"):
                yield os.path.join(folder, file)


def _module_name(path: str) -> tuple[str, bool]:
    parts = ["klasy", *os.path.relpath(path, _HERE)[: -len(".py")].split(os.sep)]
    if parts[-1] == "__init__":
        return ".".join(parts[:-1]), True
    return ".".join(parts), False


def write_pack() -> bool:
    """Compile all modules into the pack; whether that could be done. Another process sees the old one or the new."""
    facts: dict[str, tuple[bool, int, int]] = {}
    codes: dict[str, CodeType] = {}
    imports: dict[str, list[str]] = {}
    for source in _sources():
        name, is_package = _module_name(source)
        with open(source, "rb") as file:
            text = file.read()
            status = os.fstat(file.fileno())
        facts[name] = is_package, status.st_mtime_ns, status.st_size
        tree = lean(text, source)
        imports[name] = _imports(tree)
        codes[name] = compile(tree, source, "exec", dont_inherit=True)
    entries: dict[str, Entry] = {}
    bundles: list[Bundle] = []
    contents = b""
    for names in _in_bundles(imports):
        # Loaded and dumped again, equal names are the same object in all of them: only so does marshal share them.
        code = marshal.dumps(tuple(marshal.loads(marshal.dumps(codes[name])) for name in names))
        entries.update((name, (*facts[name], len(bundles))) for name in names)
        bundles.append((len(contents), len(code), names))
        contents += code
    return _write(entries, bundles, contents)


def _write(entries: dict[str, Entry], bundles: list[Bundle], contents: bytes) -> bool:
    size = 0
    while True:  # the places in the file depend on the size of the index, which holds them
        start = len(_MAGIC) + 4 + size
        index = marshal.dumps((_HERE, entries, [(start + offset, length, names) for offset, length, names in bundles]))
        if len(index) == size:
            break
        size = len(index)
    path = pack_path()
    partial = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "wb") as pack:
            pack.write(_MAGIC + size.to_bytes(4, "little") + index + contents)
        os.replace(partial, path)
    except OSError:
        return False
    return True


def _in_bundles(imports: dict[str, list[str]]) -> list[tuple[str, ...]]:
    """The modules by bundle, each after all that it imports; what belongs to no bundle is one by itself."""
    done: set[str] = set()

    def visit(name: str, found: list[str]) -> None:
        if name in imports and name not in done:
            done.add(name)
            for other in (*_parents(name), *imports[name]):
                visit(other, found)
            found.append(name)

    bundles = []
    for first, *others in (*BUNDLES, *([name] for name in sorted(imports))):
        found: list[str] = []
        if first in imports and first not in done:
            done.add(first)  # it goes last
            for name in (*_parents(first), *imports[first], *others):
                visit(name, found)
            found.append(first)
        if found:
            bundles.append(tuple(found))
    return bundles


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _imports(tree: ast.Module) -> list[str]:
    """What a module may import when it is run; some are names of functions, no modules."""
    import ast

    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found += names
    return found


def lean(text: bytes, source: str) -> ast.Module:
    """The tree of a module without what only readers and type checkers need; each line keeps its number.

    The annotations of a class stay, for :mod:`klasy.plain` makes its fields of them.
    """
    import ast

    tree = ast.parse(text, source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            arguments = node.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                argument.annotation = None
            for rest in (arguments.vararg, arguments.kwarg):
                if rest is not None:
                    rest.annotation = None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "pattern":
            _compile_pattern(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            body = [
                statement
                for statement in node.body
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))  # docstrings
                and not (isinstance(statement, ast.If) and _for_type_checkers(statement))
            ]
            node.body[:] = body or [ast.copy_location(ast.Pass(), node.body[0])] if node.body else []
    return tree


def _compile_pattern(call: ast.Call) -> None:
    """Add what ``re`` would compile to a call of :func:`klasy.plain.pattern` whose arguments are constants."""
    import ast
    from array import array
    from re import _compiler, _parser  # type: ignore[attr-defined]  # the pack is of this interpreter alone

    from klasy import plain

    arguments = [getattr(plain, a.id, None) if isinstance(a, ast.Name) else a.value for a in call.args
                 if isinstance(a, ast.Name | ast.Constant)]  # fmt: skip
    if len(arguments) != len(call.args) or call.keywords:
        return
    text, flags = (*arguments, 0)[:2]
    parsed = _parser.parse(text, flags)
    code = array("I", _compiler._code(parsed, flags)).tobytes()
    names = parsed.state.groupdict
    name_of_group = dict(map(reversed, names.items()))
    names_in_order = tuple(map(name_of_group.get, range(parsed.state.groups)))
    compiled: Any = (flags | parsed.state.flags, code, parsed.state.groups - 1, tuple(names.items()), names_in_order)
    added = ast.keyword("compiled", ast.copy_location(ast.Constant(compiled), call))
    call.keywords.append(ast.copy_location(added, call))


def _for_type_checkers(statement: ast.If) -> bool:
    import ast

    return isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING" and not statement.orelse
