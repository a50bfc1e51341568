"""Code that stacks lead through and where no join points are: what the kernel has made while it ran (BPF's programs and
trampolines, ftrace's, copies of probed instructions), modules loaded since it was looked, and the code that started the
kernel, which the idle task of the first CPU is for ever to return to.
"""

from __future__ import annotations

import time

from klasy.kernel import kallsyms
from klasy.kernel.arch_x86_64 import IMAGE, MODULES
from klasy.kernel.model import Clone, Function
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.kernel.kallsyms import Symbols

_SECONDS = 1.0  # between two readings of the listing
_SHARE = 20  # and so many times what the last one took: a busy reader has other things to do


INIT_TEXT = ".init.text"
"""What stands where a function's module does for one that started the kernel: the section, as perf says it."""


class GeneratedCode:
    """Most of it comes and goes, and nothing tells its sizes: what was there is no answer to what is, where something
    else may have taken its room. So the listing is read anew when an address is asked for, but not all the time.
    """

    def __init__(
        self, listing: Callable[[], bytes], loaded_since: Callable[[], Mapping[str, int]] = lambda: {}
    ) -> None:
        """``loaded_since()`` tells where the text of the modules begins that others do not know."""
        self._listing, self._loaded_since = listing, loaded_since
        self._tables: Mapping[str | None, Symbols] = {}
        self._next = 0.0

    def tables(self) -> Mapping[str | None, Symbols]:
        """What there is now, by who made it."""
        start = time.monotonic()
        since, listing = self._loaded_since(), self._listing()
        tables: dict[str | None, Symbols] = {}
        if since:
            tables.update(kallsyms.module_symbols(listing, since))
        if (starting := kallsyms.init_symbols(listing)) is not None:
            tables[INIT_TEXT] = starting
        tables.update(kallsyms.generated_symbols(listing))  # behind: nothing tells where that ends
        self._tables = tables
        end = time.monotonic()
        self._next = end + max(_SECONDS, _SHARE * (end - start))
        return self._tables

    def function_at(self, address: int) -> Function | None:
        """The function or piece of code that holds an address, with who made it, or INIT_TEXT, as its module."""
        if address < IMAGE:
            return None
        if not self._next or (address >= MODULES and time.monotonic() >= self._next):
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
