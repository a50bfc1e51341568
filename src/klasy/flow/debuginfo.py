"""What debug information adds to the inference: which values are variables that point to structs.

The location lists of a function's variables say which register or stack slot holds one at which addresses
(``kernel.variables``). Where an instruction accesses memory through such a register, hands one to a call, or loads such
a slot, and where a block begins, the symbol there points to what the variable does: the same value has the same type
wherever it is. Where a symbol is several variables that cannot all be right, as a ``void *`` that is cast to one or
another struct, each access goes by those that are there. What is made of the rest, ``Inference._with_fact`` says.
Structs that lie on the stack themselves are not told of: accesses by the stack pointer are no join points.

Types are those of BTF: the one of the same name, kind and size; of several, the one with the same members. Where that
leaves a choice, nothing is said. Without debug information, or where it cannot be read, all is as without this module.
"""

from __future__ import annotations

from bisect import bisect_right

from klasy.btf.types import Struct, Union
from klasy.dwarf.elf import DwarfError
from klasy.flow import decode as d
from klasy.flow import state
from klasy.flow.state import SHIFT, constant_of
from klasy.kernel.variables import FRAME, Variables
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from klasy.flow.cfg import Unit
    from klasy.flow.members import Place, Types
    from klasy.flow.seeds import Seeds
    from klasy.flow.transfer import Flow
    from klasy.kernel.image import KernelImage
    from klasy.kernel.inlined import Whereabouts
    from klasy.kernel.variables import StructType

    Key = tuple[int, int | None]  # a register; or with a distance from it, the slot there
    Span = tuple[int, int, Place, str]  # from where to where in the text, what is pointed to, the variable's name

_NUMBERS = {name: number for number, name in enumerate(d.REGISTERS)}
_FRAME = -1  # in the place of a register: what the stack pointer was at the function's entry
_RETURN_ADDRESS = 8  # bytes: what a call puts between the caller's frame and there
_ARGUMENTS = (d.DI, d.SI, d.DX, d.CX, 8, 9)
_MOST_FACTS = 256  # functions; those that have no prototype are asked for again with their callers
# What is read of a module's file, and relocated once for all who look at the module.
_SECTIONS = (
    *(".debug_info", ".debug_abbrev", ".debug_str", ".debug_addr"),
    *(".debug_loclists", ".debug_rnglists", ".debug_loc", ".debug_ranges"),
)


class Facts:
    """What is known of one function's variables, by where they are."""

    def __init__(self, spans: dict[Key, list[Span]]) -> None:
        self._spans = {key: sorted(found) for key, found in spans.items()}
        self._starts = {key: [span[0] for span in found] for key, found in self._spans.items()}

    def __bool__(self) -> bool:
        return bool(self._spans)

    @property
    def targets(self) -> frozenset[int]:
        """The structs that some variable points to."""
        return frozenset(span[2][0] for found in self._spans.values() for span in found)

    def of_symbols(self, flow: Flow, types: Types) -> dict[int, tuple[Place, str]]:
        """The symbols of a function that are variables, each with what it points to, and the variable's name."""
        offered = self._offered(flow)
        agreed = {symbol: _agreed(types, places) for symbol, places in offered.items()}
        return {symbol: (place, offered[symbol][place]) for symbol, place in agreed.items() if place is not None}

    def at(self, register: int, place: int, types: Types) -> tuple[Place, str] | None:
        """What a register points to before the instruction at a place of the text, and the name of a variable that says
        so: by the variables that it is there alone."""
        here = {target: name for target, name in self._live((register, None), place)}
        agreed = _agreed(types, here) if here else None
        return (agreed, here[agreed]) if agreed is not None else None

    def _live(self, key: Key, place: int) -> Iterator[tuple[Place, str]]:
        starts = self._starts.get(key)
        if starts is not None:
            for low, high, target, name in self._spans[key][: bisect_right(starts, place)]:
                if low <= place < high:
                    yield target, name

    def _offered(self, flow: Flow) -> dict[int, dict[Place, str]]:
        """What symbols would point to by each of the variables that they are."""
        unit, at = flow.unit, flow.unit.at
        found: dict[int, dict[Place, str]] = {}

        def note(key: Key, place: int, number: int) -> None:
            if number >> SHIFT >= state.FIRST:
                for (type_id, offset), name in self._live(key, place):
                    there = type_id, offset - constant_of(number)
                    found.setdefault(number >> SHIFT, {}).setdefault(there, name)

        for here, address, _, _, _, register, added in flow.accesses:
            note((register, None), at[here], address - added)
        for here, _, _, arguments in flow.calls:
            for register, number in zip(_ARGUMENTS, arguments, strict=True):
                note((register, None), at[here], number)
        for here, slot, number in flow.reloads:
            note((_FRAME, slot), at[here], number)
            m = unit.ops[here][4]
            if m is not None and m[0] == d.SP:
                note((d.SP, m[3]), at[here], number)
        registers = [register for register, distance in self._spans if distance is None]
        for place, (held, _) in flow.entered.items():
            for register in registers:
                note((register, None), place, held[register])
        return found


def _agreed(types: Types, offered: Mapping[Place, str]) -> Place | None:
    """Of what several variables say that a value points to, the object that all others are parts of, if there is one.

    An object that lies before or behind (what ``netdev_priv`` finds), or in an array of bytes (``TCP_SKB_CB``), is one
    of its own: then that is left which the value points into.
    """
    if len(offered) == 1:
        return next(iter(offered))
    whole = [place for place in offered if all(types.larger(place, other) == place for other in offered)]
    if not whole:
        whole = [
            place
            for place in offered
            if 0 <= place[1] < types.size(place[0])
            and all(types.larger(place, other) == place or types.beside(place, other) for other in offered)
        ]
    return whole[0] if len(whole) == 1 else None


class DebugFacts:
    """The facts of a kernel's functions, as far as debug information is installed."""

    def __init__(self, kernel: KernelImage, seeds: Seeds) -> None:
        self._kernel = kernel
        self._seeds = seeds
        self._variables: dict[str | None, Variables | None] = {}
        self._ids: dict[tuple[str | None, str, str, int | None], int] = {}
        self._facts: dict[int, Facts] = {}

    def prepare(self, modules: Iterable[str | None]) -> None:
        """Read now what workers of these objects would each read for themselves."""
        for module in modules:
            self._of_object(module)

    def _of_object(self, module: str | None) -> Variables | None:
        if module not in self._variables:
            debug = self._kernel.debug_of(module)
            self._variables[module] = Variables(debug) if debug is not None else None
            if debug is not None:
                try:
                    _ = debug.ranges
                    for name in _SECTIONS if debug.elf.relocatable else ():
                        debug.elf.section(name)
                except DwarfError:
                    self._variables[module] = None
        return self._variables[module]

    def of(self, unit: Unit) -> Facts:
        """What is known of a function's variables."""
        address = unit.text.base + unit.start
        found = self._facts.get(address)
        if found is None:
            if len(self._facts) >= _MOST_FACTS:
                self._facts.clear()
            found = self._facts[address] = Facts(self._spans(unit, address))
        return found

    def _spans(self, unit: Unit, address: int) -> dict[Key, list[Span]]:
        module = unit.text.module
        variables = self._of_object(module)
        if variables is None:
            return {}
        spans: dict[Key, list[Span]] = {}
        try:
            for held in variables.pointers(address):
                type_id = self._type_id(module, variables, held.target)
                if type_id:
                    key, distance = _key(held.where)
                    low, high = (place + variables.shift - unit.text.base for place in (held.low, held.high))
                    spans.setdefault(key, []).append((low, high, (type_id, -distance), held.name))
        except DwarfError:
            return {}
        return spans

    def _type_id(self, module: str | None, variables: Variables, target: StructType) -> int:
        """The type of BTF that is a struct of debug information; 0 where it has none, or which one is not clear."""
        key = module, target.name, target.tag, target.size
        found = self._ids.get(key)
        if found is None:
            types = self._seeds.types_of(module)
            same = self._same(types, target)
            if len(same) > 1:
                return self._by_members(types, same, variables, target)  # of this unit alone
            found = self._ids[key] = same.pop() if same else 0
        return found

    @staticmethod
    def _same(types: Types, target: StructType) -> set[int]:
        ids = types.btf.find(target.name, Struct if target.tag == "struct" else Union)
        return {types.canonical(found) for found in ids if target.size in (None, types.size(found))}

    @staticmethod
    def _by_members(types: Types, ids: set[int], variables: Variables, target: StructType) -> int:
        members = variables.members(target)
        found = []
        for type_id in ids:
            kind = types.btf.type(type_id)
            assert isinstance(kind, Struct)
            if [(m.name, m.bit_offset // 8) for m in kind.members if not m.bitfield_size] == members:
                found.append(type_id)
        return found[0] if len(found) == 1 else 0


def _key(where: Whereabouts) -> tuple[Key, int]:
    """Where a variable is, as ``Facts`` asks for it, and what is added to the register there to have its value."""
    (offset,) = where.offsets
    if where.register == FRAME:
        return (_FRAME, offset + _RETURN_ADDRESS), 0
    register = _NUMBERS[where.register or ""]
    return ((register, offset), 0) if where.load else ((register, None), offset)
