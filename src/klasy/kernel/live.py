"""The running kernel, from /proc and /sys."""

from __future__ import annotations

import atexit
import os
import zlib

from klasy.btf.btf import Btf
from klasy.btf.read import Layout
from klasy.errors import KernelLacks, NotRoot
from klasy.kernel import caches, kallsyms, patchsites
from klasy.kernel.image import KernelImage
from klasy.kernel.kallsyms import Symbols, SymbolsHidden
from klasy.kernel.livetext import POKING, TABLE, LiveText
from klasy.kernel.model import DataSymbol
from klasy.kernel.proc import contents, module_bases, module_id
from klasy.kernel.text import Kcore
from klasy.notes import gnu_build_id
from klasy.plain import TYPE_CHECKING, cache, cached_property, suppress

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from io import FileIO
    from mmap import mmap

    from klasy.kernel.callerindex import CallerIndex
    from klasy.kernel.callsites import Reached
    from klasy.kernel.datamap import DataMap
    from klasy.kernel.generated import GeneratedCode
    from klasy.kernel.kprobes import Probes
    from klasy.kernel.tracepoints import Tracepoints

_SYMBOLS_VERSION = 7
_BODIES_VERSION = 1
_CHUNK = 1 << 16
_PAGE = 4096
_MOST_SEEN = 1 << 16  # bytes: what is read again in less time than it takes to do anything with it
_HEAD_LIMIT = 1 << 20  # _text stands behind the per-CPU symbols: 40 kB into the listing

_STATIC_CALL = b"\0__SCT__"  # so begin the names of static calls' trampolines

# Symbols other than functions' that are kept with them
_PLACES = (
    *patchsites.EDGES,
    "__static_call_text_start",
    "__static_call_text_end",
    TABLE,
    POKING,
)


class LiveKernel(KernelImage):
    """The running kernel. ``proc`` and ``sys`` are where those file systems are mounted.

    What depends only on the build of the kernel is kept in ``caches``; ``use_cache`` False does without.
    """

    def __init__(self, proc: str = "/proc", sys: str = "/sys", *, use_cache: bool = True) -> None:
        self._proc = proc
        self._sys = sys
        self._use_cache = use_cache
        self._places: dict[str, int] = {}
        #: what was read of memory, by address and size: with ``proc.circumstances`` all that the answers so far depend
        #: on. None where that is much, or where something else that changes was asked.
        self.seen: dict[tuple[int, int], bytes] | None = {}
        self._seen_bytes = 0
        release = contents(f"{proc}/sys/kernel/osrelease").decode().strip()
        build_id = gnu_build_id(contents(f"{sys}/kernel/notes"))
        if build_id is None:
            version = contents(f"{proc}/sys/kernel/version")  # a kernel linked without --build-id
            build_id = f"{zlib.crc32(release.encode() + version):08x}"
        super().__init__(release, build_id)

    # --- symbols

    @cached_property
    def _module_bases(self) -> dict[str, int]:
        """Where each loaded module's text begins."""
        return module_bases(self._proc)

    def modules(self) -> Collection[str]:
        """Names of the loaded modules."""
        return self._module_bases.keys()

    @cached_property
    def symbols(self) -> Mapping[str | None, Symbols]:
        """The functions of the kernel proper (None) and of each module. Raises NotRoot or KernelLacks if hidden."""
        ids = {module: self.module_id(module) for module in self._module_bases}
        kept = self._kept_symbols()
        found = self._from_kept(kept, ids) if kept else None
        if found is None:
            found = self._from_listing()
            self._keep(found, ids, kept)
        return found

    def module_id(self, module: str) -> str | None:
        """The build id of a loaded module, as hexadecimal digits; None where it has none."""
        return module_id(module, self._sys)

    def build_id_of(self, module: str) -> str | None:
        """The build id of a loaded module."""
        return self.module_id(module)

    @property
    def _symbols_name(self) -> str:
        return f"symbols{_SYMBOLS_VERSION}-{self.build_id}"

    def _kept_symbols(self) -> dict[str, memoryview]:
        data = caches.load_mapped(self._symbols_name) if self._use_cache else None
        try:
            return caches.unpack(memoryview(data)) if data else {}
        except ValueError:
            return {}

    def _from_kept(
        self, kept: Mapping[str, memoryview], ids: Mapping[str, str | None]
    ) -> dict[str | None, Symbols] | None:
        """The symbols as they were kept, if all of them were."""
        if "kernel" not in kept or any(not build or f"module {build}" not in kept for build in ids.values()):
            return None
        base = self._text_start()
        if not base:
            return None
        try:
            found: dict[str | None, Symbols] = {None: Symbols.load(kept["kernel"], base)}
            for module, build in ids.items():
                found[module] = Symbols.load(kept[f"module {build}"], self._module_bases[module])
            for line in str(kept["places"], "ascii").splitlines():
                name, offset = line.split()
                self._places[name] = base + int(offset)
        except (KeyError, ValueError):
            return None
        return found

    def _text_start(self) -> int | None:
        """Where the kernel's text begins, from the beginning of the listing."""
        head = b""
        with self._open_listing() as file:
            while len(head) < _HEAD_LIMIT and (part := file.read(_CHUNK)):
                head += part
                found = kallsyms.text_start(head)
                if found is not None:
                    return found
        return None

    def _open_listing(self) -> FileIO:
        try:
            return open(f"{self._proc}/kallsyms", "rb", buffering=0)
        except OSError as error:
            raise KernelLacks(
                f"the kernel's symbols cannot be read: {error.strerror}",
                hint="/proc/kallsyms needs a kernel with CONFIG_KALLSYMS",
            ) from None

    @cached_property
    def listing(self) -> bytes:
        """All of /proc/kallsyms: a quarter of a second in an emulated guest, so not for every command."""
        return self._read_listing()

    def _read_listing(self) -> bytes:
        with self._open_listing() as file:
            return file.readall()

    @cached_property
    def generated(self) -> GeneratedCode:
        """The code that the kernel has made while it runs, and modules that were loaded after this was made."""
        from klasy.kernel.generated import GeneratedCode

        return GeneratedCode(self._read_listing, self._loaded_since)

    def _loaded_since(self) -> dict[str, int]:
        return {name: base for name, base in module_bases(self._proc).items() if self._module_bases.get(name) != base}

    def data_at(self, address: int) -> DataSymbol | None:
        """The variable of the kernel or a module that holds an address; no per-CPU one is found so."""
        return self.data_map.at(address)

    @cached_property
    def data_map(self) -> DataMap:
        """The variables by their addresses."""
        from klasy.kernel.datamap import DataMap

        return DataMap(self._read_listing)

    def _from_listing(self) -> dict[str | None, Symbols]:
        try:
            found: dict[str | None, Symbols] = {None: kallsyms.kernel_symbols(self.listing)}
        except SymbolsHidden as hidden:
            if os.geteuid() != 0:
                raise NotRoot("the kernel shows its symbols to root only", hint="run klasy as root") from None
            raise KernelLacks(hidden.message, hint=hidden.hint) from None
        found.update(kallsyms.module_symbols(self.listing, self._module_bases))
        kallsyms.note_traceable(found, contents(f"{self._sys}/kernel/tracing/available_filter_functions"))
        self._places.update(kallsyms.places(self.listing, _PLACES))
        return found

    def _keep(
        self,
        found: Mapping[str | None, Symbols],
        ids: Mapping[str, str | None],
        kept: Mapping[str, memoryview],
    ) -> None:
        """Keep the symbols for later; those of modules that are not loaded now stay."""
        if not self._use_cache:
            return
        base = found[None].base
        parts = {name: bytes(data) for name, data in kept.items()}
        parts["kernel"] = found[None].dump()
        parts["places"] = "".join(f"{name} {place - base}\n" for name, place in self._places.items()).encode("ascii")
        parts |= {f"module {build}": found[module].dump() for module, build in ids.items() if build}
        caches.store_mapped(self._symbols_name, caches.pack(parts))

    def place(self, name: str) -> int | None:
        """The address of a symbol of the kernel proper that need not be a function's: one of a few kept ones."""
        _ = self.symbols
        return self._places.get(name)

    def module_sections(self, module: str) -> Mapping[str, int]:
        """Where the sections of a module begin, by their names."""
        folder = f"{self._sys}/module/{module}/sections"
        found = {}
        try:
            for name in os.listdir(folder):
                found[name] = int(contents(f"{folder}/{name}") or b"0", 16)
        except OSError:
            return {}
        return found

    def module_section(self, module: str, name: str) -> int | None:
        """Where one section of a module begins, None where it has no such."""
        found = contents(f"{self._sys}/module/{module}/sections/{name}")
        return int(found, 16) if found else None

    # --- calls

    def branches_to(self, targets: Collection[int]) -> list[Reached]:
        """The calls and jumps in all text that lead to one of some addresses. By address."""
        index = self._caller_index if targets else None
        if index is None:
            return super().branches_to(targets)
        missing = [target for target in targets if target not in index]
        if missing:
            found = super().branches_to(missing)
            if self._guesses:
                return super().branches_to(targets)  # what lies under a probe had to be guessed: nothing to keep
            index.add(missing, found)
        return index.calls(targets)

    @cached_property
    def _caller_index(self) -> CallerIndex | None:
        """The calls that were found before in text as it is now; None where it cannot be told whether it changed."""
        if self._text_key is None:
            return None
        from klasy.kernel.callerindex import CallerIndex

        return CallerIndex(f"callers-{self.build_id}", self._text_key)

    @cached_property
    def _text_key(self) -> bytes | None:
        """What changes whenever calls and jumps in text do, see callerindex.py; None where that cannot be told."""
        modules = [(module, self.module_id(module)) for module in self._module_bases]
        boot = contents(f"{self._proc}/sys/kernel/random/boot_id")
        if not self._use_cache or not boot or not all(build for _, build in modules):
            return None
        loaded = "".join(f"{module} {build} {self._module_bases[module]:x}\n" for module, build in sorted(modules))
        return b"".join((boot, loaded.encode(), self._trampolines()))

    def far_into_bodies(self) -> Collection[int]:
        """As of every kernel, kept while text stays as it is: to look at all of it takes seconds."""
        return self._far_into_bodies

    @cached_property
    def _far_into_bodies(self) -> frozenset[int]:
        from array import array

        key, name = self._text_key, f"bodies-{self.build_id}"
        kept = caches.load(name, _BODIES_VERSION) if key is not None else None
        if kept is not None:
            with suppress(KeyError, ValueError):
                parts = caches.unpack(kept)
                if bytes(parts["key"]) == key:
                    return frozenset(array("Q", bytes(parts["places"])))
        found = frozenset(super().far_into_bodies())
        if key is not None and not self._guesses:
            places = array("Q", sorted(found)).tobytes()
            caches.store(name, _BODIES_VERSION, caches.pack({"key": key, "places": places}))
        return found

    def _trampolines(self) -> bytes:
        """What static calls call now."""
        start, end = self.place("__static_call_text_start"), self.place("__static_call_text_end")
        found = [self.read(start, end - start)] if start and end and start < end else []
        for module, symbols in self.symbols.items():
            if module is not None and _STATIC_CALL in symbols.names:
                found += [self.read(symbols.address(i), symbols.sizes[i]) for i in symbols.matching("__SCT__*")]
        return b"".join(found)

    # --- memory

    @cached_property
    def _kcore(self) -> Kcore:
        return Kcore(f"{self._proc}/kcore")

    def read(self, address: int, size: int) -> bytes:
        """Memory as it is now. Raises NotRoot, KernelLacks or KernelRefused where it cannot be read."""
        data = self._kcore.read(address, size)
        if self.seen is not None:
            self._seen_bytes += size
            self.seen[address, size] = data
            if self._seen_bytes > _MOST_SEEN:
                self.seen = None
        return data

    @cached_property
    def _live_text(self) -> LiveText:
        return LiveText(self)

    def unprobed(self, address: int, size: int) -> bytes:
        """Text without probes, as of one moment at which nobody rewrote it."""
        return self._live_text.read(address, size)

    @property
    def _guesses(self) -> bool:
        """Whether what lies under some probe had to be guessed."""
        probes = self._live_text.probes
        return probes is not None and probes.guessed

    def listed_probes(self) -> Probes:
        """Where probes are, without what they replaced, for kernels whose own record cannot be read."""
        from klasy.kernel.kprobes import Covered, Probes

        self.seen = None
        lines = contents(f"{self._sys}/kernel/debug/kprobes/list").splitlines()
        places = [int(line.split(None, 1)[0], 16) for line in lines if b"[FTRACE]" not in line]
        return Probes(dict.fromkeys(places, Covered(None)), {})

    def blacklist(self) -> bytes:
        """/sys/kernel/debug/kprobes/blacklist, empty where there is none."""
        return contents(f"{self._sys}/kernel/debug/kprobes/blacklist")

    # --- types

    def load_btf(self, module: str | None, base: Btf | None) -> Btf | None:
        """The types of the kernel proper or of a module; None where it has none."""
        path = f"{self._sys}/kernel/btf/{module or 'vmlinux'}"
        kept = None if module else self._kept_btf(path)
        if kept:
            return self._with_layout(kept)
        data = contents(path)
        if not data:
            return None
        if module:
            return Btf(data, base)
        if self._use_cache:
            caches.store_mapped(self._types_name, data)
        return self._with_layout(data)

    @property
    def _types_name(self) -> str:
        return f"types-{self.build_id}"

    def _kept_btf(self, path: str) -> mmap | None:
        """The types as they were kept: the kernel hands out its own by the page, a thousand times."""
        kept = caches.load_mapped(self._types_name) if self._use_cache else None
        if kept is None:
            return None
        try:
            with open(path, "rb", buffering=0) as file:
                same = len(kept) == os.fstat(file.fileno()).st_size and file.read(_PAGE) == kept[:_PAGE]
        except OSError:
            return None
        return kept if same else None

    def _with_layout(self, data: bytes | mmap) -> Btf:
        kept = caches.load_mapped(self._layout_name) if self._use_cache else None
        if kept:
            with suppress(ValueError):
                btf = Btf(data, layout=Layout.load(kept))
                if btf.blob.layout.fits(btf.blob.words):
                    return btf
        btf = Btf(data[:])  # a copy can be searched faster than what is mapped
        _ = btf.blob.layout
        if self._use_cache:
            atexit.register(self._keep_layout, btf)  # when all is done: to list the strings takes as long again
        return btf

    @property
    def _layout_name(self) -> str:
        return f"btf-{self.build_id}"

    def _keep_layout(self, btf: Btf) -> None:
        btf.blob.list_strings()
        caches.store_mapped(self._layout_name, btf.blob.layout.dump())

    # --- trace events

    @cached_property
    def tracepoints(self) -> Tracepoints:
        """The trace events, out of tracefs."""
        from klasy.kernel.tracepoints import LiveTracepoints

        return LiveTracepoints(f"{self._sys}/kernel/tracing")

    # --- for the user

    def find_data(self, pattern: str) -> Sequence[DataSymbol]:
        """Global variables whose name matches a glob, by address."""
        return kallsyms.data_symbols(self.listing, pattern)

    def why_absent(self, name: str) -> str | None:
        """What is known of a function name that has no symbol."""
        from klasy.kernel import absent

        btf = self.btf_of(None)
        return (
            absent.from_listing(name, self.listing)
            or absent.from_functions(name, self.symbols[None])
            or absent.from_unloaded_modules(name, f"/lib/modules/{self.release}")
            or (absent.from_btf(name, btf) if btf else None)
        )


@cache
def running_kernel() -> LiveKernel:
    """The running kernel, opened once for each process."""
    return LiveKernel()
