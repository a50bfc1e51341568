"""The types of a user program, out of its debug information (DWARF), as BTF: what klasy knows of the kernel's types.

Of a program's types those are taken that an aspect names, and what they are made of. What a pointer leads to is taken
where the aspect names the member that holds the pointer: programs' types hang together as the kernel's do, and to go
through them all would take long. The other structs and unions are declared only.

A type that only a unit of compilation knows which has none of the probed functions in it is not found, nor one of a
type unit (-fdebug-types-section).
"""

from __future__ import annotations

from klasy.btf.types import (
    Array,
    Const,
    Enum,
    Float,
    FuncProto,
    Fwd,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
    Typedef,
    Union,
    Volatile,
)
from klasy.btf.write import BtfWriter
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from klasy.btf.types import Type

_STRUCTS = frozenset(("DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_union_type"))
_ENUM, _TYPEDEF, _BASE = "DW_TAG_enumeration_type", "DW_TAG_typedef", "DW_TAG_base_type"
_NAMED = _STRUCTS | {_ENUM, _TYPEDEF}
_POINTERS = frozenset(("DW_TAG_pointer_type", "DW_TAG_reference_type", "DW_TAG_rvalue_reference_type"))
_BY_VALUE = frozenset(
    (_TYPEDEF, "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_restrict_type", "DW_TAG_atomic_type")
)
_BOOL, _COMPLEX, _FLOAT, _SIGNED, _SIGNED_CHAR, _DECIMAL = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F  # DW_ATE_*
_CHARS = frozenset((_SIGNED_CHAR, 0x08))


class Wanted(NamedTuple):
    """What an aspect names: types, members, constants of enumerations (with whatever other names it has)."""

    types: frozenset[str]
    members: frozenset[str]
    constants: frozenset[str]


class Found(NamedTuple):
    """``data`` is BTF. ``names`` are those of all types, for who misspelt one; ``several`` those of structs of which
    the program has different ones: they are declared only."""

    data: bytes
    names: tuple[str, ...]
    several: frozenset[str]


def read_types(units: Sequence[Any], wanted: Wanted) -> Found:
    """The types of some units of compilation, given by their top entries (pyelftools' DIEs)."""
    return _Reading(units, wanted).found()


class _Reading:
    def __init__(self, units: Sequence[Any], wanted: Wanted) -> None:
        self._wanted = wanted
        self._named: dict[tuple[str, str], Any] = {}  # the first definition, by tag and name
        self._several: set[str] = set()
        self._enums: list[Any] = []
        self._whole: set[object] = set()  # the structs that are taken with their members, by _place
        self._ids: dict[object, int] = {}
        self._shapes: dict[object, object] = {}
        self._types: list[Type] = []
        left, seen = list(units), set()
        while left:
            unit = left.pop(0)
            if _place(unit) in seen:
                continue
            seen.add(_place(unit))
            for die in unit.iter_children():
                if die.tag in _NAMED:
                    self._note(die)
                elif die.tag == "DW_TAG_imported_unit":  # dwz puts there what several units have in common
                    left.append(die.get_DIE_from_attribute("DW_AT_import"))

    def _note(self, die: Any) -> None:
        if die.tag == _ENUM:
            self._enums.append(die)
        name = _name(die)
        if not name or "DW_AT_declaration" in die.attributes:
            return
        first = self._named.setdefault((die.tag, name), die)
        if first is not die and name in self._wanted.types and self._shape(first) != self._shape(die):
            self._several.add(name)

    def found(self) -> Found:
        roots = [die for (_, name), die in self._named.items() if name in self._wanted.types]
        roots += [die for die in self._enums if self._wanted.constants & {name for name, _ in _constants(die)}]
        for die in roots:
            self._walk(die, True)
        for die in roots:
            self._id(die)
        writer = BtfWriter()
        for made in self._types:
            writer.add(made)
        return Found(writer.data(), tuple(dict.fromkeys(name for _, name in self._named)), frozenset(self._several))

    def _definition(self, die: Any) -> Any:
        """What a type that is only declared here is where it is defined; of several equal definitions the first."""
        first = self._named.get((die.tag, _name(die)), die) if die.tag in _NAMED else die
        if first is die or "DW_AT_declaration" in die.attributes or self._shape(first) == self._shape(die):
            return first
        return die

    def _shape(self, die: Any) -> object:
        """What two definitions of one type have in common."""
        place = _place(die)
        if place not in self._shapes:
            if die.tag in _STRUCTS:
                marks = ("DW_AT_data_member_location", "DW_AT_data_bit_offset", "DW_AT_bit_size")
                parts = [(_name(part), *(_number(part, mark) for mark in marks)) for part in _parts(die)]
                self._shapes[place] = _size(die), parts
            elif die.tag == _ENUM:
                self._shapes[place] = _size(die), [*_constants(die)]
            else:
                of = _stripped(die)
                self._shapes[place] = None if of is None else (of.tag, _name(of), _size(of))
        return self._shapes[place]

    # --- which structs are taken whole

    def _walk(self, die: Any, follow: bool) -> None:
        """``follow``: also what a pointer leads to."""
        left = [(die, follow)]
        while left:
            die, follow = left.pop()
            if die is None:
                continue
            die = self._definition(die)
            if die.tag in _BY_VALUE or die.tag == "DW_TAG_array_type" or (follow and die.tag in _POINTERS):
                left.append((_type(die), follow))
            elif die.tag in _STRUCTS and _place(die) not in self._whole and _name(die) not in self._several:
                self._whole.add(_place(die))
                left += [(_type(part), _name(part) in self._wanted.members) for part in _parts(die)]

    # --- types

    def _id(self, die: Any) -> int:
        """The number of a type, made when it is first asked for; 0: void, or what BTF has no word for."""
        if die is None:
            return 0
        die = self._definition(die)
        place = _place(die)
        if place not in self._ids:
            made = self._make(die)
            self._ids[place] = made if isinstance(made, int) else self._add(made)
        return self._ids[place]

    def _add(self, made: Type) -> int:
        self._types.append(made)
        return len(self._types)

    def _make(self, die: Any) -> int | Type:
        """A type, or the number of one that has been added."""
        tag, name = die.tag, _name(die)
        if tag in _STRUCTS and _place(die) in self._whole:
            return self._struct(die, name)
        if tag in _STRUCTS or (tag in _NAMED and name in self._several):
            return Fwd(name or "(anonymous)", tag == "DW_TAG_union_type")
        if tag == _BASE:
            return _base(die, name) or 0
        if tag == _ENUM:
            values = tuple(_constants(die))
            return Enum(name, _size(die) or 4, any(value < 0 for _, value in values), values)
        if tag in _POINTERS:
            self._ids[_place(die)] = number = self._add(Ptr(0))  # it may lead back to itself
            self._types[number - 1] = Ptr(self._id(_type(die)))
            return number
        if tag == "DW_TAG_array_type":
            return self._array(die)
        if tag == "DW_TAG_subroutine_type":
            parts = [*die.iter_children()]
            params = [Param("", self._id(_type(part))) for part in parts if part.tag == "DW_TAG_formal_parameter"]
            variadic = any(part.tag == "DW_TAG_unspecified_parameters" for part in parts)
            return FuncProto(self._id(_type(die)), tuple(params), variadic)
        if tag in _BY_VALUE:
            of = self._id(_type(die))
            wrap = {"DW_TAG_const_type": Const, "DW_TAG_volatile_type": Volatile}.get(tag)
            return Typedef(name, of) if tag == _TYPEDEF else wrap(of) if wrap is not None else of
        return Int("long int", 8, True) if tag == "DW_TAG_ptr_to_member_type" else 0

    def _struct(self, die: Any, name: str) -> int:
        kind = Union if die.tag == "DW_TAG_union_type" else Struct
        self._ids[_place(die)] = number = self._add(Fwd(name, False))  # its pointers lead back to it
        members = [self._member(part) for part in _parts(die)]
        self._types[number - 1] = kind(name, _size(die), tuple(member for member in members if member is not None))
        return number

    def _member(self, part: Any) -> Member | None:
        """None: it is nowhere in the object (a static one), or where only the running program knows."""
        of = _type(part)
        at = _number(part, "DW_AT_data_bit_offset")
        bits = _number(part, "DW_AT_bit_size") or 0
        if at is None:
            attribute = part.attributes.get("DW_AT_data_member_location")
            if attribute is not None and not isinstance(attribute.value, int):
                return None
            at = 8 * attribute.value if attribute is not None else 0
            old = _number(part, "DW_AT_bit_offset")  # counted from the other end of the unit that holds it
            if old is not None:
                unit = _number(part, "DW_AT_byte_size") or (_size(_stripped(of)) if of is not None else 0)
                at += 8 * unit - old - bits
        base = part.tag == "DW_TAG_inheritance"  # in C++: its members are found as those of an anonymous struct
        return Member("" if base else _name(part), self._id(of), at, bits)

    def _array(self, die: Any) -> int:
        element = self._id(_type(die))
        index = self._index()
        counts = [_count(part) for part in die.iter_children() if part.tag == "DW_TAG_subrange_type"]
        for count in reversed(counts or [0]):
            element = self._add(Array(element, index, count))
        return element

    def _index(self) -> int:
        if "index" not in self._ids:
            self._ids["index"] = self._add(Int("unsigned int", 4, False))
        return self._ids["index"]


def _parts(die: Any) -> Iterator[Any]:
    """The members of a struct, and what it inherits from."""
    for part in die.iter_children():
        is_member = part.tag == "DW_TAG_member" and "DW_AT_external" not in part.attributes
        if is_member or part.tag == "DW_TAG_inheritance":
            yield part


def _place(die: Any) -> object:
    """What tells an entry from all others, those of another file too."""
    return id(die.dwarfinfo), die.offset


def _base(die: Any, name: str) -> Type | None:
    encoding, size = _number(die, "DW_AT_encoding"), _size(die)
    if encoding == _FLOAT:
        return Float(name, size)
    if encoding in (_COMPLEX, _DECIMAL):
        return None
    if size not in (1, 2, 4, 8, 16):
        return None
    return Int(name, size, encoding in (_SIGNED, _SIGNED_CHAR), encoding == _BOOL, encoding in _CHARS)


def _constants(die: Any) -> Iterator[tuple[str, int]]:
    for part in die.iter_children():
        value = _number(part, "DW_AT_const_value")
        if part.tag == "DW_TAG_enumerator" and value is not None:
            yield _name(part), value


def _count(subrange: Any) -> int:
    """How many elements; 0 where that is not settled when the program is compiled."""
    count = _number(subrange, "DW_AT_count")
    last = _number(subrange, "DW_AT_upper_bound")
    if count is None and last is not None and 0 <= last < (1 << 32) - 1:
        count = last + 1
    return count or 0


def _stripped(die: Any) -> Any:
    while die is not None and die.tag in _BY_VALUE:
        die = _type(die)
    return die


def _type(die: Any) -> Any:
    """The type that an entry has; None: void."""
    return die.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in die.attributes else None


def _name(die: Any) -> str:
    found = die.attributes.get("DW_AT_name")
    return found.value.decode(errors="replace") if found is not None else ""


def _number(die: Any, attribute: str) -> int | None:
    found = die.attributes.get(attribute)
    return found.value if found is not None and isinstance(found.value, int) else None


def _size(die: Any) -> int:
    return _number(die, "DW_AT_byte_size") or 0
