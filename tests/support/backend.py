"""Programs of the IR put through the backend and run in the interpreter of BPF, beside the interpreter of the IR."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from klasy import backend
from klasy.backend.artifact import MAP_CONTROL, MAP_COUNTERS, MAP_EVENTS
from klasy.bpf.interp import ArrayMap, HashMap, Machine, RingBuffer
from klasy.bpf.uapi import helper_number
from klasy.compiler import Compiled, ir, ircheck
from klasy.compiler.ireval import Logged, Outcome, World, run
from klasy.kernel.arch_x86_64 import ARGUMENT_REGISTERS, PT_REGS, PT_REGS_BYTES
from klasy.kernel.model import Clone, Function
from klasy.lang import load
from klasy.lang.ast import And, If
from klasy.match import plan_aspect
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Arm, JoinPoint, Locator, MarkRole, MarkUse, Plan, Point, Probe
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.plain import replace
from klasy.record import HEADER, HEADER_SIZE
from klasy.source import SourceFile
from klasy.weaver.counts import sum_counters
from support.compiling import compile_text, memory_world

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klasy.backend.artifact import Artifact
    from klasy.btf.btf import Btf
    from klasy.kernel.model import CallSite, Kernel

ENTRY = 0xFFFF_FFFF_8123_4560
MECHANISMS = {
    Context.FENTRY: Mechanism.FENTRY,
    Context.FEXIT: Mechanism.FEXIT,
    Context.RETURN: Mechanism.KRETPROBE,
}
ADVICE = "aspect t { pointcut execution(f); before() { } before() { } before() { } before() { } }"


def function(name: str = "f", address: int = ENTRY, btf: Btf | None = None, proto: int | None = None) -> Function:
    """A function; without BTF there are no trampolines on it."""
    return Function(name, address, 256, None, name, Clone.NONE, 1, proto, btf)


def probe(
    context: Context,
    locator: Locator = Locator.FIXED,
    *,
    mark: MarkUse = MarkUse.NONE,
    role: MarkRole = MarkRole.CALL,
    points: Sequence[Point] | None = None,
    arms: Sequence[Mapping[int, int]] = ({ENTRY: 0},),
    returns: Sequence[Mapping[int, int]] = (),
    otherwise: int | None = None,
    condition: int | None = None,
    index: int = 0,
) -> Probe:
    """A probe whose arms run advice 0, 1 ..; ``arms`` has their ``by_address``, ``returns`` the other maps."""
    made = tuple(
        Arm(i, (), None, by_address, returns[i] if i < len(returns) else {}, otherwise)
        for i, by_address in enumerate(arms)
    )
    where = tuple(points) if points is not None else (Point(ENTRY, function()),)
    mechanism = MECHANISMS.get(context, Mechanism.KPROBE)
    return Probe(index, mechanism, context, locator, mark, where, made, role, condition)


def guarded(made: Probe) -> Probe:
    """The same, with a condition on its advice: only in the plan, for a hand-made program tests it or not."""
    (aspect,) = load(SourceFile("g.asp", "aspect g { before(): execution(f) && if(pid) { } }"))
    pointcut = aspect.advice[0].pointcut
    assert isinstance(pointcut, And) and isinstance(pointcut.right, If)  # noqa: PT018
    return replace(made, arms=tuple(replace(arm, guard=pointcut.right.condition) for arm in made.arms))


def plan(*probes: Probe, joinpoints: int = 4, sites: Sequence[CallSite] = ()) -> Plan:
    """A plan of some probes. The first join points are calls at ``sites``."""
    (aspect,) = load(SourceFile("t.asp", ADVICE))
    points = []
    for number in range(joinpoints):
        shadow = Shadow(JoinPointKind.EXECUTION, function(), ENTRY)
        if number < len(sites):
            site = sites[number]
            shadow = Shadow(JoinPointKind.CALL, site.caller, site.address, site.callee, site)
        points.append(JoinPoint(number, 0, shadow, "test", ""))
    return Plan(aspect, tuple(points), probes, (), ())


def generate(
    programs: Sequence[ir.Program], made: Plan, kernel: Kernel | None = None, options: backend.Options | None = None
) -> Artifact:
    """The artifact of hand-made programs."""
    return backend.generate(made, Compiled(tuple(programs), (), ()), options or backend.Options(), kernel)


def trampoline_context(arguments: Sequence[int], result: int | None = None) -> bytes:
    """The context of a fentry program, or with a result of a fexit one."""
    words = [*arguments] if result is None else [*arguments, result]
    return struct.pack(f"<{len(words)}Q", *words)


def registers(**values: int) -> bytes:
    """A ``struct pt_regs``; arguments by ``arguments=``, other registers by name, zero where not given."""
    data = bytearray(PT_REGS_BYTES)
    for name, value in values.items():
        data[PT_REGS[name] : PT_REGS[name] + 8] = (value & ir.MASK64).to_bytes(8, "little")
    return bytes(data)


def argument_registers(arguments: Sequence[int]) -> dict[str, int]:
    """The argument registers, for :func:`registers`."""
    return dict(zip(ARGUMENT_REGISTERS, arguments, strict=False))


class Runner:
    """An artifact in the interpreter: its maps live on from one run to the next."""

    def __init__(self, artifact: Artifact, world: World | None = None, ring: int | None = None) -> None:
        self.artifact = artifact
        self.maps = {}
        for spec in artifact.maps:
            match spec.type:
                case "ringbuf":
                    made: ArrayMap | HashMap | RingBuffer = RingBuffer(ring or spec.max_entries)
                case "array" | "percpu_array":
                    made = ArrayMap(spec.value_size, spec.max_entries)
                case _:
                    made = HashMap(spec.key_size, spec.value_size, spec.max_entries)
            self.maps[spec.name] = made
        self.machine = Machine(self.maps)
        for spec in artifact.maps:
            for key, value in spec.initial:
                self.maps[spec.name].update(key, value)
        self.maps[MAP_CONTROL].update(bytes(4), struct.pack("<II", 1, 0))
        self.machine.helpers[helper_number("get_func_arg")] = _get_func_arg
        self.machine.helpers[helper_number("get_func_ret")] = _get_func_ret
        if world is not None:
            self._settle(world)

    def _settle(self, world: World) -> None:
        machine = self.machine
        machine.kernel = _Memory(world)
        machine.comm = world.comm
        for name, value in world.context.items():
            setattr(machine, name, value)

    def run(self, context: bytes, program: int = 0, trampoline: int | None = None) -> Outcome:
        """Run one program once; what it did. ``trampoline``: argument words, for get_func_arg."""
        self.machine.trampoline = trampoline  # type: ignore[attr-defined]
        before = self.counters()
        records = self.maps[MAP_EVENTS].records
        start = len(records)
        self.machine.run(self.artifact.programs[program].code, context)
        hits = [
            joinpoint
            for joinpoint, (now, then) in enumerate(zip(self.counters(), before, strict=True))
            for _ in range(now[0] - then[0])
        ]
        return Outcome(hits, [_logged(record) for record in records[start:]])

    def counters(self) -> list[tuple[int, int, int]]:
        """Hits, lost and unmarked of each join point."""
        return [all_of[:3] for all_of in self.all_counters()]

    def all_counters(self) -> list[tuple[int, ...]]:
        """Everything that is counted of each join point, as record.COUNTERS has it."""
        words = memoryview(self.maps[MAP_COUNTERS][bytes(4)]).cast("Q").tolist()
        return sum_counters(words, len(self.artifact.plan.joinpoints))


def _logged(record: bytes) -> Logged:
    _, joinpoint, number, _, _, _, _, faults = HEADER.unpack_from(record)
    return Logged(number, joinpoint, faults, bytes(HEADER_SIZE) + record[HEADER_SIZE:])


def _get_func_arg(machine: Machine, context: int, number: int, target: int, *_: int) -> int:
    machine.write(target, machine.read(context + 8 * number, 8))
    return 0


def _get_func_ret(machine: Machine, context: int, target: int, *_: int) -> int:
    words = machine.trampoline  # type: ignore[attr-defined]
    machine.write(target, machine.read(context + 8 * words, 8))
    return 0


class _Memory:
    """The memory of an IR interpreter's world, as the BPF interpreter asks for it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self, address: int, size: int) -> bytes | None:
        return self.world.read(address & ir.MASK64, size)

    def read_string(self, address: int, limit: int) -> bytes | None:
        text = bytearray()
        while len(text) < limit:
            byte = self.read(address + len(text), 1)
            if byte is None:
                return None
            text += byte
            if byte == b"\0":
                break
        return bytes(text)


def run_both(source: str, kernel: Kernel, arguments: Sequence[int], memory: bytes) -> tuple[Outcome, Runner]:
    """Compile a text with one program, and run that in both interpreters, which must log the same."""
    compiled = compile_text(source, kernel)
    (program,) = compiled.programs
    ircheck.require(program)
    world = memory_world(memory, arguments)
    outcome = run(program, world)
    (aspect,) = load(SourceFile("test.asp", source))
    runner = Runner(backend.generate(plan_aspect(aspect, kernel), compiled), world)
    same = runner.run(trampoline_context(arguments), trampoline=2)
    assert [(r.data, r.faults) for r in same.logged] == [(r.data, r.faults) for r in outcome.logged]
    return outcome, runner
