"""Woven aspects as a later process finds them: their registry entries, maps, counts and cost.

for aspect in read_registry():
    with aspect:
        print(aspect.name, sum(count.hits for count in aspect.counts()))
"""

from __future__ import annotations

import errno
import os

from klasy.backend.artifact import (
    BUDGET_OVER,
    BUDGET_SIZE,
    BUDGET_SPAN,
    CONTROL_ACTIVE,
    CONTROL_SIZE,
    CONTROL_STOPPED,
    MAP_BUDGET,
    MAP_CONTROL,
    MAP_COUNTERS,
    MAP_EVENTS,
    MAP_RUNS,
    MAP_UNFOLLOWED,
    MAP_UNKNOWN,
    STOPPED_BY_BUDGET,
    Rows,
)
from klasy.bpf import pins, program
from klasy.bpf import uapi as u
from klasy.errors import InputError, KernelRefused, NotRoot, SystemRefusal, one_line
from klasy.plain import TYPE_CHECKING, Closing, NamedTuple, cached_property, dataclass, suppress
from klasy.record import Format
from klasy.weaver import manifest
from klasy.weaver.counts import Count, combine, sum_counters, sum_rows
from klasy.weaver.pinfs import BASE, DENIED, REGISTRY, PinFS, Token
from klasy.weaver.remove import LINK_PREFIX, MAP_PREFIX, set_switch
from klasy.weaver.sweep import clear_leftovers
from klasy.weaver.tracefs import KprobeEvents, SiteCount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from klasy.bpf.links import LinkInfo
    from klasy.bpf.maps import Map
    from klasy.state import State


class NotWoven(InputError):
    """No aspect of that name is woven."""


class WovenJoinPoint(NamedTuple):
    """A join point of a woven aspect; the fields are those of its JSON form (docs/json.md)."""

    id: int
    aspect: str
    advice: str
    kind: str
    function: str | None
    offset: int | None
    address: int | None
    module: str | None
    callee: str | None
    callee_module: str | None
    call: str | None
    file: str | None
    line: int | None
    mechanism: str
    why: str
    data: str | None = None
    access: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What the programs of an aspect took, while BPF statistics were on (sysctl kernel.bpf_stats_enabled)."""

    runs: int
    nanoseconds: int


NO_COST = Cost(0, 0)


class WovenAspect(Closing):
    """An aspect in the kernel. Close it, or use it in ``with``: it holds descriptors of the maps it was asked for."""

    def __init__(self, name: str, path: str, document: Mapping[str, Any]) -> None:
        self.name = name
        self.path = path
        self.document = document
        self._maps: dict[str, Map] = {}
        self._last: tuple[dict[int, list[SiteCount]], dict[int, int]] | None = None  # what the kernel counted in all

    def close(self) -> None:
        """Close the maps. The aspect stays woven."""
        while self._maps:
            self._maps.popitem()[1].close()

    # -- what was woven ----------------------------------------------------------------------------------------------

    @property
    def since_ns(self) -> int:
        """When it was woven: nanoseconds since 1970."""
        return int(self.document["woven"]["time_ns"])

    @property
    def monotonic_ns(self) -> int:
        """When it was woven, on the clock of the log's records: nanoseconds since boot."""
        return int(self.document["woven"]["monotonic_ns"])

    @property
    def source_name(self) -> str:
        """The name of its source file, as it was given."""
        return str(self.document["source"]["name"])

    @property
    def source_text(self) -> str:
        """The text of its source file."""
        return str(self.document["source"]["text"])

    @property
    def advice_labels(self) -> list[str]:
        """How each advice is shown, by its index."""
        return [advice["label"] for advice in self.document["advice"]]

    def hits(self, counts: Sequence[Count]) -> int:
        """How often advice ran, by the counts of its join points: advice that only keeps a control flow left out."""
        keeps = {advice["label"] for advice in self.document["advice"] if advice.get("keeps")}
        if not keeps:
            return sum(count.hits for count in counts)
        return sum(
            count.hits for point, count in zip(self.joinpoints, counts, strict=True) if point.advice not in keeps
        )

    @cached_property
    def formats(self) -> tuple[Format, ...]:
        """The layouts of its log records, by their index."""
        return tuple(Format.from_json(data) for data in self.document["formats"])

    @cached_property
    def states(self) -> tuple[State, ...]:
        """What it keeps, in the order of its source; see :mod:`klasy.weaver.states`."""
        documents = self.document.get("states")
        if not documents:
            return ()
        from klasy.state import State

        return tuple(map(State.from_json, documents))

    @property
    def filter(self) -> dict[str, Any] | None:
        """Whose hits count, as match.filter.Filter.to_json gives it; None: everybody's."""
        found: dict[str, Any] | None = self.document.get("filter")
        return found

    @property
    def types(self) -> dict[str, bytes]:
        """The types of modules and programs that its records have, as BTF, by what fields call them (record.Field)."""
        return {key: bytes.fromhex(data) for key, data in self.document.get("types", {}).items()}

    @cached_property
    def joinpoints(self) -> tuple[WovenJoinPoint, ...]:
        """Its join points, by their id."""
        return tuple(map(WovenJoinPoint._make, zip(*self._columns, strict=True)))

    @cached_property
    def _columns(self) -> list[list[Any]]:
        """What the join points are, by their fields."""
        columns = manifest.unpack_table(self.document["joinpoints"])
        labels = self.advice_labels
        columns |= {"aspect": [self.name] * self.number, "advice": [labels[index] for index in columns["advice"]]}
        return [columns[field] for field in WovenJoinPoint._fields]

    @property
    def number(self) -> int:
        """How many join points it has."""
        return manifest.table_length(self.document["joinpoints"])

    def joinpoint(self, index: int) -> WovenJoinPoint:
        """One of its join points, by its id: of thousands not all are made objects of."""
        return WovenJoinPoint._make([column[index] for column in self._columns])

    @property
    def unreached(self) -> list[dict[str, Any]]:
        """Shadows that no probe could reach, each with ``code`` and ``reason``."""
        columns = manifest.unpack_table(self.document["unreached"])
        labels = self.advice_labels
        columns["advice"] = [labels[index] for index in columns["advice"]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @property
    def watches_data(self) -> bool:
        """Whether debug registers of the CPUs are its."""
        return any(probe.get("watch") or probe.get("object") for probe in self.document["probes"])

    @property
    def watches_objects(self) -> bool:
        """Whether a helper process watches objects for it."""
        return any(probe.get("object") for probe in self.document["probes"])

    # -- what happened since -----------------------------------------------------------------------------------------

    def map(self, name: str) -> Map:
        """One of its maps, by the name in the artifact. Kept open until :meth:`close`. Raises KernelRefused."""
        if name not in self._maps:
            self._maps[name] = pins.open_map(f"{self.path}/{MAP_PREFIX}{name}")
        return self._maps[name]

    def hand(self, name: str, opened: Map) -> None:
        """Give it one of its maps that is open already. It is its own from now on."""
        self._maps[name] = opened

    def switch_off(self) -> None:
        """Have its programs return at once from now on. Raises KernelRefused."""
        set_switch(self.map(MAP_CONTROL), on=False)

    def finish(self) -> None:
        """Switch it off before it is taken out. ``counts`` are its last ones from then on, also when it is gone.

        What the kernel counts of its probes goes with them, and goes on while they do nothing: so it is read now.
        """
        try:
            if self._last is None:
                self._last = self._profile(), self._refused()
        finally:
            self.switch_off()

    def hold(self) -> None:
        """Open all its maps, so that they can be read when it has been taken out. Raises KernelRefused."""
        try:
            entries = os.listdir(self.path)
        except FileNotFoundError:  # it has been already
            return
        except OSError as error:
            raise KernelRefused(f"reading {self.path}", error.errno or 0, hint=DENIED) from None
        for entry in entries:
            if entry.startswith(MAP_PREFIX):
                self.map(entry.removeprefix(MAP_PREFIX))

    def events(self) -> Map:
        """The ring buffer of its log records, for a RingReader."""
        return self.map(MAP_EVENTS)

    @property
    def active(self) -> bool:
        """Whether its programs run; false once it stopped itself, and while it is woven or taken out."""
        return self._control(CONTROL_ACTIVE) != 0

    @property
    def stopped(self) -> bool:
        """Whether it has switched itself off by ``stop()``."""
        return self._control(CONTROL_STOPPED) != 0

    @property
    def budget(self) -> float | None:
        """How much of the processor time it may take, in percent; None: all it needs."""
        found: float | None = self.document["options"].get("budget")
        return found

    def over_budget(self) -> tuple[int, int] | None:
        """If its budget has stopped it: the ns that it took, and in what time, of all CPUs together."""
        if self._control(CONTROL_STOPPED) != STOPPED_BY_BUDGET:
            return None
        value = self.map(MAP_BUDGET).lookup(bytes(4)) or bytes(BUDGET_SIZE)
        taken, span = (int.from_bytes(value[at : at + 8], "little") for at in (BUDGET_OVER, BUDGET_SPAN))
        return taken, span

    def _control(self, at: int) -> int:
        value = self.map(MAP_CONTROL).lookup(bytes(4)) or bytes(CONTROL_SIZE)
        return int.from_bytes(value[at : at + 4], "little")

    def counts(self) -> list[Count]:
        """Hits, lost, unmarked and missed of each join point, by its id."""
        number = self.number
        profile = self._last[0] if self._last else self._profile()  # first: see counts.py
        own = sum_counters(self.map(MAP_COUNTERS).words(), number)
        refused = self._last[1] if self._last else self._refused()
        found = combine(own, self.document, profile, self._base(), refused, runs=self._runs())
        if self.watches_data:
            from klasy.weaver.accounts import settle

            found = settle(self, found)
        return found

    def unknown_callers(self) -> dict[int, int]:
        """Hits of dispatched calls from no known site, by the address they would return to."""
        try:
            found = self.map(MAP_UNKNOWN)
        except KernelRefused:
            return {}
        return {int.from_bytes(k, "little"): int.from_bytes(v[:8], "little") for k, v in found.items()}

    def unfollowed(self) -> int:
        """Processes that are not followed though their makers are, because there was no room."""
        if self.filter is None or not self.filter["children"]:
            return 0
        return int.from_bytes(self.map(MAP_UNFOLLOWED).lookup(bytes(4)) or b"", "little")

    def cost(self) -> Cost:
        """What its programs took so far."""
        runs = nanoseconds = 0
        for _, _, info in self._links():
            runs, nanoseconds = runs + info.run_count, nanoseconds + info.run_time
        return Cost(runs, nanoseconds)

    def costs(self) -> dict[int, Cost]:
        """What the programs took so far that serve a join point, by its id. One program may serve many of them."""
        found: dict[int, Cost] = {}
        for index, _, info in self._links():
            for i in {i for ids in self.document["probes"][index]["joinpoints"] for i in ids}:
                so_far = found.get(i, NO_COST)
                found[i] = Cost(so_far.runs + info.run_count, so_far.nanoseconds + info.run_time)
        return found

    def _profile(self) -> dict[int, list[SiteCount]]:
        token = Token.parse(self.document["token"])
        if self.document["group"] is None or token is None:
            return {}
        return KprobeEvents().profile(token)

    def _base(self) -> dict[int, list[int]]:
        """The kernel's hits at each point of each kernel probe event when the aspect was switched on; see BASE."""
        try:
            found = self.map(BASE)
        except KernelRefused:
            return {}
        hits = [int.from_bytes(value, "little") for _, value in sorted(found.items(), key=lambda item: item[0][::-1])]
        base = {}
        for probe in self.document["probes"]:
            if probe["event"] is not None:
                number = len(probe["points"])
                base[probe["event"]], hits = hits[:number], hits[number:]
        return base

    def _runs(self) -> dict[int, int]:
        """How often the programs have run that count it, by the probe's index: those whose points have no whole."""
        try:
            runs = self.map(MAP_RUNS)
        except KernelRefused:
            return {}
        totals = sum_rows(runs.words(), Rows(1, len(self.document["probes"]), 8))
        return {i: totals[i] for i, probe in enumerate(self.document["probes"]) if None in probe["whole"]}

    def _links(self) -> Iterator[tuple[int, LinkInfo, program.ProgramInfo]]:
        """What the kernel knows of the link and the program of each probe, with the probe's index."""
        for index, probe in enumerate(self.document["probes"]):
            more = "_cpu0" if probe.get("watch") else ""  # all its links have one program; CPU 0 stays
            with suppress(KernelRefused), pins.open_link(f"{self.path}/{LINK_PREFIX}{index}{more}") as link:
                info = link.info()
                with program.open_id(info.program_id) as loaded:
                    yield index, info, loaded.info()

    def _refused(self) -> dict[int, int]:
        """Hits refused to a probe's program because it, or any kprobe's program, was running on the CPU."""
        refused = {}
        for index, info, loaded in self._links():
            # Of an event of several probes the link tells the misses of the first: those the profile has, of all.
            by_link = info.missed if info.type == u.BPF_LINK_TYPE_KPROBE_MULTI else 0
            refused[index] = loaded.recursion_misses + (by_link or 0)
        return refused


def read_registry(pinfs: PinFS | None = None) -> list[WovenAspect]:
    """All woven aspects, by name; entries that this klasy cannot read are left out (see :func:`foreign`).

    Clears what killed weaves have left, as every command does. Raises NotRoot.
    """
    fs = pinfs or PinFS()
    clear_leftovers(fs)
    found = registry_entries(fs)
    _rearm(found, fs)
    return found


def registry_entries(fs: PinFS) -> list[WovenAspect]:
    """The same as it stands: nothing is cleared, nothing armed."""
    found = []
    for name in fs.aspects():
        with suppress(NotWoven, manifest.UnknownRegistry):
            found.append(_open(fs, name))
    return found


def _rearm(aspects: Sequence[WovenAspect], fs: PinFS) -> None:
    """Watch data also on CPUs that came up since; as every command does."""
    watching = [aspect for aspect in aspects if aspect.watches_data]
    if watching:
        from klasy.weaver import watch

        watch.rearm(watching, fs)


def foreign(pinfs: PinFS | None = None) -> dict[str, str]:
    """Directories where aspects should be that cannot be read as such, and why not."""
    fs = pinfs or PinFS()
    result = {}
    for name in fs.aspects():
        try:
            _open(fs, name)
        except (NotWoven, manifest.UnknownRegistry) as error:
            result[name] = error.message
    return result


def open_woven(name: str, pinfs: PinFS | None = None) -> WovenAspect:
    """A woven aspect by its name. Raises NotWoven with the names that were probably meant, NotRoot, UnknownRegistry."""
    fs = pinfs or PinFS()
    clear_leftovers(fs)
    names = fs.aspects()
    if name not in names:
        raise not_woven([name], names)
    try:
        found = _open(fs, name)
    except manifest.UnknownRegistry as error:
        message = f"the aspect '{one_line(name)}' cannot be read: {error.message}"
        raise manifest.UnknownRegistry(
            message, hint=f"klasy unweave {one_line(name)} takes it out all the same"
        ) from None
    _rearm([found], fs)
    return found


def open_aspects(names: Iterable[str]) -> list[WovenAspect]:
    """The woven aspects with some names, each once; all, if none is named. Raises as :func:`open_woven` does."""
    return [open_woven(name) for name in dict.fromkeys(names)] or read_registry()


def not_woven(missing: Sequence[str], names: Sequence[str]) -> NotWoven:
    """The error for names that no woven aspect has."""
    from klasy.diag import did_you_mean, suggest

    quoted = ", ".join(f"'{one_line(name)}'" for name in missing)
    near = list(dict.fromkeys(n for name in missing for n in suggest(name, names)))
    hint = did_you_mean(near) or (f"woven: {', '.join(names)}" if names else None)
    return NotWoven(f"no aspect {quoted} is woven" + ("" if names else ", nor any other"), hint=hint)


def _open(fs: PinFS, name: str) -> WovenAspect:
    path = fs.path(name)
    try:
        registry = pins.open_map(f"{path}/{REGISTRY}")
    except TypeError:
        raise manifest.UnknownRegistry(f"{path}/{REGISTRY} is no map") from None
    except KernelRefused as error:
        if os.geteuid() != 0:
            raise NotRoot("woven aspects are only for root to see", hint="run klasy as root, e.g. with sudo") from None
        if error.errno != errno.ENOENT:  # denied by a policy, say
            raise NotWoven(error.message) from None
        raise NotWoven(f"{path} holds no registry entry of klasy") from None
    with registry:
        if registry.key_size != 4 or registry.value_size != manifest.CHUNK:
            raise manifest.UnknownRegistry(f"{path}/{REGISTRY} is no registry entry of klasy")
        chunks = dict(registry.items())
    ordered = [chunks[n.to_bytes(4, "little")] for n in range(len(chunks))]
    return WovenAspect(name, path, manifest.unpack(ordered))


def since_text(pinfs: PinFS, name: str) -> str:
    """Since when an aspect is woven, as a clause for a message; empty if that cannot be read."""
    import time

    try:
        aspect = _open(pinfs, name)
    except (SystemRefusal, NotWoven, manifest.UnknownRegistry):
        return ""
    return time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(aspect.since_ns / 1e9))
