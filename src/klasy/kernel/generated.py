"""Code that the kernel has made while it runs: BPF's programs and trampolines, ftrace's, copies of probed instructions.

No join points are there, but stacks lead through it.
"""

from __future__ import annotations

import time

from klasy.kernel import kallsyms
from klasy.kernel.arch_x86_64 import MODULES
from klasy.kernel.model import Clone, Function
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.kernel.kallsyms import Symbols

_SECONDS = 1.0  # between two readings of the listing, which takes a tenth of it


class GeneratedCode:
    """It comes and goes, and nothing tells its sizes: what was there is no answer to what is, where something else may
    have taken its room. So the listing is read anew when an address is asked for, but not all the time.
    """

    def __init__(self, listing: Callable[[], bytes]) -> None:
        self._listing = listing
        self._tables: Mapping[str | None, Symbols] = {}
        self._next = 0.0

    def tables(self) -> Mapping[str | None, Symbols]:
        """What there is now, by who made it."""
        self._tables = kallsyms.generated_symbols(self._listing())
        self._next = time.monotonic() + _SECONDS
        return self._tables

    def function_at(self, address: int) -> Function | None:
        """The piece of code that holds an address, with who made it as its module."""
        if address < MODULES:
            return None
        if time.monotonic() >= self._next:
            self.tables()
        return function_in(self._tables, address)


def function_in(tables: Mapping[str | None, Symbols], address: int) -> Function | None:
    """The function whose text holds an address, by tables of symbols."""
    found = kallsyms.holding(tables, address)
    if found is None:
        return None
    module, table, index = found
    name = table.name(index)
    return Function(name, table.address(index), table.sizes[index], module, name, Clone.NONE, 1)
