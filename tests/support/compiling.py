"""Compiles the text of an aspect against a fake kernel and runs what comes out in the IR's interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.compiler import Compiled, compile_plan
from klasy.compiler.ireval import Outcome, World, run
from klasy.diag import render
from klasy.errors import InputError
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.source import SourceFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.compiler.ir import Program
    from klasy.kernel.model import Kernel
    from klasy.match.options import PlanOptions
    from klasy.record import Field, Format

BASE = 0xFFFF_8880_1234_5000  # where the memory of these tests lies
CONTEXT = {  # what the kernel's helpers answer there
    "now": 12345,
    "pid_tgid": (42 << 32) | 43,
    "uid_gid": (7 << 32) | 1000,
    "cpu": 1,
    "cgroup": 99,
    "task": 0xFFFF_8880_0000_1000,
}


def compile_text(text: str, kernel: Kernel, options: PlanOptions | None = None) -> Compiled:
    """Compile the one aspect of a text."""
    (aspect,) = load(SourceFile("test.asp", text))
    plan = plan_aspect(aspect, kernel, options) if options else plan_aspect(aspect, kernel)
    return compile_plan(plan, kernel)


def errors_of(text: str, kernel: Kernel) -> str:
    """What compiling a text reports, rendered; empty where it is sound."""
    try:
        compiled = compile_text(text, kernel)
    except InputError as error:
        return "\n".join(render(diagnostic) for diagnostic in error.diagnostics)
    return "\n".join(render(diagnostic) for diagnostic in compiled.diagnostics)


def memory_world(memory: bytes, arguments: Sequence[int] = (BASE,), base: int = BASE) -> World:
    """A world in which ``memory`` lies at ``base`` and nothing else can be read."""

    def read(address: int, size: int) -> bytes | None:
        start = address - base
        return memory[start : start + size] if start >= 0 and start + size <= len(memory) else None

    return World(read, arguments, 0, CONTEXT, b"bash", [0] * 8)


def logged(compiled: Compiled, program: Program, world: World) -> list[list[int | bytes]]:
    """Run a program; the values of each record it wrote, numbers for numeric fields, bytes for the others."""
    outcome = run(program, world)
    return [values_of(compiled.formats[record.format], record.data) for record in outcome.logged]


def outcome_of(program: Program, world: World) -> Outcome:
    """Run a program."""
    return run(program, world)


def values_of(form: Format, data: bytes) -> list[int | bytes]:
    """The values of a record."""
    return [_value(field, data) for field in form.fields]


def _value(field: Field, data: bytes) -> int | bytes:
    raw = data[field.offset : field.offset + field.size]
    if field.kind in ("string", "bytes", "object", "joinpoint"):
        return raw
    return int.from_bytes(raw, "little", signed=field.signed)
