"""The notes of ELF files, which the kernel shows of itself and of its modules, too: the build id is one of them."""

from __future__ import annotations

import struct

_NOTE = "3I"  # length of the name, length of the contents, type
_NOTE_SIZE = 12
_GNU_BUILD_ID = 3


def gnu_build_id(notes: bytes, order: str = "<") -> str | None:
    """The GNU build id in a section of ELF notes, as hexadecimal digits. ``order``: that of bytes, as struct has it."""
    at = 0
    while at + _NOTE_SIZE <= len(notes):
        name_length, length, kind = struct.unpack_from(order + _NOTE, notes, at)
        name = at + _NOTE_SIZE
        contents = name + (name_length + 3 & ~3)
        if kind == _GNU_BUILD_ID and notes[name : name + name_length] == b"GNU\0":
            return notes[contents : contents + length].hex()
        at = contents + (length + 3 & ~3)
    return None
