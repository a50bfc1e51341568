"""Loops to IR, each with a bound: the kernel takes no program of which it cannot see that it ends.

A loop and all that are nested in it share one count of iterations. The verifier follows a program through every
iteration, so the bound is what a program costs to load; and it takes states for different in which a count differs, so
that each loop which stands alone begins a count of its own: it is dead behind the loop, and the states are one again.
Where the bound ends a loop, the join point counts it.
"""

from __future__ import annotations

from klasy.compiler import ir, tree
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.ir import Block, Var
    from klasy.compiler.lower import Body


class Loops:
    """The loops of one advice at its arm."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._count: Var | None = None
        self._around: list[tuple[Block, Block]] = []  # where continue and break of each go

    def loop(self, node: tree.Loop) -> None:
        """One loop."""
        build = self._body.build
        if self._count is None or not self._around:
            self._count = build.var("iterations")
            build.set(self._count, 0)
        counter = self._count
        head, turn, body, step, end = (build.block() for _ in range(5))
        build.jump(head)
        build.begin(head)
        if node.condition is None:
            build.jump(turn)
        else:
            self._body.branch(node.condition, turn, end)
        build.begin(turn)
        build.span = node.span
        count = build.get(counter)
        cut = build.block()
        build.branch("ult", count, ir.MAX_ITERATIONS, body, cut)
        build.begin(cut)
        build.add(ir.Count(self._body.joinpoint, "cut"))
        build.jump(end)
        build.begin(body)
        build.set(counter, build.binary("add", count, 1))
        self._around.append((step, end))
        self._body.statement(node.body)
        self._around.pop()
        if not build.ended:
            build.jump(step)
        build.begin(step)
        if node.step is not None:
            self._body.statement(node.step)
        build.jump(head)
        build.begin(end)

    def leave(self, node: tree.Break | tree.Continue) -> None:
        """``break`` or ``continue`` of the innermost loop."""
        step, end = self._around[-1]
        self._body.build.jump(end if isinstance(node, tree.Break) else step)
