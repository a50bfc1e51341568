"""From a plan and its advice to checked IR. Pure: no system calls, no BPF.

``compile_plan`` is the way through; ``check_aspect`` goes as far as an aspect can be checked without being matched.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.compiler.ir import Program
    from klasy.compiler.tree import Advice
    from klasy.diag import Diagnostic
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import Aspect
    from klasy.match.plan import Plan
    from klasy.record import Format
    from klasy.state import State


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled aspect: a program for each probe of its plan, in their order, and the formats of its records.

    ``diagnostics`` are the warnings; ``states`` what the aspect keeps; ``c_advice`` is the advice whose body is in C,
    and ``c_deletes`` names the states of which that deletes elements. ``types``: of modules and user programs, as BTF,
    by what stands for each in the fields of records.
    """

    programs: tuple[Program, ...]
    formats: tuple[Format, ...]
    diagnostics: tuple[Diagnostic, ...]
    states: tuple[State, ...] = ()
    c_advice: tuple[Advice, ...] = ()
    c_deletes: frozenset[str] = frozenset()
    types: Mapping[str, bytes] = field(default_factory=dict)


def compile_plan(plan: Plan, kernel: Kernel) -> Compiled:
    """Compile the advice of a plan. Raises InputError with everything that is wrong in any of them."""
    from klasy.compiler.driver import compile_plan as work

    return work(plan, kernel)


def check_aspect(aspect: Aspect, kernel: Kernel) -> tuple[Diagnostic, ...]:
    """Check all advice of an aspect against a kernel's types: everything found, warnings included."""
    from klasy.compiler.driver import check_aspect as work

    return work(aspect, kernel)
