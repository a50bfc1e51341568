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
import time

from klasy.backend.artifact import MAP_CONTROL
from klasy.bpf import maps, pins
from klasy.bpf import uapi as u
from klasy.errors import InputError, KernelRefused, NotRoot, SystemRefusal
from klasy.match.mechanism import Mechanism
from klasy.plain import TYPE_CHECKING, dataclass, suppress
from klasy.weaver import manifest
from klasy.weaver.attach import Attacher, ModuleBtf, attach_tracepoint, load
from klasy.weaver.pinfs import BASE, GROUP, REGISTRY, UNFINISHED, PinFS, Token
from klasy.weaver.preflight import load_refusal, preflight
from klasy.weaver.recipe import Recipe, recipe_of
from klasy.weaver.remove import LINK_PREFIX, MAP_PREFIX, remove, switch
from klasy.weaver.signals import ending_signals_raise, signals_held
from klasy.weaver.sweep import sweep
from klasy.weaver.tracefs import KprobeEvents, expedited_rcu, group_name, restore_rcu
from klasy.weaver.woven import WovenAspect, since_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from klasy.backend.artifact import Artifact, MapSpec
    from klasy.bpf.links import Link
    from klasy.bpf.maps import Map
    from klasy.bpf.program import Program
    from klasy.kernel.model import Kernel
    from klasy.match.plan import Plan, Probe
    from klasy.weaver.attach import Attached
    from klasy.weaver.objects import Helper
    from klasy.weaver.pinfs import Staging
    from klasy.weaver.precedence import Order

_SPARE_DESCRIPTORS = 128


class AlreadyWoven(InputError):
    """An aspect of that name is woven already."""


class PlanNeeded(SystemRefusal):
    """A recipe that was kept is not enough: what else is woven asks for an order."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the registry entry says of the kernel and of klasy. ``counts_refused``: see counts.py."""

    release: str
    build_id: str
    klasy: str
    counts_refused: bool = False


def machine_of(kernel: Kernel) -> Machine:
    """What there is to say of a kernel and of this klasy."""
    from klasy import __version__
    from klasy.weaver.features import counts_refused

    _ = kernel.btf  # a kernel without types is told here, not by what its programs lack
    return Machine(kernel.release, kernel.build_id, __version__, counts_refused(kernel))


def weave(
    artifacts: Sequence[Artifact | Recipe],
    machine: Machine,
    *,
    replace: bool = False,
    options: dict[str, object] | None = None,
    pinfs: PinFS | None = None,
    on_step: Callable[[str, str], None] | None = None,
    on_unread: Callable[[str, int], None] | None = None,
) -> list[WovenAspect]:
    """Weave aspects, all of them or none; what is woven then, in the same order, for the caller to close.

    ``replace``: a woven aspect of the same name makes place, without a gap: for some microseconds both run.
    ``on_step`` is called with the aspect and the name of each step before it is done: for progress, and for tests. It
    may raise; that undoes all. ``on_unread`` is called with each aspect that made place and had records in its log that
    nobody had read, and their number.

    Raises AlreadyWoven, NotRoot, KernelLacks, KernelRefused (VerifierError is one), PlanNeeded; whatever is raised,
    nothing of the artifacts is woven. (Killed outright among several renames, some aspects may be woven and some not,
    each whole.)
    """
    fs = pinfs or PinFS()
    if os.geteuid() != 0:
        raise NotRoot("weaving needs root", hint="run klasy as root, e.g. with sudo")
    recipes = [each if isinstance(each, Recipe) else recipe_of(each) for each in artifacts]
    preflight(recipes)
    _raise_descriptor_limit(sum(len(recipe.programs) + len(recipe.maps) for recipe in recipes))
    weaves = [
        _Weave(recipe, machine, fs, replace=replace, options=options or {}, on_step=on_step) for recipe in recipes
    ]
    with ending_signals_raise():
        try:
            with fs.lock():
                sweep(fs)
                order = _order(recipes, fs)
                for one in weaves:
                    one.begin()
            _prepare(weaves, order)
            with fs.lock(), signals_held():
                for one in weaves:
                    one.commit()
                for one in weaves:
                    one.remove_old(on_unread)
                for one in weaves:
                    one.let_go()
        except BaseException:
            with signals_held():
                _undo(fs, weaves)
            raise
        finally:
            for one in weaves:
                one.close()
    return [one.woven for one in weaves]


def _order(recipes: Sequence[Recipe], fs: PinFS) -> Order | None:
    """The order of these aspects and of those that stay woven; None where none is wanted.

    Raises InputError where it cannot be had, PlanNeeded.
    """
    from klasy.weaver.woven import registry_entries

    documents = {recipe.name: recipe.entry for recipe in recipes}
    plans = {recipe.name: recipe.plan for recipe in recipes if recipe.plan is not None}
    woven = {}
    for aspect in registry_entries(fs) if fs.aspects() else ():
        with aspect:
            if aspect.name not in documents:
                woven[aspect.name] = aspect.document
    pairs = [tuple(pair) for each in (documents, woven) for d in each.values() for pair in d.get("precedence", ())]
    if not pairs:
        return None
    if len(plans) < len(documents):
        raise PlanNeeded("the order of the aspects does not follow from what was kept")
    from klasy.weaver.precedence import Order

    order = Order(pairs)
    order.check(plans, woven)
    return order


def _prepare(weaves: Sequence[_Weave], order: Order | None) -> None:
    """Attach everything, switched off; where an order is wanted, in that in which the kernel then runs it so."""
    if order is None:
        for one in weaves:
            one.prepare()
        return
    from klasy.weaver.precedence import CLASSES, ORDERED

    by_name = {one.name: one for one in weaves}
    ranked = [by_name[name] for name in order.sorted(list(by_name))]
    for one in ranked:
        one.create()
        one.attach(lambda probe: probe.context not in ORDERED)
    for contexts, outer_first in CLASSES:
        for one in ranked if outer_first else reversed(ranked):
            one.attach(lambda probe, contexts=contexts: probe.context in contexts)  # type: ignore[misc]
    for one in ranked:
        one.complete()


def _undo(fs: PinFS, weaves: Sequence[_Weave]) -> None:
    """Take back what was done so far. Never raises: what cannot be taken back now, the next sweep will."""
    for one in weaves:
        one.silence()
    with suppress(SystemRefusal, OSError), fs.lock(), expedited_rcu(fs.hurry):
        for one in reversed(weaves):
            with suppress(SystemRefusal, OSError):
                one.undo()
        restore_rcu(fs.hurry)
        fs.tidy()


class _Weave:
    """The weaving of one aspect, in the steps of :func:`weave`."""

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine,
        pinfs: PinFS,
        *,
        replace: bool,
        options: dict[str, object],
        on_step: Callable[[str, str], None] | None,
    ) -> None:
        self._recipe = recipe
        self._machine = machine
        self._replace = replace
        self._options = options
        self._pinfs = pinfs
        self._on_step = on_step
        self.name = recipe.name
        self._staging: Staging | None = None
        self._token = Token(0, 0, 0, 0)  # both are settled once the file system is known
        self._group = ""
        self._events: KprobeEvents | None = None
        self._maps: dict[str, Map] = {}
        self._attached: dict[int, Attached] = {}
        self._attacher: Attacher | None = None  # it numbers the kernel probe events
        self._helped: dict[int, Program] = {}  # programs that the helper attaches, by their probe
        self._tracepoints: dict[str, Link] = {}
        self._helper: Helper | None = None
        self._document: dict[str, Any] = {}  # what the registry entry says, once it is known
        self._woven: WovenAspect | None = None
        self._replaced = False

    @property
    def woven(self) -> WovenAspect:
        """What it is once it is committed."""
        assert self._woven is not None
        return self._woven

    # -- prepare ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take a directory. The lock must be held."""
        self._step("begin")
        self._refuse_second()
        self._token = self._pinfs.token()
        self._group = group_name(self.name, self._token)
        self._staging = self._pinfs.stage(self.name, self._token)

    def prepare(self) -> None:
        """Make maps, programs and links, held by this process, and switched off."""
        self.create()
        self.attach()
        self.complete()

    def create(self) -> None:
        """Make the maps, and what fills them while the aspect is woven."""
        self._create_maps()
        for tracepoint in self._recipe.tracepoints:
            self._step(f"follow {tracepoint.tracepoint}")
            self._tracepoints[tracepoint.name] = attach_tracepoint(tracepoint, self._maps)

    def complete(self) -> None:
        """What is left to do once everything is attached."""
        if self._helped:
            from klasy.weaver import objects

            self._step("helper")
            self._helper = objects.start(self.name, self._plan.probes, self._helped, self._maps)
        if self._watches:
            from klasy.weaver import watch

            self._step("remember")
            watch.remember(self._plan, self._maps)
        self._maps[REGISTRY] = self._registry()

    def _refuse_second(self) -> None:
        if self._replace or not self._pinfs.is_woven(self.name):
            return
        raise AlreadyWoven(
            f"the aspect '{self.name}' is already woven{since_text(self._pinfs, self.name)}",
            hint=f"take it out first (klasy unweave {self.name}), or weave with --replace",
        )

    def _create_maps(self) -> None:
        for spec in self._recipe.maps:
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
        if self._watches:
            from klasy.weaver import watch

            self._maps |= watch.create_maps(self._plan)

    @property
    def _watches(self) -> bool:
        """Whether data is watched."""
        return any(probe.watch is not None for probe in self._recipe.probes)

    @property
    def _plan(self) -> Plan:
        """The whole plan. What watches data has one: it is not kept."""
        assert self._recipe.plan is not None
        return self._recipe.plan

    def attach(self, which: Callable[[Probe], bool] | None = None) -> None:
        """Load and attach the programs of all probes, or of those that ``which`` takes."""
        recipe = self._recipe
        if self._attacher is None:
            told = (self._token, self._group, self._kprobe_events, self._maps, self._pinfs)
            self._attacher = Attacher(*told, on_part=self._defined)
        modules = ModuleBtf()
        try:
            # In the order of the plan: of two kprobes at one address the kernel runs the younger first.
            for spec in sorted(recipe.programs, key=lambda spec: spec.probe):
                probe = recipe.probes[spec.probe]
                if which is not None and not which(probe):
                    continue
                self._step(f"load {spec.name}")
                try:
                    program = load(spec, probe, self._maps, modules)
                except KernelRefused as error:
                    raise load_refusal(recipe.plan, spec.probe, error) from None
                if probe.watch is not None and probe.watch.per_object:
                    self._helped[spec.probe] = program
                    continue
                with program:
                    self._step(f"attach {spec.name}")
                    self._attached[spec.probe] = self._attacher.attach(probe, program)
        finally:
            modules.close()

    def _defined(self, done: int, total: int) -> None:
        self._step(f"define {done} of {total}")

    def _kprobe_events(self) -> KprobeEvents:
        """Kernel probe events, from now on with a group of ours, which the staging directory claims beforehand."""
        if self._events is None:
            events = KprobeEvents()
            assert self._staging is not None
            os.symlink(f"{events.root}/events/{self._group}", self._staging.entry(GROUP))
            self._events = events
        return self._events

    # -- commit ----------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Pin everything, switch it on, and make it the aspect. The lock must be held."""
        staging = self._staging
        assert staging is not None
        self._refuse_second()
        self._pin(staging)
        if self._helper is not None:
            self._helper.go_on()
        if self._decides:
            os.mkdir(staging.entry(UNFINISHED), 0o700)
        else:
            self._activate(staging.path)
        self._step("rename")
        if self._pinfs.is_woven(self.name):
            self._pinfs.exchange(staging, self.name)
            self._replaced = True
        else:
            self._pinfs.commit(staging, self.name)
        self._woven = WovenAspect(self.name, self._pinfs.path(self.name), self._document)
        if self._decides:
            self._woven.hand(MAP_CONTROL, self._maps.pop(MAP_CONTROL))
            self._activate(self._pinfs.path(self.name))
            self._pinfs.finish(self.name)
        if self._replaced:
            switch(staging.path, on=False)

    @property
    def _decides(self) -> bool:
        """Whether it may deny: then it is switched on last, so that what denies is always there to be taken out."""
        return any(probe.mechanism is Mechanism.FMOD_RET for probe in self._recipe.probes)

    def _activate(self, path: str) -> None:
        self._step("activate")
        switch(path, on=True)
        self._pin_base(path)

    def remove_old(self, on_unread: Callable[[str, int], None] | None) -> None:
        """Remove the aspect that this one has replaced, if it has. The lock must be held."""
        if self._replaced and self._staging is not None:
            self._step("remove old")
            with suppress(SystemRefusal, OSError):  # the new one is in place; the next sweep goes on with the old one
                remove(self._pinfs, self._staging, on_unread and (lambda number: on_unread(self.name, number)))

    def _pin(self, staging: Staging) -> None:
        for name, bpf_map in self._maps.items():
            self._step(f"pin {name}")
            pins.pin(bpf_map, staging.entry(name if name == REGISTRY else f"{MAP_PREFIX}{name}"))
        for index, held in sorted(self._attached.items()):
            self._step(f"pin link {index}")
            for more, link in held.links.items():
                pins.pin(link, staging.entry(f"{LINK_PREFIX}{index}{more}"))
        for name, link in self._tracepoints.items():
            pins.pin(link, staging.entry(LINK_PREFIX + name))

    def _pin_base(self, path: str) -> None:
        """Keep what the kernel has counted so far, where only that way it is learnt that programs were refused."""
        if self._events is None or self._machine.counts_refused:
            return
        self._step("base")
        profile = self._events.profile(self._token)
        numbers = [held.event for _, held in sorted(self._attached.items()) if held.event is not None]
        hits = [site.hits for number in numbers for site in profile.get(number, ())]
        with maps.create(u.BPF_MAP_TYPE_ARRAY, name=BASE, key_size=4, value_size=8, max_entries=len(hits)) as base:
            base.update_all((n.to_bytes(4, "little"), count.to_bytes(8, "little")) for n, count in enumerate(hits))
            base.freeze()
            pins.pin(base, f"{path}/{MAP_PREFIX}{BASE}")

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
            counts_refused=self._machine.counts_refused,
            options=self._options,
        )
        events = {index: held.event for index, held in self._attached.items() if held.event is not None}
        self._document = manifest.complete(self._recipe.entry, circumstances, events)
        chunks = manifest.pack(self._document)
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

    def silence(self) -> None:
        """Switch it off if it may deny: lest it deny what taking it back needs."""
        if self._woven is not None and self._decides:
            with self._woven, suppress(SystemRefusal):
                self._woven.switch_off()

    def undo(self) -> None:
        """Take back what was done. The lock must be held."""
        self._close_links()
        if self._helper is not None:
            from klasy.weaver import objects

            self._helper.close()
            objects.end_by_map(self._maps)
        if self._replaced and self._staging is not None and os.path.isdir(self._staging.path):
            switch(self._staging.path, on=True)
            self._pinfs.exchange(self._staging, self.name)
        elif self._woven is not None and self._staging is not None:
            self._staging.close()  # withdraw() takes the lock anew
            self._staging = self._pinfs.withdraw(self.name, self._token)
        if self._staging is not None:
            remove(self._pinfs, self._staging)

    def let_go(self) -> None:
        """Hold the directory no longer. The lock must be held: who has it next may take the aspect's place."""
        if self._staging is not None:
            self._staging.close()

    def close(self) -> None:
        """Close all descriptors: what is pinned stays."""
        self._close_links()
        for program in self._helped.values():
            program.close()
        if self._helper is not None:
            self._helper.close()
        for bpf_map in self._maps.values():
            bpf_map.close()
        self.let_go()

    def _close_links(self) -> None:
        for held in reversed(self._attached.values()):
            held.close()
        for link in self._tracepoints.values():
            link.close()

    def _step(self, name: str) -> None:
        if self._on_step is not None:
            self._on_step(self.name, name)


def _fill(created: Map, spec: MapSpec) -> None:
    if spec.initial:
        created.update_all(spec.initial)
    if spec.frozen:
        created.freeze()


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
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
