"""A kernel of a few functions given as bytes, with types given as C: enough for the engine, and no real one is needed.

    kernel = MiniKernel(
        "struct item { int a; int b; struct item *next; }; int use(struct item *it);",
        {"use": ["8b 47 04"], "other": ["call use"]},
    )

Functions lie 0x100 bytes apart, in the order given. A line is bytes in hexadecimal, or ``call NAME``, ``jmp NAME``.
"""

from __future__ import annotations

import struct

from klasy.errors import KernelRefused
from klasy.flow import sites
from klasy.flow.index import Index
from klasy.kernel.image import KernelImage
from klasy.kernel.kallsyms import Symbols
from support.fakekernel import CTypes

BASE = 0xFFFF_FFFF_8100_0000
STEP = 0x100


class MiniKernel(KernelImage):
    """See the module's docstring."""

    def __init__(self, declarations, functions, build_id="ab" * 20):
        super().__init__("6.1.0-mini", build_id)
        self.types = CTypes(declarations)
        names = list(functions)
        starts = {name: BASE + STEP * place for place, name in enumerate(names)}
        text = bytearray()
        for name, lines in functions.items():
            code = bytearray()
            for line in lines:
                word, _, rest = line.partition(" ")
                if word in ("call", "jmp"):
                    target = starts[rest.strip()] - (starts[name] + len(code) + 5)
                    code += (b"\xe8" if word == "call" else b"\xe9") + struct.pack("<i", target)
                else:
                    code += bytes.fromhex(line.split("#")[0])
            assert len(code) <= STEP
            text += bytes(code) + b"\xcc" * (STEP - len(code))
        self._text = bytes(text)
        addresses = [starts[name] for name in names]
        self._symbols = Symbols.build(BASE, addresses, [a + STEP for a in addresses], [n.encode() for n in names])

    @property
    def symbols(self):
        return {None: self._symbols}

    def read(self, address, size):
        if not BASE <= address <= address + size <= BASE + len(self._text):
            raise KernelRefused(f"read {address:#x}", 14)
        return self._text[address - BASE : address - BASE + size]

    def load_btf(self, module, base):
        return self.types.btf if module is None else None

    def place(self, name):
        return None

    def module_sections(self, module):
        return {}

    def data_symbols(self, pattern):
        return []

    def blacklist(self):
        return b""

    def member(self, text):
        """``item.next``: the member of a struct."""
        return sites.kernel_member(self, *text.split(".", 1))

    def ask(self, *members, whole=True, **options):
        """The sites of some members."""
        options.setdefault("use_cache", False)
        options.setdefault("processes", 1)
        return Index(self, **options).accesses([self.member(m) for m in members], whole=whole)


def lines(found):
    """Sites as short texts: where, how, which members."""
    return [
        f"{site.function.name}+{site.offset:#x} {site.kind} {','.join(m.path for m in site.members)}"
        for site in found.accesses
    ]
