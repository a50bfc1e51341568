"""Inlined copies, as they are found by the bytes of debug information: against every entry that pyelftools reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.dwarf.elf import ElfFile
from klasy.kernel.dwarf_source import ObjectDebug
from klasy.kernel.inlined import Whereabouts, evaluate, inlined, remembered

DATA = Path(__file__).parents[2] / "data" / "debuginfo"
FILES = [DATA / "linked4.elf", DATA / "linked5.elf"]
SHIFT = 0x7000_0000


def _expected(path: Path) -> dict[str, set[int]]:
    """Where each inlined copy begins, by what was inlined, from a walk through all entries."""
    from elftools.elf.elffile import ELFFile

    found: dict[str, set[int]] = {}
    with path.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        for unit in dwarf.iter_CUs():
            for die in unit.iter_DIEs():
                if die.tag == "DW_TAG_inlined_subroutine":
                    name = die.get_DIE_from_attribute("DW_AT_abstract_origin").attributes["DW_AT_name"].value.decode()
                    place = die.attributes.get("DW_AT_entry_pc") or die.attributes["DW_AT_low_pc"]
                    found.setdefault(name, set()).add(place.value + SHIFT)
    return found


@pytest.mark.parametrize("path", FILES, ids=["dwarf4", "dwarf5"])
def test_all_copies(path: Path) -> None:
    """Of each function that was inlined all copies are found, and nothing else; of others none."""
    debug = ObjectDebug(ElfFile(str(path)), SHIFT)
    expected = _expected(path)
    assert expected.keys() == {"twice", "queue_len"}
    for name, places in expected.items():
        found = inlined(debug, name)
        assert {copy.address for function in found for copy in function.copies} == places
    for name in ("outside", "begin", "len", "queue", "wice", "nothing", "int"):
        assert inlined(debug, name) == []


@pytest.mark.parametrize("path", FILES, ids=["dwarf4", "dwarf5"])
def test_prototypes_and_places(path: Path) -> None:
    """Parameters have the names and types of the source, and lie in registers that hold them there."""
    debug = ObjectDebug(ElfFile(str(path)), SHIFT)
    (function,) = inlined(debug, "twice")
    assert [(p.name, p.type) for p in function.params] == [("number", ("int", "", 0))]
    assert (function.result, function.variadic) == (("int", "", 0), False)
    assert all(isinstance(place, Whereabouts) for copy in function.copies for place in copy.places)
    for function in inlined(debug, "queue_len"):
        assert [p.name for p in function.params] == ["queue", "scale"]
        assert [p.type for p in function.params] == [("queue", "struct", 1), ("unsigned int", "", 0)]
        for copy in function.copies:
            assert len(copy.places) == 2
    scales = {copy.places[1] for function in inlined(debug, "queue_len") for copy in function.copies}
    assert {Whereabouts(None, (3,)), Whereabouts(None, (5,))} <= scales  # written as numbers in the source


def test_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is kept by build id, for where the kernel lies in this boot, and then not looked for again."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path))
    debug = ObjectDebug(ElfFile(str(FILES[1])), SHIFT, "abc")
    found = remembered(debug, "twice")
    both = found, remembered(debug, "queue_len")
    assert all(both)
    assert remembered(debug, "nothing") == []
    moved = ObjectDebug(ElfFile(str(FILES[1])), SHIFT + 0x1000, "abc")
    with monkeypatch.context() as patch:
        patch.setattr("klasy.kernel.inlined.inlined", lambda *_: pytest.fail("it was kept"))
        again = ObjectDebug(ElfFile(str(FILES[1])), SHIFT, "abc")
        assert (remembered(again, "twice"), remembered(again, "queue_len"), remembered(again, "nothing")) == (*both, [])
    (function,) = remembered(moved, "twice")
    assert {c.address - 0x1000 for c in function.copies} == {c.address for c in found[0].copies}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("53", Whereabouts("bx", (0,))),
        ("5f", Whereabouts("r15", (0,))),
        ("7708", Whereabouts("sp", (8,), 8)),
        ("7378", Whereabouts("bx", (-8,), 8)),
        ("73089f", Whereabouts("bx", (8,))),
        ("730806239001", Whereabouts("bx", (8, 144), 8)),
        ("7308069f", Whereabouts("bx", (8, 0))),
        ("359f", Whereabouts(None, (5,))),
        ("09ff9f", Whereabouts(None, (-1,))),
        ("0bfeff9f", Whereabouts(None, (-2,))),
        ("10e8079f", Whereabouts(None, (1000,))),
        ("117f9f", Whereabouts(None, (-1,))),
        ("9e0411000000", Whereabouts(None, (0x11,))),
        ("0300100081ffffffff9f", Whereabouts(None, (0xFFFFFFFF81001000 + SHIFT,))),
        ("0300100081ffffffff", Whereabouts(None, (0xFFFFFFFF81001000 + SHIFT,), 8)),
    ],
)
def test_expressions(code: str, expected: Whereabouts) -> None:
    """What compilers write of places that can be followed."""
    assert evaluate(bytes.fromhex(code), SHIFT) == expected


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("a301559f", "when the function around it was entered"),
        ("f301559f", "when the function around it was entered"),
        ("9168", "on the stack"),
        ("539304", "in several pieces"),
        ("7300229f", "how it is computed"),
        ("f200000000", "how it is computed"),
    ],
)
def test_expressions_that_are_not_followed(code: str, reason: str) -> None:
    """What cannot be known then and there is said in words."""
    found = evaluate(bytes.fromhex(code))
    assert isinstance(found, str)
    assert reason in found


@given(st.binary(min_size=1, max_size=12))
def test_any_bytes(code: bytes) -> None:
    """Whatever stands there, a place is an answer that a program can follow, or there is none."""
    try:
        found = evaluate(code)
    except IndexError:
        return  # cut short; who asks takes it for damage
    if isinstance(found, Whereabouts):
        assert found.load in (0, 8)
        assert found.offsets
