"""What a backend gives the weaver: programs, maps, record formats, all plain data and deterministic.

The weaver adds nothing of its own to the programs: it creates the maps, fills them with ``initial``, patches the map
references and loads.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, NamedTuple, dataclass, field
from klasy.record import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.bpf.assembled import Assembled
    from klasy.kernel.model import Function
    from klasy.match.plan import Plan
    from klasy.record import Format
    from klasy.state import State

# Names of the maps every aspect has.
MAP_EVENTS = "events"  # ring buffer of log records
MAP_COUNTERS = "counters"  # one value, a row for each CPU: record.COUNTERS, by join point id
MAP_RUNS = "runs"  # one value, a row for each CPU: u64 by probe, runs of its program; only where there is one to count
MAP_CONTROL = "control"  # array of one CONTROL value
MAP_CALLS = "calls"  # hash of system calls under way, see backend/bytecode/syscalls.py; only where the plan has any
MAP_NAMES = "names"  # LRU hash of strings that the kernel has copied for them
MAP_NUMBERS = "numbers"  # one value: for each number of a system call what is wanted of it
MAP_MARKS = "marks"  # hash of marks, see match/plan.py; only where the plan has any
MAP_NOTES = "notes"  # hash of notes of accesses to members, see match/plan.py; only where the plan has any
MAP_UNKNOWN = (
    "unknown"  # hash: u64 return address -> u64 hits, of dispatched calls from no known site; if there are any
)
MAP_LIMITS = "limits"  # one value: for each bucket of ``limit`` the time in ns when it will be full; if there are any
# Where children are followed, see backend/bytecode/filters.py:
MAP_FOLLOWED = "followed"  # hash: u32 process -> u64 address of its signal_struct; 0: followed from the beginning
MAP_UNFOLLOWED = "unfollowed"  # one u64: processes for which there was no room
# Of aspects that watch data, see backend/bytecode/watch.py:
MAP_TRAPS = "traps"  # per-CPU array: runs of the program of each watch, by its slot
MAP_LAST = "last"  # one value: for each datum what it was at the last access, and whether there was one
MAP_FIRST = "first"  # one value: for each datum what it was when the aspect was woven
MAP_KINDS = "kinds"  # hash: address behind an instruction -> what it does to data, as in plan.READS
MAP_ACCESSES = "accesses"  # hash: u64 address behind the instruction, u32 join point, u32 what was known -> u64 hits

# Of aspects with a budget, see backend/bytecode/budget.py:
MAP_SPENT = "spent"  # per-CPU array of one u64: ns that programs took and that are in no sum yet
MAP_BUDGET = (
    "budget"  # one value: when the window began, ns spent in it; and when it was too much: how much, of what time
)
BUDGET_WINDOW, BUDGET_SPENT, BUDGET_OVER, BUDGET_SPAN, BUDGET_SIZE = 0, 8, 16, 24, 32

# The control value: u32 active (0: programs return at once), u32 stopped (1: switched off by its own stop(), 2: by its
# budget).
STOPPED_BY_BUDGET = 2
CONTROL_SIZE = 8
CONTROL_ACTIVE = 0
CONTROL_STOPPED = 4

# A mark, see match/plan.py: u64 slot, u64 tag -> the value below.
MARK_KEY_SIZE = 16
MARK_SITE = 0
MARK_RETURN = 8
MARK_PID_TGID = 16
MARK_ARGUMENTS = 24  # the six argument registers
MARK_SIZE = MARK_ARGUMENTS + 6 * 8

# A note, see match/plan.py: u64 stack pointer, u64 number -> the value below.
NOTE_KEY_SIZE = 16
NOTE_JOINPOINT = 0
NOTE_FAILED = 4
NOTE_WORDS = 8


_CACHE_LINE = 64  # bytes that CPUs hand one another


class Rows(NamedTuple):
    """How the value of a map lies that has for each CPU a row of entries, each of ``width`` bytes.

    A row is of whole cache lines: no CPU writes where another does.
    """

    cpus: int
    entries: int
    width: int

    @property
    def row(self) -> int:
        """Bytes of a CPU's row."""
        return -(-self.entries * self.width // _CACHE_LINE) * _CACHE_LINE

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return self.cpus * self.row


def counter_rows(cpus: int, joinpoints: int) -> Rows:
    """How the value of MAP_COUNTERS lies."""
    return Rows(cpus, max(1, joinpoints), COUNTERS.size)


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map to create. ``type`` is the name in bpf.uapi (``hash``, ``array``, ``percpu_array``, ``ringbuf`` ..)."""

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    initial: tuple[tuple[bytes, bytes], ...] = ()
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """A program to load. ``probe`` indexes the plan's probes. ``target`` is set for fentry and fexit."""

    name: str
    probe: int
    type: str  # "kprobe", "fentry", "fexit", "perf_event", "raw_tracepoint", "tracepoint"
    code: Assembled
    target: Function | None = None


@dataclass(frozen=True, slots=True)
class TracepointSpec:
    """A program to load that runs no advice, on a static tracepoint: ``btf_id`` is that of its type."""

    name: str
    tracepoint: str
    btf_id: int
    code: Assembled


@dataclass(frozen=True, slots=True)
class Artifact:
    """Everything needed to weave one aspect."""

    plan: Plan
    maps: tuple[MapSpec, ...]
    programs: tuple[ProgramSpec, ...]
    formats: tuple[Format, ...]
    states: tuple[State, ...] = ()
    tracepoints: tuple[TracepointSpec, ...] = ()  # to be attached before the programs
    budget: float | None = None  # percent of the processor time
    types: Mapping[str, bytes] = field(default_factory=dict)  # handed along, see compiler.Compiled
