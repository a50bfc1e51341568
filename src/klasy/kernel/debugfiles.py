"""Where a kernel's debug information is installed, and whether it is this kernel's: build ids tell."""

from __future__ import annotations

import os
from itertools import islice

from klasy.dwarf.elf import DwarfError, ElfFile
from klasy.errors import KernelLacks
from klasy.kernel.dwarf_source import ObjectDebug
from klasy.plain import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from klasy.kernel.image import KernelImage
    from klasy.kernel.inlined import Inlined
    from klasy.kernel.model import Function, Place

ROOT = "/usr/lib/debug"
_TEXT = ".text"


class NoDebugInfo(KernelLacks):
    """Debug information that is asked for is not installed, or is another build's. ``hint`` is the remedy."""


class DebugInfo:
    """The debug information of a kernel and its modules. ``root``: the folder that packages of such put theirs in.

    Questions raise NoDebugInfo where there is none, and DwarfError where what they come upon is damaged.
    """

    def __init__(self, kernel: KernelImage, root: str = ROOT) -> None:
        self.kernel = kernel
        self.root = root
        self._inlined: dict[str, list[Inlined]] = {}
        self._objects: dict[str | None, ObjectDebug | NoDebugInfo] = {}

    @property
    def package(self) -> str:
        """The Debian package that brings it along."""
        return f"linux-image-{self.kernel.release}-dbg"

    def of(self, module: str | None) -> ObjectDebug:
        """That of the kernel proper, or of a module. Raises NoDebugInfo."""
        if module not in self._objects:
            try:
                self._objects[module] = self._open(module)
            except NoDebugInfo as error:
                self._objects[module] = error
        found = self._objects[module]
        if isinstance(found, NoDebugInfo):
            raise found
        return found

    def installed(self, module: str | None = None) -> ObjectDebug | None:
        """The same, None where there is none."""
        try:
            return self.of(module)
        except NoDebugInfo:
            return None

    def check(self) -> None:
        """Raises NoDebugInfo where the kernel proper has none; that modules have none is no error."""
        found = self.of(None)
        try:
            _ = found.units
        except DwarfError as error:
            raise self._unreadable(found.elf.path, error) from None

    def _unreadable(self, path: str, error: DwarfError) -> NoDebugInfo:
        return NoDebugInfo(f"the debug information in {path} cannot be read: {error}", hint=f"again: {self._remedy()}")

    # --- questions

    def within(self, fits: Callable[[str], bool]) -> Callable[[Function], bool]:
        """Tells of a function whether the source file that it was compiled from fits."""
        self.check()
        by_module: dict[str | None, Callable[[int], bool]] = {}

        def lies(function: Function) -> bool:
            inside = by_module.get(function.module)
            if inside is None:
                found = None if function.in_program else self.installed(function.module)
                inside = by_module[function.module] = found.within(fits) if found else lambda _: False
            return inside(function.address)

        return lies

    def has(self, fits: Callable[[str], bool]) -> bool:
        """Whether some source file fits. Modules are asked only where the kernel proper has none."""
        return any(fits(file) for each in self._all() for file in each.files())

    def files(self) -> set[str]:
        """The source files that the kernel and what is loaded of its modules were compiled from."""
        return {file for each in self._all() for file in each.files()}

    def places(self, addresses: Iterable[int]) -> dict[int, Place]:
        """The lines that instructions of the kernel and its modules were made from, as far as they are known."""
        by_module: dict[str | None, list[int]] = {}
        for address in addresses:
            holder = self.kernel.object_at(address)
            if holder is not None:
                by_module.setdefault(holder[0], []).append(address)
        found: dict[int, Place] = {}
        for module, wanted in by_module.items():
            known = self.installed(module)
            found |= known.places(wanted) if known else {}
        return found

    def lines(self, file: str) -> set[int]:
        """The lines of a file of which there is code."""
        return {line for each in self._having(file) for line in each.lines(file)}

    def inlined(self, name: str) -> list[Inlined]:
        """The functions of a name of which the kernel proper has inlined copies; none where nothing is installed."""
        if name not in self._inlined:
            found = self.installed()
            if found is None:
                return []
            from klasy.kernel.inlined import remembered

            try:
                self._inlined[name] = remembered(found, name)
            except DwarfError as error:
                raise self._unreadable(found.elf.path, error) from None
        return self._inlined[name]

    def beginnings(self, file: str, line: int) -> list[int]:
        """Where a line begins: the first instruction in each function, and each inlined copy, that it is part of."""
        return sorted(a for each in self._having(file) for a in each.beginnings(each.lines(file).get(line, ())))

    def _having(self, file: str) -> list[ObjectDebug]:
        """The kernel proper, or else the module, that a file is part of."""
        return list(islice((each for each in self._all() if file in each.files()), 1))

    def _all(self) -> Iterator[ObjectDebug]:
        yield self.of(None)
        for module in self.kernel.modules():
            found = self.installed(module)
            if found is not None:
                with suppress(DwarfError):  # a module's that is damaged is as good as none
                    _ = found.units
                    yield found

    def _open(self, module: str | None) -> ObjectDebug:
        wanted = self.kernel.build_id if module is None else self.kernel.build_id_of(module)
        others: list[tuple[str, str | None]] = []
        for path in self._candidates(module, wanted):
            try:
                elf = ElfFile(path, self.kernel.module_sections(module) if module else None)
                build_id = elf.build_id
                if not elf.section(".debug_info").size:
                    continue
            except OSError:
                continue
            except DwarfError as error:
                raise self._unreadable(path, error) from None
            if build_id is not None and build_id == wanted:
                shift = 0
                if module is None:
                    shift = self.kernel.symbols[None].base - (elf.address(_TEXT) or 0)
                return ObjectDebug(elf, shift, build_id)
            others.append((path, build_id))
        what = "the kernel" if module is None else f"module {module}"
        if others:
            path, build_id = others[0]
            raise NoDebugInfo(
                f"the debug information in {path} is of another build: its build id is {build_id or 'not given'}, that "
                f"of {what} {wanted or 'not known'}",
                hint=f"install that of the very version which runs, or boot the kernel it is of: {self._remedy()}",
            )
        raise NoDebugInfo(
            f"there is no debug information of {what} ({self.kernel.release}) on this machine", hint=self._remedy()
        )

    def _remedy(self) -> str:
        return f"apt-get install {self.package}"

    def _candidates(self, module: str | None, build_id: str | None) -> Iterator[str]:
        release = self.kernel.release
        if module is None:
            yield f"{self.root}/boot/vmlinux-{release}"
            yield f"{self.root}/lib/modules/{release}/vmlinux"
        else:
            yield from self._module_files(module)
        if build_id and len(build_id) > 2:
            yield f"{self.root}/.build-id/{build_id[:2]}/{build_id[2:]}.debug"
        if module is None:
            yield f"/lib/modules/{release}/build/vmlinux"
            yield f"/boot/vmlinux-{release}"

    def _module_files(self, module: str) -> Iterator[str]:
        """Where the file of a module may be: beneath the same folder as the module's own."""
        try:
            with open(f"/lib/modules/{self.kernel.release}/modules.dep", "rb") as file:
                listed = file.read()
        except OSError:
            return
        for name in dict.fromkeys((module, module.replace("_", "-"))):
            at = listed.find(f"/{name}.ko".encode())
            if at >= 0:
                path = os.fsdecode(listed[listed.rfind(b"\n", 0, at) + 1 : at + len(name) + 4])
                yield f"{self.root}/lib/modules/{self.kernel.release}/{path}"
                yield f"{self.root}/lib/modules/{self.kernel.release}/{path}.debug"
