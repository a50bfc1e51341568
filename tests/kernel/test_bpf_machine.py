"""The interpreter and the assembler against the kernel's own machine: verifier, JIT and test-run."""

from __future__ import annotations

import os
import re
import struct
from random import Random

import pytest
from support.bad_programs import BAD
from support.bpf_kernel import no_leaks  # noqa: F401
from support.bpf_programs import WORK, alu_body, atomic_body, from_memory, starting_values, with_constants

from klasy.bpf import insn, maps, program
from klasy.bpf import uapi as u
from klasy.bpf.asm import assemble
from klasy.bpf.insn import R0, R1, decode, exit_, load_map_value, mov, store
from klasy.bpf.interp import ArrayMap, Machine
from klasy.bpf.text import listing
from klasy.bpf.verifier import VerifierError
from klasy.errors import KernelRefused

VALUE = 8 + 8 * len(WORK)
PACKET = bytes(64)

PROGRAMS = 150


@pytest.fixture(scope="module")
def shared():
    """A map whose one value holds the result and the starting values; mapped, so that reading it costs nothing."""
    with maps.create("array", name="io", key_size=4, value_size=VALUE, max_entries=1, flags=u.BPF_F_MMAPABLE) as io:
        memory = io.mmap()
        yield io, memory
        memory.close()


def in_kernel(io, memory, code, values) -> int:
    """What the kernel's machine leaves in the first 8 bytes of the value."""
    memory[:VALUE] = struct.pack(f"<{len(WORK) + 1}Q", 0xDEAD, *values)
    with program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, code, name="random", maps={"io": io}) as loaded:
        loaded.test_run(data=PACKET)
    return struct.unpack_from("<Q", memory)[0]


def in_interpreter(code, values) -> int:
    """What the interpreter leaves there."""
    array = ArrayMap(VALUE, 1)
    machine = Machine({"io": array})
    array.update(bytes(4), struct.pack(f"<{len(WORK) + 1}Q", 0xDEAD, *values))
    machine.run(code)
    return struct.unpack_from("<Q", array[bytes(4)])[0]


def check_alike(shared, code, values) -> None:
    io, memory = shared
    expected = in_interpreter(code, values)
    assert in_kernel(io, memory, code, values) == expected, listing(code.instructions)


def random_cases():
    """(random numbers, starting values), the same in each run."""
    for seed in range(PROGRAMS):
        random = Random(seed)
        yield random, starting_values(random)


def test_arithmetic_and_jumps(shared):
    """Random arithmetic and jumps over values the verifier cannot know end alike in the kernel and here."""
    for random, values in random_cases():
        check_alike(shared, assemble(from_memory(alu_body(random), "io")), values)


def test_constants(shared):
    """The same over constants, where the verifier itself computes and cuts away branches."""
    end = [load_map_value(R1, "io"), store(R1, 0, R0), mov(R0, 0), exit_()]
    for random, values in random_cases():
        body = with_constants(alu_body(random), values)
        check_alike(shared, assemble([*body, *end]), [0] * len(WORK))


def test_memory_and_atomics(shared):
    """Loads, stores and atomics of every size on the stack end alike."""
    for random, values in random_cases():
        check_alike(shared, assemble(from_memory(atomic_body(random), "io")), values)


def test_subprograms(shared):
    """A subprogram gets its arguments, has its own stack and registers, and returns r0: there as here."""
    body = [
        *(insn.store(insn.R10, -8, insn.R2), insn.mov(insn.R6, insn.R3), insn.mov(R1, insn.R4)),
        *(insn.call_subprogram("twice"), insn.add(R0, insn.R6), insn.load(R1, insn.R10, -8), insn.add(R0, R1)),
        *(load_map_value(R1, "io"), store(R1, 0, R0), mov(R0, 0), exit_()),
        *(insn.store_imm(insn.R10, -8, 99).labelled("twice"), insn.mov(insn.R6, R1), insn.mov(R0, insn.R6)),
        *(insn.add(R0, insn.R6), exit_()),
    ]
    start = from_memory([], "io")[: 1 + len(WORK)]
    values = [1 << n for n in range(len(WORK))]
    code = assemble([*start, *body])
    assert in_interpreter(code, values) == values[1] + values[2] + 2 * values[3]
    check_alike(shared, code, values)


def test_listing_is_the_kernels(shared):
    """The listing of a loaded program, as the kernel gives it back, is the listing of the program that was loaded."""
    io, _ = shared
    code = assemble(from_memory([insn.to_be(R0, 16), insn.neg(insn.R2, 32)], "io"))
    with program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, code, name="random", maps={"io": io}) as loaded:
        xlated = decode(loaded.xlated())
        ids = loaded.info().map_ids
    # there a map is named by its id, the one thing that differs
    theirs = re.sub(r"map\[fd:(\d+)\]", lambda m: "map[io]" if int(m[1]) in ids else "map[?]", listing(xlated))
    assert theirs == listing(code.instructions)


@pytest.mark.parametrize("name", BAD)
def test_verifier_refuses_and_the_verdict_is_found(name):
    """Each bad program is refused, for the reason and at the instruction it was made bad."""
    bad = BAD[name]
    with (
        maps.create("array", name="values", key_size=4, value_size=8, max_entries=4) as values,
        maps.create("ringbuf", name="ring", max_entries=4096) as ring,
        pytest.raises(VerifierError) as caught,
    ):
        program.load(bad.kind, bad.assembled, name=name, maps={"values": values, "ring": ring}, **bad.options)
    assert re.search(bad.words, caught.value.verdict.reason)
    assert caught.value.verdict.slot == bad.slot
    assert caught.value.metadata == (None if bad.slot is None else bad.assembled.metadata[bad.slot])
    assert caught.value.errno != 28


def test_too_large_a_program():
    """A loop longer than the verifier walks: one attempt, and our words for what the kernel calls E2BIG."""
    if os.environ["KLASY_LAB"] != "6.1":
        pytest.skip("newer verifiers need minutes in an emulated machine to find that out")
    body = [mov(R0, 0), insn.add(R0, 1).labelled("a"), insn.jump_if(R0, "<", 600_000, "a"), mov(R0, 0), exit_()]
    with pytest.raises(VerifierError, match=r"E2BIG.*million instructions"):
        program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, assemble(body), name="long")


def test_long_log_is_kept_to_the_end():
    """A log of some hundred thousand bytes comes whole, and its verdict is its last words."""
    body = [mov(R0, 0)]
    for n in range(3000):
        body += [insn.add(R0, n), insn.xor(R0, 1)]
    body += [insn.load(R0, R0, 0), exit_()]
    with pytest.raises(VerifierError) as caught:
        program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, assemble(body), name="long")
    assert len(caught.value.log) > 150_000
    assert caught.value.verdict.slot == 6001
    assert caught.value.log.splitlines()[1].startswith("0: (b7) r0 = 0")


def test_log_of_success_on_demand():
    """A log that is asked for comes with the program too."""
    with program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, assemble([mov(R0, 0), exit_()]), log_level=2) as loaded:
        assert "0: (b7) r0 = 0" in loaded.log
    with program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, assemble([mov(R0, 0), exit_()])) as loaded:
        assert loaded.log == ""


def test_refusal_before_the_verifier():
    """An unknown program type is refused without a log, with a word on what that may mean."""
    with pytest.raises(KernelRefused) as caught:
        program.load(9999, assemble([mov(R0, 0), exit_()]), name="odd")
    assert not isinstance(caught.value, VerifierError)
    assert "EINVAL" in str(caught.value)
    assert "program type" in caught.value.hint


def test_info_and_reopening_by_id():
    """What the kernel says of a program is what was loaded; by its id it can be opened again."""
    code = assemble([mov(R0, 7), exit_()])
    with program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, code, name="a name/too long for it") as loaded:
        info = loaded.info()
        assert info.name == "a_name_too_long"
        assert (info.type, info.xlated_bytes, info.map_ids) == (u.BPF_PROG_TYPE_SOCKET_FILTER, 16, ())
        assert info.verified_instructions == 2
        assert len(info.tag) == 16
        with program.open_id(info.id) as again:
            assert again.info() == info
            assert again.test_run(data=PACKET).result == 7
    with pytest.raises(KernelRefused, match="ENOENT"):
        program.open_id(1 << 30)
