"""Debug registers: a watch is one of them on every CPU, each a perf event of its CPU with a link of its own.

The events also hang, under their CPU, in the pinned map ``watches``: so a later process can have each one's own count
read on its CPU. That is how missed hits are known: an event counts every trap, also those at which the kernel did not
run the program because another one was running on the CPU.

An event dies when its CPU goes offline, and none can be opened on a CPU that is off (ENODEV); a CPU that comes up is
not watched until somebody opens an event there. Nobody waits for that: the next klasy command sees to it
(:func:`rearm`), and counts and says that there was a gap.
"""

from __future__ import annotations

import errno
import os
import struct
import time

from klasy.backend.artifact import MAP_FIRST, MAP_TRAPS
from klasy.bpf import links, maps, pins, program
from klasy.bpf import uapi as u
from klasy.errors import KernelRefused, SystemRefusal
from klasy.match.datum import REGISTERS, Datum
from klasy.plain import TYPE_CHECKING, NamedTuple, suppress
from klasy.weaver.remove import LINK_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from klasy.bpf.links import Link, PerfEvent
    from klasy.bpf.maps import Map
    from klasy.bpf.program import Program
    from klasy.match.plan import Plan, Watch
    from klasy.weaver.pinfs import PinFS
    from klasy.weaver.woven import WovenAspect

MAP_WATCHES = "watches"  # perf event array: the event of slot S on CPU C at S * CPUs + C
MAP_GAPS = "gaps"  # array, at the same places: u64 runs of the program before the present event, u64 events before it

_PRESERVE_ELEMS = 1 << 11  # BPF_F_PRESERVE_ELEMS: events stay when the descriptor they were put in by is closed
_LET_GO = 0.5  # seconds: the kernel lets go of an aspect's registers some 25 ms after it was taken out
_EVENTS = "/sys/kernel/uevent_seqnum"
_ONLINE = "/sys/devices/system/cpu/online"
_GAP = struct.Struct("<QQ")
_READING = struct.Struct("<qQ8x")  # what reading an event gave, its count


class Reading(NamedTuple):
    """What an event says: whether it is armed on its CPU, and how often it trapped."""

    armed: bool
    traps: int


# --- weaving ----------------------------------------------------------------------------------------------------------


def create_maps(plan: Plan) -> dict[str, Map]:
    """The maps of a plan's watches that hold kernel objects; none where it has no watch."""
    slots = sum(probe.watch is not None and not probe.watch.per_object for probe in plan.probes)
    if not slots:
        return {}
    places = slots * maps.possible_cpus()
    return {
        MAP_WATCHES: maps.create(
            u.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
            name=MAP_WATCHES,
            key_size=4,
            value_size=4,
            max_entries=places,
            flags=_PRESERVE_ELEMS,
        ),
        MAP_GAPS: maps.create(
            u.BPF_MAP_TYPE_ARRAY, name=MAP_GAPS, key_size=4, value_size=_GAP.size, max_entries=places
        ),
    }


def attach(watch: Watch, loaded: Program, events: Map, pinfs: PinFS) -> dict[int, Link]:
    """Arm a watch on every CPU that is online; its links by CPU. KernelRefused says who holds the registers."""
    armed: dict[int, Link] = {}
    try:
        for cpu in online_cpus():
            try:
                event = _open(watch.piece.address, watch.piece.length, watch.writes_only, cpu)
            except KernelRefused as error:
                raise _refusal(error, watch.data.piece_text(watch.piece), cpu, pinfs) from None
            with event:
                armed[cpu] = links.attach_perf_event(loaded, event)
                event.enable()  # not before: what it counts without its program would look missed
                _put(events, watch.slot, cpu, event)
    except BaseException:
        for link in armed.values():
            link.close()
        raise
    return armed


def remember(plan: Plan, held: Mapping[str, Map]) -> None:
    """Note what the data is, once it is watched: it is the old value at the first set."""
    from klasy.kernel.text import Kcore

    watches = [probe.watch for probe in plan.probes if probe.watch is not None]
    data = ((watch.datum, watch.data) for watch in watches)
    scalars = {number: datum for number, datum in data if isinstance(datum, Datum) and datum.type.is_scalar}
    if not scalars:
        return
    memory = Kcore()
    try:
        values = bytearray(held[MAP_FIRST].value_size)
        for number, datum in scalars.items():
            values[8 * number : 8 * number + datum.size] = memory.read(datum.address, datum.size)
    finally:
        memory.close()
    held[MAP_FIRST].update(bytes(4), bytes(values))


def _open(address: int, length: int, writes_only: bool, cpu: int) -> PerfEvent:
    access = u.HW_BREAKPOINT_W if writes_only else u.HW_BREAKPOINT_RW
    deadline = time.monotonic() + _LET_GO
    while True:
        try:
            return links.perf_breakpoint(address, length, access, cpu=cpu, disabled=True, pinned=True)
        except KernelRefused as error:
            if error.errno != errno.ENOSPC or time.monotonic() > deadline:
                raise
        time.sleep(_LET_GO / 50)


def _put(events: Map, slot: int, cpu: int, event: PerfEvent) -> None:
    events.update(_place(slot, cpu), event.fileno().to_bytes(4, "little"))


def _place(slot: int, cpu: int) -> bytes:
    return (slot * maps.possible_cpus() + cpu).to_bytes(4, "little")


def online_cpus(path: str = _ONLINE) -> list[int]:
    """The CPUs that run, by number."""
    with open(path, encoding="ascii") as file:
        return maps.cpu_list(file.read())


# --- refusals ---------------------------------------------------------------------------------------------------------


def _refusal(error: KernelRefused, data: str, cpu: int, pinfs: PinFS) -> KernelRefused:
    """What to say when a register cannot be had."""
    if error.errno == errno.ENOSPC:
        return KernelRefused(
            f"watching '{data}': CPU {cpu} has no debug register left of its {REGISTERS}: {held_by(pinfs)}",
            error.errno,
            hint="take out an aspect that watches data (klasy unweave NAME), or end what else uses them",
        )
    if error.errno == errno.EINVAL:
        return KernelRefused(
            f"watching '{data}': the kernel does not let this address be watched",
            error.errno,
            hint="what the entry code of exceptions uses cannot be watched, for watching it would trap without end",
        )
    return KernelRefused(f"watching '{data}' on CPU {cpu}", error.errno, hint=error.hint)


def held_by(pinfs: PinFS) -> str:
    """Who holds debug registers, as far as it can be known: in words."""
    known = [f"aspect '{name}' holds {', '.join(texts)}" for name, texts in holders(pinfs).items()]
    openers = perf_users()
    if openers:
        known.append(f"perf events are open in {', '.join(openers)}")
    traced = tracers()
    if traced:
        known.append(f"a debugger that may use them is on {', '.join(traced)}")
    if not known:
        known.append("by whom is not known (another bpffs, a module, or kgdb)")
    return "; ".join(known)


def holders(pinfs: PinFS) -> dict[str, list[str]]:
    """The woven aspects that watch data, each with what it watches."""
    from klasy.weaver.woven import registry_entries

    found = {}
    for aspect in registry_entries(pinfs):
        texts = [watch["text"] for watch in watches_of(aspect)]
        if texts:
            found[aspect.name] = texts
    return found


def watches_of(aspect: WovenAspect) -> list[dict[str, Any]]:
    """What the registry entry says of an aspect's watches, each with the index of its ``probe``."""
    probes = aspect.document["probes"]
    return [probe["watch"] | {"probe": index} for index, probe in enumerate(probes) if probe.get("watch")]


def perf_users(proc: str = "/proc") -> list[str]:
    """The processes that hold perf events, as ``name(pid)``. Which are breakpoints, the kernel does not say."""
    found = []
    for pid in _pids(proc):
        try:
            files = os.listdir(f"{proc}/{pid}/fd")
        except OSError:
            continue
        for file in files:
            with suppress(OSError):
                if os.readlink(f"{proc}/{pid}/fd/{file}") == "anon_inode:[perf_event]":
                    found.append(_named(proc, pid))
                    break
    return found


def tracers(proc: str = "/proc") -> list[str]:
    """The processes that a debugger is attached to, as ``name(pid)``."""
    found = []
    for pid in _pids(proc):
        with suppress(OSError), open(f"{proc}/{pid}/status", encoding="utf-8", errors="replace") as file:
            if any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in file):
                found.append(_named(proc, pid))
    return found


def _pids(proc: str) -> list[str]:
    return sorted((name for name in os.listdir(proc) if name.isdecimal() and int(name) != os.getpid()), key=int)


def _named(proc: str, pid: str) -> str:
    try:
        with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"{file.read().strip()}({pid})"
    except OSError:
        return pid


def free_registers(address: int, cpu: int) -> int:
    """How many debug registers a CPU has left, found by taking them for a moment, silent, on a harmless address."""
    taken: list[PerfEvent] = []
    try:
        while len(taken) < REGISTERS:
            taken.append(links.perf_breakpoint(address, 8, u.HW_BREAKPOINT_W, cpu=cpu, disabled=True))
    except KernelRefused as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        for event in taken:
            event.close()
    return len(taken)


# --- what is woven ----------------------------------------------------------------------------------------------------


def readings(aspect: WovenAspect, slots: int) -> dict[tuple[int, int], Reading]:
    """What the events of an aspect's watches say, by slot and CPU; of the CPUs that are online."""
    from klasy.bpf.asm import Assembler
    from klasy.bpf.insn import R0, R1, R2, R3, R4, R6, R7, R10, add, call, exit_, load, load_map, load_map_value, mov
    from klasy.bpf.insn import store as store_

    cpus = maps.possible_cpus()
    code = Assembler()
    code.emit(call("get_smp_processor_id"), mov(R6, R0))
    for slot in range(slots):
        code.emit(load_map(R1, MAP_WATCHES), mov(R2, R6), add(R2, slot * cpus), mov(R3, R10), add(R3, -24), mov(R4, 24))
        code.emit(call("perf_event_read_value"), load_map_value(R7, "out", _READING.size * slot), store_(R7, 0, R0))
        code.emit(load(R1, R10, -24), store_(R7, 8, R1))
    code.emit(mov(R0, 0), exit_())
    found = {}
    out = maps.create("array", name="out", key_size=4, value_size=_READING.size * slots, max_entries=1)
    with out:
        held = {MAP_WATCHES: aspect.map(MAP_WATCHES), "out": out}
        assembled = code.assemble()
        with program.load(u.BPF_PROG_TYPE_RAW_TRACEPOINT, assembled, name="read_watches", maps=held) as reader:
            for cpu in online_cpus():
                with suppress(KernelRefused):  # it has just gone offline
                    reader.test_run(context=b"", cpu=cpu)
                    value = out.lookup(bytes(4)) or b""
                    for slot in range(slots):
                        result, count = _READING.unpack_from(value, _READING.size * slot)
                        found[slot, cpu] = Reading(result == 0, count)
    return found


class Misses(NamedTuple):
    """What a watch missed: traps at which its program did not run, and whether there may have been more."""

    number: int
    partly: bool


def missed(aspect: WovenAspect) -> dict[int, Misses]:
    """What each watch missed, by the index of its probe."""
    watches = watches_of(aspect)
    if not watches:
        return {}
    found = readings(aspect, len(watches))  # before the runs: the difference is never too large
    gaps = aspect.map(MAP_GAPS)
    result = {}
    for watch in watches:
        slot = watch["slot"]
        runs = _runs(aspect, slot)
        number, partly = 0, False
        for cpu in range(maps.possible_cpus()):
            before, events = _GAP.unpack(gaps.lookup(_place(slot, cpu)) or bytes(_GAP.size))
            reading = found.get((slot, cpu))
            if reading is not None and reading.armed:
                number += max(0, reading.traps - (runs[cpu] - before))
            partly |= bool(events) or (reading is not None and not reading.armed)
        result[watch["probe"]] = Misses(number, partly)
    return result


def _runs(aspect: WovenAspect, slot: int) -> list[int]:
    """How often the program of a watch ran on each CPU."""
    values = aspect.map(MAP_TRAPS).lookup_each_cpu(slot.to_bytes(4, "little"))
    return [int.from_bytes(value[:8], "little") for value in values or ()]


def coverage(aspect: WovenAspect) -> str | None:
    """What is to be said of CPUs on which data was, or is, not watched; None where there is nothing to say."""
    if not watches_of(aspect):
        return None
    notes = []
    bare = uncovered(aspect)
    if bare:
        notes.append(f"not watched on CPU {', '.join(map(str, bare))}")
    gaps = gaps_in(aspect)
    if gaps:
        cpus = ", ".join(map(str, sorted(gaps)))
        notes.append(f"CPU {cpus} came up after the weaving, and was not watched until a klasy command saw it")
    return "; ".join(notes) or None


def uncovered(aspect: WovenAspect) -> list[int]:
    """The CPUs that run and on which a watch of the aspect is not armed."""
    watches = watches_of(aspect)
    if not watches:
        return []
    found = readings(aspect, len(watches))
    return sorted({cpu for (_, cpu), reading in found.items() if not reading.armed})


def gaps_in(aspect: WovenAspect) -> dict[int, int]:
    """How often watches had to be armed anew, by CPU: each time there was a gap before."""
    if not watches_of(aspect):
        return {}
    cpus = maps.possible_cpus()
    found: dict[int, int] = {}
    for key, value in aspect.map(MAP_GAPS).items():
        _, events = _GAP.unpack(value)
        if events:
            cpu = int.from_bytes(key, "little") % cpus
            found[cpu] = max(found.get(cpu, 0), events)
    return found


def rearm(aspects: Iterable[WovenAspect], pinfs: PinFS) -> dict[str, list[int]]:
    """Arm the watches of woven aspects on CPUs that came up since; which CPUs those were, by aspect.

    What resists is left to a later command: no error.
    """
    if os.geteuid() != 0:
        return {}
    done: dict[str, list[int]] = {}
    for aspect in aspects:
        with suppress(SystemRefusal, OSError):
            if uncovered(aspect):
                with pinfs.lock():
                    done[aspect.name] = _rearm(aspect)
    return done


class CpuGuard:
    """For a command that stays: arms watches on CPUs that come up meanwhile.

    A look costs the reading of one file: whatever comes and goes in the machine, CPUs among it, makes the kernel count
    an event (uevent_seqnum). The first costs more, for a CPU may have come up between the weaving and this.
    """

    def __init__(self, aspects: Iterable[WovenAspect], *, events: str = _EVENTS) -> None:
        self._aspects = [aspect for aspect in aspects if aspect.watches_data]
        self._events = events
        self._seen: bytes | None = None if self._aspects else b""

    def _number(self) -> bytes:
        if not self._aspects:
            return b""
        try:
            with open(self._events, "rb") as file:
                return file.read()
        except OSError:
            return b""

    def look(self) -> dict[str, list[int]]:
        """Arm what is to be armed; the CPUs where that was so, by aspect."""
        number = self._number()
        if number == self._seen:
            return {}
        self._seen = number
        from klasy.weaver.pinfs import PinFS

        return rearm(self._aspects, PinFS())


def _rearm(aspect: WovenAspect) -> list[int]:
    watches = {watch["slot"]: watch for watch in watches_of(aspect)}
    bare = [place for place, reading in readings(aspect, len(watches)).items() if not reading.armed]
    for slot, cpu in bare:
        _arm_anew(aspect, watches[slot], cpu)
    return sorted({cpu for _, cpu in bare})


def _arm_anew(aspect: WovenAspect, watch: Mapping[str, Any], cpu: int) -> None:
    slot, gaps = watch["slot"], aspect.map(MAP_GAPS)
    path = f"{aspect.path}/{link_name(watch['probe'], cpu)}"
    before, events = _GAP.unpack(gaps.lookup(_place(slot, cpu)) or bytes(_GAP.size))
    with (
        _program(aspect, watch) as loaded,
        _open(watch["address"], watch["length"], watch["writes_only"], cpu) as event,
    ):
        before = _runs(aspect, slot)[cpu]
        with links.attach_perf_event(loaded, event) as link:
            event.enable()
            with suppress(KernelRefused, FileNotFoundError):
                pins.unpin(path)
            pins.pin(link, path)
            _put(aspect.map(MAP_WATCHES), slot, cpu, event)
            gaps.update(_place(slot, cpu), _GAP.pack(before, events + 1))


def _program(aspect: WovenAspect, watch: Mapping[str, Any]) -> Program:
    """The program of a watch, from one of its links."""
    prefix = link_name(watch["probe"], 0).removesuffix("0")
    for name in sorted(os.listdir(aspect.path)):
        if name.startswith(prefix):
            with pins.open_link(f"{aspect.path}/{name}") as link:
                return program.open_id(link.info().program_id)
    raise KernelRefused(f"no link is left of '{watch['text']}'", errno.ENOENT)


def link_name(probe: int, cpu: int) -> str:
    """The pin of a watch's link on a CPU."""
    return f"{LINK_PREFIX}{probe}_cpu{cpu}"
