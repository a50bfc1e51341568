"""``after`` at accesses to members, on a simulated machine: once for each access, whatever comes in between.

Threads run a function of a small kernel on stacks of their own, one instruction at a time in any order, and interrupts
run it on top of them. At each instruction the programs run that the plan has there, in the order in which the kernel
would run them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.backend import Runner, registers
from support.compiling import values_of
from support.matching import plan
from support.minikernel import BASE, MiniKernel

from klasy import backend
from klasy.backend.artifact import MAP_NOTES
from klasy.bpf.insn import call
from klasy.compiler import compile_plan
from klasy.compiler.ireval import World
from klasy.kernel.snapshot import SnapshotKernel
from klasy.match.filter import Filter
from klasy.plain import replace

TYPES = "struct item { long a; int b; int c; long d; }; int f(struct item *it, int n);"
HOOK = "0f 1f 44 00 00"
B, D = 8, 16  # offsets of members
SNAPSHOTS = Path(__file__).parent.parent.parent / "data" / "kernels"
OBJECTS = [0xFFFF_8880_0000_4000 + 0x40 * n for n in range(2)]
STACKS = [0xFFFF_C900_0010_0000 + 0x4000 * n for n in range(3)]
INTERRUPT = 0x200  # bytes further down


@dataclass(frozen=True)
class Instruction:
    """``writes``: what it leaves in item.b, from what is there and the register si; None: it does not write it."""

    code: str
    reads: bool = False
    writes: object = None
    exact: bool = True  # what it leaves is a register's or a number's
    push: int = 0

    @property
    def length(self) -> int:
        return len(bytes.fromhex(self.code))


SET = Instruction("89 77 08", writes=lambda old, si: si)
SET_SEVEN = Instruction("c7 47 08 07 00 00 00", writes=lambda old, si: 7)
GET = Instruction("8b 47 08", reads=True)
COMPARE = Instruction("39 77 08", reads=True)  # cmp %esi,0x8(%rdi)
SHIFT = Instruction("d1 67 08", reads=True, writes=lambda old, si: old << 1, exact=False)  # shll: not foreseen
INC = Instruction("ff 47 08", reads=True, writes=lambda old, si: old + 1, exact=False)
PUSH = Instruction("ff 77 08", reads=True, push=-8)
POP = Instruction("58", push=8)
NOTHING = Instruction("90")
JUMP = "je"  # over as many bytes as follow, if si is 0
PARTS = st.sampled_from([[SET], [SET_SEVEN], [GET], [COMPARE], [SHIFT], [INC], [PUSH, POP], [NOTHING]])


@dataclass
class Running:
    """One run of the function. ``pending``: the access behind which it is, with what it found and left."""

    at: int
    regs: dict[str, int]
    taken: bool
    pending: tuple | None = None


@dataclass
class Machine:
    kernel: MiniKernel
    text: dict[int, Instruction | tuple[int, int]]  # by offset; a jump: its target and length
    made: object = None
    memory: dict[int, int] = field(default_factory=lambda: {at + B: 0x10 * n for n, at in enumerate(OBJECTS)})
    seen: int = 0

    def prepare(self, body: str) -> None:
        self.made = plan(self.kernel, body)
        artifact = backend.generate(self.made, compile_plan(self.made, self.kernel), backend.Options())
        self.formats = {form.index: form for form in artifact.formats}
        self.programs = {spec.probe: i for i, spec in enumerate(artifact.programs)}
        self.runner = Runner(artifact, World(read=self.read))
        self.points = {}
        for probe in self.made.probes:
            for point in probe.points:
                self.points.setdefault(point.address - BASE, []).insert(0, probe)
        self.by_address = {}
        for joinpoint in self.made.joinpoints:
            self.by_address.setdefault(joinpoint.shadow.offset, []).append(joinpoint)

    def read(self, address: int, size: int) -> bytes | None:
        word = self.memory.get(address & ~7)
        if word is None:
            return None
        at = address & 7
        return word.to_bytes(8, "little")[at : at + size]

    def step(self, run: Running) -> bool:
        """One instruction, with the programs before it; False at the end."""
        wanted = self.expected(run)
        logged = []
        for probe in self.points.get(run.at, ()):
            done = self.runner.run(registers(ip=BASE + run.at + 1, **run.regs), self.programs[probe.index])
            for record in done.logged:
                assert record.faults == 0
                values = values_of(self.formats[record.format], record.data)
                logged.append((self.made.joinpoints[record.joinpoint].shadow.offset, *values))
        assert logged == wanted
        self.seen += len(logged)
        run.pending = None
        instruction = self.text.get(run.at)
        if instruction is None:
            return False
        if isinstance(instruction, tuple):
            target, length = instruction
            run.at = target if run.taken else run.at + length
            return True
        self.execute(run, instruction)
        return True

    def execute(self, run: Running, instruction: Instruction) -> None:
        place = run.regs["di"] + B
        old = self.memory[place]
        if instruction.writes is not None:
            self.memory[place] = instruction.writes(old, run.regs["si"]) & 0xFFFF_FFFF
        if instruction is GET:
            run.regs["ax"] = old
        run.regs["sp"] += instruction.push
        if instruction.reads or instruction.writes is not None:
            run.pending = (run.at, instruction, run.regs["di"], old, self.memory[place])
        run.at += instruction.length

    def expected(self, run: Running) -> list[tuple]:
        """What the advice logs here, as it is written: behind the access that ran last."""
        if run.pending is None:
            return []
        at, instruction, target, old, new = run.pending
        now = self.memory[target + B]
        rows = []
        for joinpoint in self.by_address.get(at, ()):
            if self.made.aspect.advice[joinpoint.advice].kind.value != "after":
                continue
            value = new if instruction.writes is not None and joinpoint.shadow.kind.value != "get" else old
            behind = joinpoint.mechanism == "kprobe behind"
            if behind and instruction not in (SET, SET_SEVEN, GET):
                value = now  # memory has it
            elif instruction is SHIFT and joinpoint.shadow.kind.value != "get":
                value = now
            shown = {"it": target, "old": old, "value": value, "now": now}
            rows.append((at, *(shown[name] for name in self.logs)))
        return rows


def machine(parts: list) -> Machine:
    """A kernel of the function that some parts make. A jump goes over the part behind it."""
    lines, text, at = [HOOK], {0: Instruction(HOOK)}, 5
    for number, part in enumerate(parts):
        if part == JUMP:
            over = parts[number + 1] if number + 1 < len(parts) and parts[number + 1] != JUMP else []
            size = sum(each.length for each in over)
            lines.append(f"74 {size:02x}")
            text[at] = at + 2 + size, 2
            at += 2
            continue
        for each in part:
            lines.append(each.code)
            text[at] = each
            at += each.length
    return Machine(MiniKernel(TYPES, {"f": [*lines, "c3"]}), text)


ADVICE = {
    "access": ("after(struct item *it): access(struct item.b) && target(it) {", ("it", "value", "now")),
    "set": ("after(struct item *it): set(struct item.b) && target(it) {", ("it", "old", "value", "now")),
    "get": ("after(struct item *it): get(struct item.b) && target(it) {", ("it", "value", "now")),
    "both": (
        "before(): access(struct item.b) && if(value == 0x123456) { log(1); }"
        " after(struct item *it): set(struct item.b) && target(it) {",
        ("it", "old", "value", "now"),
    ),
}
SOURCES = {"it": "(unsigned long)it", "old": "old", "value": "value", "now": "it->b"}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(PARTS, st.just(JUMP)), min_size=2, max_size=7), st.integers(0, 1 << 30))
@pytest.mark.parametrize("which", ADVICE)
def test_once_for_each_access(which: str, parts: list, seed: int) -> None:
    """Advice behind accesses runs once for each, with its object and values, in whatever order threads and interrupts
    run the same code, and not where a jump leads to the same place."""
    head, logs = ADVICE[which]
    made = machine([[SET], *parts])
    made.logs = logs
    if which == "get":
        made = machine([[GET], *parts])
        made.logs = logs
    made.prepare(f"{head} log({', '.join(SOURCES[name] for name in logs)}); }}")
    chance = random.Random(seed)
    threads: list[list[Running]] = [[] for _ in STACKS]
    left = 12
    while left or any(threads):
        number = chance.randrange(len(threads))
        runs = threads[number]
        if left and (not runs or (len(runs) < 3 and chance.random() < 0.15)):
            left -= 1
            stack = (runs[-1].regs["sp"] if runs else STACKS[number]) - INTERRUPT
            regs = {"di": chance.choice(OBJECTS), "si": chance.randrange(4), "sp": stack, "ax": 0x5555}
            runs.append(Running(0, regs, chance.random() < 0.5))
        elif runs and not made.step(runs[-1]):
            runs.pop()
    assert made.seen
    if MAP_NOTES in made.runner.maps:
        assert not made.runner.maps[MAP_NOTES].entries


def test_many_places() -> None:
    """Where places are so many that a map has them, each note is found at its place, and at no other."""
    made = machine([[NOTHING]])
    made.kernel = SnapshotKernel.load(str(SNAPSHOTS / "6.1.snapshot"))
    made.prepare("after(): get(struct sk_buff.len) { log(value); }")
    first, *rest = (probe for probe in made.made.probes if probe.notes or probe.takes_notes)
    (second,) = rest
    assert len(first.points) == len(second.points) > 32
    regs = {"sp": STACKS[0]}
    made.read = lambda address, size: bytes(size)
    for one, other in zip(first.points, second.points, strict=True):
        for at, index, hits in ((other, second, 0), (one, first, 0), (other, second, 1), (other, second, 0)):
            done = made.runner.run(registers(ip=at.address + 1, **regs), made.programs[index.index])
            assert len(done.hits) == hits
            assert all(made.made.joinpoints[i].shadow.address == one.address for i in done.hits)


def calls(artifact, helper: str) -> list[int]:
    """How often each program calls a helper."""
    wanted = call(helper)
    return [spec.code.instructions.count(wanted) for spec in artifact.programs]


def test_before_and_after_find_all_once() -> None:
    """Advice before and behind one access share the program there, and what it reads of memory."""
    made = machine([[SET]])
    head = "(struct item *it): set(struct item.b) && target(it) { log(it, old, new); }"
    made.prepare(f"before{head} after{head}")
    assert calls(made.runner.artifact, "probe_read_kernel") == [1, 0]


def test_who_made_the_access_is_asked_once() -> None:
    """A filter holds at the access: behind it nothing is asked, for the access may have changed the answer."""
    made = machine([[SET]])
    made.prepare("after(): set(struct item.b) { log(old); }")
    wanted = replace(made.made, filter=Filter(pids=(77,)))
    artifact = backend.generate(wanted, compile_plan(wanted, made.kernel), backend.Options())
    assert calls(artifact, "get_current_pid_tgid") == [1, 0]


def test_a_full_map_is_counted() -> None:
    """Where a note finds no room the advice does not run, and that is counted at its join point."""
    made = machine([JUMP, [SET]])
    made.logs = ("value",)
    made.prepare("after(): set(struct item.b) { log(value); }")
    notes = made.runner.maps[MAP_NOTES]
    notes.max_entries = 0
    (joinpoint,) = made.made.joinpoints
    run = Running(0, {"di": OBJECTS[0], "si": 1, "sp": STACKS[0], "ax": 0}, False)
    for _ in range(3):
        assert made.step(run)
    run.pending = None
    made.step(run)
    assert made.runner.counters()[joinpoint.id] == (0, 0, 1)


def test_a_note_of_another_access_is_left() -> None:
    """A note that was left where the place behind was missed is not taken for that of another access."""
    made = machine([JUMP, [SET], JUMP, [INC], [NOTHING]])
    made.logs = ("value",)
    made.prepare("after(): set(struct item.b) { log(value); }")
    first, second = sorted(made.by_address)
    regs = {"di": OBJECTS[0], "si": 1, "sp": STACKS[0], "ax": 0}
    for at in (first, second + 3):  # behind the second as if from elsewhere
        (probe,) = made.points[at]
        done = made.runner.run(registers(ip=BASE + at + 1, **regs), made.programs[probe.index])
        assert done.hits == []
    (probe,) = made.points[first + 3]
    assert made.runner.run(registers(ip=BASE + first + 4, **regs), made.programs[probe.index]).hits == [0]
    assert made.runner.run(registers(ip=BASE + first + 4, **regs), made.programs[probe.index]).hits == []
