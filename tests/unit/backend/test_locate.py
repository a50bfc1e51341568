"""Join points and marks: programs learn where they are, in every context, in the interpreter."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.backend import ENTRY, Runner, argument_registers, function, generate, plan, probe, registers
from support.fakekernel import FakeKernel

from klasy.backend.artifact import MAP_MARKS, MAP_UNKNOWN
from klasy.bpf.uapi import BPF_F_RDONLY_PROG, helper_number
from klasy.compiler import ir
from klasy.compiler.builder import Builder
from klasy.compiler.ireval import World
from klasy.kernel.model import CallKind, CallSite
from klasy.match.mechanism import Context
from klasy.match.plan import Argument, Locator, MarkRole, MarkUse, Point, Probe
from klasy.plain import replace

STACK = 0xFFFF_C900_0040_0000
SITES = [ENTRY + 0x1000 + 16 * i for i in range(100)]
CALLER = 0xFFFF_FFFF_8100_0005
TAKEN = {
    "o": lambda f: f["o"],
    "b": lambda f: f["c"],
    "z": lambda f: f["z"],
    "be": lambda f: f["c"] or f["z"],
    "s": lambda f: f["s"],
    "p": lambda f: f["p"],
    "l": lambda f: f["s"] != f["o"],
    "le": lambda f: f["z"] or f["s"] != f["o"],
}
FLAG_BITS = {"c": 0, "p": 2, "z": 6, "s": 7, "o": 11}


def program(made: Probe, arguments: int = 0, *, result: bool = False) -> ir.Program:
    """Counts a hit for each arm that finds its join point, and logs some arguments and the result."""
    whole = ir.Program(made.name, made.index)
    build = Builder(whole)
    build.begin(build.block())
    if made.mark is not MarkUse.NONE:
        build.add(ir.Mark(made.mark.value))
    for number in range(len(made.arms)):
        found, missing, joinpoint = build.block(), build.block(), build.value()
        build.add(ir.Locate(joinpoint, number, found, missing))
        build.begin(found)
        build.add(ir.CountHit(joinpoint))
        values: list[ir.Value] = []
        for i in range(arguments):
            values.append(build.value())
            build.add(ir.Argument(values[-1], Argument(i)))
        if result:
            values.append(build.value())
            build.add(ir.Result(values[-1]))
        parts = tuple(ir.StoreField(48 + 8 * i, 8, value) for i, value in enumerate(values))
        build.add(ir.Emit(number, 48 + 8 * len(values), joinpoint, parts))
        build.jump(missing)
        build.begin(missing)
    build.add(ir.Return())
    return whole


def points(addresses: list[int]) -> list[Point]:
    """Points in one function."""
    return [Point(address, function()) for address in addresses]


def stack(words: dict[int, int]) -> World:
    """A world whose memory is some words."""

    def read(address: int, size: int) -> bytes | None:
        data = words.get(address)
        return None if data is None else struct.pack("<Q", data)[:size]

    return World(read, context={"pid_tgid": 42 << 32 | 43})


def hits(runner: Runner, context: bytes, number: int = 0) -> list[int]:
    """The join points hit in one run."""
    return runner.run(context, number).hits


# --- by address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 31, 32, 33, 100])
def test_each_address_has_its_join_point(count: int) -> None:
    """However many points a program has: each gives its own join point to each arm, any other address none."""
    ids = {address: i for i, address in enumerate(SITES[:count])}
    odd = {address: 100 + i for address, i in ids.items() if i % 2}
    made = probe(Context.SITE, Locator.ADDRESS, points=points(SITES[:count]), arms=[ids, odd])
    runner = Runner(generate([program(made)], plan(made, joinpoints=200)))
    for address, i in ids.items():
        assert hits(runner, registers(ip=address + 1)) == [i, 100 + i] if i % 2 else [i]
    if count > 1:
        for address in (SITES[0] - 1, SITES[count - 1] + 8, 0, ir.MASK64):
            assert hits(runner, registers(ip=address + 1)) == []


def test_one_point_needs_no_search() -> None:
    """Where a program has one point its join points are constants: no key, no map, no comparison."""
    made = probe(Context.SITE, Locator.ADDRESS, points=points(SITES[:1]), arms=[{SITES[0]: 2}, {}])
    artifact = generate([program(made)], plan(made))
    assert {spec.name for spec in artifact.maps} == {"events", "counters", "control"}
    assert not any(i.is_jump and i.target and "at." in i.target for i in artifact.programs[0].code.instructions)
    assert hits(Runner(artifact), registers(ip=12345)) == [2]


def test_many_points_are_in_a_frozen_map() -> None:
    """The map has a row for each address, its value an id for each arm; programs can only read it."""
    ids = {address: i for i, address in enumerate(SITES)}
    made = probe(Context.SITE, Locator.ADDRESS, points=points(SITES), arms=[ids, {SITES[5]: 7}])
    (table,) = [s for s in generate([program(made)], plan(made, joinpoints=200)).maps if s.name == "sites0"]
    assert (table.type, table.key_size, table.value_size, table.max_entries) == ("hash", 8, 8, 100)
    assert table.frozen
    assert table.flags == BPF_F_RDONLY_PROG
    assert dict(table.initial)[struct.pack("<Q", SITES[5])] == struct.pack("<II", 5, 7)
    assert dict(table.initial)[struct.pack("<Q", SITES[6])] == struct.pack("<II", 6, 0xFFFFFFFF)


@pytest.mark.parametrize("context", [Context.ENTRY, Context.RETURN])
def test_functions_are_known_by_their_entry(context: Context) -> None:
    """At entries and returns it is the function that counts, wherever its first instruction lies."""
    made = probe(context, Locator.ADDRESS, points=points(SITES[:2]), arms=[{SITES[0]: 0, SITES[1]: 1}])
    runner = Runner(generate([program(made)], plan(made)))
    runner.machine.function_ip = SITES[1]
    assert hits(runner, registers(ip=SITES[1] + 5)) == [1]


# --- by return address ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 50])
@pytest.mark.parametrize("otherwise", [None, 150])
def test_dispatch_at_entry(count: int, otherwise: int | None) -> None:
    """The word on top of the stack says which call it was; calls from elsewhere are counted where they matter."""
    returns = {address + 5: i for i, address in enumerate(SITES[:count])}
    made = probe(Context.ENTRY, Locator.DISPATCH, arms=[{}], returns=[returns], otherwise=otherwise)
    artifact = generate([program(made)], plan(made, joinpoints=200))
    words: dict[int, int] = {}
    runner = Runner(artifact, stack(words))
    for address, i in returns.items():
        words[STACK] = address
        assert hits(runner, registers(sp=STACK)) == [i]
    for _ in range(3):
        words[STACK] = CALLER
        assert hits(runner, registers(sp=STACK)) == ([] if otherwise is None else [otherwise])
    if otherwise is None:
        assert MAP_UNKNOWN not in runner.maps
    else:
        assert runner.maps[MAP_UNKNOWN][struct.pack("<Q", CALLER)] == struct.pack("<Q", 3)


@pytest.mark.parametrize("count", [3, 50])
def test_what_another_advice_knows_is_unknown_to_this_one(count: int) -> None:
    """An advice for all calls goes by what it knows itself; the unknown caller's address is counted, no other."""
    returns = [{SITES[0]: 0}, {address: 1 for address in SITES[:count]}]
    made = probe(Context.ENTRY, Locator.DISPATCH, arms=[{}, {}], returns=returns, otherwise=3)
    runner = Runner(generate([program(made)], plan(made)), stack({STACK: SITES[2]}))
    assert hits(runner, registers(sp=STACK)) == [1, 3]
    assert dict(runner.maps[MAP_UNKNOWN].entries).keys() == {struct.pack("<Q", SITES[2])}


@pytest.mark.parametrize("count", [3, 50])
def test_what_another_arm_of_the_advice_knows_is_not_unknown(count: int) -> None:
    """Two arms of one advice: a call that the first knows does not run the second as one from an unknown place."""
    returns = [{SITES[0]: 0}, {address: 1 for address in SITES[1:count]}]
    made = probe(Context.ENTRY, Locator.DISPATCH, arms=[{}, {}], returns=returns, otherwise=3)
    made = replace(made, arms=tuple(replace(arm, advice=0) for arm in made.arms))
    words = {STACK: SITES[0]}
    runner = Runner(generate([program(made)], plan(made)), stack(words))
    assert hits(runner, registers(sp=STACK)) == [0]
    words[STACK] = SITES[1]
    assert hits(runner, registers(sp=STACK)) == [1]
    words[STACK] = CALLER
    assert hits(runner, registers(sp=STACK)) == [3, 3]


def test_unknown_callers_are_counted_once_for_all_arms() -> None:
    """Two advice at one entry: a call from an unknown place is one call."""
    made = probe(Context.ENTRY, Locator.DISPATCH, arms=[{}, {}], returns=[{SITES[0]: 0}, {SITES[0]: 1}], otherwise=3)
    runner = Runner(generate([program(made)], plan(made)), stack({STACK: CALLER}))
    assert hits(runner, registers(sp=STACK)) == [3, 3]
    assert runner.maps[MAP_UNKNOWN][struct.pack("<Q", CALLER)] == struct.pack("<Q", 1)


def test_dispatch_by_the_frame_of_a_trampoline() -> None:
    """A fexit program believes the frame only where the return address into the function itself is in its place."""
    kernel = FakeKernel("struct two { long a; long b; }; int f(int a, struct two pair, int c);")
    (callee,) = kernel.functions("f")
    returns = {SITES[0]: 1}
    made = probe(
        Context.FEXIT,
        Locator.DISPATCH,
        points=[Point(callee.address, callee)],
        arms=[{}],
        returns=[returns],
        otherwise=3,
    )
    artifact = generate([program(made, result=True)], plan(made))
    for inside, expected in ((5, [1]), (9, [1]), (7, [3])):
        # four words of arguments (a, pair, pair, c), the result, rbp, the two return addresses
        context = struct.pack("<8Q", 1, 2, 3, 4, 99, 0, callee.address + inside, SITES[0])
        runner = Runner(artifact)
        runner.machine.kernel = _Context(runner)
        outcome = runner.run(context, trampoline=4)
        assert outcome.hits == expected
        assert outcome.logged[0].data[48:] == struct.pack("<Q", 99)


class _Context:
    """Kernel memory that is the program's own context."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes of it."""
        return self.runner.machine.read(address, size)


# --- marks ----------------------------------------------------------------------------------------------------------


def call_pair(lengths: list[int]) -> tuple[Runner, list[CallSite]]:
    """A probe at some calls (program 1) and one behind them (program 0), which logs arguments and result."""
    sites = [
        CallSite(address, length, CallKind.DIRECT, function(), function("g"))
        for address, length in zip(SITES, lengths, strict=False)
    ]
    after = probe(
        Context.BEHIND,
        Locator.MARK,
        mark=MarkUse.TAKE,
        points=points([site.return_address for site in sites]),
        arms=[{site.address: i for i, site in enumerate(sites)}],
    )
    before = probe(
        Context.SITE,
        Locator.ADDRESS,
        mark=MarkUse.WRITE,
        points=points([site.address for site in sites]),
        arms=[],
        index=1,
    )
    programs = [program(after, 6, result=True), program(before)]
    artifact = generate(programs, plan(after, before, joinpoints=len(sites), sites=sites))
    return Runner(artifact, stack({})), sites


@given(st.lists(st.sampled_from([2, 3, 5, 7]), min_size=1, max_size=40))
def test_what_is_behind_a_call_runs_once_for_each_call(lengths: list[int]) -> None:
    """The mark of a call is found behind it, arguments and all, once; whatever the instruction's length."""
    runner, sites = call_pair(lengths)
    for i, site in enumerate(sites):
        before = registers(ip=site.address + 1, sp=STACK, **argument_registers([i, 1, 2, 3, 4, 5]))
        behind = registers(ip=site.return_address + 1, sp=STACK, ax=77)
        assert hits(runner, behind) == []
        assert hits(runner, before, 1) == []
        outcome = runner.run(behind)
        assert outcome.hits == [i]
        assert struct.unpack("<7Q", outcome.logged[0].data[48:]) == (i, 1, 2, 3, 4, 5, 77)
        assert hits(runner, behind) == [], "a jump to the place behind the call is no return"


@pytest.mark.parametrize("change", ["pid_tgid", "sp", "site"])
def test_a_mark_of_another_call_is_not_taken(change: str) -> None:
    """Another thread, another stack slot, another call of the same function at this slot: no match."""
    runner, sites = call_pair([5, 5])
    hits(runner, registers(ip=sites[0].address + 1, sp=STACK), 1)
    behind = {"ip": sites[0].return_address + 1, "sp": STACK}
    if change == "pid_tgid":
        runner.machine.pid_tgid = 42 << 32 | 44
    elif change == "sp":
        behind["sp"] += 8
    else:
        behind["ip"] = sites[1].return_address + 1
    assert hits(runner, registers(**behind)) == []


@pytest.mark.parametrize("count", [1, 2, 40])
def test_marks_that_find_no_room_are_counted(count: int) -> None:
    """With the map of marks full, each join point that waits for the mark counts one more as unmarked."""
    runner, sites = call_pair([5] * count)
    runner.maps[MAP_MARKS].max_entries = 0
    for site in sites:
        hits(runner, registers(ip=site.address + 1, sp=STACK), 1)
    assert runner.counters() == [(0, 0, 1)] * count


def test_a_full_mark_map_counts_for_each_advice_that_waits() -> None:
    """Two advice behind one call: both are counted."""
    site = CallSite(SITES[0], 5, CallKind.DIRECT, function(), function("g"))
    arms = [{site.address: 0}, {site.address: 1}]
    after = probe(Context.BEHIND, Locator.MARK, mark=MarkUse.TAKE, points=points([site.return_address]), arms=arms)
    before = probe(Context.SITE, Locator.ADDRESS, mark=MarkUse.WRITE, points=points([site.address]), arms=[], index=1)
    artifact = generate([program(after), program(before)], plan(after, before, sites=[site]))
    runner = Runner(artifact, stack({}))
    runner.maps[MAP_MARKS].max_entries = 0
    hits(runner, registers(ip=site.address + 1, sp=STACK), 1)
    assert runner.counters()[:3] == [(0, 0, 1), (0, 0, 1), (0, 0, 0)]


def test_arguments_of_a_function_that_returns() -> None:
    """A kretprobe's program finds the mark of its own function's entry, though another went on at the same slot."""
    returning = probe(
        Context.RETURN,
        Locator.ADDRESS,
        mark=MarkUse.TAKE,
        role=MarkRole.ENTRY,
        points=points(SITES[:2]),
        arms=[{SITES[0]: 0, SITES[1]: 1}],
    )
    entry = probe(
        Context.ENTRY,
        Locator.ADDRESS,
        mark=MarkUse.WRITE,
        role=MarkRole.ENTRY,
        points=points(SITES[:2]),
        arms=[],
        index=1,
    )
    runner = Runner(
        generate([program(returning, 1, result=True), program(entry)], plan(returning, entry)), stack({STACK: CALLER})
    )
    for i in (0, 1):  # the first goes on into the second by a tail call
        runner.machine.function_ip = SITES[i]
        hits(runner, registers(sp=STACK, di=100 + i), 1)
    for i in (1, 0):
        runner.machine.function_ip = SITES[i]
        outcome = runner.run(registers(sp=STACK + 8, ip=CALLER, ax=7))
        assert outcome.hits == [i]
        assert struct.unpack("<2Q", outcome.logged[0].data[48:]) == (100 + i, 7)
        assert hits(runner, registers(sp=STACK + 8, ip=CALLER)) == []


@pytest.mark.parametrize("count", [1, 50])
def test_the_mark_of_a_tail_call_decides(count: int) -> None:
    """A dispatched program with a mark goes by its site alone; without one by the return address."""
    jumps = SITES[50 : 50 + count]
    by_jump = {address: i for i, address in enumerate(jumps)}
    returns = {address + 5: 60 + i for i, address in enumerate(SITES[:count])}
    entry = probe(
        Context.ENTRY,
        Locator.DISPATCH,
        mark=MarkUse.TAKE,
        role=MarkRole.TAIL,
        arms=[by_jump, {}],
        returns=[returns, returns],
        otherwise=199,
    )
    tail = probe(
        Context.TAIL,
        Locator.ADDRESS,
        mark=MarkUse.WRITE,
        role=MarkRole.TAIL,
        points=points(jumps),
        arms=[],
        index=1,
    )
    words = {STACK: SITES[0] + 5}
    runner = Runner(generate([program(entry), program(tail)], plan(entry, tail, joinpoints=200)), stack(words))
    assert hits(runner, registers(sp=STACK)) == [60, 60]
    hits(runner, registers(ip=jumps[0] + 1, sp=STACK), 1)
    assert hits(runner, registers(sp=STACK)) == [0], "the second advice is not at this tail call, nor at any call"
    assert hits(runner, registers(sp=STACK)) == [60, 60]
    hits(runner, registers(ip=jumps[0] + 1, sp=STACK), 1)
    words[STACK] = CALLER
    assert hits(runner, registers(sp=STACK)) == [199, 199], "a stale mark: another return address"


# --- conditional jumps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", range(16))
def test_conditional_tail_calls(condition: int) -> None:
    """The program runs for just those flags for which the processor jumps."""
    made = probe(Context.TAIL, Locator.ADDRESS, points=points(SITES[:1]), arms=[{SITES[0]: 1}], condition=condition)
    runner = Runner(generate([program(made)], plan(made)))
    names = ["o", "b", "z", "be", "s", "p", "l", "le"]
    for combination in range(32):
        flags = {name: bool(combination >> i & 1) for i, name in enumerate(FLAG_BITS)}
        word = sum(1 << FLAG_BITS[name] for name, value in flags.items() if value) | 0x202
        taken = bool(TAKEN[names[condition >> 1]](flags)) != bool(condition & 1)
        assert hits(runner, registers(ip=SITES[0] + 1, flags=word)) == ([1] if taken else []), flags


# --- kretprobes of others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_return_address_behind_kretprobes(depth: int) -> None:
    """However many kretprobes hold the slot, the address behind the oldest of them is found."""
    kernel = FakeKernel(
        """
        struct llist_node { struct llist_node *next; };
        struct llist_head { struct llist_node *first; };
        struct rethook_node { long rcu[2]; struct llist_node llist; void *rethook; unsigned long ret_addr;
            unsigned long frame; };
        struct task_struct { long state; struct llist_head rethooks; };
        void arch_rethook_trampoline(void);
        """
    )
    (trampoline,) = kernel.functions("arch_rethook_trampoline")
    made = probe(Context.ENTRY, Locator.DISPATCH, arms=[{}], returns=[{SITES[0]: 1}], otherwise=3)
    artifact = generate([program(made)], plan(made), kernel)
    task, nodes = 0xFFFF_8880_0000_1000, 0xFFFF_8880_0000_2000
    memory = {task + 8: struct.pack("<Q", nodes + 16), STACK: struct.pack("<Q", trampoline.address)}
    for i in range(depth + 1):  # the last is of another function further up
        address = SITES[0] if i == depth - 1 else trampoline.address
        frame = STACK if i < depth else STACK + 64
        at = nodes + 256 * i + 16
        memory[at] = struct.pack("<6Q", at + 256, 0, address, frame, 0, 0)

    def read(address: int, size: int) -> bytes | None:
        data = memory.get(address)
        return None if data is None else data[:size]

    runner = Runner(artifact, World(read))
    runner.machine.helpers[helper_number("get_current_task")] = lambda *_: task
    assert hits(runner, registers(sp=STACK)) == [1]
