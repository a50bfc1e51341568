"""Artifacts put into the running kernel by the plainest means: no tracefs, no pins, a link for each point."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING

from klasy.backend.artifact import MAP_CONTROL, MAP_COUNTERS, MAP_EVENTS, MAP_UNKNOWN
from klasy.bpf import links, maps, program
from klasy.bpf import uapi as u
from klasy.bpf.ringbuf import RingReader
from klasy.compiler import ir
from klasy.compiler.builder import Builder
from klasy.kernel.model import Clone, Function
from klasy.match.mechanism import Mechanism
from klasy.match.plan import Argument, Locator, MarkUse
from klasy.record import HEADER, HEADER_SIZE
from klasy.weaver.counts import sum_counters
from support.livekernel import btf, symbols
from support.rings import take

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klasy.backend.artifact import Artifact, MapSpec, ProgramSpec
    from klasy.bpf.maps import Map
    from klasy.bpf.program import Program
    from klasy.match.plan import Probe

_TRACING = {Mechanism.FENTRY: u.BPF_TRACE_FENTRY, Mechanism.FEXIT: u.BPF_TRACE_FEXIT}
_RETURNING = {Mechanism.KRETPROBE, Mechanism.KRETPROBE_MULTI}
_MULTI = {Mechanism.KPROBE_MULTI, Mechanism.KRETPROBE_MULTI}


@cache
def live(name: str) -> Function:
    """A function of the kernel proper, with its type."""
    return Function(name, symbols()[name], 1 << 16, None, name, Clone.NONE, 1, btf().find_func(name), btf())


def set_fsuid(*numbers: int) -> list[int]:
    """setfsuid(2) with each number; what it says was there before. __x64_sys_setfsuid jumps to __sys_setfsuid."""
    libc = ctypes.CDLL(None)
    return [libc.syscall(122, number) for number in numbers]


class LiveKernel:
    """As much of a kernel model as the backend asks."""

    btf = btf()

    @staticmethod
    def functions(name: str) -> list[Function]:
        """The function of that name."""
        return [live(name)]


def create(spec: MapSpec) -> Map:
    """A map of an artifact, filled."""
    made = maps.create(
        spec.type,
        name=spec.name,
        key_size=spec.key_size,
        value_size=spec.value_size,
        max_entries=spec.max_entries,
        flags=spec.flags,
    )
    made.update_all(spec.initial)
    if spec.frozen:
        made.freeze()
    return made


def load(spec: ProgramSpec, mechanism: Mechanism, its_maps: dict[str, Map]) -> Program:
    """Load a program of an artifact."""
    if mechanism in _TRACING:
        assert spec.target is not None
        return program.load(
            u.BPF_PROG_TYPE_TRACING,
            spec.code,
            name=spec.name,
            maps=its_maps,
            expected_attach_type=_TRACING[mechanism],
            attach_btf_id=spec.target.proto or 0,
        )
    multi = u.BPF_TRACE_KPROBE_MULTI if mechanism in _MULTI else 0
    return program.load(u.BPF_PROG_TYPE_KPROBE, spec.code, name=spec.name, maps=its_maps, expected_attach_type=multi)


@contextmanager
def loaded(artifact: Artifact) -> Iterator[None]:
    """An artifact's programs, loaded and not attached."""
    with ExitStack() as held:
        its_maps = {spec.name: held.enter_context(create(spec)) for spec in artifact.maps}
        for spec in artifact.programs:
            held.enter_context(load(spec, artifact.plan.probes[spec.probe].mechanism, its_maps))
        yield


class Woven:
    """An artifact at work."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._held: list[object] = []
        self.maps: dict[str, Map] = {}
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        for spec in self.artifact.maps:
            self.maps[spec.name] = create(spec)
            self._held.append(self.maps[spec.name])
        self.reader = RingReader(self.maps[MAP_EVENTS])
        self._held.append(self.reader)
        for spec in self.artifact.programs:
            self._attach(self.artifact.plan.probes[spec.probe], spec)
        self.maps[MAP_CONTROL].update(bytes(4), struct.pack("<II", 1, 0))

    def _attach(self, probe: Probe, spec: ProgramSpec) -> None:
        mechanism = probe.mechanism
        returning = mechanism in _RETURNING
        with load(spec, mechanism, self.maps) as program_:
            if mechanism in _TRACING:
                self._held.append(links.attach_tracing(program_, _TRACING[mechanism]))
            elif mechanism in _MULTI:
                addresses = sorted(point.address for point in probe.points)
                self._held.append(links.attach_kprobe_multi(program_, addresses=addresses, at_return=returning))
            else:
                for point in probe.points:
                    with links.perf_kprobe(address=point.address, at_return=returning) as event:
                        self._held.append(links.attach_perf_event(program_, event))

    def __enter__(self) -> Woven:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take everything out again."""
        while self._held:
            self._held.pop().close()  # type: ignore[attr-defined]

    def records(self) -> list[tuple[tuple[int, ...], bytes]]:
        """What was logged since the last time: header and values."""
        return [(HEADER.unpack_from(r), r[HEADER_SIZE:]) for r in take(self.reader)]

    def words(self) -> list[list[int]]:
        """The same for records of 8-byte values: join point id, then the values."""
        return [[head[1], *struct.unpack(f"<{len(data) // 8}Q", data)] for head, data in self.records()]

    def counters(self) -> list[tuple[int, int, int]]:
        """Hits, lost, unmarked by join point, over all CPUs."""
        found = sum_counters(self.maps[MAP_COUNTERS].words(), len(self.artifact.plan.joinpoints))
        return [row[:3] for row in found]

    def hits(self) -> list[int]:
        """Hits by join point."""
        return [row[0] for row in self.counters()]

    def unknown(self) -> dict[int, int]:
        """Hits by return address, of calls from no known site."""
        return {
            int.from_bytes(key, "little"): int.from_bytes(value, "little")
            for key, value in self.maps[MAP_UNKNOWN].items()
        }


def logging_program(probe: Probe, arguments: Sequence[Argument] = (), *, result: bool = False) -> ir.Program:
    """For each arm: where this process is at one of its join points, count it and log some arguments and the result.

    Only this process, for its traffic is what the test knows of.
    """
    made = ir.Program(probe.name, probe.index)
    build = Builder(made)
    build.begin(build.block())
    if probe.mark is not MarkUse.NONE:
        build.add(ir.Mark(probe.mark.value))
    for number, arm in enumerate(probe.arms):
        ours, behind = build.block(), build.block()
        joinpoint: ir.Operand
        if probe.locator is Locator.FIXED:
            (joinpoint,) = arm.by_address.values()
        else:
            found, joinpoint = build.block(), build.value()
            build.add(ir.Locate(joinpoint, number, found, behind))
            build.begin(found)
        process = build.binary("lshr", build.context("pid_tgid"), 32)
        build.branch("eq", process, os.getpid(), ours, behind)
        build.begin(ours)
        build.add(ir.CountHit(joinpoint))
        values: list[ir.Operand] = []
        for source in arguments:
            values.append(build.value())
            build.add(ir.Argument(values[-1], source))
        if result:
            values.append(build.value())
            build.add(ir.Result(values[-1]))
        parts = tuple(ir.StoreField(HEADER_SIZE + 8 * i, 8, value) for i, value in enumerate(values))
        build.add(ir.Emit(number, HEADER_SIZE + 8 * len(parts), joinpoint, parts, None))
        build.jump(behind)
        build.begin(behind)
    build.add(ir.Return())
    return made
