"""Which registers and stack slots hold pointers to structs at which addresses: what debug information tells of a
function's variables and parameters, those of what was inlined into it and of its blocks included.

Only the unit that a function is of is read, and of that its row of functions (0.01 s) and the function. Where a
variable is computed from anything but one register, lies in pieces, or is known only as what the function was given
(an entry value), no register holds it, and nothing is told.
"""

from __future__ import annotations

import struct

from klasy.dwarf import units as dw
from klasy.dwarf.elf import DwarfError
from klasy.kernel.inlined import Whereabouts, evaluate
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klasy.dwarf.units import Entry, Unit
    from klasy.kernel.dwarf_source import ObjectDebug

FRAME = "frame"  # in the place of a register: the stack pointer's value before the call of the function
_FBREG, _CALL_FRAME = 0x91, b"\x9c"
_QUALIFIERS = (dw.CONST, dw.VOLATILE, dw.RESTRICT, dw.TYPEDEF)
_SCOPES = (dw.LEXICAL_BLOCK, dw.INLINED)
_VARIABLES = (dw.VARIABLE, dw.FORMAL_PARAMETER)
_DEEPEST = 64  # types of types
_EVERYWHERE = (0, 1 << 64)


class StructType(NamedTuple):
    """A struct or union: ``tag`` says which, ``size`` is in bytes, None where the unit only declares it. ``unit`` and
    ``entry`` are where it is described."""

    name: str
    tag: str
    size: int | None
    unit: int
    entry: int


class Held(NamedTuple):
    """A variable that points to a struct. From ``low`` up to ``high``, as linked, its value is at ``where``, whose
    register may be ``FRAME``."""

    name: str
    target: StructType
    low: int
    high: int
    where: Whereabouts


class Variables:
    """The variables of an object's functions. Questions raise DwarfError where the file is not as the format says."""

    def __init__(self, debug: ObjectDebug) -> None:
        self._debug = debug
        self.shift = debug.shift  # of the running kernel's addresses
        self._functions: dict[int, dict[int, int]] = {}
        self._targets: dict[tuple[int, int], StructType | None] = {}

    def pointers(self, address: int) -> list[Held]:
        """The pointers to structs of the function that begins at an address of the running kernel."""
        place = address - self._debug.shift
        offset = dw.holder(self._debug.ranges, place)
        if offset is None:
            return []
        unit = self._debug.unit(offset)
        if offset not in self._functions:
            self._functions[offset] = _functions(unit)
        entry = self._functions[offset].get(place)
        if entry is None:
            return []
        try:
            return list(self._held(unit, unit.entry(entry)))
        except (IndexError, struct.error):
            raise DwarfError("where a variable is, is damaged") from None

    def members(self, target: StructType) -> list[tuple[str, int]]:
        """The members of a struct but bit-fields, each with its offset."""
        unit = self._debug.unit(target.unit)
        return [
            (unit.string(child, dw.NAME) or "", child.number(dw.DATA_MEMBER_LOCATION) or 0)
            for child in unit.children(unit.entry(target.entry))
            if child.tag == dw.MEMBER and (target.tag == "union" or dw.DATA_MEMBER_LOCATION in child.attributes)
        ]

    def _held(self, unit: Unit, function: Entry) -> Iterator[Held]:
        frame = function.attributes.get(dw.FRAME_BASE, (0, b""))[1] == _CALL_FRAME
        scopes = [function]
        at = function.end if function.children else 0
        while scopes and at:
            entry = unit.entry(at)
            at = entry.end
            if entry.tag == 0:
                scopes.pop()
            elif entry.tag in _VARIABLES:
                yield from self._of_variable(unit, entry, scopes[-1], frame)
                at = unit.next(entry)
            elif entry.children:
                if entry.tag in _SCOPES:
                    scopes.append(entry)
                else:
                    at = unit.next(entry)  # of a call: what is given to it

    def _of_variable(self, unit: Unit, entry: Entry, scope: Entry, frame: bool) -> Iterator[Held]:
        if dw.LOCATION not in entry.attributes:
            return
        origin = unit.referred(entry, dw.ABSTRACT_ORIGIN) or entry
        target = self._pointee(unit, origin)
        if target is None:
            return
        name = unit.string(origin, dw.NAME) or ""
        for low, high, expression in unit.locations(entry):
            where = _where(expression, frame) if low < high else None
            if where is None:
                continue
            for start, end in unit.ranges(scope) if (low, high) == _EVERYWHERE else [(low, high)]:
                yield Held(name, target, start, end, where)

    def _pointee(self, unit: Unit, variable: Entry) -> StructType | None:
        """The struct that a variable points to; None: it points to none, or to pointers."""
        kind = variable.number(dw.TYPE)
        if kind is None:
            return None
        key = unit.offset, kind
        if key not in self._targets:
            pointer = _unqualified(unit, unit.referred(variable, dw.TYPE))
            found = None
            if pointer is not None and pointer.tag == dw.POINTER:
                target = _unqualified(unit, unit.referred(pointer, dw.TYPE))
                name = unit.string(target, dw.NAME) if target is not None else None
                if target is not None and name and target.tag in (dw.STRUCT, dw.UNION):
                    tag = "struct" if target.tag == dw.STRUCT else "union"
                    found = StructType(name, tag, target.number(dw.BYTE_SIZE), unit.offset, target.offset)
            self._targets[key] = found
        return self._targets[key]


def _functions(unit: Unit) -> dict[int, int]:
    """The entries of a unit's functions by the addresses at which these begin: of one in pieces, each piece's."""
    return {
        low: entry.offset
        for entry in unit.children(unit.top)
        if entry.tag == dw.SUBPROGRAM and entry.children
        for low, _ in unit.ranges(entry)
    }


def _unqualified(unit: Unit, entry: Entry | None) -> Entry | None:
    for _ in range(_DEEPEST):
        if entry is None or entry.tag not in _QUALIFIERS:
            return entry
        entry = unit.referred(entry, dw.TYPE)
    return None


def _where(expression: bytes, frame: bool) -> Whereabouts | None:
    """Where a variable's value is, if one register or one slot beside one has it."""
    if not expression:
        return None
    if expression[0] == _FBREG:
        offset, end = dw.sleb(expression, 1)
        return Whereabouts(FRAME, (offset,), 8) if frame and end == len(expression) else None
    found = evaluate(expression)
    return found if isinstance(found, Whereabouts) and found.register and len(found.offsets) == 1 else None
