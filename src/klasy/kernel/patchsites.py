"""The places in text that the kernel itself rewrites as it runs, and where it therefore lets no probe be put.

Static calls are direct calls whose target is changed by rewriting them (include/linux/static_call_types.h); jump
labels are no-operations that become jumps (include/linux/jump_label.h). Both are listed in tables of distances. So are
where the kernel goes on after a fault (arch/x86/include/asm/extable.h), and its ud2 instructions
(include/asm-generic/bug.h), which are read here too.
"""

from __future__ import annotations

import struct

from klasy.plain import TYPE_CHECKING, cached_property

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.kernel.image import KernelImage

_STATIC_CALL = struct.Struct("<2i")  # distance to the call, distance to the key with flags in its low bits
_IN_INIT_TEXT = 2
_JUMP_LABEL = struct.Struct("<2iq")  # distance to the code, to the jump's target, to the key
_FIXUP = struct.Struct("<3i")  # distance to what faults, to where it goes on, and how
_BUG = struct.Struct("<2i2H")  # distance to the ud2, to the file's name, line, flags
_BUG_FLAGS, _IS_WARNING = 10, 1
_MODULE_TABLE = 1 << 16  # bytes read of a module's table, whose length is not published


class PatchSites:
    """The rewritten places of the kernel proper or of a module, in its text. Each kind is read when it is asked for."""

    def __init__(self, kernel: KernelImage, module: str | None) -> None:
        self._kernel = kernel
        self._module = module

    @cached_property
    def static_calls(self) -> frozenset[int]:
        """Where the instructions begin that are static calls."""
        address, data = table(self._kernel, self._module, 0)
        return self._inside(static_calls(data, address))

    @cached_property
    def jump_labels(self) -> frozenset[int]:
        """Where the instructions begin that are jump labels."""
        address, data = table(self._kernel, self._module, 1)
        return self._inside(jump_labels(data, address))

    @cached_property
    def jumps(self) -> dict[int, int]:
        """The jump labels, each with where it leads when it is a jump."""
        address, data = table(self._kernel, self._module, 1)
        targets = _listed(data, address, 4, _JUMP_LABEL.size)
        found = dict(zip(jump_labels(data, address), targets, strict=True))
        return {place: found[place] for place in self._inside(found)}

    @cached_property
    def fixups(self) -> frozenset[int]:
        """Where the kernel goes on after a fault that was to be expected."""
        address, data = table(self._kernel, self._module, 2)
        return self._inside(_listed(data, address, 4, _FIXUP.size))

    @cached_property
    def faulting(self) -> frozenset[int]:
        """The instructions whose faults are to be expected: it goes on elsewhere then."""
        address, data = table(self._kernel, self._module, 2)
        return self._inside(_listed(data, address, 0, _FIXUP.size))

    @cached_property
    def bugs(self) -> frozenset[int]:
        """The ud2 instructions behind which nothing follows: those of BUG(), unlike WARN()'s."""
        address, data = table(self._kernel, self._module, 3)
        places = zip(_listed(data, address, 0, _BUG.size), data[_BUG_FLAGS :: _BUG.size], strict=False)
        return self._inside([place for place, flags in places if not flags & _IS_WARNING])

    def _inside(self, addresses: Iterable[int]) -> frozenset[int]:
        symbols = self._kernel.symbols[self._module]
        text = range(symbols.base, symbols.end)
        return frozenset([address for address in addresses if address in text])


def static_calls(table: bytes, address: int) -> list[int]:
    """The addresses of the calls that a table, which lies at an address, lists; without those in boot-time text.

    The flags are in the low bits of the key's address, not of the distance: a module's table may lie unaligned.
    """
    found = []
    for at, (call, key) in zip(range(address, address + len(table), 8), _STATIC_CALL.iter_unpack(table), strict=True):
        if not (at + 4 + key) & _IN_INIT_TEXT:
            found.append(at + call)
    return found


def jump_labels(table: bytes, address: int) -> list[int]:
    """The addresses of the code that a table, which lies at an address, lists."""
    return _listed(table, address, 0, _JUMP_LABEL.size)


def _listed(table: bytes, address: int, offset: int, size: int) -> list[int]:
    """What the distances lead to that lie at an offset, a multiple of 4, in each whole entry of a table."""
    whole = len(table) - len(table) % size
    distances = memoryview(table[:whole]).cast("i")[offset // 4 :: size // 4]
    return list(map(int.__add__, range(address + offset, address + whole, size), distances))


_TABLES = (
    ("static_call_sites", _STATIC_CALL.size),
    ("__jump_table", _JUMP_LABEL.size),
    ("__ex_table", _FIXUP.size),
    ("__bug_table", _BUG.size),
)
# The symbols at the ends of the kernel proper's.
EDGES = tuple([f"__{edge}_{name}" for name, _ in _TABLES for edge in ("start", "stop")])


def tables(kernel: KernelImage, module: str | None) -> list[tuple[int, bytes]]:
    """Address and bytes of the tables of static calls, jump labels, fixups and bugs; empty where there are none."""
    return [table(kernel, module, which) for which in range(len(_TABLES))]


def table(kernel: KernelImage, module: str | None, which: int) -> tuple[int, bytes]:
    """One of the tables.

    The lengths of a module's are not published: each is read up to where another section begins.
    """
    name, size = _TABLES[which]
    if module is None:
        start, stop = kernel.place(f"__start_{name}"), kernel.place(f"__stop_{name}")
    else:
        start = kernel.module_section(module, name)
        stop = None
        if start is None:
            start = kernel.module_section(module, f".{name}")
        if start is not None:
            behind = [section for section in kernel.module_sections(module).values() if section > start]
            stop = min(start + _MODULE_TABLE, *behind) if behind else start + _MODULE_TABLE
    length = stop - start if start and stop else 0
    length -= length % size
    return start or 0, kernel.read(start, length) if start and length > 0 else b""
