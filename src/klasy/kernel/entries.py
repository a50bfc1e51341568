"""Why kprobes cannot be put at the entries of functions, for thousands of them at once.

What is asked of each is what :mod:`klasy.kernel.traceable` asks, which also answers wherever the tables do not settle
it. They do where a function has one name, which is no copy's or piece's: if the blacklist covers it; if ftrace does not
list it; and if ftrace lists it by a name that no other function of its object has, and its text begins with a hook.
That text is read in few large pieces.
"""

from __future__ import annotations

from bisect import bisect_right

from klasy.errors import SystemRefusal
from klasy.kernel import arch_x86_64 as arch
from klasy.kernel import traceable
from klasy.kernel.model import Way
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from klasy.kernel.image import KernelImage
    from klasy.kernel.kallsyms import Symbols
    from klasy.kernel.model import Function, Refusal

_GAP = 1 << 15  # bytes between two entries that are read along rather than left out: as long as one more call takes


def entry_refusals(kernel: KernelImage, functions: Iterable[Function]) -> dict[int, Refusal | None]:
    """The answers of ``kernel.refusal`` for kprobes at the entries of functions, by address."""
    found: dict[int, Refusal | None] = {}
    by_module: dict[str | None, list[Function]] = {}
    for function in functions:
        by_module.setdefault(function.module, []).append(function)
    listed = kernel.traceability.listed
    for module, here in by_module.items():
        traced = []
        for function, hooked in _plain(kernel.symbols[module], here):
            address = function.address
            if listed(address):
                found[address] = traceable.BLACKLIST
            elif not hooked:
                found[address] = traceable.NOTRACE
            else:
                traced.append(function)
        hooks: dict[bytes, bool] = {}
        for function, code in zip(traced, _codes(kernel, traced), strict=True):
            known = hooks.get(code)
            if known is None:
                known = hooks[code] = arch.ftrace_offset(code) is not None
            if known:
                found[function.address] = None
        for function in here:
            if function.address not in found:
                found[function.address] = kernel.refusal(function.address, function, Way.KPROBE)
    return found


def _plain(symbols: Symbols, functions: Sequence[Function]) -> list[tuple[Function, bool]]:
    """The functions of an object that its tables settle, by address, with whether ftrace lists them.

    They have one name, and those that ftrace lists share it with nobody. Of several names of one place, and of the
    compiler's copies and pieces, more is to be asked.
    """
    listed = symbols.listed
    if listed is None:
        return []
    base, starts, shares, sizes = symbols.base, symbols.starts.tolist(), symbols.shares, symbols.sizes
    found = []
    for function in sorted(functions, key=lambda function: function.address):
        start = function.address - base
        index = bisect_right(starts, start) - 1
        if (
            starts[index] == start
            and (index == 0 or starts[index - 1] != start)
            and sizes[index] >= arch.ENTRY_BYTES
            and (not listed[index] or shares[index] == 1)
            and "." not in function.name
        ):
            found.append((function, bool(listed[index])))
    return found


def _codes(kernel: KernelImage, functions: Sequence[Function]) -> Iterator[bytes]:
    """The first bytes of functions, which are given by address."""
    size = arch.ENTRY_BYTES
    first = 0
    while first < len(functions):
        begin = end = functions[first].address
        behind = first
        while behind < len(functions) and functions[behind].address - end <= _GAP:
            end = functions[behind].address + size
            behind += 1
        here = functions[first:behind]
        try:
            text = kernel.text(begin, end - begin)
            yield from [text[f.address - begin : f.address - begin + size] for f in here]
        except SystemRefusal:  # what lies between them cannot be read: a snapshot has no more than they
            yield from [kernel.text(function.address, size) for function in here]
        first = behind
