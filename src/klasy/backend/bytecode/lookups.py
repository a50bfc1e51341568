"""Tables of constants by a number: in maps whose values programs can reach without a call, and only read."""

from __future__ import annotations

from klasy.backend.artifact import MapSpec
from klasy.backend.bytecode.emitter import OUT
from klasy.bpf import uapi
from klasy.bpf.insn import R0, R1, add, jump_if, load, load_map_value, lsh
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.compiler import ir

_WORD = 8  # what the size of a value is a multiple of


class Lookups:
    """The tables of one program, each there once."""

    def __init__(self, probe: int) -> None:
        self._probe = probe
        self._names: dict[tuple[int, ...], str] = {}

    def emit(self, e: Emitter, op: ir.Lookup) -> None:
        """Emit a Lookup. The verifier wants to see that the place is in the table, and so the program looks."""
        width = _width(op.table)
        e.into(R0, op.index)
        e.asm.emit(jump_if(R0, ">=", len(op.table), OUT))
        if width > 1:
            e.asm.emit(lsh(R0, width.bit_length() - 1))
        register = e.result(op.dst)
        e.asm.emit(load_map_value(R1, self._name(op.table), 0), add(R1, R0), load(register, R1, 0, width))
        e.keep(op.dst, register)

    def _name(self, table: tuple[int, ...]) -> str:
        return self._names.setdefault(table, f"look{self._probe}_{len(self._names)}")

    def maps(self) -> list[MapSpec]:
        """The maps that hold them; after all is emitted."""
        return [_spec(name, table) for table, name in self._names.items()]


def _width(table: tuple[int, ...]) -> int:
    """Bytes that each number takes."""
    return next(width for width in (1, 2, 4) if max(table) < 1 << 8 * width)


def _spec(name: str, table: tuple[int, ...]) -> MapSpec:
    width = _width(table)
    value = b"".join(number.to_bytes(width, "little") for number in table)
    value += bytes(-len(value) % _WORD)
    first = ((bytes(4), value),)
    return MapSpec(name, "array", 4, len(value), 1, uapi.BPF_F_RDONLY_PROG, first, frozen=True)
