"""Random programs of the IR: sound by construction, and dense in what register allocation finds hard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.compiler import ir
from klasy.compiler.builder import Builder
from klasy.match.plan import Argument
from klasy.record import HEADER_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

BASE = 0xFFFF_8880_1234_5000
MEMORY = 256
ARGUMENTS = 4
BINARY = [op for op in ir.BINARY_OPS if op not in ir.SIGNED_DIVISIONS]
CONSTANTS = [0, 1, -1, 2, 7, 8, 31, 32, 63, 64, 255, 1 << 31, -(1 << 31), (1 << 31) - 1, 1 << 32, ir.MAX_IMMEDIATE]
CONSTANTS += [ir.MIN_IMMEDIATE, 0x1234_5678_9ABC, 0xFFFF_FFFF]
TEXTS = [b"", b"a", b"ab", b"abc", b"eth0", b"swapper", b"swapper/", b"swapper/0", b"a-much-longer-name-than-comm"]


# fmt: off
KINDS = [
    "binary", "binary", "binary", "extend", "compare", "get", "set", "set", "load", "load", "load", "context",
    "string", "comm", "hit", "log", "copy", "lookup",
]
# fmt: on


class Generator:
    """One program for one FIXED probe.

    ``base``: where there is memory to read. ``arguments``: how many there are. ``contexts``: those that can be used.
    """

    def __init__(
        self,
        random: Random,
        length: int,
        *,
        base: int = BASE,
        arguments: int = ARGUMENTS,
        contexts: Sequence[str] = tuple(what for what in ir.CONTEXT_VALUES if what != "random"),
    ) -> None:
        self.random = random
        self.base = base - (1 << 64)
        self.arguments = arguments
        self.contexts = contexts
        self.program = ir.Program("p0_fentry", 0)
        self.build = Builder(self.program)
        self.values: list[ir.Operand] = []
        self.variables: list[ir.Var] = []
        self.left = length
        self.formats = 0

    def make(self) -> ir.Program:
        """Make it."""
        build = self.build
        build.begin(build.block())
        self.faults = build.var("faults")
        build.set(self.faults, 0)
        for i in range(3):
            self.variables.append(build.var(f"v{i}"))
            build.set(self.variables[-1], self.constant())
        for i in range(self.random.randint(0, self.arguments)):
            self.define(lambda dst, i=i: ir.Argument(dst, Argument(i)))
        self.sequence(3)
        self.record()
        build.add(ir.Return())
        return self.program

    def sequence(self, depth: int) -> None:
        """Some operations, and blocks inside."""
        while self.left > 0:
            self.left -= 1
            if depth and self.random.random() < 0.08:
                self.diamond(depth - 1)
            else:
                self.operation()
            if self.random.random() < 0.05:
                return

    def diamond(self, depth: int) -> None:
        """``if`` and ``else``; what is defined inside is known inside only."""
        build, r = self.build, self.random
        then, otherwise, joined = build.block(), build.block(), build.block()
        if r.random() < 0.5:  # what the compiler makes of most conditions
            self.operation(r.choice(["compare", "string", "comm"]))
            build.branch(r.choice(["eq", "ne"]), self.values[-1], 0, then, otherwise)
        else:
            build.branch(r.choice(ir.COMPARISONS), self.operand(), self.operand(), then, otherwise)
        known = self.values[:]
        for block in (then, otherwise):
            build.begin(block)
            self.values = known[:]
            self.sequence(depth)
            build.jump(joined)
        self.values = known
        build.begin(joined)

    def define(self, make) -> None:
        """Add an operation that gives a value."""
        dst = self.build.value()
        self.build.add(make(dst))
        self.values.append(dst)

    def constant(self) -> int:
        r = self.random
        if r.random() < 0.1:
            return self.base + r.choice([0, 40])
        return r.choice(CONSTANTS) if r.random() < 0.8 else r.randint(-100, 100)

    def operand(self) -> ir.Operand:
        r = self.random
        if not self.values or r.random() < 0.25:
            return self.constant()
        # old values too: they have to be kept for long
        return r.choice(self.values) if r.random() < 0.5 else self.values[-r.randint(1, min(4, len(self.values)))]

    def address(self) -> tuple[ir.Operand, int]:
        """Mostly of memory that is there."""
        r = self.random
        if r.random() < 0.8:
            pointer = self.build.value()
            self.build.add(ir.Binary(pointer, "and", 64, self.operand(), 63))
            moved = self.build.value()
            self.build.add(ir.Binary(moved, "add", 64, pointer, self.base))
            return moved, r.choice([0, 0, 1, 8, 24, 100, -4])
        return self.operand(), r.choice([0, 16, -8])

    def operation(self, kind: str = "") -> None:
        """One operation, of any kind unless one is given."""
        r, build = self.random, self.build
        kind = kind or r.choice(KINDS)
        faults = self.faults if r.random() < 0.7 else None
        mask = r.choice([1, 2, 1 << 31, 1 << 40, 1 << 63, 5]) if faults else 0
        match kind:
            case "binary":
                op, width, left, right = r.choice(BINARY), r.choice([32, 64]), self.operand(), self.operand()
                self.define(lambda dst: ir.Binary(dst, op, width, left, right))
            case "extend":
                source, bits, signed = self.operand(), r.choice([1, 5, 8, 16, 31, 32, 33, 48, 63]), r.random() < 0.5
                self.define(lambda dst: ir.Extend(dst, source, bits, signed))
            case "lookup":
                places, most = r.choice([1, 2, 8, 64]), r.choice([255, 256, 0xFFFF, 0x1_0000, 0xFFFF_FFFF])
                table = tuple(r.choice([0, r.randint(0, most), most]) for _ in range(places))
                index = build.binary("and", self.operand(), places - 1) if r.random() < 0.8 else r.randrange(places)
                self.define(lambda dst: ir.Lookup(dst, index, table))
            case "compare":
                op, left, right = r.choice(ir.COMPARISONS), self.operand(), self.operand()
                self.define(lambda dst: ir.Compare(dst, op, left, right))
            case "copy":
                source = self.operand()
                self.define(lambda dst: ir.Copy(dst, source))
            case "get":
                var = r.choice(self.variables)
                self.define(lambda dst: ir.Get(dst, var))
            case "set":
                build.set(r.choice(self.variables), self.operand())
            case "load":
                address, offset = self.address()
                size = r.choice(ir.LOAD_SIZES)
                user = self.of_process()
                self.define(lambda dst: ir.Load(dst, address, offset, size, faults, mask, user))
            case "context":
                what = r.choice(self.contexts)
                self.define(lambda dst: ir.Context(dst, what))
            case "string":
                address, offset = self.address()
                text = r.choice(TEXTS)
                limit = len(text) + r.choice([0, 1, 7])
                user = self.of_process()
                self.define(lambda dst: ir.StringEqual(dst, address, offset, limit, text, faults, mask, user))
            case "comm":
                text = r.choice([t for t in TEXTS if len(t) < ir.COMM_SIZE])
                self.define(lambda dst: ir.CommEqual(dst, text))
            case "hit":
                build.add(ir.CountHit(r.randint(0, 3)))
            case "log":
                self.record()

    def of_process(self) -> bool:
        """Whether a read is of the process's memory: there, nothing lies at the addresses that are the kernel's."""
        return self.random.random() < 0.15

    def record(self) -> None:
        """A log of some values."""
        r = self.random
        parts: list[ir.Part] = []
        at = HEADER_SIZE
        for _ in range(r.randint(0, 6)):
            kind = r.choice(["store", "store", "store", "load", "copy", "string", "comm"])
            size = r.choice(ir.LOAD_SIZES)
            if kind in ("store", "load"):
                at = (at + size - 1) // size * size
                if kind == "load":
                    address, offset = self.address()
                    dst = self.build.value()
                    mask, user = 1 << r.randint(0, 63), self.of_process()
                    self.build.add(ir.Load(dst, address, offset, size, self.faults, mask, user))
                    value: ir.Operand = dst
                else:
                    value = self.operand()
                parts.append(ir.StoreField(at, size, value))
            elif kind == "comm":
                size = ir.COMM_SIZE
                parts.append(ir.CommField(at))
            else:
                size = r.choice([2, 3, 8, 16, 30])
                address, offset = self.address()
                make = ir.CopyField if kind == "copy" else ir.StringField
                parts.append(make(at, size, address, offset, r.randint(0, 63), self.of_process()))
            at += size
        whole = (at + 7) // 8 * 8
        self.build.add(ir.Emit(self.formats, whole, r.randint(0, 3), tuple(parts), self.faults))
        self.formats += 1
