"""Imports klasy's modules out of one file: a weave needs some 140 of them, and finding each costs more than running it.

The file, ``__pycache__/klasy-<interpreter>.pack`` beside this one, holds the compiled code of every module with the
size and modification time of its source, as ``.pyc`` files do. A module whose source differs is imported the usual
way, and :mod:`klasy.pack` writes the pack anew when the command has ended, where the folder can be written: it is a
cache, and all works the same without it. What makes it quick, and what that saves of some 190 million instructions
that a weave would take to start (callgrind counts them; in an emulated guest a million take 3 ms):

- no search for files, and no importlib between the modules that are needed together: they lie in the pack as one
  marshalled object, in the order in which they import each other, and are run in that order (50)
- their code is lean: no docstrings, annotations, imports for type checkers, regular expressions that must be
  compiled, classes that are made and then changed (40)

This module is imported the usual way, and in each start, hence small, and without annotations that need __future__.
"""

import marshal
import os
import sys

TYPE_CHECKING = False  # the real one is in typing, which costs as much as a tenth of a start
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
else:
    ModuleSpec = type(__spec__)  # importlib.machinery would have to be imported
    ModuleType = type(sys)

HERE = os.path.dirname(os.path.abspath(__file__))
MAGIC = b"klasypk5"  # then the length of the index in 4 bytes, the index, and the code of the bundles

# is a package, its source's place in this folder, that one's mtime in ns and size, number of its bundle
Entry = tuple[bool, str, int, int, int]
# where its code lies, how long it is, its modules as they are run, the numbers of bundles of several that they need
Bundle = tuple[int, int, tuple[str, ...], tuple[int, ...]]


def pack_path() -> str:
    """Where the pack of this interpreter is."""
    return f"{HERE}/__pycache__/klasy-{sys.implementation.cache_tag}.pack"


class PackFinder:
    """Finds klasy's modules in the pack. Stands before the finders that look for files."""

    def __init__(self, path: str) -> None:
        self._entries: dict[str, Entry] = {}
        self._bundles: list[Bundle] = []
        self._codes: dict[str, CodeType] = {}  # of the bundles that were read
        self._current: set[str] = set()  # of the modules: as their sources are, when this was looked at
        self._file = self._folder = -1
        try:
            self._open(path)
        except (OSError, ValueError, EOFError, TypeError):
            self._entries = {}
        self.stale = not self._entries

    digest = b""  #: tells the sources that were packed, all together

    def _open(self, path: str) -> None:
        # Like a .pyc, the pack is trusted as far as the folder of the sources is: who can write there can do all.
        self._folder = os.open(HERE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # hundreds of sources are looked at
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # stays open: another klasy may put a new one there
        head = os.read(self._file, len(MAGIC) + 4)
        if head.startswith(MAGIC):
            size = int.from_bytes(head[len(MAGIC) :], "little")
            folder, digest, entries, bundles = marshal.loads(os.read(self._file, size))
            if folder == HERE:  # the names in the code are of that place
                self.digest, self._entries, self._bundles = digest, entries, bundles

    def close(self) -> None:
        """Let go of the file: what was not read cannot be imported any more."""
        for descriptor in (self._file, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._folder = -1
        self._entries = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        """The spec of a module of ours whose source is still the one that was packed."""
        if not name.startswith("klasy."):
            return None
        if not self.is_current(name):
            self.stale = True
            return None
        try:
            names = self._read(name)
        except (OSError, ValueError, EOFError, TypeError):
            self.stale = True
            return None
        if name == names[-1]:
            for needed in self._bundles[self._entries[name][4]][3]:
                self._run(self._read(self._bundles[needed][2][0]))
            self._run(names[:-1])
        return self._spec(name)

    def is_current(self, name: str) -> bool:
        """Whether the pack holds a module as its source is now, or was when this was asked first."""
        if name in self._current:
            return True
        entry = self._entries.get(name)
        if entry is None:
            return False
        try:
            found = os.stat(entry[1], dir_fd=self._folder)
        except OSError:
            return False
        if found.st_mtime_ns != entry[2] or found.st_size != entry[3]:
            return False
        self._current.add(name)
        return True

    def is_all_current(self) -> bool:
        """Whether it holds all modules that it knows of as their sources are now."""
        return not self.stale and all(map(self.is_current, self._entries))

    def _read(self, name: str) -> tuple[str, ...]:
        """Read the bundle of a module, unless that was done; the bundle's modules. The last one stands for all."""
        offset, size, names, _ = self._bundles[self._entries[name][4]]
        if name not in self._codes:
            codes = marshal.loads(os.pread(self._file, size, offset))
            self._codes.update(zip(names, codes, strict=True))
        return names

    def _run(self, names: tuple[str, ...]) -> None:
        """Import modules that import only what was imported before: nothing is left for importlib to find out."""
        modules = sys.modules
        begun: set[str] = set()  # packages that import their parts: they are there before these, and run after them
        try:
            for name in names:
                if name in modules and name not in begun:
                    continue
                if not self.is_current(name):
                    return  # importlib gets there, and to the others
                parent, _, own = name.rpartition(".")
                while parent not in modules:
                    self._make(parent)
                    begun.add(parent)
                    parent = parent.rpartition(".")[0]
                module = modules[name] if name in begun else self._make(name)
                begun.discard(name)
                try:
                    exec(self._codes[name], module.__dict__)
                except BaseException:
                    modules.pop(name, None)
                    raise
                setattr(modules[name.rpartition(".")[0]], own, module)
        finally:
            for name in begun:
                del modules[name]

    def _make(self, name: str) -> "ModuleType":
        spec = self._spec(name)
        sys.modules[name] = module = ModuleType(name)
        module.__spec__ = spec
        module.__loader__ = self  # type: ignore[assignment]  # it is one
        module.__file__ = spec.origin
        module.__package__ = spec.parent
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        return module

    def _spec(self, name: str) -> "ModuleSpec":
        is_package, place, *_ = self._entries[name]
        source = f"{HERE}/{place}"
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]  # it is a loader
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        """The usual kind of module."""
        return None

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's code."""
        exec(self._codes[module.__name__], module.__dict__)

    def get_source(self, name: str) -> str | None:
        """The source text, for tracebacks."""
        with open(f"{HERE}/{self._entries[name][1]}", encoding="utf-8") as file:
            return file.read()

    def get_code(self, name: str) -> "CodeType":
        """The code, for ``python -m``."""
        self._read(name)
        return self._codes[name]

    def is_package(self, name: str) -> bool:
        """Whether a module is a package."""
        return self._entries[name][0]


class PackagesFinder:
    """The last finder of a Python that was started without ``site`` (-S): the first module that nobody else finds has
    it look for installed packages after all. That takes 12 million instructions, and a weave needs none of them."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        """The spec of a module of an installed package."""
        if "." in name:
            return None
        sys.meta_path.remove(self)
        from importlib.machinery import PathFinder

        find_packages()
        return PathFinder.find_spec(name)


def install() -> PackFinder:
    """From now on import from the pack, where there is one that this interpreter can use."""
    finder = PackFinder(pack_path())
    sys.meta_path.insert(0, finder)
    if sys.flags.no_site:
        sys.meta_path.append(PackagesFinder())
    return finder


def find_packages() -> None:
    """From now on installed packages can be imported, and asked for, where Python was started without ``site``."""
    if sys.flags.no_site and "site" not in sys.modules:
        import site

        site.main()
        own = os.path.dirname(HERE)
        if own in sys.path:  # last, as for an editable installation: its klasy.egg-info is of no use
            sys.path.remove(own)
            sys.path.append(own)
