"""Builds small IR programs by hand, for tests of what works on IR."""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.builder import Builder
from klasy.compiler.ir import Operand, Program
from klasy.compiler.ireval import World, run
from klasy.record import HEADER_SIZE


def program() -> tuple[Program, Builder]:
    """An empty program with its entry begun."""
    made = Program("test", 0)
    build = Builder(made)
    build.begin(build.block())
    return made, build


def emit(build: Builder, *values: Operand, faults: ir.Var | None = None) -> None:
    """Write values, 8 bytes each, as a record of join point 0."""
    parts = tuple(ir.StoreField(HEADER_SIZE + 8 * i, 8, value) for i, value in enumerate(values))
    build.add(ir.Emit(0, HEADER_SIZE + 8 * len(values), 0, parts, faults))


def emitted(made: Program, world: World | None = None) -> list[list[int]]:
    """The 8-byte values of each record a program writes."""
    records = run(made, world or World()).logged
    return [
        [int.from_bytes(r.data[at : at + 8], "little") for at in range(HEADER_SIZE, len(r.data), 8)] for r in records
    ]
