"""Files of user programs: their functions, where they are found, and files that are none."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from klasy.programs.debuginfo import DebugInfo
from klasy.programs.files import NotAProgram, ProgramFile, find

SHAPES = Path(__file__).parents[2] / "data" / "programs" / "shapes.so"
BYTES = SHAPES.read_bytes()


def test_functions_are_those_of_pyelftools() -> None:
    """Names, addresses and sizes, static functions included, and places in the file, as another reader has them."""
    from elftools.elf.elffile import ELFFile

    found = {(s.name, s.address, s.size) for s in ProgramFile(str(SHAPES)).symbols()}
    with SHAPES.open("rb") as file:
        elf = ELFFile(file)
        expected = {
            (s.name, s["st_value"], s["st_size"])
            for section in (".symtab", ".dynsym")
            for s in elf.get_section_by_name(section).iter_symbols()
            if s["st_info"]["type"] == "STT_FUNC" and s["st_shndx"] != "SHN_UNDEF" and s["st_value"]
        }
        offsets = {s.name: next(iter(elf.address_offsets(s.address))) for s in ProgramFile(str(SHAPES)).symbols()}
        build_id = next(n["n_desc"] for n in elf.get_section_by_name(".note.gnu.build-id").iter_notes())
    assert found == expected
    assert {"hidden", "area", "nothing"} <= {name for name, _, _ in found}
    assert offsets == {s.name: s.offset for s in ProgramFile(str(SHAPES)).symbols()}
    assert ProgramFile(str(SHAPES)).build_id == build_id


def test_prototypes() -> None:
    """What debug information tells of each function is what the source says."""
    program = ProgramFile(str(SHAPES))
    debug = DebugInfo(program.debug_file() or "")
    told = {s.name: debug.prototype(s.address, (s.name,)) for s in program.symbols()}
    assert {name: prototype.text for name, prototype in told.items() if prototype} == {
        "hidden": "long int hidden(long int value)",
        "area": "long int area(struct point *corner, int scale, const char *label)",
        "mix": "double mix(int first, double weight, int second)",
        "many": "int many(int a, int b, int c, int d, int e, int f, long int g, short int h)",
        "by_value": "long int by_value(struct large big, long int n)",
        "by_register": "long int by_register(struct small s, long int n)",
        "nothing": "void nothing(void)",
    }
    assert debug.prototype(1, ("x",)) is None


@pytest.mark.skipif(which("g++") is None, reason="compiles C++")
def test_functions_in_namespaces(tmp_path: Path) -> None:
    """They are known by their addresses, wherever debug information has them: as those of C++ and Rust."""
    inner = 'namespace inner { extern "C" long add(long count, int more) { return count + more; } }'
    source = f'namespace outer {{ {inner} }} extern "C" long plain(char letter) {{ return letter; }}'
    path = tmp_path / "lib.so"
    command = ["g++", "-g", "-fPIC", "-shared", "-x", "c++", "-o", path, "-"]
    subprocess.run(command, input=source, text=True, check=True)
    program = ProgramFile(str(path))
    known = {s.name: DebugInfo(str(path)).prototype(s.address, (s.name,)) for s in program.symbols()}
    shown = {name: known[name].text for name in ("add", "plain") if known[name] is not None}
    assert shown == {"add": "long int add(long int count, int more)", "plain": "long int plain(char letter)"}


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name alone is sought in PATH; a link leads to its file; a folder is none."""
    (tmp_path / "link.so").symlink_to(SHAPES)
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    assert find("link.so") == str(SHAPES.resolve()) == find(str(tmp_path / "link.so"))
    for name, reason in (("no-such.so", "in PATH"), (str(tmp_path), "it is no file"), ("/x/y", "no such file")):
        with pytest.raises(NotAProgram, match=reason):
            find(name)


def test_a_link_that_leads_elsewhere_than_it_says(tmp_path: Path) -> None:
    """A link of /proc stands for a file that has no such name: one that was replaced here, one of a container there."""
    program = tmp_path / "program"
    program.write_bytes(SHAPES.read_bytes())
    with program.open("rb") as file:
        program.unlink()
        program.with_name("program (deleted)").write_text("another one")
        link = f"/proc/self/fd/{file.fileno()}"
        assert find(link) == link


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no program or library"),
        (b"#!/bin/sh\n", "is a script"),
        (BYTES[:4] + b"\x01" + BYTES[5:], "another kind of machine"),
        (BYTES[:16] + b"\x01\x00" + BYTES[18:], "a part of one"),
        (BYTES[:100], "damaged"),
    ],
)
def test_what_is_no_program(tmp_path: Path, content: bytes, reason: str) -> None:
    """Each says what it is instead."""
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(NotAProgram, match=reason):
        ProgramFile(str(tmp_path / "f"))


@given(st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), max_size=20), st.integers(64, 20_000))
@example([(47, 0x80)], 20_000)  # a place beyond all memory
@example([(359, 0x80)], 20_000)  # and that of a segment of notes
def test_damaged_files_are_refused_or_read(tmp_path_factory: pytest.TempPathFactory, changes, length) -> None:
    """Whatever is changed in a file: it is refused as the user's, or read; never does anything else happen."""
    data = bytearray(BYTES)
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.mktemp("damaged") / "f"
    path.write_bytes(data[:length])
    try:
        program = ProgramFile(str(path))
    except NotAProgram:
        return
    for symbol in program.symbols():
        assert symbol.name
    assert program.build_id is None or program.build_id
    debug = program.debug_file()
    if debug is not None:
        DebugInfo(debug).prototype(0x1005, ("area",))
