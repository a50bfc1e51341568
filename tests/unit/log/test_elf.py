"""Build ids and segments of ELF files, read without pyelftools: of real ones as it reads them, and of broken ones."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from klasy.log.elf import ElfFile, NoElf

ID = bytes(range(1, 17))


def made(order: str, bits: int) -> bytes:
    """A file with a note of another owner, a build id of 16 bytes, and a segment that is loaded."""
    notes = struct.pack(order + "III4s4s", 3, 4, 3, b"xyz\0", b"----")
    notes += struct.pack(order + "III4s", 4, len(ID), 3, b"GNU\0") + ID
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2]) + bytes(10)
    if bits == 64:
        place = 64 + 2 * 56
        head = ident + struct.pack(order + "HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
        head += struct.pack(order + "IIQQQQQQ", 4, 4, place, 0, 0, len(notes), len(notes), 4)
        head += struct.pack(order + "IIQQQQQQ", 1, 5, 0, 0x400000, 0, 0x1000, 0x1000, 4096)
    else:
        place = 52 + 2 * 32
        head = ident + struct.pack(order + "HHIIIIIHHHHHH", 3, 3, 1, 0, 52, 0, 0, 52, 32, 2, 0, 0, 0)
        head += struct.pack(order + "IIIIIIII", 4, place, 0, 0, len(notes), len(notes), 4, 4)
        head += struct.pack(order + "IIIIIIII", 1, 0, 0x400000, 0, 0x1000, 0x1000, 5, 4096)
    return head + notes


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_each_class_and_order(tmp_path: Path, order: str, bits: int) -> None:
    """A short build id is filled up with zeros; a note of another owner is none."""
    path = tmp_path / "file"
    path.write_bytes(made(order, bits))
    file = ElfFile(str(path), "/file")
    assert file.is_(ID + bytes(4))
    assert file._segments == [(0, 0x1000, 0x400000)]


def test_cut_anywhere(tmp_path: Path) -> None:
    """A file that ends too early is no ELF file, or one without a build id; never another error."""
    whole, path = made("<", 64), tmp_path / "file"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            file = ElfFile(str(path), "/file")
        except NoElf:
            assert size < 64 + 2 * 56
        else:
            assert not file.is_(ID + bytes(4))
    path.write_bytes(whole[:54] + b"\x30" + whole[55:])
    with pytest.raises(NoElf, match="another size"):
        ElfFile(str(path), "/file")


def test_this_python() -> None:
    """As pyelftools reads it."""
    path = str(Path(sys.executable).resolve())
    with open(path, "rb") as file:
        elf = ELFFile(file)
        loaded = [(s["p_offset"], s["p_filesz"], s["p_vaddr"]) for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
        notes = [n for s in elf.iter_segments() if s["p_type"] == "PT_NOTE" for n in s.iter_notes()]
    ids = [bytes.fromhex(n["n_desc"]) for n in notes if n["n_type"] == "NT_GNU_BUILD_ID"]
    assert loaded
    found = ElfFile(path, path)
    assert found._segments == loaded
    assert (found.build_id or b"").rstrip(b"\0") == (ids[0] if ids else b"").rstrip(b"\0")
