"""Units, entries, ranges, locations and lines, each against what pyelftools reads of the same file."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.dwarf import units as dw
from klasy.dwarf.elf import DwarfError, ElfFile
from klasy.dwarf.lines import LineTable
from klasy.dwarf.units import Unit, address_ranges, encode_uleb, holder, sleb, uleb, unit_offsets

DATA = Path(__file__).parents[2] / "data" / "debuginfo"
LINKED = [DATA / "linked4.elf", DATA / "linked5.elf"]


@pytest.fixture(params=LINKED, ids=["dwarf4", "dwarf5"])
def files(request):
    """The file as klasy and as pyelftools open it."""
    from elftools.elf.elffile import ELFFile

    with request.param.open("rb") as file:
        yield ElfFile(str(request.param)), ELFFile(file).get_dwarf_info(relocate_dwarf_sections=False)


def _entries(unit, entry):
    """An entry and all that are in it, as they lie."""
    rows = [iter([entry])]
    while rows:
        found = next(rows[-1], None)
        if found is None:
            rows.pop()
        else:
            yield found
            rows.append(unit.children(found))


def test_every_entry(files):
    """Tags, places, names, numbers and references of all entries are those that pyelftools finds."""
    from elftools.dwarf.enums import ENUM_DW_TAG

    elf, other = files
    offsets = unit_offsets(elf)
    assert offsets == [unit.cu_offset for unit in other.iter_CUs()]
    seen = 0
    for offset, theirs in zip(offsets, other.iter_CUs(), strict=True):
        unit = Unit(elf, offset)
        mine = list(_entries(unit, unit.top))
        expected = [die for die in theirs.iter_DIEs() if die.tag]
        assert [offset + e.offset for e in mine] == [die.offset for die in expected]
        assert [e.tag for e in mine] == [ENUM_DW_TAG[die.tag] for die in expected]
        for entry, die in zip(mine, expected, strict=True):
            name = die.attributes.get("DW_AT_name")
            assert unit.string(entry, dw.NAME) == (name.value.decode() if name else None)
            for number, key in ((dw.DECL_LINE, "DW_AT_decl_line"), (dw.ABSTRACT_ORIGIN, "DW_AT_abstract_origin")):
                theirs_value = die.attributes.get(key)
                assert entry.number(number) == (theirs_value.value if theirs_value else None)
            low = die.attributes.get("DW_AT_low_pc")
            assert unit.address(entry, dw.LOW_PC) == (low.value if low else None)
            seen += 1
    assert seen > 60


def test_ranges(files):
    """The text of every entry that has some, in one piece or several, is what pyelftools tells."""
    elf, other = files
    lists = other.range_lists()
    pieces = 0
    for theirs in other.iter_CUs():
        unit = Unit(elf, theirs.cu_offset)
        base = unit.base_address
        for die in theirs.iter_DIEs():
            if "DW_AT_ranges" not in die.attributes:
                continue
            found = lists.get_range_list_at_offset(die.attributes["DW_AT_ranges"].value, theirs)
            expected = []
            for each in found:
                if not hasattr(each, "begin_offset"):
                    base = each.base_address
                else:
                    start = 0 if getattr(each, "is_absolute", False) else base
                    expected.append((start + each.begin_offset, start + each.end_offset))
            base = unit.base_address
            assert unit.ranges(unit.entry(die.offset - theirs.cu_offset)) == expected
            pieces += len(expected)
    assert pieces > 4


def test_locations(files):
    """Where each parameter is, at every address of its function, is what pyelftools' lists of locations tell."""
    from elftools.dwarf.locationlists import LocationEntry, LocationParser

    elf, other = files
    parser = LocationParser(other.location_lists())
    asked = 0
    for theirs in other.iter_CUs():
        unit = Unit(elf, theirs.cu_offset)
        for die in theirs.iter_DIEs():
            attribute = die.attributes.get("DW_AT_location")
            if attribute is None or not parser.attribute_has_location(attribute, theirs["version"]):
                continue
            parsed = parser.parse_from_attribute(attribute, theirs["version"], die)
            entry = unit.entry(die.offset - theirs.cu_offset)
            if not isinstance(parsed, list):
                assert unit.location(entry, 0x1000000) == bytes(parsed.loc_expr)
                assert unit.locations(entry) == [(0, 1 << 64, bytes(parsed.loc_expr))]
                continue
            whole = []
            for each in (e for e in parsed if isinstance(e, LocationEntry)):
                base = 0 if each.is_absolute else unit.base_address
                for address in range(base + each.begin_offset, base + each.end_offset):
                    assert unit.location(entry, address) == bytes(each.loc_expr)
                    asked += 1
                whole.append((base + each.begin_offset, base + each.end_offset, bytes(each.loc_expr)))
            assert unit.locations(entry) == whole
            assert unit.location(entry, 0x10) is None
    assert asked > 50


def test_lines(files):
    """The rows of every table of lines, and so what ``at`` tells of every address, are those of pyelftools."""
    elf, other = files
    rows = 0
    for theirs in other.iter_CUs():
        program = other.line_program_for_CU(theirs)
        table = LineTable(elf, theirs.get_top_DIE().attributes["DW_AT_stmt_list"].value)
        states = [entry.state for entry in program.get_entries() if entry.state is not None]
        expected = [(s.address, s.file, s.line, bool(s.is_stmt), s.end_sequence) for s in states]
        mine = table.rows()
        assert [tuple(row) for row in mine] == expected
        rows += len(mine)
        wanted: dict[int, tuple[int, int]] = {}
        for row, following in pairwise(mine):
            for address in range(row.address, following.address) if not row.end else ():
                wanted[address] = row.file, row.line
        assert table.at([*wanted, 0x10]) == wanted
    assert rows > 30


def test_files(files):
    """The files of a table of lines are named as the compiler was given them."""
    elf, other = files
    tables = [LineTable(elf, u.get_top_DIE().attributes["DW_AT_stmt_list"].value) for u in other.iter_CUs()]
    names = [{name.removeprefix("/src/") for name in table.files()} for table in tables]
    assert {"net/core.c", "net/part.c", "net/../include/queue.h"} <= names[0]
    assert "net/other.c" in names[1]


def test_address_ranges(files):
    """The table of address ranges leads to the unit, at its first and last byte and not behind it."""
    elf, _ = files
    ranges = address_ranges(elf)
    assert {unit for _, _, unit in ranges} == set(unit_offsets(elf))
    for low, high, unit in ranges:
        assert holder(ranges, low) == holder(ranges, high - 1) == unit
        assert holder(ranges, high) != unit
    assert holder(ranges, 0) is None


def test_a_relocatable_file():
    """Of a module strings, references into other sections and addresses are those of its sections where they lie."""
    from elftools.elf.elffile import ELFFile

    base = 0xFFFF_FFFF_C012_3000
    elf = ElfFile(str(DATA / "module.ko"), {".text": base})
    assert elf.build_id == "1122334455667788990011223344556677889900"
    unit = Unit(elf, unit_offsets(elf)[0])
    assert unit.string(unit.top, dw.NAME) == "net/core.c"
    named = {unit.string(e, dw.NAME): e for e in unit.children(unit.top) if e.tag == dw.SUBPROGRAM}
    with (DATA / "module.ko").open("rb") as file:
        symbols = {s.name: s["st_value"] for s in ELFFile(file).get_section_by_name(".symtab").iter_symbols()}
    for name in ("begin", "again", "part_of_it"):
        assert unit.address(named[name], dw.LOW_PC) == base + symbols[name]
    table = LineTable(elf, unit.top.number(dw.STMT_LIST))
    assert table.rows()[0].address == base
    assert address_ranges(elf)[0][0] == base


def test_build_id():
    """The build id is what the file's note says."""
    from elftools.elf.elffile import ELFFile

    with LINKED[1].open("rb") as file:
        (note,) = ELFFile(file).get_section_by_name(".note.gnu.build-id").iter_notes()
    assert ElfFile(str(LINKED[1])).build_id == note["n_desc"]


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)])
def test_no_elf_file(tmp_path, content):
    """What is no 64-bit ELF file is refused as such."""
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DwarfError):
        ElfFile(str(tmp_path / "x"))


def _ask_everything(path: str) -> None:
    elf = ElfFile(path)
    _ = elf.build_id
    address_ranges(elf)
    for offset in unit_offsets(elf):
        unit = Unit(elf, offset)
        for entry in _entries(unit, unit.top):
            unit.string(entry, dw.NAME)
            unit.ranges(entry)
            unit.location(entry, 0x1000010)
        table = LineTable(elf, unit.top.number(dw.STMT_LIST) or 0)
        table.files()
        table.rows()


@given(st.data())
def test_damaged_files(tmp_path_factory, data):
    """Whatever bytes change, what comes is an answer or a DwarfError: nothing else, and it ends."""
    content = bytearray(LINKED[1].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0x1000, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "file"
    path.write_bytes(content)
    with suppress(DwarfError):
        _ask_everything(str(path))


@given(st.integers(0, 1 << 70))
def test_uleb(value):
    """What is encoded is read back, with its length."""
    assert uleb(encode_uleb(value) + b"\xff", 0) == (value, len(encode_uleb(value)))


@given(st.integers(-(1 << 40), 1 << 40))
def test_sleb(value):
    """Signed numbers are what pyelftools reads."""
    from io import BytesIO

    from elftools.common.construct_utils import SLEB128

    data = bytearray()
    rest = value
    while True:
        byte, rest = rest & 0x7F, rest >> 7
        if (rest == 0 and not byte & 0x40) or (rest == -1 and byte & 0x40):
            data.append(byte)
            break
        data.append(byte | 0x80)
    assert sleb(bytes(data), 0) == (value, len(data))
    assert SLEB128("").parse_stream(BytesIO(bytes(data))) == value
