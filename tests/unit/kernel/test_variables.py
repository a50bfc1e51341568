"""Where pointers to structs are: held.elf as objdump shows it, and every place against what pyelftools tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from klasy.dwarf.elf import DwarfError, ElfFile
from klasy.kernel.dwarf_source import ObjectDebug
from klasy.kernel.inlined import Whereabouts
from klasy.kernel.variables import FRAME, Variables

DATA = Path(__file__).parents[2] / "data" / "debuginfo"
HELD = DATA / "held.elf"
SHIFT = 0x7000


def _functions(path: Path) -> dict[str, tuple[int, int]]:
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as stream:
        symbols = list(ELFFile(stream).get_section_by_name(".symtab").iter_symbols())
    return {s.name: (s["st_value"], s["st_size"]) for s in symbols if s["st_info"].type == "STT_FUNC"}


def _variables(path: Path) -> Variables:
    return Variables(ObjectDebug(ElfFile(str(path)), SHIFT))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("by_void", {("it", "item", 32, Whereabouts("di", (0,)))}),
        ("by_inlined", {("inlined", "item", 32, Whereabouts("di", (0,)))}),
        ("by_slot", {("spilled", "item", 32, Whereabouts(FRAME, (-64,), 8))}),
        ("by_members", set()),
        ("outside", set()),
    ],
)
def test_held(function: str, expected: set) -> None:
    """Of a function each pointer to a struct, with the struct's size and the register or slot that holds it."""
    address, _ = _functions(HELD)[function]
    found = _variables(HELD).pointers(address + SHIFT)
    assert {(each.name, each.target.name, each.target.size, each.where) for each in found} == expected


def test_computed_from_a_register() -> None:
    """What container_of makes of a parameter is that many bytes from the register, while that holds the parameter."""
    address, size = _functions(HELD)["by_part"]
    found = [each for each in _variables(HELD).pointers(address + SHIFT) if each.name == "whole"]
    assert {each.where for each in found} == {Whereabouts("di", (-16,)), Whereabouts("bp", (-16,))}
    assert all(address <= each.low < each.high <= address + size for each in found)


def test_unlikely_piece() -> None:
    """A function in pieces has its variables in all of them, whichever it is asked by."""
    functions = _functions(HELD)
    by_name = {name: _variables(HELD).pointers(functions[name][0] + SHIFT) for name in ("by_cold", "by_cold.cold")}
    assert by_name["by_cold"] == by_name["by_cold.cold"]
    start, size = functions["by_cold.cold"]
    assert Whereabouts("bx", (0,)) in {each.where for each in by_name["by_cold"] if start <= each.low < start + size}


def test_members() -> None:
    """The members of a struct, with their offsets."""
    variables = _variables(HELD)
    (held,) = variables.pointers(_functions(HELD)["by_void"][0] + SHIFT)
    assert variables.members(held.target) == [("a", 0), ("b", 4), ("next", 8), ("part", 16), ("c", 24)]


@pytest.mark.parametrize("name", ["linked4.elf", "linked5.elf"])
def test_parameters_of_either_version(name: str) -> None:
    """In DWARF 4 as in DWARF 5: a parameter is in the first register where its function begins, and nowhere outside."""
    functions = _functions(DATA / name)
    for function, parameter in (("begin", "queue"), ("measure", "first"), ("part_of_it", "queue")):
        address, _ = functions[function]
        found = _variables(DATA / name).pointers(address + SHIFT)
        first = {each.where for each in found if each.name == parameter and each.low == address}
        assert first == {Whereabouts("di", (0,))}
        assert {each.target.name for each in found} == {"queue"}


def test_no_function_begins_there() -> None:
    """Of an address within a function, or of none, nothing is told."""
    address, _ = _functions(HELD)["by_part"]
    assert _variables(HELD).pointers(address + SHIFT + 3) == []
    assert _variables(HELD).pointers(0x10) == []


def test_damaged(tmp_path: Path) -> None:
    """Lists of locations that are cut off raise the error that all of debug information raises."""
    path = tmp_path / "damaged.elf"
    header = next(h for h in ElfFile(str(HELD)).headers if h.name == ".debug_loclists")
    content = bytearray(HELD.read_bytes())
    content[header.offset : header.offset + header.size] = b"\x63" * header.size
    path.write_bytes(content)
    with pytest.raises(DwarfError):
        _variables(path).pointers(_functions(HELD)["by_part"][0] + SHIFT)


def test_module() -> None:
    """Of a module's file, which is relocatable, places are where its sections lie in memory."""
    text = 0x5000_0000
    functions = _functions(DATA / "module.ko")
    variables = Variables(ObjectDebug(ElfFile(str(DATA / "module.ko"), {".text": text}), 0))
    address = text + functions["part_of_it"][0]
    first = [each for each in variables.pointers(address) if each.low == address]
    assert {(each.name, each.target.name, each.where) for each in first} == {
        ("queue", "queue", Whereabouts("di", (0,)))
    }
