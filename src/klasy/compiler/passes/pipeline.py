"""The order of the passes, in one list. A pass says what it needs to be so and what it makes so."""

from __future__ import annotations

from klasy.compiler import ircheck
from klasy.compiler.passes.control import straighten
from klasy.compiler.passes.dead import remove_dead_code
from klasy.compiler.passes.division import expand_signed_division
from klasy.compiler.passes.fold import fold
from klasy.compiler.passes.reuse import reuse
from klasy.compiler.passes.variables import remove_variables
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.compiler.ir import Program


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass. ``needs``: what an earlier one must have made so. ``spoils``: what is not so any more behind it."""

    run: Callable[[Program], None]
    makes: str = ""
    needs: str = ""
    spoils: str = ""


PIPELINE = (
    Pass(expand_signed_division, makes="unsigned division"),
    Pass(fold, needs="unsigned division", spoils="straight"),  # folds what the expansion left to be known
    Pass(straighten),  # long blocks, through which what is known flows
    Pass(reuse),
    Pass(remove_variables),
    Pass(fold, makes="folded", spoils="straight"),
    Pass(straighten, makes="straight"),  # before dead code, which takes unreachable uses for uses
    Pass(remove_dead_code, needs="straight", makes="no dead code"),
    Pass(remove_variables, spoils="straight"),  # some were read by dead code only
    Pass(remove_dead_code),
    Pass(straighten, makes="straight"),
)
RESULT = ("unsigned division", "folded", "no dead code", "straight")


def faults_of(passes: Sequence[Pass]) -> list[str]:
    """What is wrong with an order of passes."""
    so: set[str] = set()
    faults = []
    for one in passes:
        name = one.run.__name__
        if one.needs and one.needs not in so:
            faults.append(f"{name} needs '{one.needs}', which no pass before it makes so")
        so.discard(one.spoils)
        if one.makes:
            so.add(one.makes)
    return faults + [f"nothing makes '{wanted}' so in the end" for wanted in RESULT if wanted not in so]


def run(program: Program, *, check: bool = True) -> None:
    """Run all passes over a program. ``check``: the invariants of the IR after it (and, as asserts are on, before)."""
    if check:
        ircheck.require(program, lowered=False)
    for one in PIPELINE:
        one.run(program)
    if check:
        ircheck.require(program)


assert not faults_of(PIPELINE), faults_of(PIPELINE)
