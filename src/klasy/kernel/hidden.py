"""The running kernel as who may not see addresses sees it: names and types, and no more.

/proc/kallsyms shows an ordinary user the names of all symbols with zeros for their addresses, and /sys/kernel/btf the
types. That is enough to tell whether functions of a name and a prototype exist; where they lie, who calls them and
whether they can be probed it does not tell.
"""

from __future__ import annotations

import re

from klasy.kernel.live import LiveKernel
from klasy.kernel.proc import contents
from klasy.plain import cached_property

_SPACING = 16  # bytes: as functions are aligned
_FIRST = 0xFFFF_FFFF_8000_0000
_MODULE = re.compile(rb"\t\[(\w+)\]$")


class NamesOnly(LiveKernel):
    """The running kernel with addresses made up, one for each symbol, in the kernel's own order."""

    def __init__(self, proc: str = "/proc", sys: str = "/sys") -> None:
        super().__init__(proc, sys, use_cache=False)
        self._modules_at: dict[str, int] = {}

    @cached_property
    def listing(self) -> bytes:
        """/proc/kallsyms with made-up addresses."""
        with self._open_listing() as file:
            lines = file.readall().splitlines()
        made = []
        address = _FIRST
        for line in lines:
            address += _SPACING
            made.append(b"%016x%s" % (address, line[line.index(b" ") :]))
            module = _MODULE.search(line)
            if module:
                self._modules_at.setdefault(module[1].decode(), address)
        return b"\n".join(made) + b"\n"

    @cached_property
    def _module_bases(self) -> dict[str, int]:
        _ = self.listing
        # The listing has BPF programs and the like as modules, too; a kernel without modules has no such file.
        loaded = {line.split()[0].decode() for line in contents(f"{self._proc}/modules").splitlines()}
        return {module: address for module, address in self._modules_at.items() if module in loaded}
