"""Removes operations whose value nobody uses."""

from __future__ import annotations

from klasy.compiler.ir import Op, Program, Value


def remove_dead_code(program: Program) -> None:
    """Remove pure operations that nothing which must stay depends on."""
    definitions = {op.result: op for op in program.ops() if op.result is not None}
    needed: set[Value] = set()
    work: list[Op] = [op for op in program.ops() if not op.pure]
    while work:
        for operand in work.pop().operands():
            if isinstance(operand, Value) and operand not in needed:
                needed.add(operand)
                work.append(definitions[operand])
    for block in program.blocks:
        block.ops = [op for op in block.ops if not op.pure or op.result in needed]
