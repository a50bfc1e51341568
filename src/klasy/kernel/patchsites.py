"""The places in text that the kernel itself rewrites as it runs, and where it therefore lets no probe be put.

Static calls are direct calls whose target is changed by rewriting them (include/linux/static_call_types.h); jump
labels are no-operations that become jumps (include/linux/jump_label.h). Both are listed in tables of distances.
"""

from __future__ import annotations

import struct
from operator import add

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.kernel.image import KernelImage

_STATIC_CALL = struct.Struct("<2i")  # distance to the call, distance to the key with flags in its low bits
_IN_INIT_TEXT = 2
_JUMP_LABEL = struct.Struct("<2iq")  # distance to the code, to the jump's target, to the key
_MODULE_TABLE = 1 << 16  # bytes read of a module's table, whose length is not published


class PatchSites:
    """The rewritten places of one object: where the instructions begin that are static calls, and jump labels."""

    def __init__(self, calls: Iterable[int], labels: Iterable[int]) -> None:
        self.static_calls = frozenset(calls)
        self.jump_labels = frozenset(labels)


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
    distances = memoryview(table[: len(table) & -16]).cast("i")[:: _JUMP_LABEL.size // 4]
    return list(map(add, range(address, address + len(table), _JUMP_LABEL.size), distances))


_TABLES = (("static_call_sites", _STATIC_CALL.size), ("__jump_table", _JUMP_LABEL.size))


def tables(kernel: KernelImage, module: str | None) -> list[tuple[int, bytes]]:
    """Address and bytes of the table of static calls and of that of jump labels; both empty where there are none.

    The lengths of a module's are not published: each is read up to where another section begins.
    """
    found = []
    sections = kernel.module_sections(module) if module else {}
    for name, size in _TABLES:
        if module is None:
            start, stop = kernel.place(f"__start_{name}"), kernel.place(f"__stop_{name}")
        else:
            start = sections.get(name, sections.get(f".{name}"))
            behind = [section for section in sections.values() if start is not None and section > start]
            stop = min((start or 0) + _MODULE_TABLE, *behind) if behind else (start or 0) + _MODULE_TABLE
        length = stop - start if start and stop else 0
        length -= length % size
        found.append((start or 0, kernel.read(start, length) if start and length > 0 else b""))
    return found


def patch_sites(kernel: KernelImage, module: str | None) -> PatchSites:
    """The rewritten places of the kernel proper or of a module; what does not lie in its text is left out."""
    (calls_at, calls), (labels_at, labels) = tables(kernel, module)
    symbols = kernel.symbols[module]
    inside = range(symbols.base, symbols.end)
    return PatchSites(
        [address for address in static_calls(calls, calls_at) if address in inside],
        [address for address in jump_labels(labels, labels_at) if address in inside],
    )
