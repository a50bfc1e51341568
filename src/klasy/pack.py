"""Writes the pack that :mod:`klasy.startup` imports from: the compiled code of all of klasy's modules."""

from __future__ import annotations
import __future__

import ast
import marshal
import os
from array import array
from types import CodeType

from klasy import plain
from klasy.plain import TYPE_CHECKING
from klasy.startup import HERE, MAGIC, PackFinder, pack_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from klasy.startup import Bundle, Entry

# What commands import together: a bundle is these modules and all that they import when they are run, but for what is
# in a bundle before. Who imports the first one has all of them run. A unit test holds this against what a weave needs.
BUNDLES = (
    (
        "klasy.cli.main",
        "klasy.cli.sources",
        "klasy.cli.table",
    ),
    (  # what tells whether a kernel is still as it was
        "klasy.kernel.caches",
        "klasy.kernel.proc",
        "klasy.kernel.text",
    ),
    (  # what weaving again takes
        "klasy.weaver.kept",
        "klasy.cli.interrupts",
        "klasy.cli.reading",
        "klasy.log.columns",
        "klasy.log.format_text",
        "klasy.log.lines",
        "klasy.log.reader",
        "klasy.log.symbolize",
        "klasy.weaver.unweave",
    ),
    (
        "klasy.kernel.live",
        "klasy.btf.ctext",
        "klasy.kernel.patchsites",
        "klasy.kernel.traceable",
    ),
    (
        "klasy.weaver.build",
        "klasy.backend.bytecode.emit",
        "klasy.backend.bytecode.task",
        "klasy.compiler.driver",
        "klasy.lang.parser",
        "klasy.lang.resolve",
        "klasy.match.matcher",
        "klasy.match.planner",
        "klasy.match.runs",
        "klasy.weaver.attribution",
        "klasy.weaver.features",
    ),
)


# Of the standard library: all that klasy uses of them is in C, under this name with an underscore; the module in Python
# adds a file to look for, read and run.
_IN_C = frozenset({"bisect", "struct"})


def is_current() -> bool:
    """Whether the pack holds every module as its source is now."""
    finder = PackFinder(pack_path())
    names = [_module_name(path)[0] for path in _sources()]
    current = finder.is_all_current() and all(finder.is_current(name) for name in names)
    finder.close()
    return current


def _sources() -> Iterator[str]:
    for folder, folders, files in os.walk(HERE):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        for file in sorted(files):
            if file.endswith(".py"):
                yield os.path.join(folder, file)


def _module_name(path: str) -> tuple[str, bool]:
    parts = ["klasy", *os.path.relpath(path, HERE)[: -len(".py")].split(os.sep)]
    if parts[-1] == "__init__":
        return ".".join(parts[:-1]), True
    return ".".join(parts), False


def write_pack() -> bool:
    """Compile all modules into the pack; whether that could be done. Another process sees the old one or the new."""
    from hashlib import blake2b

    digest = blake2b(digest_size=16)
    facts: dict[str, tuple[bool, str, int, int]] = {}
    codes: dict[str, CodeType] = {}
    imports: dict[str, list[str]] = {}
    for source in _sources():
        name, is_package = _module_name(source)
        with open(source, "rb") as file:
            text = file.read()
            status = os.fstat(file.fileno())
        digest.update(b"%b %d " % (name.encode(), len(text)) + text)
        facts[name] = is_package, os.path.relpath(source, HERE), status.st_mtime_ns, status.st_size
        tree = lean(text, source)
        imports[name] = _imports(tree)
        codes[name] = compile_lean(tree, source)
    entries: dict[str, Entry] = {}
    bundles: list[Bundle] = []
    contents = b""
    in_bundles = _in_bundles(imports)
    for names in in_bundles:
        # Loaded and dumped again, equal names are the same object in all of them: only so does marshal share them.
        code = marshal.dumps(tuple(marshal.loads(marshal.dumps(codes[name])) for name in names))
        entries.update((name, (*facts[name], len(bundles))) for name in names)
        bundles.append((len(contents), len(code), names, _needed(names, imports, in_bundles)))
        contents += code
    return _write(digest.digest(), entries, bundles, contents)


def _needed(
    names: tuple[str, ...], imports: dict[str, list[str]], bundles: Sequence[tuple[str, ...]]
) -> tuple[int, ...]:
    """The bundles of several modules before that of ``names`` from which these import, directly or not."""
    needed: set[int] = set()
    todo = list(names)
    seen = set(names)
    while todo:
        for other in imports[todo.pop()]:
            if other in imports and other not in seen:
                seen.add(other)
                todo.append(other)
    for number, others in enumerate(bundles):
        if others == names:
            break
        if len(others) > 1 and not seen.isdisjoint(others):
            needed.add(number)
    return tuple(sorted(needed))


def _write(digest: bytes, entries: dict[str, Entry], bundles: list[Bundle], contents: bytes) -> bool:
    size = 0
    while True:  # the places in the file depend on the size of the index, which holds them
        start = len(MAGIC) + 4 + size
        index = marshal.dumps((HERE, digest, entries, [(start + offset, *rest) for offset, *rest in bundles]))
        if len(index) == size:
            break
        size = len(index)
    path = pack_path()
    partial = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "wb") as pack:
            pack.write(MAGIC + size.to_bytes(4, "little") + index + contents)
        os.replace(partial, path)
    except OSError:
        return False
    return True


def _in_bundles(imports: dict[str, list[str]]) -> list[tuple[str, ...]]:
    """The modules by bundle, each after all that it imports; what belongs to no bundle is one by itself."""
    done: set[str] = set()

    def visit(name: str, found: list[str]) -> None:
        if name not in imports:
            return
        for parent in _parents(name):  # which may import it
            visit(parent, found)
        if name not in done:
            done.add(name)
            for other in imports[name]:
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


def compile_lean(tree: ast.Module, source: str) -> CodeType:
    """The code of a lean tree."""
    code = compile(tree, source, "exec", __future__.annotations.compiler_flag, dont_inherit=True)
    assert isinstance(code, CodeType)
    return code


def lean(text: bytes, source: str) -> ast.Module:
    """The tree of a module without what only readers and type checkers need; each line keeps its number.

    The annotations of a class stay, for :mod:`klasy.plain` makes its fields of them. What that offers is prepared
    where it can be: regular expressions, and dataclasses.
    """
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
        elif isinstance(node, ast.ClassDef):
            _decorate_while_making(node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in _IN_C:
                    alias.name, alias.asname = f"_{alias.name}", alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom) and node.module in _IN_C:
            node.module = f"_{node.module}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            body = [
                statement
                for statement in node.body
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))  # docstrings
                and not (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")
                and not (isinstance(statement, ast.If) and _for_type_checkers(statement))
            ]
            node.body[:] = body or [ast.copy_location(ast.Pass(), node.body[0])] if node.body else []
    return tree


def _decorate_while_making(node: ast.ClassDef) -> None:
    """Make ``dataclass`` the metaclass of a class that it decorates: see there."""
    match node.decorator_list:
        case [ast.Call(func=ast.Name(id="dataclass"), args=[])] if not node.keywords:
            call = node.decorator_list.pop()
            assert isinstance(call, ast.Call)
            metaclass = ast.copy_location(ast.keyword("metaclass", call.func), call)
            node.keywords = [metaclass, *call.keywords]


def _compile_pattern(call: ast.Call) -> None:
    """Add what ``re`` would compile to a call of :func:`klasy.plain.pattern` whose arguments are constants."""
    from re import _compiler, _parser  # type: ignore[attr-defined]  # the pack is of this interpreter alone

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
    return isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING" and not statement.orelse
