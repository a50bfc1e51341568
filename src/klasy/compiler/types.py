"""C's types at compile time: what an expression of an advice has, and C's rules for converting between them.

They come from BTF by :class:`Types`, one object for each, made when first asked for. They are compared by what they
mean: typedefs and qualifiers are looked through, but stay in ``name``, which messages show.

The rules are those of C on x86-64 Linux (LP64, little-endian, ``char`` signed): sizes 4 and 8 are the only ones that
arithmetic is done in, so INT, UINT, LONG and ULONG stand for all the types of those sizes.
"""

from __future__ import annotations

from klasy.btf import types as btf_types
from klasy.btf import walk
from klasy.kernel import member_macros
from klasy.lang.ast import TagKind
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from klasy.btf.btf import Btf
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import TypeRef
    from klasy.match.datum import DataType

POINTER_SIZE = 8


class CType:
    """A type. ``size`` in bytes, 0 where it has none. ``btf`` and ``type_id`` where it is from there."""

    __slots__ = ("_name", "btf", "size", "type_id")

    def __init__(self, size: int, name: str | None = None, btf: Btf | None = None, type_id: int = 0) -> None:
        self.size = size
        self.btf = btf
        self.type_id = type_id
        self._name = name

    @property
    def name(self) -> str:
        """The type as C writes it, with the typedefs and qualifiers it came by."""
        if self._name is None:
            assert self.btf is not None
            self._name = self.btf.c_name(self.type_id)
        return self._name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"


class Void(CType):
    """``void``."""


class Opaque(CType):
    """A type with a size and no arithmetic here: floating point, 128-bit integers."""


class Function(CType):
    """A function type."""


class String(CType):
    """A string of the language: ``comm``, ``str(p)``, a literal. ``size`` is the most bytes it can have, or 0."""


class Shown(CType):
    """What can only be logged: ``ip4(x)``, ``buf(p, n)``. ``name`` says what it is, with its article."""


class Incomplete(CType):
    """A struct or union of which only the name is known; ``tag`` is that name."""

    __slots__ = ("tag",)

    def __init__(self, name: str, tag: str) -> None:
        super().__init__(0, name)
        self.tag = tag


class Integer(CType):
    """An integer type, ``bool``, ``char`` and enumerations included. ``size`` is 1, 2, 4 or 8."""

    __slots__ = ("signed",)

    def __init__(
        self, size: int, signed: bool, name: str | None = None, *, btf: Btf | None = None, type_id: int = 0
    ) -> None:
        super().__init__(size, name, btf, type_id)
        self.signed = signed

    @property
    def bits(self) -> int:
        """Width in bits."""
        return 8 * self.size

    def holds(self, value: int) -> bool:
        """Whether a number is one of the type's values."""
        return self.wrap(value) == value

    def wrap(self, value: int) -> int:
        """A number converted to the type: modulo its width."""
        value &= (1 << self.bits) - 1
        return value - (1 << self.bits) if self.signed and value >> (self.bits - 1) else value


class Bool(Integer):
    """``bool``: what is converted to it becomes 0 or 1."""

    def wrap(self, value: int) -> int:
        """Whether the number is not zero."""
        return int(value != 0)


class Char(Integer):
    """Plain ``char``, of which arrays and pointers are strings."""


class Enum(Integer):
    """An enumeration."""


class Struct(CType):
    """A struct or union, complete."""

    __slots__ = ("is_union",)

    def __init__(self, size: int, btf: Btf, type_id: int, is_union: bool) -> None:
        super().__init__(size, None, btf, type_id)
        self.is_union = is_union


class Array(CType):
    """``count`` elements; a flexible array has count 0."""

    __slots__ = ("count", "element")

    def __init__(
        self, element: CType, count: int, name: str | None = None, btf: Btf | None = None, id: int = 0
    ) -> None:
        super().__init__(element.size * count, name, btf, id)
        self.element = element
        self.count = count


class Pointer(CType):
    """A pointer. What it points to is looked up when asked for: a kernel's types hang together."""

    __slots__ = ("_target",)

    def __init__(
        self, target: CType | Callable[[], CType], name: str | None = None, btf: Btf | None = None, id: int = 0
    ) -> None:
        super().__init__(POINTER_SIZE, name, btf, id)
        self._target = target

    @property
    def target(self) -> CType:
        """What it points to."""
        if not isinstance(self._target, CType):
            self._target = self._target()
        return self._target


VOID = Void(0, "void")
STRING = String(0, "string")
BOOL = Bool(1, False, "bool")
CHAR = Char(1, True, "char")
INT = Integer(4, True, "int")
UINT = Integer(4, False, "unsigned int")
LONG = Integer(8, True, "long")
ULONG = Integer(8, False, "unsigned long")
_BASIC: dict[str, CType] = {
    "void": VOID,
    "_Bool": BOOL,
    "char": CHAR,
    "signed char": Integer(1, True, "signed char"),
    "unsigned char": Integer(1, False, "unsigned char"),
    "short int": Integer(2, True, "short"),
    "short unsigned int": Integer(2, False, "unsigned short"),
    "int": INT,
    "unsigned int": UINT,
    "long int": LONG,
    "long unsigned int": ULONG,
    "long long int": Integer(8, True, "long long"),
    "long long unsigned int": Integer(8, False, "unsigned long long"),
}  # by BTF's spelling: no need to look these up

U64 = Integer(8, False, "u64")
U16 = Integer(2, False, "u16")
U32 = Integer(4, False, "u32")


def pointer_to(target: CType) -> Pointer:
    """A pointer to a type."""
    return Pointer(target, declare(target, "*"))


def declare(base: CType, declarator: str) -> str:
    """The name of a type built upon another: ``struct sk_buff *``, ``int *[4]``."""
    name = base.name
    if isinstance(base, Array | Function) and declarator.startswith("*"):
        return f"{name} {declarator}"
    return f"{name}{declarator}" if name.endswith("*") and declarator.startswith("*") else f"{name} {declarator}"


def same(a: CType, b: CType) -> bool:
    """Whether two types are one to C, typedefs and qualifiers aside."""
    if isinstance(a, Pointer) and isinstance(b, Pointer):
        return _alike(a.target, b.target)
    if isinstance(a, Array) and isinstance(b, Array):
        return a.count == b.count and _alike(a.element, b.element)
    if type(a) is not type(b):
        return False
    if isinstance(a, Integer) and isinstance(b, Integer):
        return a.size == b.size and a.signed == b.signed
    if isinstance(a, Struct) and isinstance(b, Struct):
        return _same_struct(a, b)
    if isinstance(a, Incomplete) and isinstance(b, Incomplete):
        return a.tag == b.tag
    return True


def _alike(a: CType, b: CType) -> bool:
    """The same of what lies in memory, where a plain ``char`` is one: of which sign it is its compiler chose."""
    return (isinstance(a, Char) and isinstance(b, Char)) or same(a, b)


def _same_struct(a: Struct, b: Struct) -> bool:
    assert a.btf is not None
    assert b.btf is not None
    if a.btf is b.btf:
        return a.btf.resolve(a.type_id) == b.btf.resolve(b.type_id)
    if a.size != b.size:
        return False
    from klasy.btf.alike import alike  # each module has its own copy of a type that several share

    return alike((a.btf, a.type_id), (b.btf, b.type_id))


# --- C's conversions ------------------------------------------------------------------------------------------------


def promoted(integer: Integer, bitfield_width: int = 0) -> Integer:
    """The integer promotions (C11 6.3.1.1): what fits an int becomes one. ``bitfield_width`` of a bit-field, else 0.

    A bit-field wider than an int keeps its declared type, as clang has it; gcc would keep its width.
    """
    width = bitfield_width or integer.bits
    if width < INT.bits:
        return INT
    if width == INT.bits:
        return INT if integer.signed else UINT
    return LONG if integer.signed else ULONG


def common(a: Integer, b: Integer) -> Integer:
    """The usual arithmetic conversions (C11 6.3.1.8) of two promoted types.

    With two sizes only, ranks come down to: the wider; of one width the unsigned.
    """
    if a.size != b.size:
        return a if a.size > b.size else b
    return b if a.signed else a


def literal_type(value: int, *, unsigned: bool, longs: int, decimal: bool) -> Integer | None:
    """The type of an integer constant (C11 6.4.4.1): the first of its list that holds it. None: it fits none."""
    candidates = [LONG, ULONG] if longs else [INT, UINT, LONG, ULONG]
    if unsigned:
        candidates = [c for c in candidates if not c.signed]
    elif decimal:
        candidates = [c for c in candidates if c.signed]
    return next((c for c in candidates if c.holds(value)), None)


# --- members --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A member in its struct, through anonymous ones. ``bit_offset`` from the start; ``bits`` 0: no bit-field."""

    type: CType
    bit_offset: int
    bits: int


class Types:
    """The types of a kernel, made from its BTF.

    ``near`` are the modules (None: the kernel proper) whose code the names stand in: what such a module defines for
    itself is meant before what the kernel calls so. ``mentioned`` gives the structs of the kernel proper that this code
    has to do with, by which several of one name are told apart. ``sure``: they are known; else matching failed.
    ``handed`` is what is collected for those who show values later: the types of modules in the fields of records, as
    BTF of their own.
    """

    of_program = False  # a user program's before the kernel's: a programtypes.ProgramTypes

    def __init__(
        self,
        kernel: Kernel,
        near: Iterable[str | None] = (),
        mentioned: Callable[[], Iterable[int]] = tuple,
        *,
        sure: bool = True,
    ) -> None:
        self.kernel = kernel
        self.near = tuple(sorted(set(near), key=lambda module: module or ""))
        self.sure = sure
        self.handed: dict[str, bytes] = {}
        self.mentioned = mentioned
        self.unsure: list[str] = []  # what is to be told of the name that was asked for last
        self._made: dict[tuple[int, int], CType] = {}

    def in_code(self, near: Iterable[str | None], mentioned: Callable[[], Iterable[int]]) -> Types:
        """The same types, as names in other code mean them."""
        other = Types(self.kernel, near, mentioned, sure=self.sure)
        other._made, other.handed, other.unsure = self._made, self.handed, self.unsure
        return other

    # --- from BTF

    def of(self, btf: Btf, type_id: int) -> CType:
        """The type with an id."""
        while btf.base is not None and type_id < btf.first:
            btf = btf.base
        key = (id(btf), type_id)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(btf, type_id)
        return made

    def _make(self, btf: Btf, type_id: int) -> CType:
        t = btf_types
        match btf.resolved(type_id):
            case t.Int() as found:
                return _integer(found, btf, type_id)
            case t.Enum() as found:
                return Enum(found.size, found.signed, btf=btf, type_id=type_id)
            case t.Ptr() as found:
                target = found.type_id
                return Pointer(lambda: self.of(btf, target), None, btf, type_id)
            case t.Array() as found:
                return Array(self.of(btf, found.type_id), found.count, None, btf, type_id)
            case t.Struct() as found:
                return Struct(found.size, btf, type_id, found.is_union)
            case t.Fwd() as found:
                return Incomplete(f"{'union' if found.is_union else 'struct'} {found.name}", found.name)
            case t.Float() as found:
                return Opaque(found.size, None, btf, type_id)
            case t.FuncProto() | t.Func():
                return Function(0, None, btf, type_id)
            case _:
                return Void(0, None, btf, type_id)

    def of_data(self, data: DataType) -> CType:
        """The type of a datum."""
        kind = self.of(data.btf, data.type_id)
        for _ in range(data.pointers):
            kind = pointer_to(kind)
        for count in reversed(data.counts):
            kind = Array(kind, count, f"{kind.name}[{count}]")
        return kind

    def shown(self, kind: CType) -> tuple[str | None, int]:
        """Whose type it is and its number there, as a record's field says it: see record.Field."""
        btf, type_id = kind.btf, kind.type_id
        if btf is None or type_id < btf.first or btf is self.kernel.btf:
            return None, type_id
        from zlib import crc32

        from klasy.btf.extract import ROOT, extract

        data = extract(btf, type_id)
        key = f"{btf.c_name(type_id)}:{crc32(data):08x}"
        self.handed[key] = data
        return key, ROOT

    # --- by name

    def written(self, ref: TypeRef) -> CType:
        """The type that was written. Raises match.typeref.TypeRefError where the kernel has none."""
        from klasy.match.typeref import NOT_LOADED, TypeRefError, canonical_basic, find_base

        basic = canonical_basic(ref.name) if ref.tag is TagKind.NONE else None
        found = self.char() if basic == "char" else _BASIC.get(basic or ref.name) or self.base_type(ref)
        if found is None:
            try:
                found = self.of(self.kernel.btf, find_base(self.kernel.btf, ref))
            except TypeRefError as error:
                raise error.with_hint(NOT_LOADED) from None
        for _ in range(ref.pointers):
            found = pointer_to(found)
        for count in reversed(ref.array):
            found = Array(found, count, f"{found.name}[{count}]")
        return found

    def char(self) -> Integer:
        """The plain ``char`` of the code that the advice runs in: the kernel's is unsigned from Linux 6.2 on."""
        return self._char_of(self.kernel.btf)

    def _char_of(self, btf: Btf) -> Integer:
        found = btf.find("char", btf_types.Int)
        made = self.of(btf, found[0]) if found else CHAR
        return made if isinstance(made, Char) else CHAR

    def base_type(self, ref: TypeRef) -> CType | None:
        """What was written, but for pointers and dimensions; None where there is none of that name.

        Raises match.typeref.TypeRefError where that means several types.
        """
        from klasy.match.typeref import NAMED, find_base

        btf = self.kernel.btf
        if not any(self.near) and btf.find(ref.name, *NAMED):
            found = self.of(btf, self._one_of(ref, find_base(btf, ref)))
            if not isinstance(found, Incomplete):
                return found
        from klasy.match.modules import meaning

        meant = meaning(self.kernel, ref, self.near, sure=self.sure)
        return self.of(meant.btf, meant.type_id) if meant is not None else None

    def _one_of(self, ref: TypeRef, first: int) -> int:
        """Of several types of the kernel proper with one name that which the functions at hand have to do with; else
        the ``first`` of them. Raises match.typeref.TypeRefError where they have to do with several.
        """
        btf = self.kernel.btf
        kind = btf.type(first)
        if not isinstance(kind, btf_types.Struct) or len(btf.find(kind.name, type(kind))) == 1:
            return first
        from klasy.match import modules

        found = modules.namesakes(self.kernel, first)
        if len(found) == 1:
            return first
        meant = modules.told_apart(ref, found, self.mentioned())
        if meant is None and self.sure:
            self.unsure.append(
                f"the kernel has {len(found)} different types '{btf.c_name(first)}' (of {modules.sizes(found)} bytes): "
                "the first is taken"
            )
        return meant.type_id if meant is not None else first

    def complete(self, incomplete: Incomplete) -> Struct | None:
        """The definition of a struct that was only declared where it was met, if there is exactly one."""
        is_union = incomplete.name.startswith("union")
        btf = self.kernel.btf
        found = [(btf, each) for each in btf.find(incomplete.tag, btf_types.Union if is_union else btf_types.Struct)]
        if not found:
            from klasy.match.modules import definitions

            found = definitions(self.kernel, incomplete.tag, is_union)
        if len(found) != 1:
            return None
        struct = self.of(*found[0])
        assert isinstance(struct, Struct)
        return struct

    def constant(self, name: str) -> tuple[int, Enum] | None:
        """The enumeration constant of a name: its value and its enumeration. What the modules whose code it stands in
        call so comes first, then the kernel's, then other modules'. None also where several give it different values.
        """
        for places in self.constant_places():
            found = [(value, btf, each) for btf in places for each, value in btf.find_constant(name)]
            found = [one for one in found if one[2] >= one[1].first]
            if found:
                value, btf, each = found[0]
                enum = self.of(btf, each)
                assert isinstance(enum, Enum)
                return (value, enum) if len({value for value, _, _ in found}) == 1 or btf.base is None else None
        return None

    def macro(self, name: str) -> tuple[int, Integer] | None:
        """The number that a macro of the kernel's headers stands for, and its type; None of those not known."""
        if not name.isupper():
            return None
        from klasy.kernel import macros

        found = macros.find(name, self.kernel)
        if found is None:
            return None
        value, suffix = found
        kind = literal_type(value, unsigned="U" in suffix, longs=suffix.count("L"), decimal=False)
        assert kind is not None
        return value, kind

    def has_constant(self, name: str) -> bool:
        """Whether a name is that of a constant, an enumeration's or a macro."""
        return self.constant(name) is not None or self.macro(name) is not None

    def constant_places(self) -> Iterable[list[Btf]]:
        """Where constants are looked for, in turn."""
        modules = [module for module in self.near if module is not None]
        yield self._of_modules(modules)
        yield [self.kernel.btf]
        yield self._of_modules(sorted(set(self.kernel.modules()).difference(modules)))

    def _of_modules(self, modules: Iterable[str]) -> list[Btf]:
        return [btf for btf in map(self.kernel.module_btf, modules) if btf is not None]

    # --- members

    def member(self, struct: Struct, name: str) -> Member | None:
        """The member that ``.name`` reaches, or that a macro of the kernel's headers names so."""
        btf = struct.btf
        assert btf is not None
        place = walk.find_member(btf, struct.type_id, name) or member_macros.find(btf, struct.type_id, name)
        if place is None:
            return None
        return Member(self.of(btf, place.type_id), place.bit_offset, place.bitfield_size)

    def member_names(self, struct: Struct) -> list[str]:
        """All names that ``.`` reaches, macros behind."""
        assert struct.btf is not None
        names = walk.member_names(struct.btf, struct.type_id)
        return names + [n for n in member_macros.names(struct.btf, struct.type_id) if n not in names]


def _integer(found: btf_types.Int, btf: Btf, type_id: int) -> CType:
    if found.size not in (1, 2, 4, 8):
        return Opaque(found.size, None, btf, type_id)
    cls: type[Integer] = Integer
    if found.is_bool or found.name == "_Bool":
        cls = Bool
    elif found.name == "char":
        cls = Char
    return cls(found.size, found.signed, btf=btf, type_id=type_id)
