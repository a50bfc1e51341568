"""Straightens control flow: no block that never runs, none that only jumps, none split without need."""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.ir import Block, Program
from klasy.compiler.ircheck import reachable


def straighten(program: Program) -> None:
    """Thread jumps, join blocks, drop what cannot be reached, and number the blocks anew."""
    _thread(program)
    _join(program)
    alive = set(reachable(program))
    program.blocks = [block for block in program.blocks if block in alive]
    for number, block in enumerate(program.blocks):
        block.label = number


def _thread(program: Program) -> None:
    """Let jumps and branches to a block that only jumps go where it goes, and branches that go one way jump.

    The blocks of a decision lie behind it: from the last to the first, a tree of them that all lead to one block goes.
    """

    def goal(block: Block) -> Block:
        seen = {block}
        jumps = []
        while len(block.ops) == 1 and isinstance(jump := block.ops[0], ir.Jump) and jump.target not in seen:
            jumps.append(jump)
            block = jump.target
            seen.add(block)
        for jump in jumps:
            jump.target = block  # so that who comes this way next need not go it all
        return block

    for block in reversed(program.blocks):
        end = block.terminator
        match end:
            case ir.Jump():
                end.target = goal(end.target)
            case ir.Branch():
                end.then, end.otherwise = goal(end.then), goal(end.otherwise)
                if end.then is end.otherwise:
                    block.ops[-1] = ir.Jump(end.then)
                    block.ops[-1].span = end.span
            case ir.Locate():
                end.missing = goal(end.missing)  # ``found`` keeps the block that nothing else goes to


def _join(program: Program) -> None:
    """Join a block that ends in a jump with its target where nothing else goes there."""
    predecessors: dict[Block, int] = {}
    for block in reachable(program):
        for successor in block.successors():
            predecessors[successor] = predecessors.get(successor, 0) + 1
    for block in reachable(program):
        while isinstance(jump := block.ops[-1], ir.Jump) and predecessors[jump.target] == 1:
            # The target stays behind without a predecessor: it is dropped with all that cannot be reached.
            block.ops[-1:] = jump.target.ops
            jump.target.ops = [ir.Return()]
