"""The transaction that weaves an aspect: all of it or nothing.

    prepare   maps, programs, and links: all held by this process alone, so that the kernel takes them back if it dies
    commit    pin everything in a staging directory, switch the programs on, rename the directory to the aspect's name

Up to the commit nothing runs: the programs look at the control map first and return at once. What a killed process can
leave are definitions of kernel probe events, disarmed, and, killed within the commit, a staging directory; the next
command clears both (:mod:`klasy.weaver.sweep`). Any error, and the signals that would end the process, undo what was
done, in reverse order.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from klasy.backend.artifact import CONTROL_ACTIVE, CONTROL_SIZE, MAP_CONTROL
from klasy.bpf import maps, pins
from klasy.bpf import uapi as u
from klasy.errors import InputError, NotRoot, SystemRefusal
from klasy.plain import dataclass
from klasy.weaver import manifest
from klasy.weaver.attach import Attacher, ModuleBtf, load
from klasy.weaver.pinfs import GROUP, REGISTRY, PinFS, Token
from klasy.weaver.remove import remove
from klasy.weaver.sweep import sweep
from klasy.weaver.tracefs import KprobeEvents, expedited_rcu, group_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from klasy.backend.artifact import Artifact, MapSpec
    from klasy.bpf.links import Link
    from klasy.bpf.maps import Map
    from klasy.weaver.attach import Attached
    from klasy.weaver.pinfs import Staging

_SPARE_DESCRIPTORS = 128
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class AlreadyWoven(InputError):
    """An aspect of that name is woven already."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the registry entry says of the kernel and of klasy."""

    release: str
    build_id: str
    klasy: str


class Weave:
    """One transaction. Use :func:`weave`.

    ``on_step`` is called with the name of each step before it is done: for progress, and for tests that stop there.
    """

    def __init__(
        self,
        artifact: Artifact,
        machine: Machine,
        *,
        replace: bool = False,
        options: dict[str, object] | None = None,
        pinfs: PinFS | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        self._artifact = artifact
        self._machine = machine
        self._replace = replace
        self._options = options or {}
        self._pinfs = pinfs or PinFS()
        self._on_step = on_step or (lambda _: None)
        self._name = artifact.plan.aspect.name
        self._staging: Staging | None = None
        self._token = Token(0, 0, 0, 0)  # both are settled once the file system is known
        self._group = ""
        self._events: KprobeEvents | None = None
        self._maps: dict[str, Map] = {}
        self._attached: dict[int, Attached] = {}

    def run(self) -> None:
        """Weave. On any exception nothing is left of it."""
        if os.geteuid() != 0:
            raise NotRoot("weaving needs root", hint="run klasy as root, e.g. with sudo")
        _raise_descriptor_limit(len(self._artifact.programs) + len(self._artifact.maps))
        with _ending_signals_raise():
            try:
                self._begin()
                self._create_maps()
                self._attach()
                self._commit()
            except BaseException:
                with _signals_held():
                    self._undo()
                raise
            finally:
                self._close()

    # -- prepare ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._step("begin")
        with self._pinfs.lock():
            sweep(self._pinfs)
            self._refuse_second()
            self._token = self._pinfs.token()
            self._group = group_name(self._name, self._token)
            self._staging = self._pinfs.stage(self._name, self._token)

    def _refuse_second(self) -> None:
        if self._replace or not self._pinfs.is_woven(self._name):
            return
        from klasy.weaver.woven import since_text

        raise AlreadyWoven(
            f"the aspect '{self._name}' is already woven{since_text(self._pinfs, self._name)}",
            hint=f"take it out first (klasy unweave {self._name}), or weave with --replace",
        )

    def _create_maps(self) -> None:
        for spec in self._artifact.maps:
            self._step(f"map {spec.name}")
            created = maps.create(
                spec.type,
                name=spec.name,
                key_size=spec.key_size,
                value_size=spec.value_size,
                max_entries=spec.max_entries,
                flags=spec.flags,
            )
            self._maps[spec.name] = created
            _fill(created, spec)

    def _attach(self) -> None:
        plan = self._artifact.plan
        attacher = Attacher(self._token, self._group, self._kprobe_events)
        modules = ModuleBtf()
        try:
            # In the order of the plan: of two kprobes at one address the kernel runs the younger first.
            for spec in sorted(self._artifact.programs, key=lambda spec: spec.probe):
                probe = plan.probes[spec.probe]
                self._step(f"load {spec.name}")
                with load(spec, probe, self._maps, modules) as program:
                    self._step(f"attach {spec.name}")
                    self._attached[spec.probe] = attacher.attach(probe, program)
        finally:
            modules.close()

    def _kprobe_events(self) -> KprobeEvents:
        """Kernel probe events, from now on with a group of ours, which the staging directory claims beforehand."""
        if self._events is None:
            events = KprobeEvents()
            assert self._staging is not None
            os.symlink(f"{events.root}/events/{self._group}", self._staging.entry(GROUP))
            self._events = events
        return self._events

    # -- commit ----------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        staging = self._staging
        assert staging is not None
        self._maps[REGISTRY] = self._registry()
        links = [self._attached[index].link for index in sorted(self._attached)]
        self._step("commit")
        with self._pinfs.lock(), _signals_held():
            self._refuse_second()
            self._pin(links)
            self._step("activate")
            self._activate()
            self._step("rename")
            if self._pinfs.is_woven(self._name):
                self._pinfs.exchange(staging, self._name)
                self._step("remove old")
                remove(self._pinfs, staging)
            else:
                self._pinfs.commit(staging, self._name)
            staging.close()
            self._staging = None

    def _pin(self, links: list[Link]) -> None:
        assert self._staging is not None
        for name, bpf_map in self._maps.items():
            self._step(f"pin {name}")
            pins.pin(bpf_map, self._staging.entry(name if name == REGISTRY else f"map_{name}"))
        for index, link in zip(sorted(self._attached), links, strict=True):
            self._step(f"pin link {index}")
            pins.pin(link, self._staging.entry(f"link_{index}"))

    def _activate(self) -> None:
        control = bytearray(CONTROL_SIZE)
        control[CONTROL_ACTIVE : CONTROL_ACTIVE + 4] = (1).to_bytes(4, "little")
        self._maps[MAP_CONTROL].update(bytes(4), bytes(control))

    def _registry(self) -> Map:
        self._step("registry")
        circumstances = manifest.Circumstances(
            time_ns=time.time_ns(),
            monotonic_ns=time.monotonic_ns(),
            pid=os.getpid(),
            token=str(self._token),
            group=self._group if self._events else None,
            klasy=self._machine.klasy,
            release=self._machine.release,
            build_id=self._machine.build_id,
            boot_id=_boot_id(),
            options=dict(self._options),
        )
        events = {index: held.event for index, held in self._attached.items() if held.event is not None}
        chunks = manifest.pack(manifest.describe(self._artifact.plan, self._artifact.formats, circumstances, events))
        registry = maps.create(
            u.BPF_MAP_TYPE_ARRAY,
            name=REGISTRY,
            key_size=4,
            value_size=manifest.CHUNK,
            max_entries=len(chunks),
            flags=u.BPF_F_RDONLY_PROG,
        )
        try:
            registry.update_all((n.to_bytes(4, "little"), chunk) for n, chunk in enumerate(chunks))
            registry.freeze()
        except BaseException:
            registry.close()
            raise
        return registry

    # -- the way back ----------------------------------------------------------------------------------------------

    def _undo(self) -> None:
        """Take back what was done so far. Never raises: what cannot be taken back now, the next sweep will."""
        staging = self._staging
        if staging is None:
            return
        with suppress(SystemRefusal, OSError), self._pinfs.lock(), expedited_rcu(self._pinfs.hurry):
            for held in reversed(self._attached.values()):
                held.link.close()
            remove(self._pinfs, staging)
        with suppress(SystemRefusal, OSError), self._pinfs.lock():
            self._pinfs.tidy()

    def _close(self) -> None:
        for held in self._attached.values():
            held.link.close()
        for bpf_map in self._maps.values():
            bpf_map.close()
        if self._staging is not None:
            self._staging.close()

    def _step(self, name: str) -> None:
        self._on_step(name)


def _fill(created: Map, spec: MapSpec) -> None:
    if spec.initial:
        created.update_all(spec.initial)
    if spec.frozen:
        created.freeze()


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _raise_descriptor_limit(needed: int) -> None:
    """Links stay open until the commit, one descriptor a probe; the usual soft limit of 1024 may not do."""
    if needed + _SPARE_DESCRIPTORS < 1024:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed + _SPARE_DESCRIPTORS
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))


@contextmanager
def _ending_signals_raise() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP, where they would end the process outright, raise SystemExit: so we can undo."""
    before = {}

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):  # only the main thread can: in others the caller sees to it
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Meanwhile the signals that end a process wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
