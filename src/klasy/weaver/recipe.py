"""What a weave takes of an artifact: maps, programs, where these are hung, and what its registry entry says.

An artifact holds the plan with the aspect's trees and the types of the kernel besides: to explain errors, to show code.
What was woven before is kept without these, as plain data, and comes back as a recipe that is as good: so to weave it
again takes neither the classes of trees and plans nor the making of their objects.
"""

from __future__ import annotations

from klasy.backend.artifact import MapSpec, ProgramSpec
from klasy.bpf.assembled import Assembled, Relocation
from klasy.match.mechanism import IN_PROGRAMS, Context, Mechanism
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

    from klasy.backend.artifact import Artifact, TracepointSpec
    from klasy.kernel.model import Function
    from klasy.match.plan import Plan, Point, Probe


class Where(NamedTuple):
    """A function as it is named in an error, and as the kernel is told of it. See klasy.kernel.model.Function."""

    name: str
    address: int
    module: str | None
    proto: int | None

    def __str__(self) -> str:
        return f"{self.name} [{self.module}]" if self.module else self.name


class Spot(NamedTuple):
    """Where a probe is attached, as klasy.match.plan.Point."""

    address: int
    function: Where


class Hook(NamedTuple):
    """A probe as far as it is to be attached. See klasy.match.plan.Probe."""

    mechanism: Mechanism
    context: Context
    points: tuple[Spot, ...]
    watch: None = None

    @property
    def in_program(self) -> bool:
        """Whether it is in the text of a user program."""
        return self.mechanism in IN_PROGRAMS


class Recipe(NamedTuple):
    """All that it takes to weave one aspect.

    ``entry`` is the registry entry but for its circumstances. ``plan`` is that of the artifact; None where that was
    not kept: then ``probes`` are hooks.
    """

    name: str
    maps: tuple[MapSpec, ...]
    programs: tuple[ProgramSpec, ...]
    probes: tuple[Probe, ...]
    entry: dict[str, Any]
    tracepoints: tuple[TracepointSpec, ...] = ()
    plan: Plan | None = None


def recipe_of(artifact: Artifact) -> Recipe:
    """What a weave takes of an artifact."""
    from klasy.weaver.manifest import describe

    plan = artifact.plan
    entry = describe(plan, artifact.formats, artifact.states, artifact.budget, artifact.types)
    return Recipe(plan.aspect.name, artifact.maps, artifact.programs, plan.probes, entry, artifact.tracepoints, plan)


def to_data(recipe: Recipe) -> tuple[Any, ...]:
    """A recipe without its plan, as ``marshal`` can write it. It must have no tracepoints and watch nothing."""
    return (
        recipe.name,
        [tuple(getattr(spec, name) for name in MapSpec.__match_args__) for spec in recipe.maps],
        [
            (p.name, p.probe, p.type, p.code.code, list(map(tuple, p.code.relocations)), p.target and _where(p.target))
            for p in recipe.programs
        ],
        [(p.mechanism.value, p.context.value, list(map(_spot, p.points))) for p in recipe.probes],
        recipe.entry,
    )


def from_data(data: tuple[Any, ...]) -> Recipe:
    """The inverse. Raises TypeError or ValueError for anything else."""
    name, maps, programs, probes, entry = data
    return Recipe(
        name,
        tuple(MapSpec(*spec) for spec in maps),
        tuple(
            ProgramSpec(
                *(name, probe, kind),
                Assembled(code, tuple(Relocation(*each) for each in relocations), (), (), ()),
                target and Where(*target),  # type: ignore[arg-type]  # as far as loading asks, it is a Function
            )
            for name, probe, kind, code, relocations, target in programs
        ),
        tuple(
            Hook(Mechanism(mechanism), Context(context), tuple(Spot(at, Where(*f)) for at, f in points))  # type: ignore[misc]
            for mechanism, context, points in probes
        ),
        entry,
    )


def _where(function: Function) -> tuple[Any, ...]:
    return function.name, function.address, function.module, function.proto


def _spot(point: Point) -> tuple[int, tuple[Any, ...]]:
    return point.address, _where(point.function)
