"""Imports klasy's modules out of one file: a weave needs some 130 of them, and finding each costs more than running it.

The file, ``__pycache__/klasy-<interpreter>.pack`` beside this one, holds the compiled code of every module with the
size and modification time of its source, as ``.pyc`` files do. A module whose source differs is imported the usual
way, and the pack is written anew when the command has ended, where the folder can be written: it is a cache, and all
works the same without it. In an emulated guest it halves the time of a start.
"""

from __future__ import annotations

import marshal
import os
import sys
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

TYPE_CHECKING = False  # the real one is in typing, which costs as much as a tenth of a start
if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = os.path.dirname(os.path.abspath(__file__))
_MAGIC = b"klasypk1"

Entry = tuple[bool, int, int, bytes]  # is a package, mtime in ns and size of its source, marshalled code


def pack_path() -> str:
    """Where the pack of this interpreter is."""
    return os.path.join(_HERE, "__pycache__", f"klasy-{sys.implementation.cache_tag}.pack")


class PackFinder:
    """Finds klasy's modules in the pack. Stands before the finders that look for files."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        self.stale = not entries

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of a module of ours whose source is still the one that was packed."""
        if not name.startswith("klasy."):
            return None
        entry = self._entries.get(name)
        if entry is None:
            self.stale = True
            return None
        is_package, mtime, size, _ = entry
        source = source_path(name, is_package)
        try:
            found = os.stat(source)
        except OSError:
            self.stale = True
            return None
        if (found.st_mtime_ns, found.st_size) != (mtime, size):
            self.stale = True
            return None
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
        exec(marshal.loads(self._entries[module.__name__][3]), module.__dict__)

    def get_source(self, name: str) -> str | None:
        """The source text, for tracebacks."""
        with open(source_path(name, self._entries[name][0]), encoding="utf-8") as file:
            return file.read()

    def get_code(self, name: str) -> CodeType:
        """The code, for ``python -m``."""
        code = marshal.loads(self._entries[name][3])
        assert isinstance(code, CodeType)
        return code

    def is_package(self, name: str) -> bool:
        """Whether a module is a package."""
        return self._entries[name][0]


def source_path(name: str, is_package: bool) -> str:
    """The source file of a module of ours."""
    parts = name.split(".")[1:] + (["__init__"] if is_package else [])
    return os.path.join(_HERE, *parts) + ".py"


def install() -> PackFinder:
    """From now on import from the pack, where there is one that this interpreter can use."""
    finder = PackFinder(_read(pack_path()))
    sys.meta_path.insert(0, finder)
    return finder


def _read(path: str) -> dict[str, Entry]:
    try:
        # Like a .pyc, the pack is trusted as far as the folder of the sources is: who can write there can do all.
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return {}
    if not data.startswith(_MAGIC):
        return {}
    try:
        entries: dict[str, Entry] = marshal.loads(memoryview(data)[len(_MAGIC) :])
    except (ValueError, EOFError, TypeError):
        return {}
    return entries


def is_current() -> bool:
    """Whether the pack holds every module as its source is now."""
    finder = PackFinder(_read(pack_path()))
    names = [_module_name(path) for path in _sources()]
    return all(finder.find_spec(name) for name, _ in names if name != "klasy") and not finder.stale


def _sources() -> Iterator[str]:
    for folder, folders, files in os.walk(_HERE):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        for file in sorted(files):
            if file.endswith(".py"):
                yield os.path.join(folder, file)


def write_pack() -> bool:
    """Compile all modules into the pack; whether that could be done. Another process sees the old one or the new."""
    entries: dict[str, Entry] = {}
    for source in _sources():
        name, is_package = _module_name(source)
        with open(source, "rb") as file:
            text = file.read()
            status = os.fstat(file.fileno())
        code = compile(text, source, "exec", dont_inherit=True)
        entries[name] = (is_package, status.st_mtime_ns, status.st_size, marshal.dumps(code))
    path = pack_path()
    partial = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "wb") as pack:
            pack.write(_MAGIC + marshal.dumps(entries))
        os.replace(partial, path)
    except OSError:
        return False
    return True


def _module_name(path: str) -> tuple[str, bool]:
    parts = ["klasy", *os.path.relpath(path, _HERE)[: -len(".py")].split(os.sep)]
    if parts[-1] == "__init__":
        return ".".join(parts[:-1]), True
    return ".".join(parts), False
