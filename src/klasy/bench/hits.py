"""What one hit costs, by mechanism: counted only, and logged with three values.

The load is a loop of one system call whose way leads through the probed place once: ``lseek`` on ``/dev/null``, and
for the debug register ``syslog(SYSLOG_ACTION_SIZE_BUFFER)``. A cost is how much longer a call takes than right before
without any probe; either time is the least of many short samples, for whatever disturbs a loop makes it longer. Of each
mechanism are measured

- an empty program: what the mechanism itself costs, by which klasy can never be cheaper;
- a program written by hand that does the same as the aspect;
- the aspect;
- other tools.

``of by hand`` compares whole costs. ``own code`` compares what lies above the empty program: klasy's code against the
one written by hand. That is little beside what is taken off, and a machine's speed may change by as much between two
rounds: so it is taken off round by round, and the medians are those of the differences. Between what the rounds leave
them decides whether the limit is kept, is not, or cannot be told.
"""

from __future__ import annotations

import math
import os
import re
import statistics
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from klasy.bench import byhand, own, peers
from klasy.bench.byhand import CPU, PID, Target, Value
from klasy.bench.measure import Limit, Missing, Report, Row, Variant, median_bounds, rows, run
from klasy.bench.syscall_loop import LSEEK, SYSLOG, SyscallLoop
from klasy.bpf.insn import R0, R3, R6, add, load, load_imm64, mov
from klasy.errors import InputError, SystemRefusal
from klasy.flow.sites import kernel_member
from klasy.kernel.live import running_kernel
from klasy.plain import NamedTuple, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klasy.backend.artifact import Artifact
    from klasy.bench.byhand import Attached
    from klasy.bench.measure import Scale
    from klasy.bpf.assembled import Assembled

FUNCTION = "null_lseek"
CALLEES = ("__fdget_pos", "fdget_pos")  # what lseek calls first: before 6.12 and from then on
CALLERS = ("ksys_lseek", "__x64_sys_lseek")  # into which the compiler has inlined the other, or not
SIZE_BUFFER = 10  # an action of syslog
LIMIT = Limit("own code", most=1.1)
_SAMPLES = 100
_SECONDS = 0.001  # of a sample: shorter than what a scheduler gives anyone at a time while others wait
_RECORD = 128  # bytes of a ring buffer that a record here never exceeds
# where struct pt_regs has them
_DX, _SI, _DI, _AX, _SP = 96, 104, 112, 80, 152


class Mechanism(NamedTuple):
    """How one mechanism is used by everybody who can. Peers: bpftrace's probe and the arguments of its printf, and a
    trace event with what it fetches."""

    name: str
    target: Target
    counting: Artifact
    logging: Artifact
    values: tuple[Value, ...]
    bpftrace: str
    printed: str
    event: str = ""
    fetched: str = ""
    by_caller: bool = False
    jump: int = 0  # where its kprobe becomes a jump


def mechanisms() -> dict[str, Callable[[], Mechanism]]:
    """Those there are, by name; each is built when it is asked for."""
    return {
        "fentry": _fentry,
        "fexit": _fexit,
        "kprobe at entry": _entry,
        "kprobe at a call": _call,
        "return-address dispatch": _dispatch,
        "kretprobe": _kretprobe,
        "typed member site": _member,
        "debug register": _watch,
    }


def _offset(name: str) -> int:
    return kernel_member(running_kernel(), "file", name).offset


# The three values that are logged of the function, as bpftrace prints them.
PRINTED = '"%d %d %d\\n", args->offset, args->orig, args->file->f_pos'


def fetched() -> str:
    """The same as a trace event fetches them."""
    return f"offset=%si:s64 whence=%dx:s32 pos=+{_offset('f_pos')}(%di):s64"


def logging(template: str = "") -> str:
    """The same logged by an aspect, of which this is the body. ``template``: what precedes them in ``log(..)``."""
    return (
        f'pointcut execution("loff_t {FUNCTION}(struct file *file, loff_t offset, int whence)"); '
        f"before(struct file *file, loff_t offset, int whence) {{ log({template}offset, whence, file->f_pos); }}"
    )


_BEFORE = f"pointcut execution({FUNCTION}); before() {{ }}"
_AFTER = f"pointcut execution({FUNCTION}); after() {{ }}"
_LOG_AFTER = f"pointcut execution({FUNCTION}); after() returning (loff_t r) {{ log(r, pid, cpu); }}"


def _fentry() -> Mechanism:
    position = (load(R3, R6, 0), add(R3, _offset("f_pos")))
    return Mechanism(
        "fentry",
        Target("fentry", FUNCTION),
        own.aspect(_BEFORE, force="fentry"),
        own.aspect(logging(), force="fentry"),
        (Value(8, (load(R0, R6, 8),)), Value(4, (load(R0, R6, 16),)), Value(8, place=position)),
        f"kfunc:{FUNCTION}",
        PRINTED,
    )


def _fexit() -> Mechanism:
    return Mechanism(
        "fexit",
        Target("fexit", FUNCTION),
        own.aspect(_AFTER, force="fentry"),
        own.aspect(_LOG_AFTER, force="fentry"),
        (Value(8, (load(R0, R6, 24),)), PID, CPU),
        f"kretfunc:{FUNCTION}",
        '"%d %d %d\\n", retval, pid, cpu',
    )


def _entry() -> Mechanism:
    position = (load(R3, R6, _DI), add(R3, _offset("f_pos")))
    return Mechanism(
        "kprobe at entry",
        Target("kprobe", FUNCTION),
        own.aspect(_BEFORE, force="kprobe"),
        own.aspect(logging(), force="kprobe"),
        (Value(8, (load(R0, R6, _SI),)), Value(4, (load(R0, R6, _DX),)), Value(8, place=position)),
        f"kprobe:{FUNCTION}",
        '"%d %d %d\\n", arg1, arg2, ((struct file *)arg0)->f_pos',
        f"p {FUNCTION}",
        fetched(),
    )


def _kretprobe() -> Mechanism:
    return Mechanism(
        "kretprobe",
        Target("kretprobe", FUNCTION),
        own.aspect(_AFTER, force="kprobe"),
        own.aspect(_LOG_AFTER, force="kprobe"),
        (Value(8, (load(R0, R6, _AX),)), PID, CPU),
        f"kretprobe:{FUNCTION}",
        '"%d %d %d\\n", retval, pid, cpu',
        f"r {FUNCTION}",
        "r=$retval:s64 comm=$comm",
    )


def _call_bodies(within: Sequence[str]) -> tuple[list[str], list[str]]:
    places = [(callee, inside) for callee in CALLEES for inside in within]
    count = [f"pointcut call({callee}){inside}; before() {{ }}" for callee, inside in places]
    log = [
        f'before(unsigned int fd): call("{callee}(unsigned int fd)"){inside} {{ log(fd, pid, cpu); }}'
        for callee, inside in places
    ]
    return count, log


def _call() -> Mechanism:
    count, log = _call_bodies([f" && within({caller})" for caller in CALLERS])
    artifact = own.first_that_builds(count, force="sites")
    point = artifact.plan.probes[0].points[0]
    place = f"{point.function.name}+{point.address - point.function.address}"
    return Mechanism(
        "kprobe at a call",
        Target("kprobe", point.function.name, point.address - point.function.address),
        artifact,
        own.first_that_builds(log, force="sites"),
        (Value(4, (load(R0, R6, _DI),)), PID, CPU),
        f"kprobe:{place}",
        '"%d %d %d\\n", reg("di"), pid, cpu',
        f"p {place}",
        "fd=%di:u32 comm=$comm",
    )


def _dispatch() -> Mechanism:
    count, log = _call_bodies([""])
    artifact = own.first_that_builds(count, force="dispatch")
    callee = artifact.plan.probes[0].points[0].function.name
    return Mechanism(
        "return-address dispatch",
        Target("kprobe", callee),
        artifact,
        own.first_that_builds(log, force="dispatch"),
        (Value(8, place=(load(R3, R6, _SP),)), Value(4, (load(R0, R6, _DI),)), PID, CPU),
        f"kprobe:{callee}",
        '"%lx %d %d %d\\n", *(uint64 *)reg("sp"), arg0, pid, cpu',
        f"p {callee}",
        "caller=$stack0:x64 fd=%di:u32 comm=$comm",
        by_caller=True,
    )


def _member() -> Mechanism:
    count = own.aspect(f"pointcut set(struct file.f_pos) && within({FUNCTION}); before() {{ }}")
    point = count.plan.probes[0].points[0]
    distance = point.address - point.function.address
    position, mode = _offset("f_pos"), _offset("f_mode")
    return Mechanism(
        "typed member site",
        Target("kprobe", FUNCTION, distance),
        count,
        own.aspect(
            f"before(struct file *f): set(struct file.f_pos) && within({FUNCTION}) && target(f) "
            "{ log(old, new, f->f_mode); }"
        ),
        (
            Value(8, place=(load(R3, R6, _DI), add(R3, position))),
            Value(8, (mov(R0, 0),)),
            Value(4, place=(load(R3, R6, _DI), add(R3, mode))),
        ),
        f"kprobe:{FUNCTION}+{distance}",
        f'"%d %d %d\\n", *(uint64 *)(reg("di") + {position}), 0, *(uint32 *)(reg("di") + {mode})',
        f"p {FUNCTION}+{distance}",
        f"old=+{position}(%di):s64 mode=+{mode}(%di):u32",
        jump=point.address,
    )


def _watch() -> Mechanism:
    count = own.aspect('pointcut access("u32 log_buf_len"); before() { }')
    watch = count.plan.probes[0].watch
    assert watch is not None
    address = watch.piece.address
    return Mechanism(
        "debug register",
        Target("watch", address=address),
        count,
        own.aspect('pointcut access("u32 log_buf_len"); before() { log(value, pid, cpu); }'),
        (Value(4, place=(load_imm64(R3, address),)), PID, CPU),
        f"watchpoint:{address:#x}:4:rw",
        f'"%d %d %d\\n", *(uint32 *){address:#x}, pid, cpu',
        f"mem:{address:#x}/4:rw",
    )


class _Bench:
    """One mechanism on its load."""

    def __init__(self, mechanism: Mechanism, loop: SyscallLoop, scale: Scale) -> None:
        self.mechanism = mechanism
        self.loop = loop
        # What is logged in one sample must have room where it is logged to.
        self.calls = min(loop.calls_in(scale.seconds or _SECONDS), byhand.ROOM // _RECORD)

    def variants(self) -> list[Variant]:
        """All that is compared, counting and logging."""
        m = self.mechanism
        by_hand = byhand.counter_by_caller() if m.by_caller else byhand.counter()
        count, log = f"{m.name}, counted", f"{m.name}, logged"
        aggregate = '@[*(uint64 *)reg("sp")] = count();' if m.by_caller else "@ = count();"
        found = [
            Variant(count, "empty program", "floor", lambda: self._program(byhand.empty())),
            Variant(count, "by hand", "reference", lambda: self._program(by_hand)),
            Variant(count, "klasy", "klasy", lambda: self._aspect(m.counting)),
            Variant(count, "bpftrace", "peer", lambda: self._bpftrace(aggregate, counts=True)),
        ]
        if m.event and not m.by_caller:
            found.append(Variant(count, "perf stat", "peer", self._perf_stat))
        found += [
            Variant(log, "empty program", "floor", lambda: self._program(byhand.empty())),
            Variant(log, "by hand", "reference", lambda: self._program(byhand.record(m.values))),
            Variant(log, "klasy", "klasy", lambda: self._aspect(m.logging)),
            Variant(log, "bpftrace", "peer", lambda: self._bpftrace(f"printf({m.printed});", counts=False)),
        ]
        if m.fetched:
            found.append(Variant(log, "trace event", "peer", self._trace_event))
        return found

    @contextmanager
    def _sampled(
        self, hits: Callable[[], int] | None, discard: Callable[[], None], bare: float
    ) -> Iterator[Callable[[], float]]:
        """Gives what measures the nanoseconds of a hit; at the end holds the calls made against the hits counted."""
        made = 0

        def sample() -> float:
            nonlocal made
            seconds = self.loop.seconds(self.calls)
            made += self.calls
            discard()
            return (seconds / self.calls - bare) * 1e9

        if self.mechanism.jump:
            peers.when_optimised(self.mechanism.jump)
        # What asks for the hits is not a part of the samples, and would leave them cold caches.
        before = hits() if hits else 0
        sample()
        yield sample
        if hits and hits() - before < made:
            raise SystemRefusal(f"{self.mechanism.name}: of {made} hits only {hits() - before} were counted")

    def _bare(self) -> float:
        """Seconds that a call takes now, without a probe."""
        if self.mechanism.target.function:
            peers.free_of(self.mechanism.target.function)
        return min(self.loop.seconds(self.calls) for _ in range(_SAMPLES)) / self.calls

    @contextmanager
    def _program(self, code: Assembled) -> Iterator[Callable[[], float]]:
        bare = self._bare()
        with byhand.attached(code, self.mechanism.target) as made:
            yield from self._working(made, bare, counts=bool(code.relocations))

    @contextmanager
    def _aspect(self, artifact: Artifact) -> Iterator[Callable[[], float]]:
        bare = self._bare()
        with own.at_work(artifact) as made:
            yield from self._working(made, bare, counts=True)

    def _working(self, made: Attached, bare: float, *, counts: bool) -> Iterator[Callable[[], float]]:
        with self._sampled(made.hits if counts else None, made.discard, bare) as sample:
            yield sample

    @contextmanager
    def _bpftrace(self, body: str, *, counts: bool) -> Iterator[Callable[[], float]]:
        m = self.mechanism
        bare = self._bare()
        ready = (lambda _: peers.probed(m.target.function)) if m.target.function else _has_events
        command = ["bpftrace", "--unsafe", "-e", f"{m.bpftrace} {{ {body} }}"]
        with peers.tool(command, ready) as running:
            with self._sampled(None, _nothing, bare) as sample:
                yield sample
            peers.end_tool(running.process)
            text = running.output.read_text(errors="replace")
            found = sum(int(number) for number in re.findall(r"^@.*: (\d+)$", text, re.M))
            if counts and found < self.calls:
                raise Missing(f"bpftrace counted {found} of {self.calls} hits and more")

    @contextmanager
    def _perf_stat(self) -> Iterator[Callable[[], float]]:
        m = self.mechanism
        peers.require("perf")
        bare = self._bare()
        if m.target.way == "watch":
            yield from self._stat(m.event, bare)
            return
        with peers.event(m.event) as name:
            yield from self._stat(name, bare)

    def _stat(self, name: str, bare: float) -> Iterator[Callable[[], float]]:
        command = ["perf", "stat", "-a", "-e", name, "sleep", "3600"]
        with peers.tool(command, _has_events), self._sampled(None, _nothing, bare) as sample:
            yield sample

    @contextmanager
    def _trace_event(self) -> Iterator[Callable[[], float]]:
        bare = self._bare()
        definition = f"{self.mechanism.event} {self.mechanism.fetched}"
        with ExitStack() as stack:
            stack.enter_context(peers.recorded(stack.enter_context(peers.event(definition))))
            yield stack.enter_context(self._sampled(peers.event_hits, _nothing, bare))


def _has_events(process: int) -> bool:
    return peers.perf_events(process) > 0


def _nothing() -> None:
    return


def measure(scale: Scale) -> Report:
    """Run the experiment. ``scale.only`` names mechanisms."""
    found: list[Row] = []
    missing: dict[str, str] = {}
    for name, make in mechanisms().items():
        if not scale.wanted(name):
            continue
        try:
            mechanism = make()
        except InputError as error:
            missing[name] = error.diagnostics[0].message if error.diagnostics else error.message
            continue
        call = (SYSLOG, SIZE_BUFFER, 0, 0) if mechanism.target.way == "watch" else (LSEEK, 2, 0, 0)
        with SyscallLoop(*call, cpu=max(os.sched_getaffinity(0))) as loop:
            variants = _Bench(mechanism, loop, scale).variants()
            samples, absent = run(variants, scale, each=_SAMPLES)
        found += compared(rows(variants, samples))
        missing |= absent
    return Report("hits", "cost of a hit", "ns", tuple(found), missing, (LIMIT,))


def compared(found: list[Row]) -> list[Row]:
    """The rows with their ratios to the program written by hand, whole and above the empty one."""
    result = []
    for row in found:
        group = {other.role: other for other in found if other.group == row.group}
        ratios: dict[str, float] = {}
        bounds: dict[str, tuple[float, float]] = {}
        if "reference" in group and group["reference"].median > 0:
            ratios["of by hand"] = row.median / group["reference"].median
            if row.role == "klasy" and "floor" in group:
                own, reference = (_above(group["floor"], other) for other in (row, group["reference"]))
                if statistics.median(reference) > 0:
                    ratios["own code"] = statistics.median(own) / statistics.median(reference)
                    bounds["own code"] = _bounds(own, reference)
        result.append(replace(row, ratios=ratios, bounds=bounds))
    return result


def _above(floor: Row, row: Row) -> list[float]:
    """How much more than the empty program of the same round. Both had their turn in each."""
    return [cost - least for cost, least in zip(row.samples, floor.samples, strict=True)]


def _bounds(own: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """Between what the ratio lies, from the ratios of the rounds. A round in which the reference took nothing that
    could be measured says nothing, neither that it is small nor that it is large.
    """
    told = [max(one, 0.0) / other if other > 0 else None for one, other in zip(own, reference, strict=True)]
    low, _ = median_bounds([0.0 if ratio is None else ratio for ratio in told])
    _, high = median_bounds([math.inf if ratio is None else ratio for ratio in told])
    return low, high
