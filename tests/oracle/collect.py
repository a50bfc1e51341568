#!/usr/bin/env python3
"""Collect the oracle: put debug registers on members of real objects, drive traffic, say who touched them.

    klasy lab -- .venv/bin/python tests/oracle/collect.py > oracle-6.1.json

Root in the lab's guest only. One JSON document on standard output, the course of things on standard error:

    {"kernel": "6.1.0-56-amd64", "seconds": 240, "rounds": 130,
     "members": {"sk_buff.len": {"struct": "sk_buff", "path": "len", "offset": 112, "size": 4, "lost": 0,
         "sites": [{"place": "_text+0x8a1b2c", "function": "skb_put", "offset": 23, "module": "", "text": "add ..",
                    "bytes": "0177..", "kind": "rw", "width": 4, "base": "di", "displacement": 112, "delta": 0,
                    "count": 1234, "writes": 210, "subjects": ["udp_skb"], "checked": 4, "repeated": false,
                    "context": ["ten instructions before"]}],
         "unresolved": [{"place": .., "count": .., "why": ..}]}}}

``count``: samples of the breakpoint on access. ``writes``: samples of the breakpoint on writes, in rounds of its own.
``kind`` is capstone's account of the instruction (of a string instruction, the side that touched the member).
``delta``: base register minus the object's start, where known.
``checked``: in how many samples the registers show that the operand covers the member.
``spurious``: hits that an access of other bytes explains, as QEMU makes them of unaligned ones (insns.emulators_fault).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from oracle.insns import Disassembler, Insn, covered, emulators_fault
from oracle.kmem import KernelMemory, Layout, Objects, Symbols
from oracle.members import GROUPS, Group, names
from oracle.perf import BREAK_ON_ACCESS, BREAK_ON_WRITE, REGISTERS, Watch
from oracle.traffic import SCENARIOS

SLOTS = 4
CONTEXT = 10
SPURIOUS = "the emulator's fault:"


class Worker:
    """A process that runs one scenario, told what to do line by line."""

    def __init__(self, name: str, limit: float) -> None:
        self.name, self.limit = name, limit
        down, self.orders = os.pipe()
        self.answers, up = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.closerange(3, down)  # the other workers' pipes
            os.close(self.orders)
            os.close(self.answers)
            self._serve(down, up)
        os.close(down)
        os.close(up)
        self.pending = b""

    def _serve(self, down: int, up: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            scenario = SCENARIOS[self.name]()
            with os.fdopen(down) as orders:
                for line in orders:
                    order = line.strip()
                    failed: list[str] = []
                    try:
                        if order == "step":
                            failed = scenario.step(self.limit)
                        elif order == "churn":
                            scenario.churn()
                        elif order == "loss" and hasattr(scenario, "loss"):
                            scenario.loss()
                    except OSError as error:
                        failed = [f"{order}: {error}"]
                    answer = json.dumps({"failed": failed, "subjects": scenario.subjects()})
                    os.write(up, answer.encode() + b"\n")
        except BaseException as error:
            print(f"scenario {self.name}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)

    def order(self, what: str) -> None:
        """Tell the worker; the answer comes by :meth:`answer`."""
        os.write(self.orders, what.encode() + b"\n")

    def answer(self, wait: float) -> dict[str, Any] | None:
        """The answer to the last order, or None while there is none yet."""
        if b"\n" not in self.pending:
            ready, _, _ = select.select([self.answers], [], [], wait)
            if not ready:
                return None
            data = os.read(self.answers, 65536)
            if not data:
                raise ChildProcessError(f"the worker for {self.name} has died")
            self.pending += data
            if b"\n" not in self.pending:
                return None
        line, _, self.pending = self.pending.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def stop(self) -> None:
        """End the worker at once."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.orders)
        os.close(self.answers)

    def do(self, what: str) -> dict[str, Any]:
        """An order and its answer."""
        self.order(what)
        while True:
            if (answer := self.answer(1)) is not None:
                return answer


class Member:
    """What was seen of one member so far, by the address behind the accessing instruction."""

    def __init__(self, struct_name: str, path: str, offset: int, size: int) -> None:
        self.struct, self.path, self.offset, self.size = struct_name, path, offset, size
        self.counts: Counter[int] = Counter()
        self.writes: Counter[int] = Counter()
        self.subjects: dict[int, set[str]] = defaultdict(set)
        self.samples: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)  # watched address, registers
        self.lost = self.watched = 0

    @property
    def length(self) -> int:
        """Bytes that a debug register can watch from the member's start, within the member."""
        for length in (8, 4, 2, 1):
            if length <= self.size and self.offset % length == 0:
                return length
        return 1

    def take(self, watch: Watch, subject: str) -> None:
        """Add what a watch caught."""
        (self.counts if watch.kind == BREAK_ON_ACCESS else self.writes).update(watch.hits.counts)
        for ip, registers in watch.hits.registers.items():
            self.subjects[ip].add(subject)
            self.samples[ip] += [(watch.address, one) for one in registers][: 8 - len(self.samples[ip])]
        self.lost += watch.hits.lost
        self.watched += watch.kind == BREAK_ON_ACCESS


class Collector:
    """The run of all rounds, and the making of the document."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.workers: dict[str, Worker] = {}
        self.state: dict[str, dict[str, Any]] = {}
        self.members: dict[str, Member] = {}
        self.rounds = 0
        self.notes: list[str] = []

    def start_workers(self, wanted: list[str]) -> None:
        """First of all, while this process is small: what the workers fork is as big."""
        for name in wanted:
            self.workers[name] = Worker(name, self.limit)

    def stop(self) -> None:
        """End the workers."""
        for worker in self.workers.values():
            worker.stop()
        self.workers = {}

    def run(self, only: list[str], *, subjects: int = 9, writes: bool = True) -> None:
        """Watch what is named (structs, or struct.member), or everything: four members at once on each subject."""
        structs = {name.split(".")[0] for name in only}
        groups = [group for group in GROUPS if not structs or group.struct in structs]
        self.start_workers(list(dict.fromkeys(s for group in groups for s, _ in group.subjects[:subjects])))
        self.load()
        for group in groups:
            members = self.choose(group, only)
            for at in range(0, len(members), SLOTS):
                for number, (scenario, subject) in enumerate(group.subjects[:subjects]):
                    kinds = [BREAK_ON_ACCESS] + [BREAK_ON_WRITE] * (writes and number == 0)
                    for kind in [one for one in kinds for _ in range(group.again)]:
                        self._try(group, scenario, subject, members[at : at + SLOTS], kind)

    def _try(self, group: Group, scenario: str, subject: str, members: list[tuple[str, Member]], kind: int) -> None:
        try:
            self.round(group, scenario, subject, members, kind)
        except (OSError, LookupError) as error:
            self.notes.append(f"{group.struct} {scenario}/{subject}: {error}")
            print(self.notes[-1], file=sys.stderr, flush=True)

    def load(self) -> None:
        """Symbols, types and live text."""
        self.memory, self.symbols, self.layout = KernelMemory(), Symbols(), Layout()
        self.objects = Objects(self.memory, self.symbols, self.layout)

    def choose(self, group: Group, only: list[str] | None) -> list[tuple[str, Member]]:
        """The members of a group that this kernel has."""
        found = []
        for name, paths in names(group):
            if only and name not in only and group.struct not in only:
                continue
            for path in paths:
                try:
                    offset, size = self.layout.member(group.struct, path)
                except LookupError:
                    continue
                key = f"{group.struct}.{path}"
                found.append((key, self.members.setdefault(key, Member(group.struct, path, offset, size))))
                break
            else:
                self.notes.append(f"{name}: not on this kernel")
        return found

    def round(self, group: Group, scenario: str, subject: str, members: list[tuple[str, Member]], kind: int) -> None:
        """Up to four members of one object under watch while the scenario runs once."""
        worker = self.workers[scenario]
        if scenario not in self.state:
            self.state[scenario] = worker.do("subjects")
        what, pid, fd = self.state[scenario]["subjects"][subject]
        base = self.objects.find(what, pid, fd)
        if not base:
            self.notes.append(f"{group.struct} {scenario}/{subject}: no object")
            self.state[scenario] = worker.do("churn")
            return
        watches: list[Watch] = []
        started = time.monotonic()
        try:
            for _name, member in members:
                watches.append(Watch(base + member.offset, member.length, kind))
            for watch in watches:
                watch.enable()
            orders = ["step"]
            if kind == BREAK_ON_ACCESS and scenario.startswith("tcp") and subject in {"client", "server"}:
                orders.append("loss")
            if subject in group.reused:
                orders.append("churn")  # the slot's later lives are of the same type
                if kind == BREAK_ON_ACCESS and not scenario.startswith("tcp"):
                    orders.append("step")
            for order in orders:
                worker.order(order)
                while (answer := worker.answer(0.04)) is None:
                    for watch in watches:
                        watch.drain()
                    if time.monotonic() - started > 60:
                        raise TimeoutError(f"{scenario}/{subject}: {order} does not come to an end")
                self.state[scenario] = answer
                for failure in answer["failed"]:
                    note = f"{scenario}: {failure}"
                    if note not in self.notes:
                        self.notes.append(note)
        finally:
            for watch in watches:
                watch.close()
        for (_name, member), watch in zip(members, watches, strict=True):
            member.take(watch, f"{scenario}/{subject}")
        self.rounds += 1
        hits = " ".join(str(watch.hits.counts.total()) for watch in watches)
        print(
            f"{time.monotonic() - started:5.1f} s {'rw' if kind == BREAK_ON_ACCESS else ' w'} {group.struct}"
            f" {scenario}/{subject} {' '.join(member.path for _, member in members)}: {hits}",
            file=sys.stderr,
            flush=True,
        )

    def document(self, seconds: float) -> dict[str, Any]:
        """Everything caught, in terms that survive a reboot."""
        print(f"{seconds:.0f} s; naming the instructions", file=sys.stderr, flush=True)
        self.symbols = Symbols()  # with the modules that have come since
        disassembler = Disassembler(self.memory, self.symbols)
        return {
            "kernel": os.uname().release,
            "seconds": round(seconds),
            "rounds": self.rounds,
            "notes": self.notes,
            "members": {name: self._member(member, disassembler) for name, member in self.members.items()},
        }

    def _member(self, member: Member, disassembler: Disassembler) -> dict[str, Any]:
        sites: dict[int, dict[str, Any]] = {}
        unresolved = []
        spurious: Counter[str] = Counter()
        for ip in set(member.counts) | set(member.writes):
            count, writes = member.counts[ip], member.writes[ip]
            found = self._accessing(member, ip, disassembler)
            if isinstance(found, str):
                if found.startswith(SPURIOUS):
                    spurious[self.symbols.place(ip)] += count + writes
                else:
                    unresolved.append({"place": self.symbols.place(ip), "count": count, "writes": writes, "why": found})
                continue
            before, insn, verdicts, delta, share = found
            count, writes = round(count * share), round(writes * share)
            kind = "".join(sorted(set("".join(verdicts)))) if insn.is_string and any(verdicts) else insn.kind
            if insn.address in sites:  # a string instruction is caught both behind and on itself
                site = sites[insn.address]
                site["count"] += count
                site["writes"] += writes
                site["kind"] = "".join(sorted(set(site["kind"] + kind)))
                continue
            start, _end, name, module = self.symbols.function(insn.address)
            sites[insn.address] = {
                "place": self.symbols.place(insn.address), "function": name, "offset": insn.address - start,
                "module": module, "text": insn.text, "bytes": insn.raw, "kind": kind, "width": insn.width,
                "base": insn.base, "displacement": insn.displacement, "delta": delta, "count": count,
                "writes": writes, "subjects": sorted(member.subjects[ip]), "checked": sum(map(bool, verdicts)),
                "repeated": insn.is_repeated,
                "context": before,
            }  # fmt: skip
        return {
            "struct": member.struct, "path": member.path, "offset": member.offset, "size": member.size,
            "length": member.length, "rounds": member.watched, "lost": member.lost,
            "sites": sorted(sites.values(), key=lambda site: -site["count"]), "unresolved": unresolved,
            "spurious": spurious,
        }  # fmt: skip

    def _accessing(
        self, member: Member, ip: int, disassembler: Disassembler
    ) -> tuple[list[str], Insn, list[str], int | None, float] | str:
        """The instruction that made the access.

        Those before it, itself, what each sample says, the base's offset, the share of samples that are no fault of the
        emulator's.

        A sample says r, w or rw where the registers show that the operand covers the member, and nothing where they
        cannot tell. Text instead: why no instruction can be named.
        """
        try:
            before, ending, following = disassembler.near(ip, CONTEXT)
        except (LookupError, OSError) as error:
            return str(error)
        samples = member.samples[ip]
        candidates = [(before, ending)] if ending else []
        if ending and following and following.is_string and following.is_repeated:
            # A repeated string instruction may be interrupted by the trap: then it lies at ip itself.
            candidates.append(([*before[1:], ending.text], following))
        for context, insn in candidates:
            verdicts = [covered(insn, registers, watched, member.length) for watched, registers in samples]
            wrong = [sample for sample, verdict in zip(samples, verdicts, strict=True) if verdict is None]
            if not insn.kind or (wrong and len(wrong) == len(samples)):
                continue
            if not all(emulators_fault(insn, registers, watched, member.length) for watched, registers in wrong):
                continue
            share = 1 - len(wrong) / len(samples) if samples else 1.0
            delta = None
            if insn.base in REGISTERS and insn.base not in insn.written and samples:
                watched, registers = next(s for s, v in zip(samples, verdicts, strict=True) if v is not None)
                delta = registers[REGISTERS.index(insn.base)] - (watched - member.offset)
            return context, insn, [verdict for verdict in verdicts if verdict is not None], delta, share
        if not candidates:
            return "no instruction ends here"
        insn = candidates[0][1]
        if samples and all(emulators_fault(insn, registers, watched, member.length) for watched, registers in samples):
            return f"{SPURIOUS} {insn.text!r}"
        watched, registers = samples[0] if samples else (0, ())
        state = " ".join(f"{name}={value:x}" for name, value in zip(REGISTERS, registers, strict=False))
        return f"{insn.text!r} does not cover the member at {watched:x}: {state}"


def main() -> None:
    """All groups, or the structs and members named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("only", nargs="*", help="structs or struct.member; default: all")
    parser.add_argument("--limit", type=float, default=4.0, help="seconds for one step of traffic")
    parser.add_argument("--subjects", type=int, default=9, help="at most so many subjects a struct")
    parser.add_argument("--no-writes", action="store_true", help="without the rounds on writes alone")
    arguments = parser.parse_args()
    started = time.monotonic()
    collector = Collector(arguments.limit)
    try:
        collector.run(arguments.only, subjects=arguments.subjects, writes=not arguments.no_writes)
        json.dump(collector.document(time.monotonic() - started), sys.stdout, indent=1)
        print()
    finally:
        collector.stop()


if __name__ == "__main__":
    main()
