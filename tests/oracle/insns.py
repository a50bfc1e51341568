"""Which instruction made an access: the one that ends where the trap was taken; read or write by capstone's account.

Nothing here is shared with klasy's own decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import capstone
from capstone import x86

from oracle.kmem import KernelMemory, Symbols
from oracle.perf import REGISTERS

_WIDE = {
    **{name: (name[1:], 8) for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")},
    **{name: (name[1:], 4) for name in ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp")},
    **{f"r{n}": (f"r{n}", 8) for n in range(8, 16)},
    **{f"r{n}d": (f"r{n}", 4) for n in range(8, 16)},
}
_STRING = ("movs", "stos", "lods", "cmps", "scas")


@dataclass
class Insn:
    """One instruction and what it does to memory."""

    address: int
    size: int
    text: str
    raw: str
    kind: str = ""  # r, w, rw; "" no memory operand
    width: int = 0
    base: str = ""
    index: str = ""
    scale: int = 1
    displacement: int = 0
    segment: str = ""
    is_string: bool = False
    is_repeated: bool = False
    written: frozenset[str] = field(default_factory=frozenset)  # registers it changes, as in perf.REGISTERS


class Disassembler:
    """Instructions of live functions, each function decoded from its start."""

    def __init__(self, memory: KernelMemory, symbols: Symbols) -> None:
        self.memory, self.symbols = memory, symbols
        self.engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self.engine.detail = True
        self._bounds: dict[int, list[tuple[int, int]]] = {}
        self._code: dict[int, bytes] = {}

    def bounds(self, address: int) -> list[tuple[int, int]]:
        """Start and size of every instruction of the function that holds an address, as far as they can be decoded."""
        start, end, _name, _module = self.symbols.function(address)
        if start not in self._bounds:
            code = self.memory.read(start, min(end - start, 1 << 17))
            self._code[start] = code
            self._bounds[start] = [(at, size) for at, size, _, _ in self.engine.disasm_lite(code, start)]
        return self._bounds[start]

    def near(self, ip: int, before: int) -> tuple[list[str], Insn | None, Insn | None]:
        """What precedes the instruction that ends at ``ip`` (as text), that one, and the one that begins there."""
        bounds = self.bounds(ip - 1)
        ending = next((at for at, (start, size) in enumerate(bounds) if start + size == ip), None)
        if ending is None:
            return [], None, None
        first, start = bounds[0][0], bounds[max(0, ending - before)][0]
        code = self._code[first]
        context = [
            f"{at - first:#x} {name} {operands}".rstrip()
            for at, _, name, operands in self.engine.disasm_lite(code[start - first : bounds[ending][0] - first], start)
        ]
        offset = bounds[ending][0] - first
        here = [self._convert(insn) for insn in self.engine.disasm(code[offset:], first + offset, 2)]
        return context, here[0], here[1] if len(here) > 1 else None

    def _convert(self, found: capstone.CsInsn) -> Insn:
        insn = Insn(found.address, found.size, f"{found.mnemonic} {found.op_str}".strip(), bytes(found.bytes).hex())
        name = found.mnemonic.split()[-1]
        insn.is_repeated = found.mnemonic.startswith("rep") or (found.prefix[0] in {0xF2, 0xF3} and name[:4] in _STRING)
        insn.is_string = name[:4] in _STRING and name[4:] in {"b", "w", "d", "q"}
        if found.mnemonic in {"nop", "lea", "prefetcht0", "prefetcht1", "prefetchnta", "prefetchw"}:
            return insn
        kinds = ""
        for operand in found.operands:
            if operand.type != x86.X86_OP_MEM:
                continue
            if operand.access & capstone.CS_AC_READ:
                kinds += "r"
            if operand.access & capstone.CS_AC_WRITE:
                kinds += "w"
            memory = operand.mem
            insn.base = _WIDE.get(found.reg_name(memory.base) or "", ("", 0))[0] if memory.base else ""
            if memory.base == x86.X86_REG_RIP:
                insn.base = "rip"
            insn.index = _WIDE.get(found.reg_name(memory.index) or "", ("", 0))[0] if memory.index else ""
            insn.scale, insn.displacement, insn.width = memory.scale, memory.disp, operand.size
            insn.segment = found.reg_name(memory.segment) or "" if memory.segment else ""
        insn.kind = "".join(letter for letter in "rw" if letter in kinds)
        if name.startswith("mov") and found.operands[0].type == x86.X86_OP_MEM and not insn.is_string:
            insn.kind = "w"  # of SSE's stores capstone 5 says that they read
        if "cmpxchg" in found.mnemonic and insn.kind:
            insn.kind = "rw"  # capstone 5 says it only reads; the processor always writes back (SDM, CMPXCHG)
        written = set()
        for register in found.regs_access()[1]:
            wide = _widest(found.reg_name(register))
            if wide:
                written.add(wide)
        insn.written = frozenset(written)
        return insn


def _widest(name: str) -> str:
    if name in _WIDE:
        return _WIDE[name][0]
    if name[:1] == "r" and name[1:-1].isdigit():
        return name[:-1]
    if name in {"al", "ah", "bl", "bh", "cl", "ch", "dl", "dh"}:
        return name[0] + "x"
    if name in {"ax", "bx", "cx", "dx", "si", "di", "bp", "sp"}:
        return name
    if name in {"sil", "dil", "bpl", "spl"}:
        return name[:2]
    return ""


def covered(insn: Insn, registers: tuple[int, ...], watched: int, length: int) -> str | None:
    """How an instruction with these registers behind it touched the watched bytes: r, w, rw; None: it did not.

    "" where the registers do not tell.
    """
    if not insn.kind:
        return None
    named = dict(zip(REGISTERS, registers, strict=True))
    if insn.is_string:  # the pointers have moved on by one element, in either direction
        sides = {"si": "r" * ("r" in insn.kind), "di": "w" if "w" in insn.kind else "r"}
        found = ""
        for pointer, side in sides.items():
            for back in (insn.width, -insn.width):
                if _overlap(named[pointer] - back, insn.width, watched, length):
                    found += side
        return "".join(sorted(set(found))) or None
    address = _address(insn, named)
    if address is None or insn.text.startswith(("bt ", "bts", "btr", "btc", "lock bt")):
        return ""  # the bit number in a register reaches beyond the operand
    return insn.kind if _overlap(address, insn.width, watched, length) else None


def emulators_fault(insn: Insn, registers: tuple[int, ...], watched: int, length: int) -> bool:
    """Whether what QEMU 7.2 makes of unaligned accesses explains the hit (accel/tcg/cputlb.c).

    An unaligned store within a page is taken for one that reaches up to it from the page's start
    (store_helper_unaligned); an unaligned load is made of the two aligned ones around it (load_helper).
    """
    if not insn.kind:  # it accesses no memory: the trap came late
        return False
    address = _address(insn, dict(zip(REGISTERS, registers, strict=True)))
    if address is None or not address % insn.width:
        return False
    if "w" in insn.kind and address >> 12 == watched >> 12 and watched < address:
        return True
    return "r" in insn.kind and _overlap(address - address % insn.width, 2 * insn.width, watched, length)


def _address(insn: Insn, named: dict[str, int]) -> int | None:
    """The operand's address by the registers behind the instruction; None where they are not those it used."""
    if insn.segment in {"gs", "fs"} or insn.base == "rip" or insn.is_string:
        return None
    if insn.text.startswith(("push", "pop", "call", "jmp", "ret")):
        return None
    if insn.base in insn.written or (insn.index and insn.index in insn.written):
        return None
    address = insn.displacement + (named[insn.base] if insn.base else 0)
    address += named[insn.index] * insn.scale if insn.index else 0
    return address & (1 << 64) - 1


def _overlap(one: int, one_size: int, other: int, other_size: int) -> bool:
    return one < other + other_size and other < one + one_size
