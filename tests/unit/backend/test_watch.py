"""Programs behind debug registers, from the text of an aspect through all stages, run in the interpreter of BPF."""

from __future__ import annotations

import struct

import pytest
from support.backend import Runner, registers
from support.fakekernel import START, FakeKernel
from support.matching import plan

from klasy import backend
from klasy.backend.artifact import MAP_ACCESSES, MAP_CONTROL, MAP_EVENTS, MAP_FIRST, MAP_KINDS, MAP_LAST, MAP_TRAPS
from klasy.compiler import compile_plan
from klasy.errors import InputError
from klasy.kernel.model import Clone, Function
from klasy.kernel.references import Reference
from klasy.match.plan import CHANGED, READS, WRITES

PLACE = 0xFFFF_FFFF_8200_0000
READ_IP, WRITE_IP, BOTH_IP, STRANGE_IP = START + 0x10, START + 0x20, START + 0x1030, START + 0x1040
DECLARATIONS = """
struct item { struct item *next; int number; };
struct item *take(struct item *from);
void put(struct item *it);
"""


def kernel() -> FakeKernel:
    """Two functions and a few variables; three instructions that name the first one."""
    made = FakeKernel(DECLARATIONS, data={"jiffies": (PLACE, 8), "small": (PLACE + 8, 4), "item": (PLACE + 16, 16)})
    where = Function("take", START, 0x1000, None, "take", Clone.NONE, 1)
    kinds = ((READ_IP, 1), (WRITE_IP, 2), (BOTH_IP, 3))
    made.named = [Reference(ip - 4, 4, kind, where) for ip, kind in kinds]
    return made


class Watched:
    """The woven form of an aspect's body, and the memory it watches."""

    def __init__(self, body: str) -> None:
        model = kernel()
        self.plan = plan(model, body)
        compiled = compile_plan(self.plan, model)
        self.formats = compiled.formats
        self.runner = Runner(backend.generate(self.plan, compiled))
        self.maps = self.runner.maps

    def memory(self, place: int, value: int, size: int = 8) -> None:
        """What lies at a place."""
        self.runner.machine.kernel.write(place, value.to_bytes(size, "little"))

    def trap(self, ip: int, program: int = 0):
        """One access, seen with the processor at ``ip``."""
        return self.runner.run(registers(ip=ip) + bytes(16), program)

    def accesses(self) -> dict[tuple[int, int, int], int]:
        """The account: hits by instruction, join point and what was known."""
        entries = self.maps[MAP_ACCESSES].entries
        return {struct.unpack("<QII", key): int.from_bytes(value.data, "little") for key, value in entries.items()}

    def values(self, logged) -> dict[str, int]:
        """The fields of a record."""
        fields = self.formats[logged.format].fields
        return {
            f.name or f.kind: int.from_bytes(logged.data[f.offset : f.offset + f.size], "little", signed=f.signed)
            for f in fields
            if f.kind not in ("site", "access")
        } | {f.kind: int.from_bytes(logged.data[f.offset : f.offset + 8], "little") for f in fields if f.kind == "site"}


def test_old_is_the_last_value_seen():
    """The first old value is what was there when it was woven, each further one the new one before."""
    w = Watched("before(): set(jiffies) { log(old, new, value); }")
    w.maps[MAP_FIRST].update(bytes(4), (5).to_bytes(8, "little"))
    seen = []
    for value in (7, 7, 2**64 - 1, 0):
        w.memory(PLACE, value)
        (logged,) = w.trap(WRITE_IP).logged
        seen.append(w.values(logged))
    assert [(v["old"], v["new"]) for v in seen] == [(5, 7), (7, 7), (7, 2**64 - 1), (2**64 - 1, 0)]
    assert all(v["value"] == v["new"] and v["site"] == WRITE_IP for v in seen)
    assert w.accesses() == {(WRITE_IP, 0, WRITES): 4}


def test_switched_off_it_keeps_the_value_and_counts_its_runs():
    """Between attaching and switching on, and after, nothing is missed of what comes between."""
    w = Watched("before(): set(jiffies) { log(old, new); }")
    w.maps[MAP_CONTROL].update(bytes(4), bytes(8))
    w.memory(PLACE, 41)
    assert w.trap(WRITE_IP).hits == []
    w.maps[MAP_CONTROL].update(bytes(4), struct.pack("<II", 1, 0))
    w.memory(PLACE, 42)
    (logged,) = w.trap(WRITE_IP).logged
    assert (w.values(logged)["old"], w.values(logged)["new"]) == (41, 42)
    assert w.maps[MAP_TRAPS][bytes(4)] == (2).to_bytes(8, "little")
    assert w.maps[MAP_LAST][bytes(4)][:16] == struct.pack("<QQ", 42, 1)


def test_which_advice_runs_at_which_instruction():
    """A read is a get, a write a set, what does both is both, each is an access; at the unknown all run, as noted."""
    w = Watched(
        """before(): get(jiffies) { log(value); }
           before(): set(jiffies) { log(new); }
           before(): access(jiffies) { log(value); }"""
    )
    assert w.trap(READ_IP).hits == [0, 2]
    assert w.trap(WRITE_IP).hits == [1, 2]
    assert w.trap(BOTH_IP).hits == [0, 1, 2]
    assert w.trap(STRANGE_IP).hits == [0, 1, 2]
    w.memory(PLACE, 9)
    assert w.trap(STRANGE_IP).hits == [0, 1, 2]
    account = w.accesses()
    assert account[READ_IP, 0, READS] == account[WRITE_IP, 1, WRITES] == account[BOTH_IP, 2, READS | WRITES] == 1
    assert account[STRANGE_IP, 0, 0] == account[STRANGE_IP, 0, CHANGED] == 1
    w.maps[MAP_KINDS].update(STRANGE_IP.to_bytes(8, "little"), (1).to_bytes(8, "little"))  # a later command tells it
    assert w.trap(STRANGE_IP).hits == [0, 2]


def test_where_the_instruction_lies():
    """``within`` is asked of the instruction, which ends at the ip."""
    w = Watched(
        """before(): set(jiffies) && within(take) { log(new); }
           before(): set(jiffies) && !within(take) { log(new); }"""
    )
    end = START + 0x1000
    assert [w.trap(ip).hits for ip in (START + 4, end, end + 4, START)] == [[0], [0], [1], [1]]


def test_conditions_and_signs():
    """What is bound has the data's type: a signed int is compared as one, and logged as one."""
    w = Watched('before(): set("int small") && if(new < 0 && new != old) { log("%d %d", old, new); }')
    hits = []
    for value in (-5, -5, 3, -1):
        w.memory(PLACE + 8, value & 0xFFFF_FFFF, 4)
        hits.append(len(w.trap(WRITE_IP).hits))
    assert hits == [1, 0, 0, 1]
    last = w.values(w.trap(WRITE_IP).logged[0]) if w.trap(WRITE_IP).logged else None
    assert last is None  # an equal value: the condition does not hold


def test_memory_that_is_gone():
    """Where the data cannot be read the old value stays, and the record says so, unless it is the kernel's for good."""
    made = FakeKernel(
        DECLARATIONS,
        data={"head": (PLACE, 8)},
        memory={PLACE: (0xFFFF_8880_0000_0000).to_bytes(8, "little")},
    )
    found = plan(made, 'before(): set("struct item * head->number") { log(old, new); }')
    compiled = compile_plan(found, made)
    runner = Runner(backend.generate(found, compiled))
    outcome = runner.run(registers(ip=WRITE_IP) + bytes(16))
    assert outcome.hits == [0]
    assert outcome.logged[0].faults == 0b11


def test_a_struct_is_the_place_itself():
    """``value`` of a struct has its members; each of its pieces has a program of its own."""
    w = Watched('before(): access("struct item item") { log(value.number, joinpoint.kind); }')
    assert len(w.plan.probes) == 2
    w.memory(PLACE + 24, 77, 4)
    for program in (0, 1):
        (logged,) = w.trap(READ_IP, program).logged
        assert w.values(logged)["value.number"] == 77
    assert MAP_EVENTS in w.maps


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("before(): get(jiffies) { log(old); }", "no-data-here"),
        ("before(): get(jiffies) || set(jiffies) { log(new); }", "no-data-here"),
        ('before(): get(jiffies) || get("int small") { log(value); }', "data-types-differ"),
        ('before(): set("struct item item") { log(old); }', "no-old-value"),
        ('before(): set("struct item item") { log(value + 1); }', "bad-operand"),
        ("before(): set(jiffies) || execution(take) { log(value); }", "no-data-here"),
    ],
)
def test_what_is_not_bound(body: str, code: str):
    """A name that means nothing everywhere the advice runs is an error, where it stands."""
    model = kernel()
    with pytest.raises(InputError) as caught:
        compile_plan(plan(model, body), model)
    assert code in {d.code for d in caught.value.diagnostics}
