"""Assembled programs: what the assembler gives and the kernel is given, once it is known which maps they use."""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.bpf.insn import Instruction


class Relocation(NamedTuple):
    """The descriptor of map ``name`` goes into the constant of the instruction at ``slot``."""

    slot: int
    name: str


class Assembled(NamedTuple):
    """A program, all but for the descriptors of its maps.

    ``code`` is 8 bytes a slot. ``instructions`` are those it was made from, labels and all, for printing. The
    verifier, the kernel's line information and ``metadata`` count in slots, where a 64-bit constant takes two.
    """

    code: bytes
    relocations: tuple[Relocation, ...]
    instructions: tuple[Instruction, ...]
    #: what the instruction at each slot had as its metadata
    metadata: tuple[object, ...]
    #: first slot of each subprogram, in the order of the code; the main program, which starts at 0, has no name
    subprograms: tuple[tuple[str, int], ...]

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the maps the program refers to, each once, in the order of first use."""
        return tuple(dict.fromkeys(relocation.name for relocation in self.relocations))

    @property
    def has_callbacks(self) -> bool:
        """Whether it hands a function of its own to a helper, which the kernel asks the functions' types for."""
        return bool(self.subprograms) and any(instruction.is_function_load for instruction in self.instructions)

    def link(self, descriptors: Mapping[str, int]) -> bytes:
        """The code with a descriptor for each map; KeyError if one is missing."""
        code = bytearray(self.code)
        for slot, name in self.relocations:
            at = slot * 8 + 4
            code[at : at + 4] = descriptors[name].to_bytes(4, "little")
        return bytes(code)
