"""A kernel model as one file: for tests, for bug reports, and for compiling aspects for another machine.

A snapshot holds the symbols, the types and the text, all of it or that of some functions only; of the others it knows
whether ftrace can trace them. What it does not hold is refused, never made up. The file is a line that names the
format, then an LZMA stream of named parts.
"""

from __future__ import annotations

import errno
import struct
from array import array
from bisect import bisect_right
from functools import cached_property

from klasy.btf.btf import Btf
from klasy.errors import KernelLacks, KernelRefused, SystemRefusal
from klasy.kernel import arch_x86_64 as arch
from klasy.kernel import caches, kallsyms, patchsites
from klasy.kernel.image import KernelImage
from klasy.kernel.kallsyms import Symbols
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from klasy.kernel.model import DataSymbol, Function
    from klasy.kernel.tracepoints import Tracepoints

_FORMAT = b"klasy kernel snapshot 1\n"
_RANGE = struct.Struct("<QI")  # address, length


class SnapshotError(SystemRefusal):
    """The file is no snapshot, or one of another version."""


class SnapshotKernel(KernelImage):
    """A kernel from a snapshot's bytes. Raises SnapshotError where they are none."""

    def __init__(self, data: bytes) -> None:
        import lzma

        if not data.startswith(_FORMAT):
            raise SnapshotError("not a kernel snapshot, or one of another version of klasy")
        try:
            self._parts = caches.unpack(memoryview(lzma.decompress(data[len(_FORMAT) :])))
            about = dict(line.split("=", 1) for line in str(self._parts["about"], "utf-8").splitlines())
            super().__init__(about["release"], about["build_id"])
            self.trampoline_registers = int(about["trampoline_registers"])
            self._bases = _numbers(self._parts["bases"])
            self._named_places = _numbers(self._parts["places"])
        except (KeyError, ValueError, lzma.LZMAError):
            raise SnapshotError("the kernel snapshot is damaged") from None

    @classmethod
    def load(cls, path: str) -> SnapshotKernel:
        """The snapshot in a file. Raises OSError where it cannot be read."""
        with open(path, "rb") as file:
            return cls(file.read())

    @cached_property
    def symbols(self) -> Mapping[str | None, Symbols]:
        """The functions of the kernel proper (None) and of each module."""
        return {name or None: Symbols.load(self._parts[f"symbols {name}"], base) for name, base in self._bases.items()}

    def place(self, name: str) -> int | None:
        """The address of a symbol of the kernel proper that need not be a function's."""
        return self._named_places.get(name)

    def module_sections(self, module: str) -> Mapping[str, int]:
        """Where the sections of a module begin."""
        return _numbers(self._parts[f"sections {module}"])

    def blacklist(self) -> bytes:
        """The list of what must not be probed."""
        return bytes(self._parts["blacklist"])

    def load_btf(self, module: str | None, base: Btf | None) -> Btf | None:
        """The types of the kernel proper or of a module."""
        data = self._parts.get(f"btf {module or ''}")
        return Btf(bytes(data), base) if data else None

    @cached_property
    def _ranges(self) -> list[tuple[int, bytes]]:
        """The memory it holds, by address; none of it twice."""
        data = self._parts["memory"]
        found = []
        at = 0
        while at < len(data):
            address, length = _RANGE.unpack_from(data, at)
            at += _RANGE.size + length
            found.append((address, bytes(data[at - length : at])))
        ranges: list[tuple[int, bytes]] = []
        for address, piece in sorted(found):
            start, before = ranges[-1] if ranges else (0, b"")
            if address < start + len(before):  # a module's tables, whose ends nobody tells, may reach into others
                ranges[-1] = start, before + piece[start + len(before) - address :]
            else:
                ranges.append((address, piece))
        return ranges

    @cached_property
    def _starts(self) -> list[int]:
        return [start for start, _ in self._ranges]

    def read(self, address: int, size: int) -> bytes:
        """Memory. Raises KernelRefused for what the snapshot does not hold."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0:
            start, data = self._ranges[at]
            if address + size <= start + len(data):
                return data[address - start : address - start + size]
        holder = self.object_at(address)
        if holder and address + size <= holder[1].end:
            function = self.function_at(address)
            if function and address == function.address and size <= arch.ENTRY_BYTES:
                start = address - holder[1].base
                return self.object_text(holder[0])[start : start + size]
        raise KernelRefused(f"read {address:#x}: the snapshot does not hold it", errno.EFAULT)

    def text(self, address: int, size: int) -> bytes:
        """Text. Raises KernelRefused for what the snapshot does not hold."""
        return self.read(address, size)

    def object_text(self, module: str | None) -> bytes:
        """The text of the kernel proper or of a module, with breakpoints in the place of what is not held."""
        if module not in self._texts:
            symbols = self.symbols[module]
            text = bytearray([arch.BREAKPOINT]) * (symbols.end - symbols.base)
            hooks = [bytes(hook) for hook in caches.unpack(self._parts["hooks"]).values()]
            kinds = self._parts[f"entries {module or ''}"]
            for start, kind in zip(symbols.starts, kinds, strict=True):
                text[start : start + len(hooks[kind])] = hooks[kind]
            for address, data in self._ranges:
                if symbols.base <= address < symbols.end:
                    text[address - symbols.base : address - symbols.base + len(data)] = data
            self._texts[module] = bytes(text)
        return self._texts[module]

    @property
    def tracepoints(self) -> Tracepoints:
        """It has none: what it holds is of the kernel's own image."""
        raise KernelLacks("this snapshot of a kernel holds no trace events")

    def find_data(self, pattern: str) -> Sequence[DataSymbol]:
        """Global variables whose name matches a glob, by address."""
        return kallsyms.data_symbols(bytes(self._parts["listing"]), pattern)

    def why_absent(self, name: str) -> str | None:
        """What is known of a function name that has no symbol."""
        from klasy.kernel import absent

        return (
            absent.from_listing(name, bytes(self._parts["listing"]))
            or absent.from_functions(name, self.symbols[None])
            or (absent.from_btf(name, btf) if (btf := self.btf_of(None)) else None)
        )


def _numbers(data: memoryview) -> dict[str, int]:
    return {name: int(number) for name, number in (line.split("=") for line in str(data, "ascii").splitlines())}


# --- saving ---------------------------------------------------------------------------------------------------------


def take(
    kernel: KernelImage,
    listing: bytes,
    functions: Iterable[Function] | None = None,
    btf_of: Callable[[str], bytes] | None = None,
    preset: int = 6,
) -> bytes:
    """A snapshot of a kernel, with the text of some functions, or of all. ``preset``: how hard to compress, 0 to 9.

    ``listing``: of /proc/kallsyms, what is to be kept for questions about other symbols than functions'. ``btf_of``:
    the BTF of "vmlinux" or of a module, empty where there is none.
    """
    import lzma

    symbols = kernel.symbols
    parts: dict[str, bytes] = {
        "about": (
            f"release={kernel.release}\nbuild_id={kernel.build_id}\n"
            f"trampoline_registers={kernel.trampoline_registers}\n"
        ).encode(),
        "bases": _text({module or "": table.base for module, table in symbols.items()}),
        "places": _text({name: place for name in patchsites.EDGES if (place := kernel.place(name)) is not None}),
        "blacklist": kernel.blacklist(),
        "listing": listing,
    }
    hooks: dict[bytes, int] = {b"": 0}
    ranges: list[tuple[int, bytes]] = []
    for module, table in symbols.items():
        name = module or ""
        parts[f"symbols {name}"] = table.dump()
        if module:
            parts[f"sections {name}"] = _text(kernel.module_sections(module))
        if btf_of and (data := btf_of(name or "vmlinux")):
            parts[f"btf {name}"] = data
        text = kernel.object_text(module)
        entries = array("B")
        for start in table.starts:
            hook = b""
            if kernel.has_ftrace_site(table.base + start):
                hook = arch.untraced_entry(text[start : start + arch.ENTRY_BYTES])
            entries.append(hooks.setdefault(hook, len(hooks)))
        parts[f"entries {name}"] = entries.tobytes()
        ranges += patchsites.tables(kernel, module)
        if functions is None and text:
            ranges.append((table.base, text))
    if functions is not None:
        for function in {function.address: function for function in functions}.values():
            code = kernel.text(function.address, function.size)
            if kernel.has_ftrace_site(function.address):
                hook = arch.untraced_entry(code[: arch.ENTRY_BYTES])
                code = hook + code[len(hook) :]
            ranges.append((function.address, code))
    parts["hooks"] = caches.pack({str(kind): hook for hook, kind in hooks.items()})
    parts["memory"] = b"".join(_RANGE.pack(address, len(data)) + data for address, data in sorted(ranges))
    return _FORMAT + lzma.compress(caches.pack(parts), preset=preset)


def _text(numbers: Mapping[str, int]) -> bytes:
    return "".join(f"{name}={number}\n" for name, number in numbers.items()).encode("ascii")
