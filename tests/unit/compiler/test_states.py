"""State of an aspect: what advice does with it, in the IR's interpreter and in BPF's, against a model in Python."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.backend import Runner, trampoline_context
from support.compiling import BASE, compile_text, errors_of, memory_world, values_of
from support.fakekernel import FakeKernel

from klasy import backend
from klasy.backend import show
from klasy.backend.maps import Options
from klasy.bpf import uapi
from klasy.bpf.uapi import helper_number
from klasy.compiler.ireval import run
from klasy.compiler.stateeval import Store
from klasy.lang import load
from klasy.match import plan_aspect
from klasy.plain import replace
from klasy.source import SourceFile
from klasy.state import LOST_BUSY, LOST_FAULT, LOST_WORDS, MAP_LOST, WORD, encode_extreme

if TYPE_CHECKING:
    from klasy.backend.artifact import Artifact
    from klasy.compiler import Compiled
    from klasy.state import State

KERNEL = FakeKernel(
    """
    typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
    typedef signed char s8; typedef long long s64; typedef _Bool bool;
    enum colour { RED = 1, BLUE = 7 };
    struct thing { char name[8]; char *label; int number; u8 address[4]; u8 mac[6]; };
    void act(long op, long key, long value);
    void see(struct thing *thing);
    """
)

ROOM = 3
ASPECT = """
aspect model {
    s64 whole[long]; u8 byte[long]; s8 small[key]; bool flag[key]; struct thing *thing[long];
    count counted[key]; sum summed[key]; min least[key]; max most[key]; avg mean[key]; hist powers[key];
    lhist(0, 50, 7) steps[key];
    count counts; sum sums; max maxs; min mins; avg avgs; hist hists; lhist(10, 1000, 330) lhists; u16 word;
    count read_count; sum read_sum; max read_max; min read_min; avg read_avg;

    pointcut act(long op, long key, long value): execution(act(long op, long key, long value));
    before(long op, long key, long value): act(op, key, value) {
        if (op == 0) { whole[key] = value; byte[key] = value; small[key] = value; flag[key] = value; }
        if (op == 1) { whole[key] += value; byte[key] += value; small[key] -= value; }
        if (op == 2) { log(whole[key]++, ++byte[key], small[key]--, --small[key], word++, word -= 3); }
        if (op == 3) { whole[key] &= value; byte[key] |= value; small[key] ^= value; whole[key] *= 3; byte[key] <<= 1; }
        if (op == 4) { thing[key] = (struct thing *)value; thing[key]++; flag[key] += 2; }
        if (op == 5) { counted[key]++; counted[key].add(2); summed[key].add(value); summed[key] += 5; }
        if (op == 6) { least[key].add(value); most[key].add(value); mean[key].add(value); }
        if (op == 7) { powers[key].add(value); steps[key].add(value); }
        if (op == 8) { counts++; sums.add(value); maxs.add(value); mins.add(value); avgs.add(value); hists.add(value);
                       lhists.add(value); }
        if (op == 9) { delete whole[key]; delete byte[key]; delete counted[key]; powers[key].clear();
                       delete most[key]; }
        if (op == 10) { read_count++; read_sum.add(value); read_max.add(value); read_min.add(value);
                        read_avg.add(value); }
        if (op == 11) { read_count.clear(); delete read_sum; read_max.clear(); read_min.clear(); read_avg.clear(); }
        if (op == 12) { log(whole[key], byte[key], small[key], flag[key], (long)thing[key], word); }
        if (op == 13) { log(read_count, read_sum, read_max, read_min, read_avg); }
    }
}
"""
OPERATIONS = 14


def s64(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def s8(value: int) -> int:
    return (value + 128) % 256 - 128


def c_quotient(a: int, b: int) -> int:
    return abs(a) // b * (1 if a >= 0 else -1) if b else 0


@dataclass
class Model:
    """What the aspect means, in Python's own terms. A dictionary for each state, with at most ROOM keys."""

    states: dict[str, dict] = field(default_factory=dict)
    logged: list[list[int]] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)

    def change(self, name: str, key: object, begin: object, change) -> None:
        slots = self.states.setdefault(name, {})
        if key is not None and key not in slots and len(slots) >= ROOM:
            self.lost[name] = self.lost.get(name, 0) + 1
            return
        slots[key] = change(slots.get(key, begin))

    def get(self, name: str, key: object = None, none: object = 0) -> object:
        return self.states.get(name, {}).get(key, none)

    def act(self, op: int, key: int, value: int) -> None:
        wrap = {"whole": s64, "byte": lambda v: v % 256, "small": s8, "word": lambda v: v % 65536}

        def put(name: str, new, at: object = key) -> int:
            """Set a scalar; what the advice then takes its value for."""
            before = self.get(name, at)
            self.change(name, at, 0, lambda old: wrap[name](new(old)))
            return wrap[name](new(before))

        match op:
            case 0:
                for name in ("whole", "byte", "small"):
                    put(name, lambda _: value)
                self.change("flag", key, 0, lambda _: int(value != 0))
            case 1:
                put("whole", lambda v: v + value)
                put("byte", lambda v: v + value)
                put("small", lambda v: v - value)
            case 2:
                row = []
                for name, at, step, old in (
                    ("whole", key, 1, True), ("byte", key, 1, False), ("small", key, -1, True),
                    ("small", key, -1, False), ("word", None, 1, True), ("word", None, -3, False),
                ):  # fmt: skip
                    before = self.get(name, at)
                    after = put(name, lambda v, step=step: v + step, at)
                    row.append(before if old else after)
                self.logged.append(row)
            case 3:
                put("whole", lambda v: v & value)
                put("byte", lambda v: v | value)
                put("small", lambda v: v ^ value)
                put("whole", lambda v: v * 3)
                put("byte", lambda v: v << 1)
            case 4:
                self.change("thing", key, 0, lambda _: value % (1 << 64))
                self.change("thing", key, 0, lambda v: (v + 32) % (1 << 64))
                self.change("flag", key, 0, lambda v: 1)
            case 5:
                for step in (1, 2):
                    self.change("counted", key, 0, lambda v, step=step: v + step)
                for step in (value, 5):
                    self.change("summed", key, 0, lambda v, step=step: s64(v + step))
            case 6:
                self.change("least", key, None, lambda v: value if v is None else min(v, value))
                self.change("most", key, None, lambda v: value if v is None else max(v, value))
                self.change("mean", key, (0, 0), lambda v: (v[0] + 1, s64(v[1] + value)))
            case 7:
                self.change("powers", key, (), lambda v: (*v, value))
                self.change("steps", key, (), lambda v: (*v, value))
            case 8:
                self.change("counts", None, 0, lambda v: v + 1)
                self.change("sums", None, 0, lambda v: s64(v + value))
                self.change("maxs", None, None, lambda v: value if v is None else max(v, value))
                self.change("mins", None, None, lambda v: value if v is None else min(v, value))
                self.change("avgs", None, (0, 0), lambda v: (v[0] + 1, s64(v[1] + value)))
                self.change("hists", None, (), lambda v: (*v, value))
                self.change("lhists", None, (), lambda v: (*v, value))
            case 9:
                for name in ("whole", "byte", "counted", "powers", "most"):
                    self.states.get(name, {}).pop(key, None)
            case 10:
                self.change("read_count", None, 0, lambda v: v + 1)
                self.change("read_sum", None, 0, lambda v: s64(v + value))
                self.change("read_max", None, None, lambda v: value if v is None else max(v, value))
                self.change("read_min", None, None, lambda v: value if v is None else min(v, value))
                self.change("read_avg", None, (0, 0), lambda v: (v[0] + 1, s64(v[1] + value)))
            case 11:
                for name in ("read_count", "read_sum", "read_max", "read_min", "read_avg"):
                    self.states.pop(name, None)
            case 12:
                row = [self.get(name, key) for name in ("whole", "byte", "small", "flag")]
                self.logged.append([*row, s64(self.get("thing", key)), self.get("word")])
            case 13:
                extremes = [self.get(name, None, None) or 0 for name in ("read_max", "read_min")]
                number, total = self.get("read_avg", None, (0, 0))
                mean = c_quotient(total, number)
                self.logged.append([self.get("read_count"), self.get("read_sum"), *extremes, mean])


def expected_words(state: State, value: object) -> list[int]:
    """The words of a model's value, made without what klasy has for it."""
    match state.kind:
        case "avg":
            return [value[0], value[1] % (1 << 64)]
        case "max":
            return [0 if value is None else value + (1 << 63)]
        case "min":
            return [0 if value is None else (1 << 63) - 1 - value]
        case "hist":
            words = [0] * 65
            for number in value:
                words[0 if number < 0 else 1 if number == 0 else 1 + number.bit_length()] += 1
            return words
        case "lhist":
            low, high, step = state.bounds
            edges = [*range(low, high, step), high]
            words = [0] * (len(edges) + 1)
            for number in value:
                words[sum(number >= edge for edge in edges)] += 1
            return words
    return [value]


def decoded(state: State, words: list[int]) -> list[int]:
    """Words to compare: of a scalar only its type's bytes count."""
    if state.kind == "scalar":
        raw = words[0] & (1 << 8 * state.value.size) - 1
        return [raw - (1 << 8 * state.value.size) if state.value.signed and raw >> (8 * state.value.size - 1) else raw]
    if state.kind == "sum":
        return [s64(words[0])]
    return list(words)


def plain(state: State, elements: dict[bytes, list[int]]) -> dict[object, list[int]]:
    found = {}
    for raw, words in elements.items():
        key = int.from_bytes(raw[:8], "little", signed=True) if state.key_size else None
        found[key] = decoded(state, words)
    return {key: words for key, words in found.items() if key is not None or any(words)}


def by_model(model: Model, state: State) -> dict[object, list[int]]:
    slots = {key: expected_words(state, value) for key, value in model.states.get(state.name, {}).items()}
    return {key: words for key, words in slots.items() if key is not None or any(words)}


@functools.cache
def built(text: str) -> tuple[Compiled, Artifact]:
    """An aspect, compiled once for all examples."""
    (aspect,) = load(SourceFile("test.asp", text))
    compiled = compile_text(text, KERNEL)
    return compiled, backend.generate(plan_aspect(aspect, KERNEL), compiled, Options(keys=ROOM))


class Both:
    """An aspect of one program in both interpreters, with maps of its own."""

    def __init__(self, compiled: Compiled, artifact: Artifact, memory: bytes = b"") -> None:
        self.compiled = compiled
        (self.program,) = compiled.programs
        self.store = Store(ROOM)
        self.world = replace(memory_world(memory, ()), store=self.store)
        self.runner = Runner(artifact, self.world)

    def run(self, *arguments: int) -> list[list[int]]:
        """Run once in both; the values that were logged."""
        words = [a % (1 << 64) for a in arguments]
        meant = run(self.program, replace(self.world, arguments=words))
        done = self.runner.run(trampoline_context(words))
        assert done.logged == meant.logged
        assert done.hits == meant.hits
        return [values_of(self.compiled.formats[record.format], record.data) for record in meant.logged]

    def lost(self, state: State) -> list[int]:
        """The losses of a state, which both have counted alike."""
        words = self.runner.maps[MAP_LOST][state.index.to_bytes(4, "little")]
        found = [int.from_bytes(words[at : at + WORD], "little") for at in range(0, len(words), WORD)]
        assert found == self.store.lost.get(state.name, [0] * LOST_WORDS)
        return found

    def in_maps(self, state: State) -> dict[bytes, list[int]]:
        map_ = self.runner.maps[state.map_name]
        return {
            (key if state.key_size else b""): [
                int.from_bytes(region.data[at : at + WORD], "little") for at in range(0, len(region.data), WORD)
            ]
            for key, region in map_.entries.items()
        }


_values = st.one_of(
    st.integers(-5, 60),
    st.integers(-(1 << 62), 1 << 62),
    st.sampled_from([0, 1, -1, 255, 256, 49, 50, 51, 1000, (1 << 63) - 2, -(1 << 63) + 1, 1 << 40]),
)
_acts = st.lists(st.tuples(st.integers(0, OPERATIONS - 1), st.integers(-2, 3), _values), max_size=40)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_acts)
def test_state_is_what_a_model_says(acts: list[tuple[int, int, int]]) -> None:
    """Any sequence of what can be done leaves in both interpreters what a model in Python has, losses included."""
    both = Both(*built(ASPECT))
    model = Model()
    for op, key, value in acts:
        before = len(model.logged)
        model.act(op, key, value)
        assert both.run(op, key, value) == model.logged[before:]
    for state in both.compiled.states:
        expected = by_model(model, state)
        assert plain(state, both.store.of(state)) == expected, state.name
        assert plain(state, both.in_maps(state)) == expected, state.name
        assert both.lost(state) == [model.lost.get(state.name, 0), 0, 0, 0], state.name


# --- keys -------------------------------------------------------------------------------------------------------------

KEYS = """
aspect keys {
    pointcut see(struct thing *thing): execution(see(struct thing *thing));
    count names[thing->name]; count labels[str(thing->label)]; count who[comm]; count ips[ip4(*(u32 *)thing->address)];
    count macs[mac(thing->mac)]; count things[struct thing *]; count colours[enum colour];
    count several[u8, comm, long]; count literal[comm]; u64 seen[thing->number]; count lows[low(thing), comm];
    count told[str(label(any))]; count of_ip[ip4(first(any))];
    u8 low(struct thing *thing) { return thing->number; }
    char *label(struct thing *any) { return any->label; }
    u32 first(struct thing *any) { return *(u32 *)any->address; }
    before(struct thing *thing): see(thing) {
        names[thing->name]++; labels[str(thing->label)]++; who[comm]++; ips[ip4(*(u32 *)thing->address)]++;
        macs[mac(thing->mac)]++; things[thing]++; colours[BLUE]++; several[thing->number, comm, -1]++;
        told[str(label(thing))]++; of_ip[ip4(first(thing))]++;
        lows[low(thing), comm]++; literal["all"]++; literal["eight by"]++; seen[thing->number] = *(u64 *)thing->label;
    }
}
"""


def keys_of(both: Both, name: str) -> dict[bytes, list[int]]:
    (state,) = [s for s in both.compiled.states if s.name == name]
    assert both.in_maps(state) == both.store.of(state)
    return both.in_maps(state)


def thing(name: bytes, label: int, number: int) -> bytes:
    head = name.ljust(8, b"\0") + label.to_bytes(8, "little") + number.to_bytes(4, "little", signed=True)
    return head + bytes([10, 0, 0, 1]) + bytes([2, 0, 0, 0, 0, 9]) + bytes(2)


def test_keys_of_every_kind() -> None:
    """Strings end at their NUL, are cut to their array or filled with zeros; numbers are extended or cut to the key."""
    memory = thing(b"no\0junk", BASE + 32, 0x1FF) + b"label\0" + b"x" * 20
    both = Both(*built(KEYS), memory)
    both.run(BASE)
    assert keys_of(both, "names") == {b"no".ljust(16, b"\0"): [1]}
    assert keys_of(both, "labels") == {b"label".ljust(128, b"\0"): [1]}
    assert keys_of(both, "who") == {b"bash".ljust(16, b"\0"): [1]}
    assert keys_of(both, "ips") == {bytes([10, 0, 0, 1]): [1]}
    assert keys_of(both, "macs") == {bytes([2, 0, 0, 0, 0, 9]): [1]}
    assert keys_of(both, "things") == {BASE.to_bytes(8, "little"): [1]}
    assert keys_of(both, "colours") == {(7).to_bytes(4, "little"): [1]}
    several = bytes([0xFF]) + bytes(7) + b"bash".ljust(16, b"\0") + b"\xff" * 8
    assert keys_of(both, "several") == {several: [1]}
    assert keys_of(both, "lows") == {bytes([0xFF]) + bytes(7) + b"bash".ljust(16, b"\0"): [1]}
    assert keys_of(both, "told") == {b"label".ljust(128, b"\0"): [1]}
    assert keys_of(both, "of_ip") == {bytes([10, 0, 0, 1]): [1]}
    assert set(keys_of(both, "literal")) == {b"all".ljust(16, b"\0"), b"eight by".ljust(16, b"\0")}
    assert all(both.lost(state) == [0, 0, 0, 0] for state in both.compiled.states)


def test_an_array_without_a_nul_is_a_key_of_all_its_bytes() -> None:
    """A char array that is full is the string of all its bytes."""
    both = Both(*built(KEYS), thing(b"eightchr", BASE + 32, 1) + b"l\0" + bytes(6))
    both.run(BASE)
    assert keys_of(both, "names") == {b"eightchr".ljust(16, b"\0"): [1]}


def test_what_cannot_be_read_counts_as_zero_and_is_counted() -> None:
    """A key or a value of memory that cannot be read is 0 or empty; the update is made, and the fault counted."""
    both = Both(*built(KEYS), thing(b"a", 0x10, 5))  # the label cannot be read
    both.run(BASE)
    lost = {state.name: both.lost(state) for state in both.compiled.states}
    assert keys_of(both, "labels") == {bytes(128): [1]}
    assert keys_of(both, "seen") == {(5).to_bytes(4, "little"): [0]}
    assert {name for name, counts in lost.items() if any(counts)} == {"labels", "told", "seen"}
    assert lost["labels"][LOST_FAULT] == lost["seen"][LOST_FAULT] == 1
    both = Both(*built(KEYS))  # nothing can be read
    both.run(BASE)
    faulty = {state.name for state in both.compiled.states if both.lost(state)[LOST_FAULT] == 1}
    assert faulty == {"names", "labels", "ips", "macs", "several", "seen", "lows", "told", "of_ip"}


# --- what goes where --------------------------------------------------------------------------------------------------


def states_of(declarations: str, body: str) -> dict[str, State]:
    text = f"aspect a {{ {declarations} pointcut execution(act(long op, long key, long value)); "
    text += f"before(long op, long key, long value) {{ {body} }} }}"
    return {state.name: state for state in compile_text(text, KERNEL).states}


@pytest.mark.parametrize("kind", ["count", "sum", "min", "max", "avg"])
def test_what_is_only_added_to_is_kept_per_cpu(kind: str) -> None:
    """An aggregation that no advice reads or clears is per CPU; one that any does is shared."""
    added = states_of(f"{kind} a; {kind} b[key];", "a.add(1); b[key].add(1);")
    assert added["a"].map_type == "percpu_array"
    assert added["b"].map_type == "percpu_hash"
    read = states_of(f"{kind} a; {kind} b[key];", "a.add(b[key]); b[key].add(a);")
    assert {s.map_type for s in read.values()} == {"array", "hash"}
    cleared = states_of(f"{kind} a;", "a.add(1); a.clear();")
    assert cleared["a"].map_type == "array"


def test_histograms_with_keys_are_shared() -> None:
    """Half a kilobyte for each key and CPU would be too much; without a key it is little."""
    made = states_of("hist a; hist b[key]; lhist(0, 10, 2) c;", "a.add(1); b[key].add(1); c.add(2);")
    assert [s.map_type for s in made.values()] == ["percpu_array", "hash", "percpu_array"]
    assert [s.words for s in made.values()] == [65, 65, 7]


def test_a_deleted_slot_is_written_anew() -> None:
    """Where elements are deleted an assignment goes through the map; elsewhere the value is changed in place."""
    text = "aspect a {{ u64 x[key]; pointcut execution(act(long op, long key, long value)); "
    text += "before(long op, long key, long value) {{ x[key] = value; {} }} }}"
    deleting, keeping = (built(text.format(more)) for more in ("delete x[key];", ""))
    for made in (deleting, keeping):
        both = Both(*made)
        both.run(0, 1, 7)
        both.run(0, 1, 8)
    lookup = re.compile(r"map\[state__x\]\n *\d+: call bpf_map_lookup_elem")
    assert [len(lookup.findall(show(artifact))) for _, artifact in (deleting, keeping)] == [0, 1]


def test_a_guard_can_read_state() -> None:
    """``if(..)`` of a pointcut may ask for what advice has counted."""
    text = """aspect a { count n; pointcut execution(act(long op, long key, long value)) && if(n < 2);
                         before() { n++; } }"""
    both = Both(*built(text))
    for _ in range(5):
        both.run(0, 0, 0)
    (state,) = both.compiled.states
    assert both.in_maps(state) == {b"": [2]}


def test_an_unused_state_is_warned_of() -> None:
    """A state that no advice uses is probably a slip."""
    text = "aspect a { count n; pointcut execution(act); before() { } }"
    assert "'n' is never used [unused-state]" in errors_of(text, KERNEL)


# --- what the kernel may refuse, what another CPU may do meanwhile ----------------------------------------------------

HEAD = "pointcut execution(act(long op, long key, long value)); before(long op, long key, long value)"


def test_a_map_that_is_in_use_is_counted() -> None:
    """Where the kernel refuses to make, write or delete an element, the rest of the advice runs, and it is counted."""
    text = f"""aspect a {{ count n[key]; u64 written[key]; u64 gone[key]; count after;
                {HEAD} {{ n[key]++; written[key] = 5; log(gone[key]++); delete gone[key]; after++; }} }}"""
    compiled, artifact = built(text)
    runner = Runner(artifact, memory_world(b"", ()))
    for helper in ("map_update_elem", "map_delete_elem"):
        runner.machine.helpers[helper_number(helper)] = lambda *_: -16 % (1 << 32)  # EBUSY; an int's upper half is junk
    done = runner.run(trampoline_context([0, 1, 2]))
    (record,) = done.logged
    assert values_of(compiled.formats[0], record.data) == [0]
    words = {s.name: runner.maps[MAP_LOST][s.index.to_bytes(4, "little")] for s in compiled.states}
    assert {name: [word[at] for at in (0, 8, 16, 24)] for name, word in words.items()} == {
        "n": [0, 1, 0, 0], "written": [0, 1, 0, 0], "gone": [0, 2, 0, 0], "after": [0, 0, 0, 0],
    }  # fmt: skip
    assert runner.maps["state__after"][bytes(4)] == (1).to_bytes(8, "little")


def test_deleting_what_is_not_there_is_no_loss() -> None:
    """``delete`` of a key that has no slot does nothing."""
    both = Both(*built(f"aspect a {{ u64 x[key]; {HEAD} {{ delete x[key]; }} }}"))
    both.run(0, 1, 2)
    (state,) = both.compiled.states
    assert both.lost(state) == [0, 0, 0, 0]


class Meddler:
    """Another CPU, which sets a larger number whenever this one is about to compare and exchange."""

    def __init__(self, runner: Runner, numbers: list[int]) -> None:
        self.numbers = numbers
        self._machine = runner.machine
        self._atomic = runner.machine._atomic
        runner.machine._atomic = self.step

    def step(self, instruction) -> None:
        if instruction.imm == uapi.BPF_CMPXCHG and self.numbers:
            address = self._machine._value(instruction.dst) + instruction.off
            self._machine.write(address, encode_extreme("max", self.numbers.pop(0)).to_bytes(8, "little"))
        self._atomic(instruction)


@pytest.mark.parametrize(
    ("others", "kept", "lost"),
    [
        ([], 50, 0),
        ([1, 2, 3], 50, 0),
        ([10, 60], 60, 0),
        ([1, 2, 3, 4, 5, 6, 7], 50, 0),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 8, 1),
    ],
)
def test_an_extreme_that_others_raise_meanwhile(others: list[int], kept: int, lost: int) -> None:
    """The largest stays, whoever set it; and if the others never cease, that it was given up is counted."""
    text = f"aspect a {{ max m; {HEAD} {{ m.add(value); if (m > 1000) log(m); }} }}"
    compiled, artifact = built(text)
    (state,) = compiled.states
    assert not state.per_cpu
    runner = Runner(artifact, memory_world(b"", ()))
    Meddler(runner, list(others))
    runner.run(trampoline_context([0, 0, 50]))
    assert runner.maps[state.map_name][bytes(4)] == encode_extreme("max", kept).to_bytes(8, "little")
    assert runner.maps[MAP_LOST][bytes(4)][WORD * LOST_BUSY] == lost
