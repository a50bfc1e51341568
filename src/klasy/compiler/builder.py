"""Builds IR: makes values, variables and blocks, and appends operations to the current block.

Beside the IR and above nothing else, so that passes may use it too. It knows no C: see ``lower``.
"""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.ir import Block, Op, Operand, Program, Terminator, Value, Var
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.source import Span

# The verifier goes through what lies behind a search for each range of numbers that leads there: of the thousands of
# join points that an aspect may have, a million instructions are not enough. From so many on a table tells.
MOST_RANGES = 64


class Builder:
    """Appends to ``program``. ``span`` is given to each operation that is added while it is set."""

    def __init__(self, program: Program, *, labels: int = 0, values: int = 0) -> None:
        """``labels`` and ``values``: the first free numbers, when the program has blocks already."""
        self.program = program
        self.span: Span | None = None
        self._labels = labels
        self._values = values
        self._names: set[str] = set()
        self._block: Block | None = None

    # --- blocks

    def block(self) -> Block:
        """A new block, not yet in the program."""
        self._labels += 1
        return Block(self._labels - 1)

    def begin(self, block: Block) -> None:
        """Put a block into the program and append to it from now on. The current one must have been ended."""
        assert self._block is None, f"b{self._block.label} was not ended"
        self.program.blocks.append(block)
        self._block = block

    @property
    def ended(self) -> bool:
        """Whether the current block has its terminator: what is added now would never run."""
        return self._block is None

    def add(self, op: Op) -> None:
        """Append an operation."""
        assert self._block is not None, "the block is ended"
        op.span = self.span
        self._block.ops.append(op)
        if isinstance(op, Terminator):
            self._block = None

    # --- names

    def value(self) -> Value:
        """A value nobody has assigned."""
        self._values += 1
        return Value(self._values - 1)

    def var(self, name: str) -> Var:
        """A new variable named ``name``, or that with a number behind it where it is taken."""
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}.{count}"
        self._names.add(unique)
        return Var(unique)

    # --- operations that give a value

    def binary(self, op: str, left: Operand, right: Operand, width: int = 64) -> Value:
        """``left op right``."""
        dst = self.value()
        self.add(ir.Binary(dst, op, width, left, right))
        return dst

    def extend(self, source: Operand, bits: int, signed: bool) -> Operand:
        """The low ``bits`` of ``source``; ``source`` itself when that is all of it."""
        if bits >= 64:
            return source
        dst = self.value()
        self.add(ir.Extend(dst, source, bits, signed))
        return dst

    def compare(self, op: str, left: Operand, right: Operand) -> Value:
        """``left op right`` as 0 or 1."""
        dst = self.value()
        self.add(ir.Compare(dst, op, left, right))
        return dst

    def get(self, var: Var) -> Value:
        """The present value of a variable."""
        dst = self.value()
        self.add(ir.Get(dst, var))
        return dst

    def set(self, var: Var, source: Operand) -> None:
        """Assign to a variable."""
        self.add(ir.Set(var, source))

    def load(
        self, address: Operand, offset: int, size: int, faults: Var | None = None, mask: int = 0, *, user: bool = False
    ) -> Value:
        """``size`` bytes of kernel memory, or where ``user``, of the process's."""
        dst = self.value()
        self.add(ir.Load(dst, address, offset, size, faults, mask, user))
        return dst

    def lookup(self, index: Operand, table: Sequence[int]) -> Value:
        """The number at a place of a table."""
        dst = self.value()
        self.add(ir.Lookup(dst, index, tuple(table)))
        return dst

    def context(self, what: str) -> Value:
        """A fact of the moment."""
        dst = self.value()
        self.add(ir.Context(dst, what))
        return dst

    # --- ends of blocks

    def choose(self, number: Operand, ranges: Sequence[tuple[int, Block]]) -> None:
        """Go on in the block of the range that a number is in: ``ranges`` has the first number of each, ascending."""
        if len(ranges) == 1:
            self.jump(ranges[0][1])
            return
        middle = len(ranges) // 2
        low, high = self.block(), self.block()
        self.branch("ult", number, ranges[middle][0], low, high)
        self.begin(low)
        self.choose(number, ranges[:middle])
        self.begin(high)
        self.choose(number, ranges[middle:])

    def jump(self, target: Block) -> None:
        """Go on in ``target``."""
        self.add(ir.Jump(target))

    def branch(self, op: str, left: Operand, right: Operand, then: Block, otherwise: Block) -> None:
        """Go on in one of two blocks."""
        self.add(ir.Branch(op, left, right, then, otherwise))
