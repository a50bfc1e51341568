"""Inlined copies of functions, as debug information has them: where each begins, and where its parameters are there.

No table names inlined functions. Theirs is a string, of which each entry holds the place; so is each copy's entry a
reference to the function's. Both are sought as bytes among the units' (a quarter of a second for a kernel's 170 MB),
and what is found is read as an entry and held against all that must be true of one: its shape, its reference, and that
it begins in text of its unit. So nothing is taken for a copy that is none.
"""

from __future__ import annotations

import marshal
import struct

from klasy.dwarf import units as dw
from klasy.dwarf.elf import DwarfError
from klasy.dwarf.units import encode_uleb, holder
from klasy.kernel import caches
from klasy.plain import TYPE_CHECKING, NamedTuple, suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from klasy.dwarf.units import Abbreviation, Entry, Unit
    from klasy.kernel.dwarf_source import ObjectDebug

# DWARF's numbers of the registers of x86-64 (System V ABI, figure 3.36), as arch_x86_64 calls them.
_REGISTERS = ["ax", "dx", "cx", "bx", "si", "di", "bp", "sp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
_ADDR, _DEREF, _PLUS_UCONST, _STACK_VALUE, _IMPLICIT_VALUE, _FBREG = 0x03, 0x06, 0x23, 0x9F, 0x9E, 0x91
_REG0, _BREG0, _LIT0 = 0x50, 0x70, 0x30
_ENTRY_VALUES = (0xA3, 0xF3)
_CONSTANTS = {0x08: (1, False), 0x09: (1, True), 0x0A: (2, False), 0x0B: (2, True), 0x0C: (4, False), 0x0D: (4, True),
              0x0E: (8, False), 0x0F: (8, True)}  # fmt: skip
_CONSTU, _CONSTS = 0x10, 0x11
_SHORT = 4  # names of fewer letters stand in the entries themselves
_MOST_FUNCTIONS = 4096
_VERSION, _MOST_KEPT = 1, 256  # of what is kept: its form, and how many names
_BY_VALUE = "it is a struct by value, which is in pieces"


class Whereabouts(NamedTuple):
    """Where a value is: that of ``register`` (None: 0) plus the first of ``offsets``; for each further one the 8 bytes
    there, plus it. ``load`` bytes there then are the value; 0: that is the value itself."""

    register: str | None
    offsets: tuple[int, ...]
    load: int = 0


class Parameter(NamedTuple):
    """A parameter: its name, and the type as (base, tag, pointers): ``("sk_buff", "struct", 1)``; tag ``""``: a typedef
    or basic type."""

    name: str
    type: tuple[str, str, int]


class Copy(NamedTuple):
    """One inlined copy. ``places``: where each parameter is when control comes to ``address``, or why not."""

    address: int
    places: tuple[Whereabouts | str, ...]


class Inlined(NamedTuple):
    """A function of the source with its copies in one unit."""

    name: str
    params: tuple[Parameter, ...]
    result: tuple[str, str, int]
    variadic: bool
    copies: tuple[Copy, ...]


def remembered(debug: ObjectDebug, name: str) -> list[Inlined]:
    """The same as ``inlined``, kept for later: it is asked of every function that an aspect names."""
    kept = caches.load(f"inlined-{debug.key}", _VERSION) if debug.key else None
    known: dict[tuple[int, str], Any] = {}
    if kept is not None:
        with suppress(ValueError, EOFError, TypeError):
            known = marshal.loads(kept)
            if (debug.shift, name) in known:
                return [_thawed(*each) for each in known[debug.shift, name]]
    found = inlined(debug, name)
    if debug.key:
        others = [item for item in known.items() if item[0][0] == debug.shift][1 - _MOST_KEPT :]  # of this boot
        frozen = [(f.name, [tuple(p) for p in f.params], f.result, f.variadic, _frozen(f.copies)) for f in found]
        caches.store(f"inlined-{debug.key}", _VERSION, marshal.dumps({**dict(others), (debug.shift, name): frozen}))
    return found


def _frozen(copies: Iterable[Copy]) -> list[tuple[int, list[Any]]]:
    return [(c.address, [tuple(p) if isinstance(p, Whereabouts) else p for p in c.places]) for c in copies]


def _thawed(name: str, params: Any, result: Any, variadic: bool, copies: Any) -> Inlined:
    made = tuple(Copy(a, tuple(p if isinstance(p, str) else Whereabouts(*p) for p in places)) for a, places in copies)
    return Inlined(name, tuple(Parameter(*param) for param in params), result, variadic, made)


def inlined(debug: ObjectDebug, name: str) -> list[Inlined]:
    """The functions of a name of which there are inlined copies, one for each unit. Raises DwarfError."""
    found = []
    for offset, origins in _functions(debug, name).items():
        unit = debug.unit(offset)
        for origin in origins:
            copies = tuple(_copies(debug, unit, origin))
            if copies:
                found.append(_described(unit, name, origin, copies))
    return found


# --- the functions


def _functions(debug: ObjectDebug, name: str) -> dict[int, list[Entry]]:
    """The entries of functions of a name that may be inlined, by the places of their units."""
    if len(name) < _SHORT:
        return _entries_with(debug, name, name.encode() + b"\0", False)
    text = name.encode() + b"\0"
    strings = debug.elf.section(".debug_str")
    places = strings.find_all(text)
    # The linker keeps a string that ends another in that other only, always the same. Which one it takes is no rule of
    # the format: those that are likelier come first, and the first that any function's name is at is it.
    places.sort(key=lambda place: strings.cut(max(0, place - 64), place).rpartition(b"\0")[2][::-1])
    for place in places:
        found = _entries_with(debug, name, struct.pack("<I", place), True)
        if found:
            return found
    return {}


def _entries_with(debug: ObjectDebug, name: str, pattern: bytes, indirect: bool) -> dict[int, list[Entry]]:
    found: dict[int, list[Entry]] = {}
    number = 0
    for place in debug.elf.section(".debug_info").find_all(pattern):
        offset = debug.unit_holding(place).offset
        unit = debug.unit(offset)
        if not offset < place < unit.end:
            continue
        for abbreviation in unit.abbreviations.values():
            if abbreviation.tag != dw.SUBPROGRAM:
                continue
            before = abbreviation.before(dw.NAME)
            if before is None or (before[0] == dw.STRP) != indirect:
                continue
            entry = _entry_at(unit, place - offset - before[1], abbreviation)
            if entry is not None and dw.IS_INLINE in entry.attributes and unit.string(entry, dw.NAME) == name:
                found.setdefault(offset, []).append(entry)
                number += 1
        if number > _MOST_FUNCTIONS:
            raise DwarfError(f"more than {_MOST_FUNCTIONS} functions are called '{name}'")
    return found


def _entry_at(unit: Unit, behind_code: int, abbreviation: Abbreviation) -> Entry | None:
    """The entry of a shape whose attributes begin at a place, if one does."""
    code = encode_uleb(abbreviation.code)
    offset = behind_code - len(code)
    if offset < unit.first or unit.data[offset:behind_code] != code:
        return None
    with suppress(DwarfError):
        return unit.entry(offset)
    return None


# --- their copies


def _copies(debug: ObjectDebug, unit: Unit, origin: Entry) -> Iterator[Copy]:
    number = sum(child.tag == dw.FORMAL_PARAMETER for child in unit.children(origin))
    order = {c.offset: i for i, c in enumerate(c for c in unit.children(origin) if c.tag == dw.FORMAL_PARAMETER)}
    shapes = [a for a in unit.abbreviations.values() if a.tag == dw.INLINED]
    reference = struct.pack("<I", origin.offset)
    at = unit.data.find(reference)
    seen = set()
    while at >= 0:
        for shape in shapes:
            before = shape.before(dw.ABSTRACT_ORIGIN)
            if before is None or before[0] != dw.REF4:
                continue
            entry = _entry_at(unit, at - before[1], shape)
            if entry is None or entry.number(dw.ABSTRACT_ORIGIN) != origin.offset:
                continue
            address = None
            with suppress(DwarfError):  # these bytes are something else
                address = _beginning(unit, entry)
            if address is None or address in seen or holder(debug.ranges, address) != unit.offset:
                continue
            seen.add(address)
            view = entry.number(dw.GNU_ENTRY_VIEW)
            places: list[Whereabouts | str] = ["it was left out there"] * number
            for child in unit.children(entry):
                if child.tag != dw.FORMAL_PARAMETER:
                    break  # they come first
                index = order.get(child.number(dw.ABSTRACT_ORIGIN) or 0)
                if index is not None:
                    places[index] = _whereabouts(unit, child, (address, view), debug.shift)
            yield Copy(address + debug.shift, tuple(places))
        at = unit.data.find(reference, at + 1)


def _beginning(unit: Unit, entry: Entry) -> int | None:
    """Where control enters a copy, as linked."""
    found = unit.address(entry, dw.ENTRY_PC)
    ranges = unit.ranges(entry)
    if found is None and dw.ENTRY_PC in entry.attributes and ranges:
        relative = entry.number(dw.ENTRY_PC)  # to the lowest address: DWARF 5, 2.18
        found = None if relative is None else min(low for low, _ in ranges) + relative
    if found is None:
        low = unit.address(entry, dw.LOW_PC)
        found = low if low is not None else (ranges[0][0] if ranges else None)
    # A copy of which nothing is left where it begins has an empty range there.
    return found if found is not None and any(low <= found < max(high, low + 1) for low, high in ranges) else None


def _whereabouts(unit: Unit, parameter: Entry, point: tuple[int, int | None], shift: int) -> Whereabouts | str:
    constant = parameter.attributes.get(dw.CONST_VALUE)
    if constant is not None:
        form, value = constant
        if isinstance(value, int):
            return Whereabouts(None, (value,)) if form in dw.CONSTANTS else "it is a constant of a kind not known here"
        return Whereabouts(None, (int.from_bytes(value[:8], "little"),))
    expression = unit.location(parameter, *point)
    if not expression:
        return "the compiler kept it nowhere there"
    try:
        return evaluate(expression, shift)
    except (IndexError, struct.error):
        raise DwarfError("where a variable is, is damaged") from None


def evaluate(code: bytes, shift: int = 0) -> Whereabouts | str:
    """Where the value is that an expression describes; or why that cannot be followed at run time."""
    first = code[0]
    if first in _ENTRY_VALUES:
        return "there it is known only as what a register was when the function around it was entered"
    if _REG0 <= first < _REG0 + 16:
        if len(code) > 1:
            return "it is in several pieces there"
        return Whereabouts(_REGISTERS[first - _REG0], (0,))
    register, value, at = _start(code, shift)
    if at < 0:
        return "it is on the stack there, at a distance from the frame that is not followed" if first == _FBREG else (
            "how it is computed there is not followed"
        )  # fmt: skip
    offsets = [value]
    while at < len(code):
        op = code[at]
        at += 1
        if op == _PLUS_UCONST:
            plus, at = dw.uleb(code, at)
            offsets[-1] += plus
        elif op == _DEREF:
            offsets.append(0)
        elif op == _STACK_VALUE and at == len(code):
            return Whereabouts(register, tuple(offsets))
        else:
            return "how it is computed there is not followed"
    if first == _IMPLICIT_VALUE:
        return Whereabouts(None, tuple(offsets))
    return Whereabouts(register, tuple(offsets), 8)


def _start(code: bytes, shift: int) -> tuple[str | None, int, int]:
    """The register and the number that an expression begins with, and where it goes on; -1: it begins otherwise."""
    first = code[0]
    if _BREG0 <= first < _BREG0 + 16:
        value, at = dw.sleb(code, 1)
        return _REGISTERS[first - _BREG0], value, at
    if _LIT0 <= first < _LIT0 + 32:
        return None, first - _LIT0, 1
    if first in _CONSTANTS:
        size, signed = _CONSTANTS[first]
        return None, int.from_bytes(code[1 : 1 + size], "little", signed=signed), 1 + size
    if first in (_CONSTU, _CONSTS):
        return None, *(dw.uleb if first == _CONSTU else dw.sleb)(code, 1)
    if first == _ADDR:
        return None, int.from_bytes(code[1:9], "little") + shift, 9
    if first == _IMPLICIT_VALUE:
        size, at = dw.uleb(code, 1)
        return None, int.from_bytes(code[at : at + min(size, 8)], "little"), at + size
    return None, 0, -1


# --- prototypes


def _described(unit: Unit, name: str, origin: Entry, copies: tuple[Copy, ...]) -> Inlined:
    params = []
    variadic = False
    for child in unit.children(origin):
        if child.tag == dw.FORMAL_PARAMETER:
            params.append(Parameter(unit.string(child, dw.NAME) or "", _type(unit, child)))
        variadic |= child.tag == dw.UNSPECIFIED_PARAMETERS
    whole = [param.type[1] in ("struct", "union") and not param.type[2] for param in params]
    if any(whole):
        copies = tuple(
            Copy(c.address, tuple(_BY_VALUE if w else p for w, p in zip(whole, c.places, strict=True))) for c in copies
        )
    return Inlined(name, tuple(params), _type(unit, origin), variadic, copies)


_TAGS = {dw.STRUCT: "struct", dw.UNION: "union", dw.ENUM: "enum"}


def _type(unit: Unit, entry: Entry) -> tuple[str, str, int]:
    """The type of an entry; qualifiers are left out."""
    pointers = 0
    for _ in range(64):  # deeper than any type is
        entry_or_none = unit.referred(entry, dw.TYPE)
        if entry_or_none is None:
            return ("void", "", pointers) if dw.TYPE not in entry.attributes else ("", "", pointers)
        entry = entry_or_none
        if entry.tag in (dw.POINTER, dw.ARRAY):
            pointers += 1
        elif entry.tag not in (dw.CONST, dw.VOLATILE, dw.RESTRICT):
            return unit.string(entry, dw.NAME) or "", _TAGS.get(entry.tag, ""), pointers
    return "", "", pointers
