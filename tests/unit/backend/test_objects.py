"""Programs that ask for objects to be watched, and that see the accesses, in the interpreter of BPF."""

from __future__ import annotations

import struct

from support.backend import Runner, registers
from support.fakekernel import START, FakeKernel
from support.matching import plan

from klasy import backend, objects
from klasy.backend.artifact import MAP_CONTROL, MAP_KINDS
from klasy.compiler import compile_plan
from klasy.objects import ENDED, FIRST_MEMBER, FIRST_SLOT, FREE, MAP_BELL, MAP_OBJECTS, MEMBER, SLOT, SLOTS, WANTED

OBJECT = 0xFFFF_8880_0000_1000
IP = START + 0x20
DECLARATIONS = """
struct item { struct item *next; int number; };
struct item *take(struct item *from);
void put(struct item *it);
"""
ASPECT = """
before(struct item *from): execution(take(struct item *from)) {{ watch(from->number{0}); }}
before(struct item *it): execution(put(struct item *it)) {{ unwatch(it->number); }}
before(struct item *it): set(watched it->number) {{ log(it, old, new); }}
"""
TAKE, PUT, SET = "take", "put", "set"


class Woven:
    """The woven form of the aspect, and a helper that only says that it has armed."""

    def __init__(self, bounds: str = "", aspect: str = ASPECT) -> None:
        model = FakeKernel(DECLARATIONS)
        self.plan = plan(model, aspect.format(bounds))
        compiled = compile_plan(self.plan, model)
        self.formats = compiled.formats
        self.runner = Runner(backend.generate(self.plan, compiled))
        self.number = {SET if probe.watch else probe.points[0].function.name: probe.index for probe in self.plan.probes}

    def call(self, function: str, item: int) -> None:
        """A function is entered with an object."""
        probe = self.plan.probes[self.number[function]]
        context = struct.pack("<Q", item) + bytes(64)
        assert probe.mechanism.value == "fentry"
        self.runner.run(context, self.number[function])

    def access(self, address: int, value: int):
        """A register traps."""
        self.runner.machine.kernel.write(address, value.to_bytes(4, "little"))
        context = registers(ip=IP) + struct.pack("<QQ", 1, address)
        return self.runner.run(context, self.number[SET])

    def row(self, number: int) -> list[int]:
        """A row of the shared memory."""
        return memoryview(bytes(self.runner.maps[MAP_OBJECTS][number.to_bytes(4, "little")])).cast("Q").tolist()

    def slot(self, number: int, name: str) -> int:
        """A word of a slot."""
        return self.row(FIRST_SLOT + number)[SLOT[name]]

    def set(self, number: int, **words: int) -> None:
        """Write words of a slot."""
        row = self.row(FIRST_SLOT + number)
        for name, value in words.items():
            row[SLOT[name]] = value
        key = (FIRST_SLOT + number).to_bytes(4, "little")
        self.runner.maps[MAP_OBJECTS].update(key, struct.pack(f"<{len(row)}Q", *row))

    def counts(self) -> dict[str, int]:
        """What programs have counted."""
        row = self.row(FIRST_MEMBER)
        return {name: row[MEMBER[name]] for name in ("requests", "again", "no_slot", "bad_address")}


def test_a_request_fills_a_slot_and_rings():
    """The slot says what, since when and for how long; the helper is rung once."""
    w = Woven(", 5, 2*us")
    w.runner.machine.kernel.write(OBJECT, bytes(8) + (77).to_bytes(4, "little"))
    w.runner.machine.now = 10_000
    w.call(TAKE, OBJECT)
    slot = dict(zip(SLOT, w.row(FIRST_SLOT), strict=True))
    assert slot["state"] == WANTED
    assert slot["address"] == OBJECT + 8
    assert (slot["first"], slot["most"], slot["requested"], slot["until"]) == (77, 5, 10_000, 12_000)
    assert len(w.runner.maps[MAP_BELL].records) == 1
    assert w.counts() == {"requests": 1, "again": 0, "no_slot": 0, "bad_address": 0}


def test_what_is_watched_and_what_cannot_be():
    """Once more is nothing new; what is no address of the kernel is refused, as is one for which no slot is left."""
    w = Woven()
    w.call(TAKE, OBJECT)
    w.call(TAKE, OBJECT)
    w.call(TAKE, 0)
    w.call(TAKE, 0x7FFF_0000_0000)
    for number in range(SLOTS):
        w.call(TAKE, OBJECT + 64 * (number + 1))
    assert w.counts() == {"requests": 4 + SLOTS, "again": 1, "no_slot": 1, "bad_address": 2}
    assert [w.slot(n, "address") for n in range(SLOTS)] == [OBJECT + 8 + 64 * n for n in range(SLOTS)]


def test_accesses_to_armed_objects_and_no_others():
    """The advice runs with the object, the value before and the value now; not before it is armed, not for others."""
    w = Woven()
    w.call(TAKE, OBJECT)
    w.call(TAKE, OBJECT + 64)
    assert w.access(OBJECT + 8, 1).hits == []
    w.set(0, armed=1, first=4)
    w.set(1, armed=1, first=9)
    seen = []
    for address, value in ((OBJECT + 8, 5), (OBJECT + 72, 1), (OBJECT + 8, 6)):
        (logged,) = w.access(address, value).logged
        fields = {f.name: f for f in w.formats[logged.format].fields}
        at = {n: logged.data[f.offset : f.offset + f.size] for n, f in fields.items()}
        seen.append(tuple(int.from_bytes(at[name], "little") for name in ("old", "new")))
    assert seen == [(4, 5), (9, 1), (5, 6)]
    assert w.access(OBJECT + 136, 1).hits == []
    assert (w.slot(0, "runs"), w.slot(0, "seen"), w.slot(1, "runs")) == (2, 2, 1)


def test_unwatch_ends_it_at_once():
    """From then on the advice does not run, though the register still traps; that is counted as a run."""
    w = Woven()
    w.call(TAKE, OBJECT)
    w.set(0, armed=1)
    w.call(PUT, OBJECT + 64)
    assert len(w.access(OBJECT + 8, 1).hits) == 1
    w.call(PUT, OBJECT)
    assert w.access(OBJECT + 8, 2).hits == []
    assert (w.slot(0, "state"), w.slot(0, "outcome"), w.slot(0, "runs")) == (ENDED, objects.BY_UNWATCH, 2)
    assert len(w.runner.maps[MAP_BELL].records) == 2
    w.call(TAKE, OBJECT)  # the same object again, before the helper was there
    assert (w.slot(1, "state"), w.slot(1, "address")) == (WANTED, OBJECT + 8)


def test_a_number_of_accesses():
    """The last one runs the advice and ends the watching."""
    w = Woven(", 3")
    w.call(TAKE, OBJECT)
    w.set(0, armed=1)
    assert [len(w.access(OBJECT + 8, n).hits) for n in range(5)] == [1, 1, 1, 0, 0]
    assert (w.slot(0, "state"), w.slot(0, "outcome")) == (ENDED, objects.BY_HITS)


def test_a_time():
    """Accesses after it are not seen, whether the helper was there or not."""
    w = Woven(", 2*us")
    w.runner.machine.now = 1_000
    w.call(TAKE, OBJECT)
    w.set(0, armed=1)
    w.runner.machine.now = 3_000
    assert len(w.access(OBJECT + 8, 1).hits) == 1
    w.runner.machine.now = 3_001
    assert w.access(OBJECT + 8, 1).hits == []


def test_a_bell_that_is_full_loses_nothing():
    """The request stands, and it is noted that the bell could not be rung."""
    w = Woven()
    bell = w.runner.maps[MAP_BELL]
    bell.reserve = lambda size: None
    w.call(TAKE, OBJECT)
    assert w.slot(0, "state") == WANTED
    assert w.row(0)[objects.HELPER["silent"]] == 1


def test_switched_off_it_only_keeps_the_value():
    """As with globals: nothing of the advice runs, and the old value of the next access is right."""
    w = Woven()
    w.call(TAKE, OBJECT)
    w.set(0, armed=1)
    w.runner.maps[MAP_CONTROL].update(bytes(4), bytes(8))
    assert w.access(OBJECT + 8, 41).hits == []
    assert (w.slot(0, "last"), w.slot(0, "seen"), w.slot(0, "runs")) == (41, 0, 1)


def test_reads_and_writes():
    """Where reads are asked for too, the instruction tells which it was, as far as it is known."""
    aspect = ASPECT.replace("set(watched it->number) {{ log(it, old, new)", "get(watched it->number) {{ log(it, value)")
    w = Woven("", aspect)
    w.call(TAKE, OBJECT)
    w.set(0, armed=1)
    assert len(w.access(OBJECT + 8, 1).hits) == 1  # not known: the reader decides
    w.runner.maps[MAP_KINDS].update(IP.to_bytes(8, "little"), (2).to_bytes(8, "little"))
    assert w.access(OBJECT + 8, 1).hits == []
    assert w.slot(0, "state") != FREE
