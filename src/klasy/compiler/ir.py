"""The intermediate form: one program for each probe, blocks of simple operations on 64-bit values.

What it is: machine-neutral code, small enough that a backend maps each operation to a few instructions, high enough
that what differs between mechanisms (where arguments, marks and join points are found) stays one named operation.
What it is not: typed. C's types are gone; every value is 64 bits, and the lowering has already put in each extension.

Conventions that a reader or a pass must keep (``ircheck`` lists what breaks them):

- A :class:`Value` is assigned once, by the operation that has it as ``dst``, which dominates every use. What is
  assigned more than once (C's locals, the result of ``&&``) is a :class:`Var`, read by :class:`Get`, written by
  :class:`Set`, and set on every path before it is read.
- An operand is a Value, or a Python int that fits 64 bits signed: the immediate value itself.
- A block ends with its one terminator. The first block of a program is its entry and is nobody's target.
- Kernel memory is read by :class:`Load`, :class:`StringEqual` and the copying parts of :class:`Emit` only. A read that
  faults gives zeros, and sets the bits ``mask`` of the variable ``faults`` where one is given.
- Signed division (``sdiv``, ``smod``) exists only before the pass that expands it: eBPF below v4 has none.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import ClassVar, TypeAlias

    from klasy.compiler.irstate import Step
    from klasy.kernel.callcontents import Content
    from klasy.match import plan
    from klasy.record import Format
    from klasy.source import Span

MIN_IMMEDIATE = -(1 << 63)
MAX_IMMEDIATE = (1 << 63) - 1
MASK64 = (1 << 64) - 1
LOAD_SIZES = (1, 2, 4, 8)
MAX_ITERATIONS = 256  # of a loop and those nested in it together; the verifier goes through each of them
MAX_STRING = 128  # bytes a string of unknown length takes in a record, or is compared over
COMM_SIZE = 16


class Value:
    """A 64-bit value, assigned once. ``id`` is unique in its program and means nothing else."""

    __slots__ = ("id",)

    def __init__(self, id: int) -> None:
        self.id = id

    def __repr__(self) -> str:
        return f"%{self.id}"


class Var:
    """A mutable 64-bit local. ``name`` is unique in its program and is for readers."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"${self.name}"


Operand: TypeAlias = Value | int


class Block:
    """Operations run in order; the last one, and only it, is a :class:`Terminator`.

    ``label`` is unique in its program. Blocks are compared by identity.
    """

    __slots__ = ("label", "ops")

    def __init__(self, label: int) -> None:
        self.label = label
        self.ops: list[Op] = []

    @property
    def terminator(self) -> Terminator:
        """The last operation. Raises ValueError in a block that is not finished."""
        if not self.ops or not isinstance(self.ops[-1], Terminator):
            raise ValueError(f"block b{self.label} has no terminator")
        return self.ops[-1]

    def successors(self) -> tuple[Block, ...]:
        """The blocks control may go to from here."""
        return self.terminator.targets

    def __repr__(self) -> str:
        return f"b{self.label}"


class Program:
    """The code of one probe.

    ``name`` and ``probe`` are those of the plan's :class:`~klasy.match.plan.Probe` (``probe`` its index), whose
    context, locator and arms the backend needs besides. ``formats`` are those its ``Emit`` operations write.
    ``blocks`` are in the order of emission, entry first. ``kernel_memory``: in a user program's probe, pointers may
    lead into the kernel's memory as well as into the program's.
    """

    kernel_memory = False

    def __init__(self, name: str, probe: int) -> None:
        self.name = name
        self.probe = probe
        self.blocks: list[Block] = []
        self.formats: list[Format] = []

    @property
    def entry(self) -> Block:
        """The block that runs first."""
        return self.blocks[0]

    def ops(self) -> Iterator[Op]:
        """All operations, in the order of the blocks."""
        for block in self.blocks:
            yield from block.ops


class Located:
    """``span`` is the place in the aspect an operation comes from, if any. Set after construction: no field."""

    span: Span | None = None


@dataclass(eq=False)
class Op(Located):
    """Base of operations.

    ``operand_fields`` names the fields that hold operands, ``operand_list`` the one that holds a tuple of more, if
    there is one; ``pure`` says that it may be removed when its ``dst`` is not used. ``mnemonic`` is its name in the
    printed form.
    """

    mnemonic: ClassVar[str] = ""
    operand_fields: ClassVar[tuple[str, ...]] = ()
    operand_list: ClassVar[str] = ""
    pure: ClassVar[bool] = False

    @property
    def result(self) -> Value | None:
        """The value it assigns, or None."""
        return getattr(self, "dst", None)

    def operands(self) -> tuple[Operand, ...]:
        """The operands it uses, in the order of its fields."""
        own = tuple(getattr(self, f) for f in self.operand_fields)
        return (*own, *getattr(self, self.operand_list)) if self.operand_list else own

    def substitute(self, known: dict[Value, Operand]) -> None:
        """Put other operands in the place of those values that ``known`` holds."""
        substitute_in(self, known)
        if self.operand_list:
            operands = getattr(self, self.operand_list)
            setattr(self, self.operand_list, tuple([known.get(o, o) if isinstance(o, Value) else o for o in operands]))


def substitute_in(holder: Op | Part | Step, known: dict[Value, Operand]) -> None:
    """Put other operands in the place of those values that ``known`` holds, in the fields of an operation or a part."""
    for name in holder.operand_fields:
        operand = getattr(holder, name)
        if isinstance(operand, Value) and operand in known:
            setattr(holder, name, known[operand])


@dataclass(eq=False)
class FlowOp(Op):
    """Base of the operations on control flows, which are in ``irflow``. ``flow`` is the number in the plan."""

    flow: int

    @property
    def text(self) -> str:
        """It as it is printed."""
        return f"{self.mnemonic.replace('_', ' ')} {self.flow}"


@dataclass(eq=False)
class NoteOp(Op):
    """Base of the operations on notes of accesses, which are in ``irnote``. ``number`` is that in the plan."""

    number: int


# --- arithmetic -----------------------------------------------------------------------------------------------------

BINARY_OPS = ("add", "sub", "mul", "udiv", "umod", "sdiv", "smod", "and", "or", "xor", "shl", "lshr", "ashr")
SIGNED_DIVISIONS = ("sdiv", "smod")
COMPARISONS = ("eq", "ne", "ult", "ule", "ugt", "uge", "slt", "sle", "sgt", "sge")


@dataclass(eq=False)
class Copy(Op):
    """``dst = source``."""

    dst: Value
    source: Operand
    mnemonic = "copy"
    operand_fields = ("source",)
    pure = True


@dataclass(eq=False)
class Binary(Op):
    """``dst = left op right``, with op in BINARY_OPS.

    Width 64 is modulo 2**64. Width 32 uses the low 32 bits of both operands and zero-extends the 32-bit result.
    Shift counts are taken modulo the width. Division by zero gives 0; modulo by zero gives the left operand (cut to
    the width): eBPF's own rule. The most negative number divided by -1 gives itself, and 0 as remainder.
    """

    dst: Value
    op: str
    width: int
    left: Operand
    right: Operand
    mnemonic = "binary"
    operand_fields = ("left", "right")
    pure = True


@dataclass(eq=False)
class Extend(Op):
    """``dst`` = the low ``bits`` (1 to 63) of ``source``, sign- or zero-extended to 64."""

    dst: Value
    source: Operand
    bits: int
    signed: bool
    mnemonic = "extend"
    operand_fields = ("source",)
    pure = True


@dataclass(eq=False)
class Swap(Op):
    """``dst`` = the low ``bits`` (16, 32 or 64) of ``source`` with their bytes in the opposite order, zero-extended."""

    dst: Value
    source: Operand
    bits: int
    mnemonic = "swap"
    operand_fields = ("source",)
    pure = True


@dataclass(eq=False)
class Compare(Op):
    """``dst = left op right`` as 1 or 0, with op in COMPARISONS, over all 64 bits."""

    dst: Value
    op: str
    left: Operand
    right: Operand
    mnemonic = "compare"
    operand_fields = ("left", "right")
    pure = True


@dataclass(eq=False)
class Get(Op):
    """``dst = var``."""

    dst: Value
    var: Var
    mnemonic = "get"
    pure = True


@dataclass(eq=False)
class Set(Op):
    """``var = source``."""

    var: Var
    source: Operand
    mnemonic = "set"
    operand_fields = ("source",)


# --- what the probe and the task offer ------------------------------------------------------------------------------

CONTEXT_VALUES = ("now", "pid_tgid", "uid_gid", "cpu", "cgroup", "task", "random")
CHANGING = ("now", "random")  # of these, what is another each time


@dataclass(eq=False)
class Context(Op):
    """``dst`` = a fact of the moment, named as in CONTEXT_VALUES and coded as the kernel does.

    now: ns, monotonic; pid_tgid: tgid << 32 | pid; uid_gid: gid << 32 | uid; cpu: its number; cgroup: v2 id; task: the
    address of its task_struct; random: a number from 0 to 2**32 - 1, each as likely.
    """

    dst: Value
    what: str
    mnemonic = "context"
    pure = True


@dataclass(eq=False)
class Argument(Op):
    """``dst`` = an argument of the function, all 64 bits of its register or stack word as they are; or a field of a
    trace event's record, the low bits of ``dst``, or where it lies.

    ``source`` is the plan's: where it is found depends on the probe's context; in BEHIND and RETURN from the mark,
    hence only behind a successful Locate.
    """

    dst: Value
    source: plan.Argument | plan.RecordField
    mnemonic = "argument"
    pure = True


@dataclass(eq=False)
class Result(Op):
    """``dst`` = the function's result register, all 64 bits as they are."""

    dst: Value
    mnemonic = "result"
    pure = True


@dataclass(eq=False)
class Register(Op):
    """``dst`` = a register of the interrupted code, all 64 bits, named as in ``arch_x86_64``. At instructions alone."""

    dst: Value
    name: str
    mnemonic = "register"
    pure = True


@dataclass(eq=False)
class Lookup(Op):
    """``dst`` = the number at place ``index`` of a table, all of them from 0 to 2**32 - 1. It must be in the table."""

    dst: Value
    index: Operand
    table: tuple[int, ...]
    mnemonic = "lookup"
    operand_fields = ("index",)
    pure = True


OBSERVED = ("new", "old", "kind", "ip", "failed", "address")


@dataclass(eq=False)
class Observe(Op):
    """``dst`` = what a WATCH probe found when it was reached, named as in OBSERVED.

    new, old: the data (up to 8 bytes, zero-extended) as it is, and as it was at the access before. kind: what the
    instruction does, bits as in plan.READS; 0: not known. ip: where the processor is, behind the instruction. failed:
    1 if the data could not be read. address: where it lies, at a probe that serves many objects.
    """

    dst: Value
    what: str
    mnemonic = "observe"
    pure = True


@dataclass(eq=False)
class Mark(Op):
    """What the probe does with its mark, ``use`` the plan's MarkUse value: write, read or take.

    First in the entry block, and only there; absent when the probe uses no marks. ``write`` keeps a mark for the
    probe it is to meet (and counts where that failed), before any arm runs; ``read`` and ``take`` look the mark up
    for the Locate and Argument operations that follow.
    """

    use: str
    mnemonic = "mark"


@dataclass(eq=False)
class CountHit(Op):
    """Count a hit of the join point: its pointcut, run-time part included, held."""

    joinpoint: Operand
    mnemonic = "count_hit"
    operand_fields = ("joinpoint",)


COUNTS = ("left_out", "cut", "denied")


@dataclass(eq=False)
class Count(Op):
    """Count something else of the join point, as in COUNTS: record.COUNTER_LEFT_OUT and those behind it."""

    joinpoint: Operand
    what: str
    mnemonic = "count"
    operand_fields = ("joinpoint",)


@dataclass(eq=False)
class Limit(Op):
    """``dst`` = 1 if the bucket ``slot`` of the aspect had a token, which is taken, else 0.

    It holds up to ``size`` tokens, is full to begin with, and gets one each ``interval`` ns. Whatever runs at the same
    time, no more are taken than there are; while many CPUs take at once, one may find none though there is one.
    """

    dst: Value
    slot: int
    interval: int
    size: int
    mnemonic = "limit"


@dataclass(eq=False)
class Stop(Op):
    """Switch the aspect off: from now on its programs return at once."""

    mnemonic = "stop"


@dataclass(eq=False)
class WatchObject(Op):
    """Have what lies at ``address``, ``size`` bytes, watched as the aspect's member ``member`` of an object.

    Until UnwatchObject, or ``hits`` accesses, or ``duration`` ns (0: without that bound). See :mod:`klasy.objects`.
    """

    address: Operand
    joinpoint: Operand
    member: int
    size: int
    hits: int
    duration: int
    mnemonic = "watch_object"
    operand_fields = ("address", "joinpoint")


@dataclass(eq=False)
class UnwatchObject(Op):
    """End the watching of what lies at ``address``, if it is watched as that member."""

    address: Operand
    member: int
    mnemonic = "unwatch_object"
    operand_fields = ("address",)


# --- kernel memory --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Load(Op):
    """``dst`` = ``size`` bytes (of LOAD_SIZES) of kernel memory at ``address + offset``, little-endian, zero-extended.

    A fault gives 0 and sets the bits ``mask`` of ``faults``. ``user``: of the memory of the task's process instead.
    """

    dst: Value
    address: Operand
    offset: int
    size: int
    faults: Var | None = None
    mask: int = 0
    user: bool = False
    mnemonic = "load"
    operand_fields = ("address",)
    pure = True  # a fault that nobody sees is none


@dataclass(eq=False)
class StringEqual(Op):
    """``dst`` = 1 if the string in kernel memory at ``address + offset`` is ``literal``, else 0.

    ``user``: in the memory of the task's process instead.

    The string ends at its first NUL or after ``limit`` bytes, which is at least ``len(literal)``; the literal holds no
    NUL and has fewer than MAX_STRING bytes. A string that cannot be read is the empty one, and sets the bits
    ``mask``.
    """

    dst: Value
    address: Operand
    offset: int
    limit: int
    literal: bytes
    faults: Var | None = None
    mask: int = 0
    user: bool = False
    mnemonic = "string_equal"
    operand_fields = ("address",)
    pure = True


@dataclass(eq=False)
class CommEqual(Op):
    """``dst`` = 1 if the task's comm is ``literal`` (fewer than COMM_SIZE bytes, no NUL), else 0."""

    dst: Value
    literal: bytes
    mnemonic = "comm_equal"
    pure = True


# --- log records ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Part:
    """One value of a record, at ``offset`` from the record's start. Base of what :class:`Emit` holds."""

    mnemonic: ClassVar[str] = ""
    operand_fields: ClassVar[tuple[str, ...]] = ()

    offset: int


@dataclass(eq=False)
class StoreField(Part):
    """The low ``size`` (1, 2, 4, 8) bytes of ``value``."""

    size: int
    value: Operand
    mnemonic = "store"
    operand_fields = ("value",)


@dataclass(eq=False)
class CopyField(Part):
    """``size`` bytes of kernel memory at ``address + at``. A fault gives zeros and sets the record's fault bit.

    ``user``: of the memory of the task's process instead.
    """

    size: int
    address: Operand
    at: int
    bit: int
    user: bool = False
    mnemonic = "copy"
    operand_fields = ("address",)


@dataclass(eq=False)
class StringField(Part):
    """The NUL-terminated string at ``address + at`` in kernel memory, cut to ``size`` bytes with its NUL.

    What stands behind the NUL is not defined. A fault gives the empty string and sets the record's fault bit.
    ``user``: in the memory of the task's process instead, or where the kernel has copied it and that was noted, there.
    ``told``: the last of the bytes says which (record.TEXT_USER ..), and is none of the string's.
    """

    size: int
    address: Operand
    at: int
    bit: int
    user: bool = False
    told: bool = False
    mnemonic = "string"
    operand_fields = ("address",)


@dataclass(eq=False)
class CallField(Part):
    """A system call as a whole, layout as record.py says: ``registers`` is the address of the program's registers,
    ``contents`` tells what some of them lead to."""

    size: int
    registers: Operand
    result: Operand
    contents: tuple[Content, ...]
    mnemonic = "call"
    operand_fields = ("registers", "result")


@dataclass(eq=False)
class BufferField(Part):
    """``length`` as 8 bytes, then as many bytes of kernel memory at ``address + at``, at most ``size - 8``, then zeros.

    A length that is negative, taken as signed, counts as 0; nothing is read then. A fault gives zeros and sets the
    record's fault bit. ``size`` and ``offset`` are multiples of 8. ``user``: of the memory of the task's process.
    """

    size: int
    address: Operand
    at: int
    bit: int
    length: Operand
    user: bool = False
    mnemonic = "buffer"
    operand_fields = ("address", "length")


@dataclass(eq=False)
class StackField(Part):
    """The stack at the join point, layout as record.py says; of the process's own code where ``user``.

    Where it cannot be had it is zeros, and the record's fault bit is set.
    """

    size: int
    bit: int
    user: bool
    mnemonic = "stack"


@dataclass(eq=False)
class StackKey(Part):
    """Of the key of a state: which stack the join point's is, and ``place``, the number of the place where it begins.

    The stack is kept beside the state; where it cannot be, the update is lost and counted. Layout: klasy/state.py.
    """

    place: Operand
    user: bool
    mnemonic = "stack key"
    operand_fields = ("place",)

    @property
    def size(self) -> int:
        """Bytes of the key."""
        from klasy.state import stack_key_bytes

        return stack_key_bytes(user=self.user)


@dataclass(eq=False)
class CommField(Part):
    """The task's comm, COMM_SIZE bytes."""

    mnemonic = "comm"


@dataclass(eq=False)
class Emit(Op):
    """Write one record of format ``format``: reserve ``size`` bytes, header, parts, faults, submit.

    One operation, so that nothing can come between reserving and submitting. Where the ring buffer has no room it
    counts the join point's record as lost and goes on. The header (see record.py) is the backend's: its faults are
    the value of ``faults`` (None: 0) and the bits of the copies that failed. Every byte of the values that a reader
    may look at is written by a part.
    """

    format: int
    size: int
    joinpoint: Operand
    parts: tuple[Part, ...]
    faults: Var | None = None
    mnemonic = "emit"
    operand_fields = ("joinpoint",)

    def operands(self) -> tuple[Operand, ...]:
        """The join point, then the parts' operands in their order."""
        return (self.joinpoint, *(getattr(p, f) for p in self.parts for f in p.operand_fields))

    def substitute(self, known: dict[Value, Operand]) -> None:
        """As :meth:`Op.substitute`, in the parts too."""
        super().substitute(known)
        for part in self.parts:
            substitute_in(part, known)


# --- control --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Terminator(Op):
    """Base of the operations that end a block. ``target_fields`` names the fields that hold its targets."""

    target_fields: ClassVar[tuple[str, ...]] = ()

    @property
    def targets(self) -> tuple[Block, ...]:
        """The blocks control may go to."""
        return tuple(getattr(self, f) for f in self.target_fields)


@dataclass(eq=False)
class Jump(Terminator):
    """Go to ``target``."""

    target: Block
    mnemonic = "jump"
    target_fields = ("target",)


@dataclass(eq=False)
class Branch(Terminator):
    """Go to ``then`` if ``left op right`` (op in COMPARISONS, over 64 bits), else to ``otherwise``."""

    op: str
    left: Operand
    right: Operand
    then: Block
    otherwise: Block
    mnemonic = "branch"
    operand_fields = ("left", "right")
    target_fields = ("then", "otherwise")


@dataclass(eq=False)
class Locate(Terminator):
    """Find which join point of arm ``arm`` this is: to ``found`` with its id in ``dst``, else to ``missing``.

    How is told by the probe's locator and the arm's maps. ``dst`` is defined in ``found`` only, which has no other
    predecessor. An arm of a FIXED probe needs no Locate: its id is a constant.
    """

    dst: Value
    arm: int
    found: Block
    missing: Block
    mnemonic = "locate"
    target_fields = ("found", "missing")


@dataclass(eq=False)
class Return(Terminator):
    """End the program."""

    mnemonic = "return"


@dataclass(eq=False)
class Deny(Terminator):
    """End the program so that the function it is on does not run and returns -``errno``."""

    errno: int
    mnemonic = "deny"
