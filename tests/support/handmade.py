"""Artifacts made by hand, for tests of the weaver alone: advice that only counts its hits, and logs its join point.

The programs do what the compiler's do: look at the control map first, find their join point, count. ``sites`` maps the
probed address to a join point's id, in place of the compiler's dispatch.
"""

from __future__ import annotations

from klasy.backend.artifact import (
    CONTROL_SIZE,
    MAP_CONTROL,
    MAP_COUNTERS,
    MAP_EVENTS,
    Artifact,
    MapSpec,
    ProgramSpec,
    Rows,
    counter_rows,
)
from klasy.bpf.asm import Assembled, Assembler
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R7,
    R10,
    add,
    call,
    exit_,
    jump_if,
    load,
    load_imm,
    load_map,
    load_map_value,
    mov,
    mul,
    store,
    store_imm,
    sub,
)
from klasy.bpf.uapi import BPF_F_MMAPABLE
from klasy.kernel.model import Clone, Function
from klasy.lang.ast import Advice, AdviceKind, Aspect, Block, Execution, Signature
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Arm, JoinPoint, Locator, MarkUse, Plan, Point, Probe
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.record import HEADER_SIZE, Field, Format
from klasy.source import SourceFile, Span

IP = 128  # of struct pt_regs
CPUS = 64  # that count
CONTEXTS = {
    Mechanism.FENTRY: Context.FENTRY,
    Mechanism.FEXIT: Context.FEXIT,
    Mechanism.FMOD_RET: Context.FENTRY,
    Mechanism.KPROBE: Context.SITE,
    Mechanism.KRETPROBE: Context.RETURN,
    Mechanism.KPROBE_MULTI: Context.ENTRY,
    Mechanism.KRETPROBE_MULTI: Context.RETURN,
    Mechanism.UPROBE: Context.ENTRY,
    Mechanism.URETPROBE: Context.RETURN,
    Mechanism.RAW_TRACEPOINT: Context.RAW,
    Mechanism.TRACE_EVENT: Context.RECORD,
}


def function(name: str, address: int, size: int = 64, module: str | None = None, proto: int | None = None) -> Function:
    """A function, given what the tests know of it."""
    return Function(name, address, size, module, name, Clone.NONE, 1, proto)


def aspect(name: str) -> Aspect:
    """An aspect of one empty advice: its text is only for the registry."""
    source = SourceFile(f"{name}.asp", f"aspect {name} {{ before(): execution(handmade) {{ }} }}\n")
    span = Span(source, 0, len(source.text))
    signature = Signature(result=None, name="handmade", params=None, span=span)
    advice = Advice(
        index=0,
        kind=AdviceKind.BEFORE,
        params=(),
        returning=None,
        pointcut=Execution(signature=signature, span=span),
        body=Block(body=(), span=span),
        span=span,
        head=span,
    )
    return Aspect(name=name, source=source, advice=(advice,), state=(), span=span, name_span=span)


def artifact(
    name: str,
    points: list[tuple[Mechanism, list[Point]]],
    *,
    ring: int = 1 << 16,
    log: bool = False,
) -> Artifact:
    """An aspect with a probe for each entry; every point of every probe is a join point, numbered in order."""
    probes = []
    joinpoints: list[JoinPoint] = []
    programs = []
    rows = counter_rows(CPUS, sum(len(places) for _, places in points))
    for index, (mechanism, places) in enumerate(points):
        by_address = {}
        for place in places:
            shadow = Shadow(JoinPointKind.EXECUTION, place.function, place.address)
            by_address[place.address] = len(joinpoints)
            joinpoints.append(JoinPoint(len(joinpoints), 0, shadow, mechanism.value, "by hand"))
        one = len(places) == 1
        locator = Locator.FIXED if one else Locator.ADDRESS
        arm = Arm(0, (), None, by_address)
        probe = Probe(index, mechanism, CONTEXTS[mechanism], locator, MarkUse.NONE, tuple(places), (arm,))
        probes.append(probe)
        kind = mechanism.value if mechanism in (Mechanism.FENTRY, Mechanism.FEXIT) else "kprobe"
        target = places[0].function if kind != "kprobe" else None
        code = _count(by_address[places[0].address] if one else None, rows, log)
        programs.append(ProgramSpec(probe.name, index, kind, code, target))
    by_hand = aspect(name)
    maps = (
        MapSpec(MAP_EVENTS, "ringbuf", 0, 0, ring),
        MapSpec(MAP_COUNTERS, "array", 4, rows.size, 1, BPF_F_MMAPABLE),
        MapSpec(MAP_CONTROL, "array", 4, CONTROL_SIZE, 1),
        MapSpec(
            "sites",
            "hash",
            8,
            4,
            max(1, len(joinpoints)),
            initial=tuple((j.shadow.address.to_bytes(8, "little"), j.id.to_bytes(4, "little")) for j in joinpoints),
            frozen=True,
        ),
    )
    fields = (Field("joinpoint.function", "joinpoint", HEADER_SIZE, 0, type_name="function"),)
    formats = (Format(0, 0, 1, None, fields, HEADER_SIZE),)
    plan = Plan(by_hand, tuple(joinpoints), tuple(probes), (), ())
    return Artifact(plan, maps, tuple(programs), formats)


def _count(fixed: int | None, rows: Rows, log: bool) -> Assembled:
    """The program: counts a hit of the join point ``fixed``, or of that at the probed address."""
    a = Assembler()
    a.emit(mov(R6, R1), load_map_value(R1, MAP_CONTROL, 0), load(R1, R1, 0, 4), jump_if(R1, "==", 0, "out"))
    if fixed is None:
        a.emit(load(R1, R6, IP, 8), sub(R1, 1), store(R10, -8, R1, 8))
        a.emit(mov(R2, R10), add(R2, -8), load_map(R1, "sites"), call("map_lookup_elem"))
        a.emit(jump_if(R0, "==", 0, "out"), load(R7, R0, 0, 4))
    else:
        a.emit(load_imm(R7, fixed))
    a.emit(call("get_smp_processor_id"), jump_if(R0, ">=", rows.cpus, "out"), mul(R0, rows.row))
    a.emit(mov(R1, R7), jump_if(R1, ">=", rows.entries, "out"), mul(R1, rows.width), add(R0, R1))
    a.emit(load_map_value(R6, MAP_COUNTERS), add(R6, R0))
    a.emit(load(R1, R6, 0, 8), add(R1, 1), store(R6, 0, R1, 8))
    if log:
        a.emit(load_map(R1, MAP_EVENTS), load_imm(R2, HEADER_SIZE), load_imm(R3, 0), call("ringbuf_reserve"))
        a.emit(jump_if(R0, "==", 0, "lost"))
        a.emit(*(store_imm(R0, at, 0, 8) for at in range(0, HEADER_SIZE, 8)), store(R0, 8, R7, 4))
        a.emit(mov(R1, R0), load_imm(R2, 0), call("ringbuf_submit"), mov(R0, 0), exit_())
        a.label("lost")
        a.emit(load(R1, R6, 8, 8), add(R1, 1), store(R6, 8, R1, 8))
    a.label("out")
    a.emit(mov(R0, 0), exit_())
    return a.assemble()
