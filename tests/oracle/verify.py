#!/usr/bin/env python3
"""The other direction: run klasy's static sites, and look at what object each has in hand.

    klasy lab -- .venv/bin/python tests/oracle/verify.py static-6.1.json > verify-6.1.json

A kprobe on each static site of a struct's members takes the base register, takes off the site's offset, and asks the
page it points to whose slab it is: slab cache and offset within the slab's object are counted by site, in the kernel,
at that moment. Afterwards they are compared with what objects of the struct lie in. For each member:

``right``  executions whose object lies in a cache of the struct, at the usual offset for that cache
``wrong``  executions with an object in another cache, or at another offset in it (``wrong_sites`` lists them)
``apart``  objects in no slab: static (init_task), per-CPU, stack, whole pages; they prove nothing
``sites``, ``probed``, ``executed``: how many static sites there are, bear a probe, and ran

Of klasy it uses the eBPF assembler and the tracefs names, not its weaver.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from oracle.collect import Worker
from oracle.kmem import KernelMemory, Layout, Symbols
from oracle.members import GROUPS, Group

TRACING = "/sys/kernel/tracing"
EVENT = "oracle"
# struct pt_regs, arch/x86/include/asm/ptrace.h
PT_REGS = {"r15": 0, "r14": 8, "r13": 16, "r12": 24, "bp": 32, "bx": 40, "r11": 48, "r10": 56, "r9": 64, "r8": 72,
           "ax": 80, "cx": 88, "dx": 96, "si": 104, "di": 112, "ip": 128, "sp": 152}  # fmt: skip
NOT_MAPPED, NO_SLAB = 1, 2  # in the place of a cache's address
SITE = struct.Struct("<qI4x")  # offset of the object from the register's value; the register's place in pt_regs
SEEN = struct.Struct("<QQQ")  # address of the site, cache, offset within the slab's object
MOST_SITES = 6000


class Slabs:
    """How this kernel finds the slab of an address."""

    def __init__(self, memory: KernelMemory, symbols: Symbols, layout: Layout) -> None:
        self.memory, self.layout = memory, layout
        self.direct = memory.number(symbols.by_name["page_offset_base"])
        self.pages = memory.number(symbols.by_name["vmemmap_base"])
        self.page_size = layout.size("page")
        self.cache_at = layout.offset("slab", "slab_cache")
        self.head_at = layout.offset("page", "compound_head")
        self.size_at = layout.offset("kmem_cache", "size")
        self.name_at = layout.offset("kmem_cache", "name")
        high = memory.number(symbols.by_name["high_memory"]) if "high_memory" in symbols.by_name else 0
        self.direct_end = high or self.direct + (64 << 30)
        self.flag = self._slab_flag()

    def _slab_flag(self) -> tuple[int, int, int]:
        """Offset in struct page, mask and value (32 bits) that say slab: a type since Linux 6.11, a flag before."""
        if found := self.layout.btf.find_constant("PGTY_slab"):
            return self.layout.offset("page", "page_type"), 0xFF000000, found[0][1] << 24
        bit = 1 << self.layout.btf.find_constant("PG_slab")[0][1]
        return self.layout.offset("page", "flags"), bit, bit

    def name(self, cache: int) -> str:
        """Of a slab cache."""
        return self.memory.text(self.memory.number(cache + self.name_at))


def program(slabs: Slabs) -> Any:
    """The eBPF program: look the site up, find its object's cache, count."""
    from klasy.bpf import insn as i
    from klasy.bpf.asm import Assembler

    a = Assembler()
    e = a.emit

    def read(into: int, size: int) -> None:  # [r3] to the stack at into; a fault leaves zero
        e(i.store_imm(i.R10, into, 0, 8))
        e(i.mov(i.R1, i.R10), i.add(i.R1, into), i.mov(i.R2, size), i.call("probe_read_kernel"))

    e(i.mov(i.R6, i.R1), i.load(i.R7, i.R6, PT_REGS["ip"]), i.sub(i.R7, 1), i.store(i.R10, -24, i.R7, 8))
    e(i.load_map(i.R1, "sites"), i.mov(i.R2, i.R10), i.add(i.R2, -24), i.call("map_lookup_elem"))
    e(i.jump_if(i.R0, "==", 0, "out"), i.load(i.R8, i.R0, 0), i.load(i.R9, i.R0, 8, 4))
    # the register: one comparison for each, as the verifier lets no variable offset into the context
    for number, place in enumerate(sorted(set(PT_REGS.values()))):
        after = f"not{number}"
        e(i.jump_if(i.R9, "!=", place, after), i.load(i.R7, i.R6, place), i.jump("have"))
        a.label(after)
    e(i.jump("out"))
    a.label("have")
    e(i.add(i.R7, i.R8))  # R7: the object
    e(i.mov(i.R9, NOT_MAPPED), i.mov(i.R8, 0))
    e(i.load_imm(i.R1, slabs.direct), i.jump_if(i.R7, "<", i.R1, "count"))
    e(i.load_imm(i.R1, slabs.direct_end), i.jump_if(i.R7, ">=", i.R1, "count"))
    e(
        i.load_imm(i.R1, slabs.direct),
        i.mov(i.R6, i.R7),
        i.sub(i.R6, i.R1),
        i.rsh(i.R6, 12),
        i.mul(i.R6, slabs.page_size),
    )
    e(i.load_imm(i.R1, slabs.pages), i.add(i.R6, i.R1))  # R6: its page
    e(i.mov(i.R3, i.R6), i.add(i.R3, slabs.head_at))
    read(-32, 8)
    e(i.load(i.R1, i.R10, -32), i.mov(i.R2, i.R1), i.and_(i.R2, 1), i.jump_if(i.R2, "==", 0, "head"))
    e(i.sub(i.R1, 1), i.mov(i.R6, i.R1))
    a.label("head")
    offset, mask, value = slabs.flag
    e(i.mov(i.R9, NO_SLAB), i.mov(i.R3, i.R6), i.add(i.R3, offset))
    read(-32, 4)
    e(i.load(i.R1, i.R10, -32, 4), i.load_imm(i.R2, mask), i.and_(i.R1, i.R2), i.load_imm(i.R2, value))
    e(i.jump_if(i.R1, "!=", i.R2, "count"))
    e(i.mov(i.R3, i.R6), i.add(i.R3, slabs.cache_at))
    read(-32, 8)
    e(i.load(i.R9, i.R10, -32), i.mov(i.R3, i.R9), i.add(i.R3, slabs.size_at))
    read(-32, 4)
    e(i.load(i.R1, i.R10, -32, 4), i.jump_if(i.R1, "==", 0, "count"))
    # the slab's first byte: its page's number, times the page size
    e(i.load_imm(i.R2, slabs.pages), i.sub(i.R6, i.R2), i.div(i.R6, slabs.page_size), i.lsh(i.R6, 12))
    e(i.load_imm(i.R2, slabs.direct), i.add(i.R6, i.R2), i.mov(i.R8, i.R7), i.sub(i.R8, i.R6), i.mod(i.R8, i.R1))
    a.label("count")
    e(i.store(i.R10, -16, i.R9, 8), i.store(i.R10, -8, i.R8, 8))
    e(i.load_map(i.R1, "seen"), i.mov(i.R2, i.R10), i.add(i.R2, -24), i.call("map_lookup_elem"))
    e(i.jump_if(i.R0, "==", 0, "first"), i.mov(i.R1, 1), i.atomic_add(i.R0, 0, i.R1, 8), i.jump("out"))
    a.label("first")
    e(i.store_imm(i.R10, -40, 1, 8), i.load_map(i.R1, "seen"), i.mov(i.R2, i.R10), i.add(i.R2, -24))
    e(i.mov(i.R3, i.R10), i.add(i.R3, -40), i.mov(i.R4, 0), i.call("map_update_elem"))
    a.label("out")
    e(i.mov(i.R0, 0), i.exit_())
    return a.assemble()


class Probes:
    """Kprobes on many sites, under one tracefs event, with the program on it."""

    def __init__(self, symbols: Symbols, slabs: Slabs, sites: dict[int, tuple[int, int]]) -> None:
        from klasy.bpf import links, maps
        from klasy.bpf import program as programs
        from klasy.bpf.uapi import BPF_PROG_TYPE_KPROBE

        self.refused = 0
        self.placed: set[int] = set()
        with open(f"{TRACING}/kprobe_events", "wb", buffering=0) as file:
            for address in sites:
                where = f"_text+{address - symbols.text}"
                if not symbols.text <= address < symbols.end:
                    start, _, name, module = symbols.function(address)
                    where = f"{module}:{name}+{address - start}"
                try:
                    file.write(f"p:{EVENT}/site {where}\n".encode())
                    self.placed.add(address)
                except OSError:
                    self.refused += 1
        if not self.placed:
            raise LookupError("no site can be probed")
        number = int(Path(f"{TRACING}/events/{EVENT}/site/id").read_text())
        self.sites = maps.create("hash", key_size=8, value_size=SITE.size, max_entries=len(sites))
        self.seen = maps.create("hash", key_size=SEEN.size, value_size=8, max_entries=1 << 16)
        for address, (offset, register) in sites.items():
            self.sites.update(struct.pack("<Q", address), SITE.pack(offset, register))
        self.program = programs.load(
            BPF_PROG_TYPE_KPROBE, program(slabs), name="oracle", maps={"sites": self.sites, "seen": self.seen}
        )
        self.event = links.perf_tracepoint(number)
        self.link = links.attach_perf_event(self.program, self.event, 0)

    def results(self) -> dict[tuple[int, int, int], int]:
        """How often which site had an object of which cache, at which offset."""
        return {SEEN.unpack(key): int.from_bytes(value, "little") for key, value in self.seen.items()}

    def close(self) -> None:
        """Take the probes out."""
        for one in (self.link, self.event, self.program, self.sites, self.seen):
            one.close()
        expedited = Path("/sys/kernel/rcu_expedited")
        expedited.write_text("1")
        last = None
        for _ in range(50):  # the event is busy until the link's end has gone through
            try:
                remove(f"-:{EVENT}/site")
                return
            except OSError as error:
                last = error
                time.sleep(0.1)
        raise TimeoutError(f"the probes cannot be removed: {last}")


def remove(definition: str) -> None:
    """Write to kprobe_events without emptying it; Python's own append mode seeks, which the kernel refuses there."""
    fd = os.open(f"{TRACING}/kprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, definition.encode() + b"\n")
    finally:
        os.close(fd)


def aliases() -> dict[str, str]:
    """Slab caches by name: those merged into one have one value."""
    return {entry.name: os.path.realpath(entry.path) for entry in os.scandir("/sys/kernel/slab")}


def offset_of_struct(seen: Counter[tuple[int, int]], caches: set[int]) -> dict[int, int]:
    """For each cache of the struct: where in its objects the struct usually lies."""
    usual: dict[int, tuple[int, int]] = {}
    for (cache, offset), count in seen.items():
        if cache in caches and count > usual.get(cache, (0, 0))[1]:
            usual[cache] = offset, count
    return {cache: offset for cache, (offset, _) in usual.items()}


def check(
    group: Group, static: dict[str, Any], symbols: Symbols, slabs: Slabs, run: Callable[[], None], *, most: int
) -> dict[str, Any]:
    """All static sites of a group's members, run and judged."""
    members = {name: known for name, known in static["members"].items() if name.partition(".")[0] == group.struct}
    by_address: dict[int, list[str]] = defaultdict(list)
    sites: dict[int, tuple[int, int]] = {}
    unfit: Counter[str] = Counter()
    details: dict[int, dict[str, Any]] = {}
    for name, known in members.items():
        for place, site in known["sites"].items():
            if site["base"] not in PT_REGS or site["per_cpu"]:
                unfit[name] += 1
                continue
            with contextlib.suppress(LookupError):
                address = symbols.address(place)
                by_address[address].append(name)
                sites[address] = -site["base_offset"], PT_REGS[site["base"]]
                details[address] = {"place": place, **site}
    if len(sites) > most:
        sites = dict(sorted(sites.items())[:: len(sites) // most + 1])
    probes = Probes(symbols, slabs, sites)
    try:
        run()
        results = probes.results()
    finally:
        probes.close()
    alias = aliases()
    names: dict[int, str] = {}
    for _, cache, _ in results:
        if cache > NO_SLAB and cache not in names:
            names[cache] = slabs.name(cache)
    expected = {alias.get(name) for name in group.caches} - {None}
    fitting = {cache for cache, name in names.items() if alias.get(name, name) in expected or name in group.caches}
    seen: Counter[tuple[int, int]] = Counter()
    for (_, cache, offset), count in results.items():
        seen[cache, offset] += count
    usual = offset_of_struct(seen, fitting)
    # struct sk_buff_fclones holds two packets; every other cache's objects hold one of the struct
    twin = slabs.layout.size("sk_buff") if group.struct == "sk_buff" else 0
    found: dict[str, Any] = {
        name: {"sites": len(known["sites"]), "probed": 0, "executed": 0, "right": 0, "wrong": 0, "apart": 0,
               "unfit": unfit[name], "wrong_sites": {}}
        for name, known in members.items()
    }  # fmt: skip
    for address in probes.placed:
        for name in by_address[address]:
            found[name]["probed"] += 1
    executed: set[int] = set()
    for (address, cache, offset), count in results.items():
        for name in by_address[address]:
            one = found[name]
            one["executed"] += address not in executed
            if cache <= NO_SLAB or not group.caches:
                one["apart"] += count
            elif cache in fitting and offset in ({0, twin} if twin else {usual[cache]}):
                one["right"] += count
            else:
                one["wrong"] += count
                site = details[address]
                where = one["wrong_sites"].setdefault(
                    site["place"],
                    {key: site[key] for key in ("function", "offset", "text", "base", "base_offset", "derivation")}
                    | {"objects": Counter()},
                )
                where["objects"][f"{names[cache]}+{offset}"] += count
        executed.add(address)
    print(
        f"{group.struct}: {len(sites)} sites, {probes.refused} refused, {len(executed)} ran; caches "
        f"{ {names[cache]: offset for cache, offset in usual.items()} }",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return found


def drive(group: Group, workers: dict[str, Worker]) -> None:
    """All the traffic that a group's subjects see."""
    for scenario in dict.fromkeys(scenario for scenario, _ in group.subjects):
        workers[scenario].do("step")
        workers[scenario].do("churn")


def main() -> None:
    """All groups, or the structs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("static")
    parser.add_argument("only", nargs="*", help="structs; default: all")
    parser.add_argument("--limit", type=float, default=8.0, help="seconds for one step of traffic")
    parser.add_argument("--most", type=int, default=MOST_SITES, help="at most so many sites of a struct")
    parser.add_argument("--ran", metavar="ORACLE", help="only sites in functions that an oracle's document saw running")
    arguments = parser.parse_args()
    with open(arguments.static) as file:
        static = json.load(file)
    if arguments.ran:
        with open(arguments.ran) as file:
            seen = json.load(file)["members"].values()
        ran = {site["function"] for member in seen for site in member["sites"]}
        for known in static["members"].values():
            known["sites"] = {at: site for at, site in known["sites"].items() if site["function"] in ran}
    if static["kernel"] != os.uname().release:
        sys.exit(f"the sites are of {static['kernel']}, this is {os.uname().release}")
    groups = [group for group in GROUPS if not arguments.only or group.struct in arguments.only]
    workers = {
        name: Worker(name, arguments.limit) for name in dict.fromkeys(s for group in groups for s, _ in group.subjects)
    }
    for worker in workers.values():
        worker.do("subjects")
    memory, symbols, layout = KernelMemory(), Symbols(), Layout()
    slabs = Slabs(memory, symbols, layout)
    members: dict[str, Any] = {}
    notes = []
    for group in groups:
        try:
            members |= check(group, static, symbols, slabs, partial(drive, group, workers), most=arguments.most)
        except (LookupError, OSError) as error:
            notes.append(f"{group.struct}: {error}")
            print(notes[-1], file=sys.stderr, flush=True)
    json.dump({"kernel": static["kernel"], "notes": notes, "members": members}, sys.stdout, indent=1)
    print()
    for worker in workers.values():
        worker.stop()


if __name__ == "__main__":
    main()
