"""Variables of the kernel and its modules by their addresses. No join point needs that; what ``%pS`` is given does."""

from __future__ import annotations

from klasy.kernel import kallsyms
from klasy.kernel.arch_x86_64 import IMAGE
from klasy.kernel.model import DataSymbol
from klasy.plain import TYPE_CHECKING, cached_property

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.kernel.kallsyms import Symbols


class DataMap:
    """All variables but per-CPU ones. The listing is read when an address is first asked for that may be one's."""

    def __init__(self, listing: Callable[[], bytes]) -> None:
        self._listing = listing

    @cached_property
    def tables(self) -> Mapping[str | None, Symbols]:
        """The variables of the kernel proper (None) and of each module."""
        return kallsyms.data_tables(self._listing())

    def at(self, address: int) -> DataSymbol | None:
        """The variable that holds an address."""
        return variable_in(self.tables, address) if address >= IMAGE else None


def variable_in(tables: Mapping[str | None, Symbols], address: int) -> DataSymbol | None:
    """The variable that holds an address, by tables of symbols; of several names of one the kernel's first."""
    found = kallsyms.holding(tables, address)
    if found is None:
        return None
    module, table, index = found
    return DataSymbol(table.name(index), table.address(index), table.sizes[index], module, False)
