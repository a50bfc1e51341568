"""One program to its points: the links by which an aspect hangs in the kernel.

Each way of attaching is one small function here behind :func:`attach`. All leave the kernel to undo their work when
the descriptors they give are closed, but for definitions of kernel probe events, which the session deletes.
"""

from __future__ import annotations

import os
import struct

from klasy.bpf import links, program, sys
from klasy.bpf import uapi as u
from klasy.errors import KernelLacks, KernelRefused
from klasy.match.mechanism import TRAMPOLINES, Mechanism
from klasy.plain import TYPE_CHECKING, dataclass
from klasy.weaver.tracefs import DefinitionRefused, KprobeEvents, event_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.backend.artifact import ProgramSpec, TracepointSpec
    from klasy.bpf.links import Link
    from klasy.bpf.maps import Map
    from klasy.bpf.program import Program
    from klasy.match.plan import Point, Probe
    from klasy.weaver.pinfs import PinFS, Token

# Instances of a kretprobe: how many calls of a function can be under way at once before returns are missed. The
# kernel's own default (10, or two for each CPU) is soon used up by a function that sleeps. An instance takes some
# 100 bytes, so many functions get fewer each.
_MAXACTIVE = 1024
_MAXACTIVE_ALL = 16384
_MAXACTIVE_LEAST = 64

_ATTACH_TYPES = {
    Mechanism.FENTRY: u.BPF_TRACE_FENTRY,
    Mechanism.FEXIT: u.BPF_TRACE_FEXIT,
    Mechanism.FMOD_RET: u.BPF_MODIFY_RETURN,
    Mechanism.KPROBE_MULTI: u.BPF_TRACE_KPROBE_MULTI,
    Mechanism.KRETPROBE_MULTI: u.BPF_TRACE_KPROBE_MULTI,
}

_TRACEPOINTS = {
    Mechanism.RAW_TRACEPOINT: u.BPF_PROG_TYPE_RAW_TRACEPOINT,
    Mechanism.TRACE_EVENT: u.BPF_PROG_TYPE_TRACEPOINT,
}


def load(spec: ProgramSpec, probe: Probe, maps: Mapping[str, Map], btf_fd: Callable[[str], int]) -> Program:
    """Load the program of a probe. ``btf_fd`` gives a descriptor of a module's BTF.

    Raises VerifierError, KernelRefused, KernelLacks.
    """
    attach_type = _ATTACH_TYPES.get(probe.mechanism, 0)
    if probe.mechanism in _TRACEPOINTS:
        return program.load(_TRACEPOINTS[probe.mechanism], spec.code, name=spec.name, maps=maps)
    if probe.mechanism not in TRAMPOLINES:
        kind = u.BPF_PROG_TYPE_PERF_EVENT if probe.watch is not None else u.BPF_PROG_TYPE_KPROBE
        return program.load(kind, spec.code, name=spec.name, maps=maps, expected_attach_type=attach_type)
    target = spec.target
    if target is None or target.proto is None:
        raise AssertionError(f"the program {spec.name} has no target")
    return program.load(
        u.BPF_PROG_TYPE_TRACING,
        spec.code,
        name=spec.name,
        maps=maps,
        expected_attach_type=attach_type,
        attach_btf_id=target.proto,
        attach_btf_obj_fd=btf_fd(target.module) if target.module else 0,
    )


def attach_tracepoint(spec: TracepointSpec, maps: Mapping[str, Map]) -> Link:
    """Load a program for a static tracepoint and attach it. Raises KernelRefused."""
    kind, way = u.BPF_PROG_TYPE_TRACING, u.BPF_TRACE_RAW_TP
    with program.load(
        kind, spec.code, name=spec.name, maps=maps, expected_attach_type=way, attach_btf_id=spec.btf_id
    ) as loaded:
        return links.attach_tracing(loaded, way)


@dataclass(frozen=True, slots=True)
class Attached:
    """What holds a probe in the kernel: its links, by what is added to the names of their pins.

    ``event`` is the number of its kernel probe event, if it has one.
    """

    links: Mapping[str, Link]
    event: int | None = None

    def close(self) -> None:
        """Close the links: what is pinned stays."""
        for link in self.links.values():
            link.close()


class Attacher:
    """Attaches the probes of one weave. ``group`` is where its kernel probe events go, ``events`` how to get there.

    ``maps`` are its maps, ``pinfs`` is where woven aspects are. ``on_part`` is told of an event of many points how many
    are defined, of how many.
    """

    def __init__(
        self,
        token: Token,
        group: str,
        events: Callable[[], KprobeEvents],
        maps: Mapping[str, Map],
        pinfs: PinFS,
        *,
        on_part: Callable[[int, int], None],
    ) -> None:
        self._maps = maps
        self._pinfs = pinfs
        self._token = token
        self._group = group
        self._events = events
        self._on_part = on_part
        self._number = 0

    def attach(self, probe: Probe, loaded: Program) -> Attached:
        """Attach a loaded program. Raises KernelRefused that names the place and the reason."""
        if probe.mechanism in TRAMPOLINES:
            return Attached({"": _tracing(probe, loaded)})
        if probe.mechanism in (Mechanism.KPROBE_MULTI, Mechanism.KRETPROBE_MULTI):
            return Attached({"": _multi(probe, loaded)})
        if probe.mechanism in _TRACEPOINTS:
            from klasy.weaver.tracepoint import attach_event

            return Attached({"": attach_event(probe, loaded)})
        if probe.watch is not None:
            from klasy.weaver import watch

            armed = watch.attach(probe.watch, loaded, self._maps[watch.MAP_WATCHES], self._pinfs)
            return Attached({f"_cpu{cpu}": link for cpu, link in armed.items()})
        if probe.in_program:
            return Attached(_uprobes(probe, loaded))
        return self._kprobe_event(probe, loaded)

    def _kprobe_event(self, probe: Probe, loaded: Program) -> Attached:
        number, self._number = self._number, self._number + 1
        returns = probe.mechanism is Mechanism.KRETPROBE
        share = max(_MAXACTIVE_LEAST, min(_MAXACTIVE, _MAXACTIVE_ALL // len(probe.points)))
        try:
            event_id = self._events().define(
                self._group,
                event_name(self._token, number),
                [point.address for point in probe.points],
                returns=returns,
                maxactive=share if returns else 0,
                on_part=lambda done: self._on_part(done, len(probe.points)),
            )
        except DefinitionRefused as refusal:
            point = probe.points[refusal.index]
            what = f"the kernel refuses a {probe.mechanism.value} at {place(point)}, {refusal.reason}"
            raise KernelRefused(what, refusal.errno) from None
        try:
            event = links.perf_tracepoint(event_id)
        except KernelRefused as error:
            places = place(probe.points[0]) + (f" and {len(probe.points) - 1} more" if len(probe.points) > 1 else "")
            raise KernelRefused(f"arming the {probe.mechanism.value} at {places}", error.errno) from None
        with event:
            return Attached({"": links.attach_perf_event(loaded, event)}, number)


def _tracing(probe: Probe, loaded: Program) -> Link:
    try:
        return links.attach_tracing(loaded, _ATTACH_TYPES[probe.mechanism])
    except KernelRefused as error:
        what = f"attaching by {probe.mechanism.value} to {probe.points[0].function}"
        raise KernelRefused(what, error.errno, hint=error.hint) from None


def _multi(probe: Probe, loaded: Program) -> Link:
    addresses = sorted(point.address for point in probe.points)
    return links.attach_kprobe_multi(
        loaded, addresses=addresses, at_return=probe.mechanism is Mechanism.KRETPROBE_MULTI
    )


def _uprobes(probe: Probe, loaded: Program) -> dict[str, Link]:
    """A link for each point: the kernel has no event of several places in programs before 6.6."""
    at_return = probe.mechanism is Mechanism.URETPROBE
    made: dict[str, Link] = {}
    try:
        for number, point in enumerate(probe.points):
            path, offset = point.function.module or "", point.address & 0xFFFF_FFFF
            try:
                with links.perf_uprobe(path, offset, at_return=at_return) as event:
                    link = links.attach_perf_event(loaded, event, cookie=point.address)
            except KernelRefused as error:
                what = f"a {probe.mechanism.value} at {point.function.name} in {path}"
                raise KernelRefused(what, error.errno, hint=error.hint) from None
            made[f"_{number}" if number else ""] = link
    except BaseException:
        for link in made.values():
            link.close()
        raise
    return made


def place(point: Point) -> str:
    """A point as the user knows it: function and offset, with the module."""
    offset = point.address - point.function.address
    name = f"{point.function.name}+{offset:#x}" if offset else point.function.name
    return f"{name} [{point.function.module}]" if point.function.module else name


class ModuleBtf:
    """Descriptors of the BTF of modules, which a program needs to be attached in one. Close it when all are loaded."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def __call__(self, module: str) -> int:
        """The descriptor of a module's BTF. Raises KernelLacks where it has none."""
        if not self._open:
            self._find()
        if module not in self._open:
            raise KernelLacks(f"the module {module} is not loaded, or has no BTF")
        return self._open[module]

    def _find(self) -> None:
        for number in sys.object_ids(u.BPF_BTF_GET_NEXT_ID):
            descriptor = sys.open_id(u.BPF_BTF_GET_FD_BY_ID, number, f"opening BTF object {number}")
            name = _btf_name(descriptor)
            if name is None or name in self._open:
                os.close(descriptor)
            else:
                self._open[name] = descriptor

    def close(self) -> None:
        """Close all descriptors. Idempotent."""
        while self._open:
            os.close(self._open.popitem()[1])


def _btf_name(descriptor: int) -> str | None:
    """Name of the kernel module that a BTF object is of; None for that of a program."""
    name = sys.Buffer(64)
    # struct bpf_btf_info: btf, btf_size, id, name, name_len, kernel_btf
    info = sys.Buffer(struct.pack("<QIIQII", 0, 0, 0, name.address, name.size, 0))
    sys.object_info(descriptor, info, "asking about a BTF object")
    return name.text() if struct.unpack_from("<I", info.view, 28)[0] else None
