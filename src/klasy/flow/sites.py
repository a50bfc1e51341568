"""What the engine hands to the layers above: the members asked for, and the instructions that access them."""

from __future__ import annotations

from klasy.btf import walk
from klasy.btf.types import Struct
from klasy.errors import KernelLacks
from klasy.flow import decode as d
from klasy.kernel import insn_x86_64 as insn
from klasy.plain import TYPE_CHECKING, NamedTuple, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.btf.btf import Btf
    from klasy.flow.decode import Op
    from klasy.kernel.image import KernelImage
    from klasy.kernel.model import Function

PROVED, GIVEN, AROUND = 3, 2, 1
CONFIDENCE = {PROVED: "proved", GIVEN: "given", AROUND: "around"}
"""How a type was found: PROVED forward from prototypes, per-CPU variables and pointer members; GIVEN because the value
is given to a parameter, result or member of that type; AROUND as the only fitting object around a known part."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member asked for: ``struct`` is the id of the struct or union it is sought in, ``path`` its name there.

    ``bit_offset`` and ``bits`` are from the struct's start. ``module``: whose BTF the id is of, None for the kernel's.
    """

    module: str | None
    struct: int
    struct_name: str
    path: str
    bit_offset: int
    bits: int
    type_id: int

    @property
    def offset(self) -> int:
        """Offset in bytes of the byte that holds the first bit."""
        return self.bit_offset // 8

    @property
    def end(self) -> int:
        """Offset of the byte behind the last."""
        return (self.bit_offset + self.bits + 7) // 8

    def __str__(self) -> str:
        return f"{self.struct_name}.{self.path}"


def member(btf: Btf, struct: int, path: str, module: str | None = None) -> Member:
    """The member of a struct or union that a path (``a.b.c``) names. Raises KernelLacks where there is none."""
    here, offset, bits = btf.resolve(struct), 0, 0
    type_id = here
    for name in path.split("."):
        place = walk.find_member(btf, type_id, name)
        if place is None:
            raise KernelLacks(f"{btf.c_name(type_id)} has no member {name}")
        offset += place.bit_offset
        bits = place.bitfield_size
        type_id = place.type_id
    return Member(module, here, btf.c_name(here), path, offset, bits or 8 * btf.size_of(type_id), type_id)


@dataclass(frozen=True, slots=True)
class Access:
    """One instruction that reads or writes members.

    The object's address is the register ``base`` minus ``base_offset``, before the instruction; where ``indexed`` is
    True only if the member lies in no array of structs, which then must be taken from the effective address: the
    value of ``index`` (a register, or NONE) times ``scale`` is to be added. ``per_cpu``: relative to this CPU's base.
    ``source``: of a plain store, the register's number, or ("immediate", value); else None. ``touched``: mask of the
    operand's bits that are read or written, where the instruction says so. ``width`` in bytes.
    """

    address: int
    length: int
    function: Function
    code: bytes
    reads: bool
    writes: bool
    width: int
    members: tuple[Member, ...]
    base: int
    base_offset: int
    index: int
    scale: int
    per_cpu: bool
    source: int | tuple[str, int] | None
    touched: int
    confidence: int
    derivation: str
    placed_in: str
    place_offset: int

    @property
    def offset(self) -> int:
        """Bytes from the function's entry."""
        return self.address - self.function.address

    @property
    def base_register(self) -> str | None:
        """Name of the register that holds the object's address, as ``arch_x86_64`` has it."""
        return d.REGISTERS[self.base] if 0 <= self.base < 16 else None

    @property
    def kind(self) -> str:
        """ "read", "write" or "both"."""
        return "both" if self.reads and self.writes else "write" if self.writes else "read"

    @property
    def words(self) -> str:
        """What it does, as a person reads it."""
        return {"both": "read and write"}.get(self.kind, self.kind)

    @property
    def disassembly(self) -> str:
        """The instruction as Intel writes it."""
        from klasy.flow import disasm

        return disasm.text(self.code, self.address)


class Unknown(NamedTuple):
    """An instruction that accesses an object of unknown type, at an offset that fits a member asked for."""

    address: int
    reads: bool
    writes: bool


@dataclass(frozen=True, slots=True)
class Sites:
    """The accesses found, by address; an instruction that copies from one object to another is there for each.

    ``unknown``: instructions that access a fitting offset of an object whose type is not known, one each.
    ``functions``: how many functions were looked at, of how many.
    """

    accesses: Sequence[Access]
    unknown: Sequence[Unknown]
    functions: int
    of: int = field(default=0)

    @property
    def untyped(self) -> int:
        """How many instructions access a fitting offset of an unknown object."""
        return len(self.unknown)


def source_of(op: Op) -> int | tuple[str, int] | None:
    """What a plain store stores: a register, or an immediate."""
    if op[0] != d.STORE:
        return None
    return op[3] if op[3] >= 0 else ("immediate", op[5])


_GROUP1 = frozenset((0x80, 0x81, 0x83))


def touched_bits(code: bytes, op: Op) -> int:
    """Which bits of its memory operand an instruction tests or changes, by its immediate; -1: all of them."""
    at = insn.opcode_offset(code, 0)
    first = code[at]
    mask = (1 << 8 * op[1]) - 1
    if first in _GROUP1:
        what = code[at + 1] >> 3 & 7
        size = (2 if code[:at].count(0x66) else 4) if first == 0x81 else 1
        immediate = int.from_bytes(code[-size:], "little", signed=True) & mask
        if what in (1, 6):
            return immediate
        return ~immediate & mask if what == 4 else -1
    if first in (0xF6, 0xF7) and code[at + 1] >> 3 & 7 < 2:
        size = 1 if first == 0xF6 else min(op[1], 4)
        return int.from_bytes(code[-size:], "little", signed=True) & mask
    if first == 0x0F and code[at + 1] == 0xBA:
        return 1 << (code[-1] & (8 * op[1] - 1))
    return -1


def covers(wanted: Member, at: int, width: int, touched: int) -> bool:
    """Whether an access of ``width`` bytes at an offset of the wanted struct is one of the member."""
    low, high = 8 * at, 8 * (at + width)
    if wanted.bit_offset >= high or wanted.bit_offset + wanted.bits <= low:
        return False
    if touched < 0:
        return True
    bits = ((1 << wanted.bits) - 1) << wanted.bit_offset
    return bool(touched << low & bits)


def kernel_member(kernel: KernelImage, struct: str, path: str) -> Member:
    """The member of a struct of the kernel proper, by names. Raises KernelLacks where there is no such."""
    found = kernel.btf.find(struct, Struct)
    if not found:
        raise KernelLacks(f"this kernel has no struct {struct}")
    return member(kernel.btf, found[0], path)
