"""What DWARF tells of a function in a user program: its parameters by name, and how each is passed.

Only the unit of compilation that holds the function is read: the file's table of address ranges names it.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right

from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO, Any

    from klasy.programs.types import Found, Wanted

_RANGES = struct.Struct("<IHIBB")
_LARGEST = 64 << 20  # bytes of debug information that are gone through where no table says where to look
_FLOATS = frozenset((3, 4, 0xF, 0x80, 0x81))  # DW_ATE_complex_float, _float, _decimal_float and vendors' own
_SCOPES = {"DW_TAG_namespace", "DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_enumeration_type"}
_QUALIFIERS = {"DW_TAG_const_type": "const ", "DW_TAG_volatile_type": "volatile ", "DW_TAG_restrict_type": ""}
_TAGS = {
    "DW_TAG_structure_type": "struct",
    "DW_TAG_union_type": "union",
    "DW_TAG_class_type": "class",
    "DW_TAG_enumeration_type": "enum",
}


class Kind(NamedTuple):
    """A type: as C writes it, and what it is to the calling convention: pointer, int, float, struct or void."""

    text: str
    kind: str
    size: int


class Prototype(NamedTuple):
    """A function's parameters, by name, and its result. ``variadic``: it takes any further ones."""

    name: str
    params: tuple[tuple[str, Kind], ...]
    result: Kind
    variadic: bool = False

    @property
    def text(self) -> str:
        """It as C writes it."""
        params = [f"{kind.text}{'' if kind.text.endswith('*') else ' '}{name}" for name, kind in self.params]
        inner = ", ".join([*params, *(["..."] if self.variadic else [])]) or "void"
        result = self.result.text
        return f"{result}{'' if result.endswith('*') else ' '}{self.name}({inner})"


VOID = Kind("void", "void", 0)


_last: list[DebugInfo] = []  # the one that was asked last: who matches a function asks for its types next


def debug_info(path: str) -> DebugInfo:
    """The debug information of a file."""
    if not _last or _last[0].path != path:
        _last[:] = [DebugInfo(path)]
    return _last[0]


def types_at(places: Iterable[tuple[str, int]], wanted: Wanted) -> Found | None:
    """Types that the units of compilation know which have functions at some places: debug file, and address.

    None where nothing is known.
    """
    from klasy.programs.types import read_types

    units = [debug_info(path).unit(address) for path, address in places]
    distinct = {(id(unit.dwarfinfo), unit.offset): unit for unit in units if unit is not None}
    try:
        return read_types([*distinct.values()], wanted) if distinct else None
    except Exception:  # as in DebugInfo.prototype
        return None


class DebugInfo:
    """The debug information of one file. What cannot be read there is not known: that is no error."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._dwarf: Any = None
        self._ranges: list[tuple[int, int, int]] = []
        self._units: dict[int, dict[int, Any]] = {}  # by the place of a unit: its functions, by their addresses

    def prototype(self, address: int, names: tuple[str, ...]) -> Prototype | None:
        """Of the function at an address; ``names`` are what it may be called. None where nothing is known."""
        try:
            die = self._function(address)
            return _prototype(die, names[0]) if die is not None else None
        except Exception:  # pyelftools raises whatever its parsers meet
            return None

    def unit(self, address: int) -> Any:
        """The top entry of the unit of compilation that has the function at an address; None: it is not known."""
        try:
            die = self._function(address)
            return die.cu.get_top_DIE() if die is not None else None
        except Exception:  # as above
            return None

    def _function(self, address: int) -> Any:
        if self._dwarf is None:
            self._open()
        if self._ranges:
            place = bisect_right(self._ranges, (address, 1 << 64, 0)) - 1
            start, length, unit = self._ranges[max(place, 0)]
            return self._functions(unit).get(address) if start <= address < start + length else None
        section = self._dwarf.debug_info_sec
        if section is None or section.size > _LARGEST:
            return None
        for unit in self._dwarf.iter_CUs():
            if address in self._functions(unit.cu_offset):
                return self._functions(unit.cu_offset)[address]
        return None

    def _functions(self, unit: int) -> dict[int, Any]:
        if unit not in self._units:
            top = self._dwarf.get_CU_at(unit).get_top_DIE()
            entries = ((_entry(die), die) for die in _subprograms(top))
            self._units[unit] = {address: die for address, die in entries if address is not None}
        return self._units[unit]

    def _beside(self, name: str) -> IO[bytes]:
        """What dwz has put into a file that several share: its name is as seen from this one."""
        return open(os.path.join(os.path.dirname(self.path), name), "rb")

    def _open(self) -> None:
        from io import BytesIO

        from elftools.elf.elffile import ELFFile

        with open(self.path, "rb") as file:
            elf = ELFFile(BytesIO(file.read()), self._beside)
        # No executable's debug information has relocations left; that there are none takes pyelftools long to find.
        try:
            self._dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False)
        except OSError:  # the shared file is not there: what is in this one is known all the same
            self._dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False)
        section = elf.get_section_by_name(".debug_aranges")
        self._ranges = _ranges(section.data()) if section is not None else []


def _ranges(data: bytes) -> list[tuple[int, int, int]]:
    """The table of address ranges: start, length, place of the unit, by start. pyelftools takes long for a big one."""
    found: list[tuple[int, int, int]] = []
    at = 0
    while at + _RANGES.size <= len(data):
        length, version, unit, address_size, segment_size = _RANGES.unpack_from(data, at)
        if version != 2 or address_size != 8 or segment_size:
            return []  # 64-bit DWARF, or something else that is not written for this machine
        end = at + 4 + length
        pairs = data[at + 16 : end - (end - at) % 16]
        found += [(start, size, unit) for start, size in struct.iter_unpack("<QQ", pairs) if size]
        at = end
    return sorted(found)


def _subprograms(die: Any) -> Iterator[Any]:
    """The functions of a unit, those in namespaces (of C++ and Rust) and in types among them."""
    for child in die.iter_children():
        if child.tag == "DW_TAG_subprogram":
            yield child
        elif child.tag in _SCOPES and child.has_children:
            yield from _subprograms(child)


def _entry(die: Any) -> int | None:
    low = die.attributes.get("DW_AT_low_pc")
    if low is None and "DW_AT_ranges" in die.attributes:
        return _first(die)
    return int(low.value) if low is not None and low.form == "DW_FORM_addr" else (
        die.cu.dwarfinfo.get_addr(die.cu, low.raw_value) if low is not None else None
    )  # fmt: skip


def _first(die: Any) -> int | None:
    """Where a function begins that lies in several pieces: the compiler has put what is rarely run elsewhere."""
    top = die.cu.get_top_DIE().attributes.get("DW_AT_low_pc")
    base = top.value if top is not None else 0
    for piece in die.dwarfinfo.range_lists().get_range_list_at_offset(die.attributes["DW_AT_ranges"].value, die.cu):
        if hasattr(piece, "base_address"):
            base = piece.base_address
        else:
            return int(piece.begin_offset + (0 if piece.is_absolute else base))
    return None


def _parameters(die: Any) -> Iterator[Any]:
    return (child for child in die.iter_children() if child.tag == "DW_TAG_formal_parameter")


def _prototype(die: Any, name: str) -> Prototype:
    declared = die
    entries = [die]
    for link in ("DW_AT_abstract_origin", "DW_AT_specification"):
        if link in declared.attributes:
            declared = declared.get_DIE_from_attribute(link)
            entries.append(declared)
    # Optimised code may have fewer parameters than it was written with, and a declaration in C++ may have none by name.
    named = (entry for entry in reversed(entries) if any("DW_AT_name" in c.attributes for c in _parameters(entry)))
    source = next(named, declared if any(_parameters(declared)) else die)
    params = []
    for number, child in enumerate(_parameters(source)):
        written = _attribute(child, "DW_AT_name")
        params.append((written.decode() if written else f"arg{number + 1}", _kind(child)))
    variadic = any(c.tag == "DW_TAG_unspecified_parameters" for c in source.iter_children())
    return Prototype(name, tuple(params), _kind(declared), variadic)


def _attribute(die: Any, name: str) -> Any:
    if name not in die.attributes and "DW_AT_abstract_origin" in die.attributes:
        die = die.get_DIE_from_attribute("DW_AT_abstract_origin")
    found = die.attributes.get(name)
    return found.value if found is not None else None


def _kind(die: Any) -> Kind:
    """The type that an entry has."""
    if "DW_AT_type" not in die.attributes and "DW_AT_abstract_origin" in die.attributes:
        die = die.get_DIE_from_attribute("DW_AT_abstract_origin")
    if "DW_AT_type" not in die.attributes:
        return VOID
    of = die.get_DIE_from_attribute("DW_AT_type")
    tag, name = of.tag, _attribute(of, "DW_AT_name")
    text = name.decode() if name else ""
    if tag in _QUALIFIERS:
        inner = _kind(of)
        return Kind(_QUALIFIERS[tag] + inner.text, inner.kind, inner.size)
    if tag in ("DW_TAG_pointer_type", "DW_TAG_reference_type", "DW_TAG_rvalue_reference_type"):
        inner = _kind(of)
        return Kind(inner.text + ("*" if inner.text.endswith("*") else " *"), "pointer", 8)
    if tag == "DW_TAG_typedef":
        inner = _kind(of)
        return Kind(text, inner.kind, inner.size)
    size = _attribute(of, "DW_AT_byte_size") or 0
    if tag == "DW_TAG_base_type":
        return Kind(text, "float" if _attribute(of, "DW_AT_encoding") in _FLOATS else "int", size)
    if tag in ("DW_TAG_array_type", "DW_TAG_subroutine_type"):
        return Kind(f"{_kind(of).text} (..)", "pointer", 8)
    written = f"{_TAGS.get(tag, '')} {text}".strip()
    return Kind(written, "int" if tag == "DW_TAG_enumeration_type" else "struct", size)
