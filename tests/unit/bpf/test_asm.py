"""The assembler: labels, subprograms, maps."""

from __future__ import annotations

import pytest
from hypothesis import given
from support.bpf_programs import alu_programs

from klasy.bpf.asm import Assembler, Relocation, assemble
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    EncodingError,
    call_subprogram,
    decode,
    exit_,
    jump,
    jump_if,
    load_imm64,
    load_map,
    load_map_value,
    mov,
)


def test_jumps_count_slots_not_instructions():
    """A 64-bit constant between a jump and its label counts twice, forwards and backwards."""
    program = assemble(
        [
            jump_if(R1, "==", 0, "end").labelled("start"),
            load_imm64(R2, 1 << 40),
            jump_if(R1, "!=", 0, "start"),
            exit_().labelled("end"),
        ]
    )
    assert [instruction.off for instruction in decode(program.code)] == [3, 0, -4, 0]


def test_subprograms_are_called_by_name():
    """A call's distance is in its constant; the table says where each subprogram starts."""
    program = assemble(
        [
            call_subprogram("second"),
            call_subprogram("first"),
            exit_(),
            mov(R0, 1).labelled("first"),
            exit_(),
            mov(R0, 2).labelled("second"),
            exit_(),
        ]
    )
    assert [instruction.imm for instruction in decode(program.code)[:2]] == [4, 1]
    assert program.subprograms == (("first", 3), ("second", 5))


def test_maps_become_relocations_and_link_fills_them():
    """Descriptors go into the low half of the constant; a map value's offset stays in the high half."""
    program = assemble([mov(R0, 0), load_map(R1, "a"), load_map_value(R2, "b", 24), load_map(R1, "a"), exit_()])
    assert program.relocations == (Relocation(1, "a"), Relocation(3, "b"), Relocation(5, "a"))
    assert program.map_names == ("a", "b")
    linked = decode(program.link({"a": 7, "b": 300}))
    assert [(x.src, x.imm) for x in linked if x.is_wide] == [(1, 7), (2, 24 << 32 | 300), (1, 7)]
    with pytest.raises(KeyError):
        program.link({"a": 7})


def test_metadata_is_found_by_slot():
    """Both slots of a 64-bit constant answer with its metadata, so the verifier's numbers can be looked up."""
    program = assemble([mov(R0, 0).at("one"), load_imm64(R1, 1 << 40).at("two"), exit_().at("three")])
    assert program.metadata == ("one", "two", "two", "three")
    assert len(program.code) == 8 * len(program.metadata)


def test_builder_attaches_source_and_labels():
    """The innermost source() holds; what an instruction already says stays; labels wait for the next instruction."""
    a = Assembler()
    with a.source("outer"):
        a.emit(mov(R0, 0))
        with a.source("inner"):
            a.emit(mov(R0, 1), mov(R0, 2).at("own"))
        a.label("x")
        a.label("y")
        a.emit(mov(R0, 3))
    a.emit(exit_())
    assert [i.metadata for i in a.instructions] == ["outer", "inner", "own", "outer", None]
    assert a.instructions[3].labels == ("x", "y")
    assert len(a) == 5


def test_fresh_labels_differ():
    """A generator never gets the same label twice."""
    a = Assembler()
    assert len({a.fresh_label() for _ in range(100)} | {a.fresh_label("loop") for _ in range(100)}) == 200


def far(distance: int) -> list:
    return [jump("end"), *[mov(R0, 0)] * distance, exit_().labelled("end")]


def test_the_furthest_jump_and_one_further():
    """32767 slots are in reach of a jump, 32768 are not."""
    assert decode(assemble(far(32767)).code)[0].off == 32767
    with pytest.raises(EncodingError, match="32768 slots away"):
        assemble(far(32768))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([], "empty"),
        ([jump("nowhere"), exit_()], "'nowhere' is nowhere defined"),
        ([mov(R0, 0).labelled("x"), exit_().labelled("x")], "'x' is defined twice"),
        ([mov(R0, 0)], "runs off the end"),
        ([call_subprogram("f"), mov(R0, 0), exit_().labelled("f")], "runs off the end"),
        ([jump_if(R0, "==", 0, "f"), exit_()], "nowhere defined"),
        ([call_subprogram("f"), jump("in"), mov(R0, 0).labelled("f"), exit_().labelled("in")], "leaves its function"),
        ([call_subprogram("f"), exit_().labelled("m"), jump("m").labelled("f")], "leaves its function"),
        ([mov(R0, 0)._replace(target="x"), exit_().labelled("x")], "refers to no place"),
    ],
)
def test_bad_programs_are_refused(program, message):
    """What the verifier would refuse for its shape alone is refused here, by name."""
    with pytest.raises(EncodingError, match=message):
        assemble(program)


def test_label_at_the_end_names_nothing():
    """A label that no instruction follows is a slip of the generator."""
    a = Assembler()
    a.emit(exit_())
    a.label("lost")
    with pytest.raises(EncodingError, match="'lost'"):
        a.assemble()


@given(alu_programs())
def test_assembly_is_deterministic_and_reversible(program):
    """The same instructions give the same bytes, and decoding them gives the instructions but for names."""
    program = [*program, exit_()]
    once, again = assemble(program), assemble(program)
    assert once == again
    bare = [(i.opcode, i.dst, i.src, i.imm) for i in program]
    assert [(i.opcode, i.dst, i.src, i.imm) for i in decode(once.code)] == bare
