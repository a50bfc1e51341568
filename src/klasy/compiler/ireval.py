"""An interpreter of the IR: slow, obvious, and with ``semantics`` the definition of what each operation means.

Backends and passes are compared with it. It plays the kernel through a :class:`World`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from klasy.compiler import ir
from klasy.compiler.ir import MASK64, Operand, Program, Value, Var
from klasy.compiler.irstate import StateOp
from klasy.compiler.semantics import binary, compare, signed, swap
from klasy.match.plan import Argument
from klasy.plain import TYPE_CHECKING, dataclass, field
from klasy.record import TEXT_USER

if TYPE_CHECKING:
    from klasy.compiler.stateeval import Store

OPERATION_LIMIT = 100_000  # a program that runs longer is taken for an endless loop


@dataclass()
class World:
    """What a program finds. ``read`` gives bytes of kernel memory, or None for a fault; ``read_user`` of the process's.

    ``stack`` and ``user_stack`` are what a record holds of them, None where they cannot be had.

    ``located``: for each arm the id of the join point, or None. ``store`` keeps the states, from one run to the next.
    """

    read: Callable[[int, int], bytes | None] = lambda address, size: None
    arguments: Sequence[int] = ()
    result: int = 0
    context: Mapping[str, int] = field(default_factory=dict)
    comm: bytes = b""
    located: Sequence[int | None] = ()
    read_user: Callable[[int, int], bytes | None] = lambda address, size: None
    buckets: dict[int, int] = field(default_factory=dict)  # when each will be full again, in ns
    stack: bytes | None = None
    user_stack: bytes | None = None
    store: Store | None = None
    observed: Mapping[str, int] = field(default_factory=dict)
    registers: Mapping[str, int] = field(default_factory=dict)
    notes: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)  # by number and stack pointer


@dataclass()
class Logged:
    """One record: ``data`` holds the values at their offsets, zeros elsewhere."""

    format: int
    joinpoint: int
    faults: int
    data: bytes


@dataclass()
class Outcome:
    """What a program did."""

    hits: list[int] = field(default_factory=list)
    logged: list[Logged] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    counted: list[tuple[int, str]] = field(default_factory=list)
    stopped: bool = False
    watched: list[tuple[int, int, bool]] = field(default_factory=list)  # member, address, whether it begins
    denied: int | None = None


def run(program: Program, world: World) -> Outcome:
    """Run a program once. Raises AssertionError for what ircheck forbids."""
    return _Machine(world).run(program)


class _Machine:
    def __init__(self, world: World) -> None:
        self.world = world
        self.values: dict[Value, int] = {}
        self.variables: dict[Var, int] = {}
        self.outcome = Outcome()
        self.taken: dict[int, tuple[int, ...]] = {}

    def of(self, operand: Operand) -> int:
        return operand & MASK64 if isinstance(operand, int) else self.values[operand]

    def run(self, program: Program) -> Outcome:
        block = program.entry
        left = OPERATION_LIMIT
        while True:
            for op in block.ops[:-1]:
                left -= 1
                assert left > 0, "endless loop"
                self.step(op)
            end = block.terminator
            match end:
                case ir.Return():
                    return self.outcome
                case ir.Deny():
                    self.outcome.denied = end.errno
                    return self.outcome
                case ir.Jump():
                    block = end.target
                case ir.Branch():
                    holds = compare(end.op, self.of(end.left), self.of(end.right))
                    block = end.then if holds else end.otherwise
                case ir.Locate():
                    joinpoint = self.world.located[end.arm]
                    if joinpoint is not None:
                        self.values[end.dst] = joinpoint
                    block = end.missing if joinpoint is None else end.found
                case _:
                    raise AssertionError(f"{end!r} is no terminator")

    def step(self, op: ir.Op) -> None:
        match op:
            case ir.Copy():
                self.values[op.dst] = self.of(op.source)
            case ir.Binary():
                self.values[op.dst] = binary(op.op, op.width, self.of(op.left), self.of(op.right))
            case ir.Extend():
                low = self.of(op.source) & (1 << op.bits) - 1
                self.values[op.dst] = signed(low, op.bits) & MASK64 if op.signed else low
            case ir.Swap():
                self.values[op.dst] = swap(self.of(op.source), op.bits)
            case ir.Compare():
                self.values[op.dst] = int(compare(op.op, self.of(op.left), self.of(op.right)))
            case ir.Get():
                self.values[op.dst] = self.variables[op.var]
            case ir.Set():
                self.variables[op.var] = self.of(op.source)
            case ir.Context():
                self.values[op.dst] = self.world.context[op.what] & MASK64
            case ir.Observe():
                self.values[op.dst] = self.world.observed[op.what] & MASK64
            case ir.Register():
                self.values[op.dst] = self.world.registers[op.name] & MASK64
            case ir.Lookup():
                self.values[op.dst] = op.table[self.of(op.index)]
            case ir.Argument():
                assert isinstance(op.source, Argument), "records are a back end's"
                self.values[op.dst] = self.world.arguments[op.source.index] & MASK64
            case ir.Result():
                self.values[op.dst] = self.world.result & MASK64
            case ir.Mark():
                self.outcome.marks.append(op.use)
            case ir.Count():
                self.outcome.counted.append((self.of(op.joinpoint), op.what))
            case ir.WatchObject() | ir.UnwatchObject():
                begins = isinstance(op, ir.WatchObject)
                self.outcome.watched.append((op.member, self.of(op.address), begins))
            case ir.Limit():
                now = self.world.context["now"]
                full = max(self.world.buckets.get(op.slot, 0), now)
                self.values[op.dst] = int(full - now <= op.interval * (op.size - 1))
                if self.values[op.dst]:
                    self.world.buckets[op.slot] = full + op.interval
            case ir.Stop():
                self.outcome.stopped = True
            case ir.CountHit():
                self.outcome.hits.append(self.of(op.joinpoint))
            case ir.Load():
                data = self.read(self.of(op.address) + op.offset, op.size, op.user)
                if data is None:
                    self.set_fault(op.faults, op.mask)
                self.values[op.dst] = int.from_bytes(data or b"", "little")
            case ir.StringEqual():
                text = self.string(self.of(op.address) + op.offset, min(op.limit, len(op.literal) + 1), op.user)
                if text is None:
                    self.set_fault(op.faults, op.mask)
                self.values[op.dst] = int((text or b"") == op.literal)
            case ir.CommEqual():
                self.values[op.dst] = int(self.world.comm == op.literal)
            case ir.Emit():
                self.emit(op)
            case StateOp():
                self.state(op)
            case ir.NoteOp():
                self.note(op)
            case _:
                raise AssertionError(f"{op!r} cannot stand inside a block")

    def state(self, op: StateOp) -> None:
        from klasy.compiler import stateeval

        assert self.world.store is not None, "this world keeps no state"
        result = stateeval.run(self.world.store, op, self)
        if op.result is not None:
            self.values[op.result] = result

    def note(self, op: ir.NoteOp) -> None:
        from klasy.compiler import irnote

        match op:
            case irnote.KeepNote():
                joinpoint, stack, *rest = (self.of(operand) for operand in op.operands())
                self.world.notes[op.number, stack] = (joinpoint, *rest)
            case irnote.TakeNote():
                key = op.number, self.of(op.stack)
                note = self.world.notes.get(key)
                self.values[op.dst] = int(note is not None and note[0] == self.of(op.joinpoint))
                if note is not None and self.values[op.dst]:
                    self.taken[op.number] = note
                    del self.world.notes[key]
            case irnote.Noted():
                self.values[op.dst] = self.taken[op.number][op.word + 2]

    def read(self, address: int, size: int, user: bool = False) -> bytes | None:
        read = self.world.read_user if user else self.world.read
        return read(address & MASK64, size)

    def string(self, address: int, limit: int, user: bool = False) -> bytes | None:
        """The string at an address, at most ``limit`` bytes; None where a byte of it cannot be read."""
        read = self.world.read_user if user else self.world.read
        text = b""
        while len(text) < limit:
            byte = read(address + len(text) & MASK64, 1)
            if byte is None:
                return None
            if byte == b"\0":
                break
            text += byte
        return text

    def set_fault(self, faults: Var | None, mask: int) -> None:
        if faults is not None:
            self.variables[faults] |= mask

    def emit(self, op: ir.Emit) -> None:
        data = bytearray(op.size)
        faults = self.variables[op.faults] if op.faults is not None else 0
        for part in op.parts:
            match part:
                case ir.StoreField():
                    content: bytes | None = (self.of(part.value) & (1 << 8 * part.size) - 1).to_bytes(
                        part.size, "little"
                    )
                case ir.CopyField():
                    content = self.read(self.of(part.address) + part.at, part.size, part.user)
                    faults |= (content is None) << part.bit
                case ir.StringField():
                    content = self.string(self.of(part.address) + part.at, part.size - 1 - part.told, part.user)
                    faults |= (content is None) << part.bit
                    if part.told:
                        data[part.offset + part.size - 1] = TEXT_USER
                case ir.StackField():
                    content = self.world.user_stack if part.user else self.world.stack
                    faults |= (content is None) << part.bit
                case ir.BufferField():
                    length = max(0, signed(self.of(part.length), 64))
                    taken = min(length, part.size - 8)
                    bytes_there = self.read(self.of(part.address) + part.at, taken, part.user) if taken else b""
                    faults |= (bytes_there is None) << part.bit
                    content = length.to_bytes(8, "little") + (bytes_there or b"")
                case _:
                    content = self.world.comm.ljust(ir.COMM_SIZE, b"\0")
            data[part.offset : part.offset + len(content or b"")] = content or b""
        self.outcome.logged.append(Logged(op.format, self.of(op.joinpoint), faults, bytes(data)))
