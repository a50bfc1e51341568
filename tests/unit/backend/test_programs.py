"""What a program of the IR means, its instructions mean too: random programs through both interpreters."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.backend import Runner, argument_registers, generate, guarded, plan, probe, registers
from support.compiling import CONTEXT
from support.irgen import ARGUMENTS, BASE, MEMORY, TEXTS, Generator

from klasy.backend import Options, show
from klasy.compiler import ircheck, ireval
from klasy.compiler.ireval import World
from klasy.compiler.irprint import render
from klasy.errors import InputError
from klasy.match.mechanism import Context

SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _world(random: Random) -> World:
    memory = bytearray(random.choice([0, 0, 1, 0x7F, 0x80, 0xFF, random.randint(0, 255)]) for _ in range(MEMORY))
    for _ in range(4):
        at, text = random.randint(0, 128), random.choice(TEXTS) + b"\0"
        memory[at : at + len(text)] = text
    # The kernel's copy of a string reads the byte that it then cuts off: it may fault there where the IR does not.
    memory[-1] = 0

    def read(address: int, size: int) -> bytes | None:
        start = address - BASE
        return bytes(memory[start : start + size]) if start >= 0 and start + size <= MEMORY else None

    arguments = [random.choice([0, BASE, BASE + 64, random.getrandbits(64)]) for _ in range(ARGUMENTS)]
    comm = random.choice([text for text in TEXTS if len(text) < 16])
    return World(read, arguments, 0, CONTEXT, comm)


@SLOW
@given(st.integers(0, 1 << 32), st.sampled_from([5, 20, 60, 120]), st.booleans())
def test_the_instructions_do_what_the_program_means(seed: int, length: int, counting: bool) -> None:
    """The records and counts of a random program are the same in the IR's interpreter and in BPF's."""
    random = Random(seed)
    program = Generator(random, length).make()
    ircheck.require(program)
    world = _world(random)
    expected = ireval.run(program, world)
    try:
        artifact = generate([program], plan(guarded(probe(Context.SITE))), options=Options(count_runs=counting))
    except InputError as error:
        assert "advice-too-large" in str([d.code for d in error.diagnostics])  # noqa: PT017
        assert length > 20
        return
    runner = Runner(artifact, world)
    outcome = runner.run(registers(**argument_registers(world.arguments), ip=0x1001, sp=BASE))
    note = f"{render(program)}\n{show(artifact)}"
    assert outcome.logged == expected.logged, note
    assert outcome.hits == sorted(expected.hits), note
