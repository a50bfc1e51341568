"""From checked IR to an artifact: programs, maps and record formats. Pure: no system calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.backend.maps import Options, shared_maps

if TYPE_CHECKING:
    from klasy.backend.artifact import Artifact
    from klasy.compiler import Compiled
    from klasy.match.plan import Plan

__all__ = ["Options", "generate", "show"]


def generate(plan: Plan, compiled: Compiled, options: Options = Options()) -> Artifact:  # noqa: B008  # frozen
    """The artifact of a compiled plan. Deterministic. Raises InputError where an advice is too large for BPF."""
    from klasy.backend.artifact import Artifact
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emit import generate_program

    counters = Counters(plan)
    generated = [generate_program(plan, program, counters) for program in compiled.programs]
    used = frozenset().union(*(each.shared for each in generated))
    maps = shared_maps(plan, used, options)
    maps += [spec for each in generated for spec in each.maps]
    return Artifact(plan, tuple(maps), tuple(each.spec for each in generated), compiled.formats)


def show(artifact: Artifact) -> str:
    """The programs of an artifact as text: instructions, with the source line each stems from above them."""
    from klasy.backend.listing import render

    return render(artifact)
