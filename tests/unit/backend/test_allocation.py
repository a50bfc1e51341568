"""Registers, slots and the peephole: what must be so whatever the program."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from klasy.backend.bytecode import peephole
from klasy.backend.bytecode.frame import SLOT_BYTES, Slot, place_slots
from klasy.backend.bytecode.liveness import Interval
from klasy.backend.bytecode.peephole import tidy
from klasy.backend.bytecode.regs import DESTROYED, KEPT, allocate
from klasy.bpf.insn import R0, R1, R2, R3, Reg, add, exit_, jump, jump_if, load_imm, mov
from klasy.bpf.interp import Machine
from klasy.compiler.ir import Var

RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 30), st.booleans(), st.integers(1, 5), st.booleans()), max_size=25
)


def _intervals(ranges) -> tuple[list[Interval], set[Var]]:
    made = []
    on_stack = set()
    for number, (start, length, crosses, uses, prefers) in enumerate(sorted(ranges)):
        local = Var(f"v{number}")
        made.append(Interval(local, start, start + length, uses, crosses and length > 1))
        if prefers:
            on_stack.add(local)
    for one, other in itertools.pairwise(made):
        one.partners.append(other)
        other.partners.append(one)
    return made, on_stack


def _overlap(one: Interval, other: Interval) -> bool:
    return one.start <= other.end and other.start <= one.end


@given(RANGES, st.sampled_from([0, 8, 64]))
def test_what_lives_at_once_lives_apart(ranges, scratch: int) -> None:
    """Two locals alive at one place never share a register or a byte of the stack, nor touch the scratch bytes."""
    made, on_stack = _intervals(ranges)
    allocation = allocate(made, fixed={}, on_stack=on_stack, sizes={}, scratch=scratch)
    assert set(allocation.places) == {interval.local for interval in made}
    for one, other in itertools.combinations(made, 2):
        if _overlap(one, other):
            assert allocation.places[one.local] != allocation.places[other.local]
    for place in allocation.places.values():
        if isinstance(place, Slot):
            assert place.offset % SLOT_BYTES == 0
            assert -allocation.stack_bytes <= place.offset <= -scratch - SLOT_BYTES


@given(RANGES)
def test_what_outlives_a_call_is_where_calls_leave_it(ranges) -> None:
    """Locals that a call must not destroy are in r6 to r9 or on the stack; r0 and r1 are nobody's."""
    made, on_stack = _intervals(ranges)
    allocation = allocate(made, fixed={}, on_stack=on_stack, sizes={}, scratch=0)
    for interval in made:
        place = allocation.places[interval.local]
        if isinstance(place, Reg):
            assert place in KEPT if interval.crosses else place in KEPT + DESTROYED
            assert place not in {R0, R1}
            assert interval.local not in on_stack


@given(RANGES)
def test_registers_are_used_before_the_stack(ranges) -> None:
    """With no more locals alive than there are registers, nothing is spilled."""
    made, _ = _intervals(ranges)
    crowd = max((sum(_overlap(one, other) for other in made) for one in made), default=0)
    if crowd <= len(KEPT):
        allocation = allocate(made, fixed={}, on_stack=(), sizes={}, scratch=0)
        assert allocation.stack_bytes == 0


def test_a_fixed_local_keeps_its_register() -> None:
    """The context stays in r1 where the caller says so."""
    ctx = Var("ctx")
    allocation = allocate([Interval(ctx, 0, 4, 1)], fixed={ctx: R1}, on_stack=(), sizes={}, scratch=0)
    assert allocation.places == {ctx: R1}


@given(RANGES)
def test_slots_are_shared(ranges) -> None:
    """As many slots as locals are alive at once, at most."""
    made, _ = _intervals(ranges)
    numbers, count = place_slots(made)
    busiest = max((sum(one.start <= at <= one.end for one in made) for at in range(100)), default=0)
    assert count == busiest
    assert all(0 <= number < count for number in numbers)


# --- peephole -------------------------------------------------------------------------------------------------------

LABELS = ["a", "b", "c", "d"]


@st.composite
def _programs(draw):
    """Programs that go forward only: moves, additions, conditional and plain jumps to one of four labels ahead."""
    code = [mov(R0, 0), load_imm(R1, draw(st.integers(0, 3))), mov(R2, 7), mov(R3, 1)]
    ahead = LABELS[:]
    for label in LABELS:
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.sampled_from(["add", "same", "goto", "if", "move"]))
            code.append(
                {
                    "add": add(R0, draw(st.integers(1, 9))),
                    "same": mov(R2, R2),
                    "goto": jump(draw(st.sampled_from(ahead))),
                    "if": jump_if(R1, "==", draw(st.integers(0, 3)), draw(st.sampled_from(ahead))),
                    "move": mov(R3, R2),
                }[kind]
            )
        code.append(add(R0, draw(st.integers(10, 20))).labelled(label))
        if draw(st.booleans()):
            code[-1] = jump(draw(st.sampled_from([*ahead[1:], "end"]))).labelled(label)
        ahead.pop(0)
        ahead = ahead or ["end"]
    code.append(exit_().labelled("end"))
    return code


@given(_programs())
def test_tidying_changes_no_result(code) -> None:
    """The same r0, in no more instructions, none of them idle."""
    tidied = tidy(code)
    assert Machine().run(tidied) == Machine().run(code)
    assert len(tidied) <= len(code)
    for instruction, following in itertools.pairwise(tidied):
        assert not (instruction.is_jump and instruction.target in following.labels)
        assert instruction != mov(R2, R2)
    assert _reached(tidied) == set(range(len(tidied))), "the verifier refuses what is not reached"


def test_a_row_of_idle_jumps_goes_at_once(monkeypatch) -> None:
    """As a decision among thousands of places leaves it: not one jump of the row in each look at the whole program."""
    looks = []
    once = peephole._without_idle
    monkeypatch.setattr(peephole, "_without_idle", lambda code: looks.append(len(code)) or once(code))
    row = [jump_if(R1, "==", number, "end") for number in range(1000)]
    assert tidy([mov(R0, 1), *row, mov(R2, R2), exit_().labelled("end")]) == [mov(R0, 1), exit_()]
    assert looks == [1003, 2]


def _reached(code) -> set[int]:
    places = {label: at for at, instruction in enumerate(code) for label in instruction.labels}
    seen: set[int] = set()
    todo = [0]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        instruction = code[at]
        if instruction.is_jump:
            todo.append(places[instruction.target])
        if not instruction.is_exit and instruction.opcode != jump("a").opcode:
            todo.append(at + 1)
    return seen
