"""One conjunct of a pointcut's normal form: what it asks, sorted by the kind of designator."""

from __future__ import annotations

from klasy.lang import ast
from klasy.plain import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.match.pointcut import Literal, NormalForm


@dataclass(eq=False)
class Conjunct:
    """A conjunct; of the designators that are not negated, the leaves of each kind.

    ``usable``: it can be matched at all. ``hits``: how many join points it was found to match. ``report``: says why
    there are none, where whoever looked for them knows best.
    """

    index: int
    literals: tuple[Literal, ...]
    calls: list[int] = field(default_factory=list)
    executions: list[int] = field(default_factory=list)
    accesses: list[int] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    syscalls: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    withins: list[int] = field(default_factory=list)
    modules: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    args: list[int] = field(default_factory=list)
    usable: bool = True
    hits: int = 0
    report: Callable[[], None] | None = None

    @property
    def asks_where(self) -> bool:
        """Whether it restricts where join points lie."""
        return bool(self.withins or self.modules or self.files)

    @property
    def kinds(self) -> int:
        """Of how many kinds its join points would have to be at once."""
        named = self.calls, self.executions, self.accesses, self.events, self.syscalls, self.places
        return sum(map(bool, named))


def sort_out(form: NormalForm, index: int) -> Conjunct:
    """The conjunct of a number in a normal form."""
    literals = form.conjuncts[index]
    conjunct = Conjunct(index, literals)
    by_kind = (
        (ast.Call, conjunct.calls),
        (ast.Execution, conjunct.executions),
        (ast.Access, conjunct.accesses),
        (ast.Syscall, conjunct.syscalls),
        (ast.Event, conjunct.events),
        (ast.At, conjunct.places),
        (ast.Within, conjunct.withins),
        (ast.WithinModule, conjunct.modules),
        (ast.WithinFile, conjunct.files),
        (ast.Args, conjunct.args),
    )
    for literal in literals:
        leaf = form.leaves[literal.leaf]
        for kind, leaves in by_kind:
            if literal.positive and isinstance(leaf, kind):
                leaves.append(literal.leaf)
    return conjunct
