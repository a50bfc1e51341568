"""Programs as one would write them by hand for the same purpose, and empty ones: what klasy's own are held against.

They are attached as klasy attaches its own, by the raw system calls, and hold what a hit needs and no more: no switch
to make all of an aspect begin at one moment, no account of what was lost.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from klasy.bpf import links, maps, program
from klasy.bpf import uapi as u
from klasy.bpf.asm import Assembler
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R10,
    Instruction,
    add,
    call,
    exit_,
    jump,
    jump_if,
    load,
    load_map,
    mov,
    rsh,
    store,
    store_imm,
)
from klasy.bpf.ringbuf import RingReader
from klasy.kernel.live import running_kernel
from klasy.plain import NamedTuple
from klasy.record import (
    HEADER_SIZE,
    OFFSET_COMM,
    OFFSET_CPU,
    OFFSET_FAULTS,
    OFFSET_FORMAT,
    OFFSET_JOINPOINT,
    OFFSET_PID,
    OFFSET_TID,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klasy.bpf.assembled import Assembled
    from klasy.bpf.program import Program

ROOM = 1 << 23  # bytes of a ring buffer here: for the hits of one sample


class Value(NamedTuple):
    """A value for the record: ``size`` bytes, computed into R0 by instructions that leave R6 (the context) and R7.

    ``place`` computes an address into R3 instead, from where memory of the kernel is copied right into the record.
    """

    size: int
    compute: tuple[Instruction, ...] = ()
    place: tuple[Instruction, ...] = ()


PID = Value(4, (call("get_current_pid_tgid"), rsh(R0, 32)))
CPU = Value(4, (call("get_smp_processor_id"),))


class Target(NamedTuple):
    """Where a program is attached. ``way``: fentry, fexit, kprobe, kretprobe, watch."""

    way: str
    function: str = ""
    offset: int = 0
    address: int = 0


def empty() -> Assembled:
    """A program that does nothing: what the mechanism itself costs."""
    code = Assembler()
    code.emit(mov(R0, 0), exit_())
    return code.assemble()


def counter() -> Assembled:
    """Counts hits, for each CPU apart."""
    code = Assembler()
    count(code, "out")
    code.label("out")
    code.emit(mov(R0, 0), exit_())
    return code.assemble()


def counter_by_caller() -> Assembled:
    """Counts hits of a kprobe at a function's entry by the return address, as one finds it on the stack."""
    code = Assembler()
    code.emit(load(R3, R1, 152), mov(R2, 8), mov(R1, R10), add(R1, -8), call("probe_read_kernel"))  # pt_regs.sp
    code.emit(load_map(R1, "callers"), mov(R2, R10), add(R2, -8), call("map_lookup_elem"))
    code.emit(jump_if(R0, "==", 0, "new"))
    code.emit(load(R1, R0, 0), add(R1, 1), store(R0, 0, R1), jump("out"))
    code.label("new")
    code.emit(
        *(mov(R2, R10), add(R2, -8), mov(R3, R10), add(R3, -16), store_imm(R10, -16, 1)),
        *(load_map(R1, "callers"), mov(R4, u.BPF_NOEXIST), call("map_update_elem")),
    )
    code.label("out")
    code.emit(mov(R0, 0), exit_())
    return code.assemble()


def record(values: Sequence[Value]) -> Assembled:
    """Counts hits and logs values with the header that klasy's records have: time, CPU, process, its name."""
    code = Assembler()
    code.emit(mov(R6, R1))
    count(code, "counted")
    code.label("counted")
    size = -(-(HEADER_SIZE + sum(value.size for value in values)) // 8) * 8
    code.emit(load_map(R1, "events"), mov(R2, size), mov(R3, 0), call("ringbuf_reserve"), jump_if(R0, "==", 0, "out"))
    code.emit(mov(R7, R0), call("ktime_get_ns"), store(R7, 0, R0))
    code.emit(store_imm(R7, OFFSET_JOINPOINT, 0, 4), store_imm(R7, OFFSET_FORMAT, 0, 2))
    code.emit(call("get_smp_processor_id"), store(R7, OFFSET_CPU, R0, 2))
    code.emit(call("get_current_pid_tgid"), store(R7, OFFSET_TID, R0, 4), rsh(R0, 32), store(R7, OFFSET_PID, R0, 4))
    code.emit(mov(R1, R7), add(R1, OFFSET_COMM), mov(R2, 16), call("get_current_comm"))
    code.emit(store_imm(R7, OFFSET_FAULTS, 0))
    at = HEADER_SIZE
    for value in sorted(values, key=lambda value: -value.size):
        if value.place:
            code.emit(*value.place, mov(R1, R7), add(R1, at), mov(R2, value.size), call("probe_read_kernel"))
        else:
            code.emit(*value.compute, store(R7, at, R0, value.size))
        at += value.size
    if at < size:
        code.emit(store_imm(R7, at, 0, size - at))
    code.emit(mov(R1, R7), mov(R2, 0), call("ringbuf_submit"))
    code.label("out")
    code.emit(mov(R0, 0), exit_())
    return code.assemble()


def count(code: Assembler, behind: str) -> None:
    """The instructions that count a hit; where there is no counter, go on ``behind``."""
    code.emit(store_imm(R10, -4, 0, 4), mov(R2, R10), add(R2, -4), load_map(R1, "hits"), call("map_lookup_elem"))
    code.emit(jump_if(R0, "==", 0, behind), load(R1, R0, 0), add(R1, 1), store(R0, 0, R1))


class Attached(NamedTuple):
    """A program at work. ``hits()`` is what it counted (0: an empty one), ``discard()`` frees the ring buffer."""

    hits: Callable[[], int]
    discard: Callable[[], None]


@contextmanager
def attached(code: Assembled, target: Target) -> Iterator[Attached]:
    """Load a program, with the maps it names, and attach it as long as the context lasts."""
    with ExitStack() as stack:
        made = {name: stack.enter_context(_make(name)) for name in code.map_names}
        loaded = stack.enter_context(_load(code, target, made))
        ring = stack.enter_context(RingReader(made["events"])) if "events" in made else None
        _attach(loaded, target, stack)

        def hits() -> int:
            name = next((name for name in ("hits", "callers") if name in made), None)
            if name is None:
                return 0
            found = (joined for _, joined in made[name].items())
            return sum(sum(memoryview(joined).cast("Q")) for joined in found)

        yield Attached(hits, ring.discard if ring else lambda: None)


def _make(name: str) -> maps.Map:
    if name == "events":
        return maps.create("ringbuf", name=name, max_entries=ROOM)
    if name == "callers":
        return maps.create("percpu_hash", name=name, key_size=8, value_size=8, max_entries=1024)
    return maps.create("percpu_array", name=name, key_size=4, value_size=8, max_entries=1)


def _load(code: Assembled, target: Target, made: dict[str, maps.Map]) -> Program:
    if target.way in ("fentry", "fexit"):
        way = u.BPF_TRACE_FENTRY if target.way == "fentry" else u.BPF_TRACE_FEXIT
        number = running_kernel().btf.find_func(target.function)
        return program.load(
            u.BPF_PROG_TYPE_TRACING,
            code,
            name="by_hand",
            maps=made,
            expected_attach_type=way,
            attach_btf_id=number or 0,
        )
    kind = u.BPF_PROG_TYPE_PERF_EVENT if target.way == "watch" else u.BPF_PROG_TYPE_KPROBE
    return program.load(kind, code, name="by_hand", maps=made)


def _attach(loaded: Program, target: Target, stack: ExitStack) -> None:
    if target.way in ("fentry", "fexit"):
        way = u.BPF_TRACE_FENTRY if target.way == "fentry" else u.BPF_TRACE_FEXIT
        stack.enter_context(links.attach_tracing(loaded, way))
        return
    if target.way == "watch":
        with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
            cpus = maps.cpu_list(file.read())
        events = [links.perf_breakpoint(target.address, 4, u.HW_BREAKPOINT_RW, cpu=cpu) for cpu in cpus]
    else:
        at_return = target.way == "kretprobe"
        events = [links.perf_kprobe(symbol=target.function, offset=target.offset, at_return=at_return)]
    for event in events:
        with event:
            stack.enter_context(links.attach_perf_event(loaded, event))
