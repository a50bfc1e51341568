"""Artifacts: maps, programs, records down to the last byte, and what is said of advice that is too large."""

from __future__ import annotations

import struct
from pathlib import Path
from struct import pack

import pytest
from support.backend import ENTRY, Runner, function, generate, guarded, plan, probe, registers

from klasy.backend import Options, show
from klasy.backend import generate as generate_compiled
from klasy.backend.artifact import MAP_CONTROL, MAP_EVENTS, MAP_RUNS
from klasy.bpf import uapi
from klasy.compiler import Compiled, ir
from klasy.compiler.builder import Builder
from klasy.compiler.ireval import World
from klasy.errors import InputError
from klasy.flow.sites import kernel_member
from klasy.kernel.snapshot import SnapshotKernel
from klasy.match.mechanism import Context
from klasy.match.plan import Argument, Locator, Point
from klasy.record import HEADER, HEADER_SIZE
from klasy.source import Span

PROBE = probe(Context.SITE)
SNAPSHOTS = Path(__file__).parents[2] / "data" / "kernels"


def program(*ops: ir.Op) -> ir.Program:
    """One block of operations."""
    made = ir.Program(PROBE.name, 0)
    build = Builder(made)
    build.begin(build.block())
    for op in ops:
        build.add(op)
    build.add(ir.Return())
    return made


def emit(size: int, *parts: ir.Part, joinpoint: int = 2, number: int = 3) -> ir.Emit:
    """A log of some parts."""
    return ir.Emit(number, size, joinpoint, parts)


def test_every_aspect_has_three_maps() -> None:
    """Events, counters for each join point on each CPU, in rows of whole cache lines, control; no others where none
    are needed."""
    maps = {spec.name: spec for spec in generate([program()], plan(PROBE, joinpoints=7)).maps}
    assert set(maps) == {"events", "counters", "control"}
    assert (maps["events"].type, maps["events"].max_entries) == ("ringbuf", 1 << 20)
    counters = maps["counters"]
    assert (counters.type, counters.key_size, counters.value_size) == ("array", 4, Options().cpus * 384)
    assert counters.max_entries == 1
    assert all(hasattr(uapi, f"BPF_MAP_TYPE_{spec.type.upper()}") for spec in maps.values())


def test_the_size_of_the_ring_buffer_is_an_option() -> None:
    """``Options.ring_bytes``."""
    artifact = generate_compiled(plan(PROBE), Compiled((program(),), (), ()), Options(ring_bytes=1 << 16))
    assert next(spec for spec in artifact.maps if spec.name == MAP_EVENTS).max_entries == 1 << 16


def test_programs_say_what_they_are() -> None:
    """Type and target of each kind of probe's program."""
    where = [Point(ENTRY, function())]
    kinds = {Context.FENTRY: "fentry", Context.FEXIT: "fexit", Context.ENTRY: "kprobe", Context.RETURN: "kprobe"}
    for context, kind in kinds.items():
        made = probe(context, points=where)
        (spec,) = generate([program()], plan(made)).programs
        assert (spec.name, spec.probe, spec.type) == (made.name, 0, kind)
        assert spec.target == (function() if kind in ("fentry", "fexit") else None)


def test_each_cpu_counts_in_cache_lines_of_its_own() -> None:
    """A hit changes one word, in the row of the CPU that it is on; one on a CPU that cannot be changes none."""
    runner = Runner(generate([program(ir.CountHit(1))], plan(PROBE), options=Options(cpus=3)))
    for cpu in (0, 2, 2, 3):
        runner.machine.cpu = cpu
        runner.run(registers())
    words = memoryview(runner.maps["counters"][bytes(4)]).cast("Q").tolist()
    assert len(words) * 8 == 3 * 192  # four join points of 48 bytes each
    assert {at: word for at, word in enumerate(words) if word} == {6: 1, 2 * 24 + 6: 2}


def test_the_header_of_a_record() -> None:
    """Time, join point, format, CPU, process, thread, name, no faults."""
    runner = Runner(generate([program(emit(HEADER_SIZE))], plan(PROBE)))
    machine = runner.machine
    machine.now, machine.cpu, machine.pid_tgid, machine.comm = 123456789012, 3, 42 << 32 | 43, b"bash"
    runner.run(registers())
    (record,) = runner.maps[MAP_EVENTS].records
    assert HEADER.unpack(record) == (123456789012, 2, 3, 3, 42, 43, b"bash".ljust(16, b"\0"), 0)


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_the_task_where_the_kernel_keeps_it(release: str) -> None:
    """Of a kernel whose types tell the place, process, thread and name come out of its task_struct."""
    kernel = SnapshotKernel.load(str(SNAPSHOTS / f"{release}.snapshot"))
    artifact = generate([program(emit(88, ir.CommField(66)))], plan(PROBE), kernel)
    assert "get_current_comm" not in show(artifact)
    runner = Runner(artifact)
    for name, value in (("tgid", pack("<I", 42)), ("pid", pack("<I", 43)), ("comm", b"bash\0old name\0\0\0")):
        at = kernel_member(kernel, "task_struct", name).offset
        runner.machine.task_struct.data[at : at + len(value)] = value
    runner.run(registers())
    (record,) = runner.maps[MAP_EVENTS].records
    assert HEADER.unpack_from(record)[4:] == (42, 43, b"bash\0old name\0\0\0", 0)
    assert record[66:82] == b"bash\0old name\0\0\0"


def test_every_byte_of_a_record_is_written() -> None:
    """Padding between and behind the values, and what lies behind a string's end, is zero, not what was there."""
    parts = [
        ir.StoreField(49, 1, 0x11),
        ir.StringField(53, 9, 0x1000, 0, 0),
        ir.StoreField(64, 2, 0x2222),
        ir.CommField(66),
    ]
    world = World(lambda address, size: b"abc\0xyz!"[address - 0x1000 :][:size], comm=b"sh")
    runner = Runner(generate([program(emit(88, *parts))], plan(PROBE)), world)
    data = runner.run(registers()).logged[0].data[HEADER_SIZE:]
    assert data == b"\0\x11\0\0\0abc\0\0\0\0\0\0\0\0\x22\x22sh" + bytes(20)


def test_a_copy_that_fails_leaves_zeros_and_its_bit() -> None:
    """The bits of all values that could not be read, up to the highest."""
    parts = [ir.CopyField(48, 8, 0x1000, 0, 0), ir.CopyField(56, 8, 0x2000, 8, 63), ir.StringField(64, 8, 0, 0, 33)]
    world = World(lambda address, size: b"\x77" * size if address == 0x1000 else None)
    runner = Runner(generate([program(emit(72, *parts))], plan(PROBE)), world)
    (logged,) = runner.run(registers()).logged
    assert logged.faults == 1 << 63 | 1 << 33
    assert logged.data[HEADER_SIZE:] == b"\x77" * 8 + bytes(16)


def test_a_full_ring_buffer_counts_as_lost() -> None:
    """Each log that finds no room; the program goes on."""
    both = program(ir.CountHit(1), emit(56, ir.StoreField(48, 8, 1), joinpoint=1), ir.CountHit(0))
    runner = Runner(generate([both], plan(PROBE)), ring=100)
    for _ in range(3):
        runner.run(registers())
    assert runner.counters()[:2] == [(3, 0, 0), (3, 2, 0)]
    assert len(runner.maps[MAP_EVENTS].records) == 1


def test_a_program_of_an_inactive_aspect_does_nothing() -> None:
    """The control word is looked at before all else."""
    runner = Runner(generate([program(ir.CountHit(0), emit(48))], plan(PROBE)))
    runner.maps[MAP_CONTROL].update(bytes(4), bytes(8))
    runner.run(registers())
    assert runner.counters()[0] == (0, 0, 0)
    assert runner.machine.steps <= 5


def test_a_join_point_counted_by_two_programs_is_counted_atomically() -> None:
    """No plan does that; if one did, no count would be lost."""
    other = probe(Context.ENTRY, index=1)
    second = program(ir.CountHit(0))
    second.probe = 1
    artifact = generate([program(ir.CountHit(0)), second], plan(PROBE, other))
    assert show(artifact).count("lock") == 2
    runner = Runner(artifact)
    runner.run(registers())
    runner.run(registers(), 1)
    assert runner.counters()[0] == (2, 0, 0)
    assert "lock" not in show(generate([program(ir.CountHit(0))], plan(PROBE)))


def _sevens(build: ir.Program) -> ir.Program:
    """A program that counts a hit where the first argument is 7."""
    entry, then, end = ir.Block(0), ir.Block(1), ir.Block(2)
    value = ir.Value(0)
    entry.ops = [ir.Argument(value, Argument(0)), ir.Branch("eq", value, 7, then, end)]
    then.ops = [ir.CountHit(0), ir.Jump(end)]
    end.ops = [ir.Return()]
    build.blocks = [entry, then, end]
    return build


def test_runs_are_counted_where_hits_do_not_tell_them() -> None:
    """With ``Options.count_runs`` a program that does not always hit counts its runs; the others need not."""
    made = plan(guarded(probe(Context.ENTRY)), probe(Context.ENTRY, index=1))
    second = program(ir.CountHit(1))
    second.probe = 1
    programs = _sevens(program()), second
    runner = Runner(generate(programs, made, options=Options(count_runs=True)))
    assert runner.artifact.maps[3].name == MAP_RUNS
    for value in (7, 8, 7, 9, 0):
        runner.run(registers(di=value))
        runner.run(registers(di=value), 1)
    assert runner.counters()[:2] == [(2, 0, 0), (5, 0, 0)]
    assert memoryview(runner.maps[MAP_RUNS][bytes(4)]).cast("Q")[:2].tolist() == [5, 0]
    runner.maps[MAP_CONTROL].update(bytes(4), bytes(8))
    runner.run(registers(di=7))
    assert int.from_bytes(runner.maps[MAP_RUNS][bytes(4)][:8], "little") == 5
    assert MAP_RUNS not in {spec.name for spec in generate(programs, made).maps}


def test_arguments_on_the_stack() -> None:
    """At a call instruction they are on top of the stack, at an entry above the return address."""
    value = ir.Value(0)
    log = emit(56, ir.StoreField(48, 8, value))
    words = {0x5000 + 8 * i: struct.pack("<Q", 100 + i) for i in range(4)}
    world = World(lambda address, size: words[address][:size])
    for context, expected in ((Context.SITE, 101), (Context.ENTRY, 102), (Context.TAIL, 102)):
        one = probe(context)
        made = program(ir.Argument(value, Argument(7)), log)
        runner = Runner(generate([made], plan(one)), world)
        assert runner.run(registers(sp=0x5000)).logged[0].data[HEADER_SIZE:] == struct.pack("<Q", expected)


# --- too large ------------------------------------------------------------------------------------------------------


def test_too_many_values_at_once() -> None:
    """More than 512 bytes of values that live at once: an error in the user's terms, at the advice."""
    made = plan(PROBE)
    body = made.aspect.advice[0].body.span
    build = Builder(ir.Program(PROBE.name, 0))
    build.begin(build.block())
    build.span = Span(body.file, body.start, body.end)
    values = [build.load(0x1000 + 8 * i, 0, 8) for i in range(70)]
    sums = [build.binary("add", value, 1) for value in values]
    build.add(emit(48 + 8 * 70, *(ir.StoreField(48 + 8 * i, 8, value) for i, value in enumerate(sums))))
    build.add(ir.Return())
    with pytest.raises(InputError) as caught:
        generate([build.program], made)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "advice-too-large"
    assert "of a BPF program's stack of 512" in diagnostic.message
    assert diagnostic.span == made.aspect.advice[0].head
    assert diagnostic.hints


def test_code_that_is_too_long() -> None:
    """Jumps that do not reach: the same error."""
    build = Builder(ir.Program(PROBE.name, 0))
    build.begin(build.block())
    behind, then = build.block(), build.block()
    build.branch("eq", build.context("cpu"), 0, then, behind)
    build.begin(then)
    for i in range(4000):
        build.add(ir.CountHit(i % 4))
    build.jump(behind)
    build.begin(behind)
    build.add(ir.CountHit(1))
    build.add(ir.Return())
    with pytest.raises(InputError) as caught:
        generate([build.program], plan(PROBE))
    assert [d.code for d in caught.value.diagnostics] == ["advice-too-large"]


# --- shown ----------------------------------------------------------------------------------------------------------


def test_show_names_places_and_lines() -> None:
    """Each program under what it is and where; source lines above the instructions."""
    made = plan(probe(Context.SITE, Locator.ADDRESS, points=[Point(ENTRY + 16 * i, function()) for i in range(6)]))
    op = ir.CountHit(0)
    op.span = made.aspect.advice[0].body.span
    whole = ir.Program(made.probes[0].name, 0)
    block = ir.Block(0)
    block.ops += [op, ir.Return()]
    whole.blocks.append(block)
    text = show(generate([whole], made))
    assert text.startswith("p0_site: kprobe at f, f+0x10, f+0x20, f+0x30 and 2 more; ")
    assert "\n; t.asp:1: { }\n" in text
