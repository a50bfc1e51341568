"""The text of instructions, for people. The only user of capstone, which is dear to import: see ``decode``."""

from __future__ import annotations

from functools import cache

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    import capstone


@cache
def _disassembler() -> capstone.Cs:
    import capstone

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def text(code: bytes, address: int) -> str:
    """The first instruction of ``code``, which lies at an address, as Intel writes it; "(bad)" where there is none."""
    for _, _, mnemonic, operands in _disassembler().disasm_lite(code, address, 1):
        return f"{mnemonic} {operands}".strip()
    return "(bad)"
