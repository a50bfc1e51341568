"""The plan of a weave: which advice runs at which shadow, and the probes that reach them.

Input of both the compiler (one program for each probe) and the weaver (where each is attached). Plain data: no
system calls, no instructions.

A **probe** is one BPF program and the points it is attached to. A program serves several points and several advice of
its aspect at once: its *locator* says how it learns at which point it runs, and each of its *arms* runs one advice at
those of the points that are the advice's join points, in the order of the arms. An arm whose maps lack the place does
not run there.

Where two kprobes share an address the kernel runs the one registered last first (kernel/kprobes.c, add_new_kprobe
adds at the head of the list). The probes of a plan are in the order in which they are to be registered: those that
must run first come last.

**Marks** tie a place where control leaves to the place where it arrives. A probe with ``MarkUse.WRITE`` writes, into
the aspect's one hash map of marks, under the address of the stack slot that holds (or will hold) the callee's return
address:

    key    u64 slot                 site: sp - 8; tail call and function entry: sp
           u64 tag                  the mark's role; for the role ENTRY the address of the function's entry. Marks of
                                    different uses, and of functions that go on into each other by tail calls, do not
                                    overwrite each other
    value  u64 site                 address of the instruction or function entry that was marked
           u64 return_address       site: the address behind the call; tail call and entry: the word at slot
           u64 pid_tgid
           u64 arguments[6]         the argument registers

A probe that uses marks looks up its own slot (behind a call and in a kretprobe: sp - 8; at entry: sp; in FEXIT: where
the trampoline's caller left the return address) and takes the mark as its own only if ``return_address`` and
``pid_tgid`` agree, so a mark left by a call that never returned is never taken for another. Of marks with the role
ENTRY only ``pid_tgid`` is compared: another tracer may have put its trampoline in the place of the return address
before the mark was written; and a function that returns has written its own mark over any stale one at entry, unless
its entry was missed. A RETURN probe that uses these marks finds its function by ADDRESS; without a mark no arm runs.

In user programs a stack slot's address is no key, for each process has its own: there the tag is that of the role
ENTRY (less than 2**42) with the thread's id in the 22 bits above.

In RETURN context the return address is regs->ip. Arms with arguments there have only ``by_address``: the arguments
are those of the mark.

**Notes** tie an instruction that accesses a member to the one behind it, which others reach, too. A MEMBER probe keeps
one for each of its ``notes``, with what the advice behind asks for, in the aspect's hash map of notes:

    key    u64 stack pointer        as it is behind the instruction
           u64 number               the note's, in the plan
    value  u32 join point + 1       0: there is none
           u32 failed               1: a load failed
           u64 words[]              what is wanted, in the order of WANTED

An ACCESSED probe takes the note of its own stack pointer, and runs the arm only if that is of its own join point. Both
are then one and the same run of the code, whatever comes in between: what interrupts it runs further down that stack or
on another one, a task that is preempted keeps its own, and on its own between the two there is nothing but the access.
"""

from __future__ import annotations

from klasy.match.mechanism import IN_PROGRAMS
from klasy.plain import TYPE_CHECKING, Enum, IntEnum, NamedTuple, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.diag import Diagnostic
    from klasy.flow.stored import Stored
    from klasy.kernel.callcontents import Content
    from klasy.kernel.model import Function
    from klasy.lang.ast import Aspect, Expr, TypeRef
    from klasy.match.datum import Datum, MemberData, Piece, WatchedMember
    from klasy.match.filter import Filter
    from klasy.match.mechanism import Context, Mechanism
    from klasy.match.shadow import JoinPointKind, Shadow


class CallUse(Enum):
    """What a program does with the accounts of system calls that are under way
    (:mod:`klasy.backend.bytecode.syscalls`)."""

    NONE = "none"
    BEGIN = "begin"  # begins one
    END = "end"  # ends it; of SYS_EXIT nothing runs without
    NAME = "name"  # at putname: the file name that the kernel has copied is noted for the call
    STRING = "string"  # behind strndup_user: so is a string


class Locator(Enum):
    """How a program learns which join point it is at."""

    FIXED = "fixed"  # it has one point: the only entry of ``Arm.by_address``
    ADDRESS = "address"  # ``Arm.by_address``: address of the probed instruction or function entry
    MARK = "mark"  # a mark, then ``Arm.by_address`` with the mark's site; no mark: no join point
    # A mark (tail calls), if there is one: ``Arm.by_address`` with its site, and nothing else; where there is none,
    # ``Arm.by_return_address``; where no arm of the advice has the return address there, ``Arm.otherwise``.
    DISPATCH = "dispatch"


@dataclass(frozen=True, slots=True)
class Argument:
    """A value on offer: the function's argument, counted from 0.

    Where it is passed follows from its index unless structs come by value before it or are it; then ``slot`` and
    ``place`` say so (-1: same as ``index``).
    """

    index: int
    slot: int = -1
    place: int = -1

    @property
    def trampoline_slot(self) -> int:
        """Its first 8-byte word in the context of FENTRY and FEXIT programs."""
        return self.index if self.slot < 0 else self.slot

    @property
    def abi_place(self) -> int:
        """0 to 5: the argument register (rdi, rsi, rdx, rcx, r8, r9); 6 + k: word k on the stack, from the one above
        the return address on."""
        return self.index if self.place < 0 else self.place


@dataclass(frozen=True, slots=True)
class RecordField:
    """A value on offer: a field of a trace event's record, ``size`` bytes at ``offset``.

    ``kind`` as in :class:`klasy.kernel.tracepoints.Field`: of all but ``value`` it is the address of the data.
    """

    name: str
    offset: int
    size: int
    kind: str


@dataclass(frozen=True, slots=True)
class UserRegister:
    """A value on offer: an argument of a system call, in the registers that the program had, at ``offset`` bytes of
    the ``struct pt_regs`` that ``registers`` (an argument of the kernel's function) points to."""

    name: str
    offset: int

    @property
    def registers(self) -> Argument:
        """Where the pointer to the registers is."""
        return Argument(0)


@dataclass(frozen=True, slots=True)
class Located:
    """A value on offer at one instruction: that of ``register`` (None: 0) plus the first of ``offsets``; for each
    further one the 8 bytes there, plus it. ``load`` bytes there then are the value; 0: that is the value itself."""

    register: str | None
    offsets: tuple[int, ...]
    load: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """A value on offer: what the function returned."""


@dataclass(frozen=True, slots=True)
class Object:
    """A value on offer: the address of the object whose member is accessed."""


@dataclass(frozen=True, slots=True)
class WatchedObject:
    """A value on offer at accesses to a watched member: the object it is a member of, ``offset`` bytes before it."""

    offset: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A value on offer: what the parameter ``place`` of a control flow was when it was entered, the innermost time."""

    flow: int
    place: int


@dataclass(frozen=True, slots=True)
class Binding:
    """An advice parameter and where its value comes from. ``type`` is the parameter's type as written."""

    name: str
    source: Argument | Located | RecordField | UserRegister | Result | Object | WatchedObject | Kept
    type: TypeRef


class JoinPoint(NamedTuple):
    """One advice at one shadow. ``id`` numbers them in the aspect, from 0, and indexes the counters.

    ``mechanism`` and ``why`` are what ``klasy joinpoints`` shows.
    """

    id: int
    advice: int
    shadow: Shadow
    mechanism: str
    why: str


# What an instruction does to data, as bits. 0: that is not known; CHANGED: nor is it, but the value has changed.
READS, WRITES, CHANGED = 1, 2, 4


class MemberCode(NamedTuple):
    """How a program finds, at an instruction that accesses a member and has not run yet, what the advice asks for; or
    behind it, where it leaves the registers alone that this takes.

    Addresses are the value of register ``base`` (as ``arch_x86_64`` names it) plus that of ``indexed`` times ``scale``,
    if there is one, plus an offset: ``member`` that of the member's first byte, ``word`` that of the instruction's
    operand of ``width`` bytes. ``object`` is the object's from the base alone. The member is ``bits`` bits from bit
    ``shift`` of its first byte. ``width`` 0: the operand does not hold it whole; then ``stored`` is None, as it is
    where the instruction only reads. ``late``: what it will leave cannot be told, and is read when it has run; the note
    has the member's address for it.
    """

    base: str
    indexed: str | None
    scale: int
    member: int
    object: int
    shift: int
    bits: int
    signed: bool
    word: int
    width: int
    stored: Stored | None
    late: bool = False


WANTED = ("old", "new", "address", "object")


class Members(NamedTuple):
    """What an advice asks for at accesses to members, and how it is found at each address. Empty ``code``: nothing."""

    wants: frozenset[str]  # of WANTED
    code: Mapping[int, MemberCode]


class Note(NamedTuple):
    """What is kept at accesses to members for an advice that runs behind them.

    ``by_address``: the join point of each access. ``shift``: by how many bytes they move the stack pointer (push, pop).
    """

    number: int
    advice: int
    by_address: Mapping[int, int]
    members: Members
    shift: int


@dataclass(frozen=True, slots=True)
class Arm:
    """One advice as a probe runs it. The maps give the id of the join point at an address.

    ``contents``: where the advice takes system calls as a whole, what their arguments lead to. ``note``: of an ACCESSED
    probe, that without which the advice does not run; without it only the access leads there.

    Of a WATCH probe: the advice runs at accesses that do what ``does`` says (READS, WRITES, 0: either), and at those of
    which the program cannot tell (the reader of log and counts can); where ``ranges`` is given, only at instructions
    that lie there.
    """

    advice: int
    bindings: tuple[Binding, ...]
    guard: Expr | None
    by_address: Mapping[int, int]
    by_return_address: Mapping[int, int] = field(default_factory=dict)
    otherwise: int | None = None
    does: int = 0
    ranges: tuple[tuple[int, int], ...] | None = None
    members: Members | None = None
    contents: tuple[Content, ...] | None = None
    note: Note | None = None

    @property
    def joinpoints(self) -> tuple[int, ...]:
        """The ids of the join points at which it runs; one that several addresses lead to stands there as often."""
        own = () if self.otherwise is None else (self.otherwise,)
        return (*self.by_address.values(), *self.by_return_address.values(), *own)


class Point(NamedTuple):
    """Where a probe is attached: an instruction (or entry) at ``address`` in ``function``."""

    address: int
    function: Function


@dataclass(frozen=True, slots=True)
class Watch:
    """What a debug register watches, on every CPU: a piece of a datum; writes alone, or reads too.

    ``slot`` numbers the watches of a plan, ``datum`` their data. ``kinds``: what instructions that are known
    beforehand do (READS, WRITES), by the address behind them; empty for ``writes_only``, where it is no question.
    ``per_object``: ``data`` is a member of the objects that advice watches; ``slot`` and ``datum`` number those, and
    the helper arms the registers; the piece lies where the member does in its object.
    """

    slot: int
    datum: int
    data: Datum | WatchedMember
    piece: Piece
    writes_only: bool
    kinds: Mapping[int, int] = field(default_factory=dict)
    per_object: bool = False


class MarkUse(Enum):
    """What a program does with marks."""

    NONE = "none"
    WRITE = "write"  # runs its arms, if it has any, and writes one
    READ = "read"  # looks one up and leaves it for a later probe
    TAKE = "take"  # looks one up and deletes it


class MarkRole(IntEnum):
    """What ties a mark's two ends; the ``tag`` of its key, but for ENTRY."""

    CALL = 0  # from a call instruction to the one behind it
    TAIL = 1  # from a tail call's jump to the callee's entry or return
    ENTRY = 2  # from a function's entry to its return, for the arguments; the tag is the entry's address


@dataclass(frozen=True, slots=True)
class Probe:
    """One program and its points. FENTRY and FEXIT probes have exactly one point, WATCH probes a ``watch`` and none.

    ``role`` is that of the marks it uses. ``condition`` is for TAIL probes on conditional jumps: the x86 condition
    code (the opcode's low four bits), of which the flags must tell that the jump will be taken, else the program does
    nothing. ``notes`` are what a MEMBER probe keeps for ACCESSED ones.
    """

    index: int
    mechanism: Mechanism
    context: Context
    locator: Locator
    mark: MarkUse
    points: tuple[Point, ...]
    arms: tuple[Arm, ...]
    role: MarkRole = MarkRole.CALL
    condition: int | None = None
    watch: Watch | None = None
    calls: CallUse = CallUse.NONE
    notes: tuple[Note, ...] = ()

    @property
    def places(self) -> tuple[Mapping[int, int], ...]:
        """By address the join points of its arms, then those for which it keeps notes: as a Locate numbers them."""
        return (*[arm.by_address for arm in self.arms], *[note.by_address for note in self.notes])

    @property
    def joinpoints(self) -> set[int]:
        """The ids of the join points whose advice its program runs."""
        return {joinpoint for arm in self.arms for joinpoint in arm.joinpoints}

    @property
    def takes_notes(self) -> bool:
        """Whether it is the second of two probes at its join points."""
        return any(arm.note is not None for arm in self.arms)

    @property
    def in_program(self) -> bool:
        """Whether it is in the text of a user program: contexts ENTRY and RETURN, of the program's own registers.

        The memory that its arms' pointers lead to is the program's. The cookie of its links is the point's address.
        """
        return self.mechanism in IN_PROGRAMS

    @property
    def name(self) -> str:
        """A name for the program, stable within the plan."""
        return f"p{self.index}_{self.context.value}"


@dataclass(frozen=True, slots=True)
class Unreached:
    """A shadow that an advice matches and no probe can reach, with the reason for the user."""

    advice: int
    shadow: Shadow
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class FlowPlan:
    """The control flows that an aspect's advice ask for: how many values each keeps, by its number.

    ``offsets``: address of the table of where each CPU's per-CPU variables lie; ``preempt_count``: of the one that
    tells whether an interrupt is being served, from there. ``softirq_count``: where a task has the softirqs' part of
    that, in a kernel that keeps it there.
    """

    values: tuple[int, ...]
    offsets: int
    preempt_count: int
    softirq_count: int | None = None


class SyscallPlan(NamedTuple):
    """What programs must know of the kernel's memory to keep accounts of system calls: offsets in bytes.

    ``status``: in a task, of what tells whether its call is one of 32-bit programs; ``uptr`` and ``name`` in struct
    filename.
    """

    status: int
    uptr: int
    name: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan of one aspect, with the warnings that matching it gave.

    ``untyped``: how many instructions access something at a fitting offset of an object whose type is not known.
    ``filter``: whose hits count; given with the weave, so that matching leaves it out.
    """

    aspect: Aspect
    joinpoints: tuple[JoinPoint, ...]
    probes: tuple[Probe, ...]
    unreached: tuple[Unreached, ...]
    diagnostics: tuple[Diagnostic, ...]
    untyped: int = 0
    filter: Filter | None = None
    flows: FlowPlan | None = None
    syscalls: SyscallPlan | None = None

    def data_of(self, advice: int) -> list[tuple[JoinPointKind, Datum | MemberData | WatchedMember]]:
        """The data whose accesses an advice runs at, with how."""
        shadows = (joinpoint.shadow for joinpoint in self.joinpoints if joinpoint.advice == advice)
        return list(dict.fromkeys((s.kind, s.datum) for s in shadows if s.datum is not None))
