"""The types that BTF describes. They refer to each other by id, with which :class:`klasy.btf.btf.Btf` finds them."""

from __future__ import annotations

from klasy.btf import read
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Type:
    """Base of the types."""

    kinds: ClassVar[tuple[int, ...]] = ()  # the BTF kinds the class stands for


@dataclass(frozen=True, slots=True)
class Void(Type):
    """No type: id 0."""


@dataclass(frozen=True, slots=True)
class Int(Type):
    """An integer type. ``size`` in bytes.

    ``bits`` is less than 8 * size only for old-style bit-fields, which begin ``offset`` bits into the integer.
    """

    kinds = (read.INT,)
    name: str
    size: int
    signed: bool
    is_bool: bool = False
    is_char: bool = False
    bits: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Float(Type):
    """A floating-point type. ``size`` in bytes."""

    kinds = (read.FLOAT,)
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Ptr(Type):
    """A pointer to ``type_id``."""

    kinds = (read.PTR,)
    type_id: int


@dataclass(frozen=True, slots=True)
class Array(Type):
    """``count`` elements of ``type_id``. A flexible array has count 0."""

    kinds = (read.ARRAY,)
    type_id: int
    index_type_id: int
    count: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union: ``bit_offset`` from its start; ``bitfield_size`` in bits, 0 for no bit-field.

    ``name`` is empty for an anonymous struct or union, whose members count as the outer one's, and for padding.
    """

    name: str
    type_id: int
    bit_offset: int
    bitfield_size: int = 0


@dataclass(frozen=True, slots=True)
class Struct(Type):
    """A struct; also base of ``Union``. ``size`` in bytes. ``name`` is the tag, empty if there is none."""

    kinds = (read.STRUCT,)
    name: str
    size: int
    members: tuple[Member, ...]

    @property
    def is_union(self) -> bool:
        """Whether it is a union."""
        return False


@dataclass(frozen=True, slots=True)
class Union(Struct):
    """A union."""

    kinds = (read.UNION,)

    @property
    def is_union(self) -> bool:
        """Whether it is a union."""
        return True


@dataclass(frozen=True, slots=True)
class Enum(Type):
    """An enumeration. ``size`` in bytes, ``values`` in the order of declaration."""

    kinds = (read.ENUM, read.ENUM64)
    name: str
    size: int
    signed: bool
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Fwd(Type):
    """A struct or union of which only the name is known."""

    kinds = (read.FWD,)
    name: str
    is_union: bool = False


@dataclass(frozen=True, slots=True)
class Typedef(Type):
    """Another name for ``type_id``."""

    kinds = (read.TYPEDEF,)
    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class Volatile(Type):
    """``volatile`` of ``type_id``."""

    kinds = (read.VOLATILE,)
    type_id: int


@dataclass(frozen=True, slots=True)
class Const(Type):
    """``const`` of ``type_id``."""

    kinds = (read.CONST,)
    type_id: int


@dataclass(frozen=True, slots=True)
class Restrict(Type):
    """``restrict`` of ``type_id``, a pointer."""

    kinds = (read.RESTRICT,)
    type_id: int


@dataclass(frozen=True, slots=True)
class TypeTag(Type):
    """A tag on ``type_id``, as ``__user`` gives one to what a pointer points to."""

    kinds = (read.TYPE_TAG,)
    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class DeclTag(Type):
    """A tag on a declaration: ``component`` -1 the whole of ``type_id``, else its member or parameter."""

    kinds = (read.DECL_TAG,)
    name: str
    type_id: int
    component: int


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of a function prototype; ``name`` may be empty."""

    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class FuncProto(Type):
    """A function type. ``ret`` is the id of the result's type; ``params`` does not hold the ``...``."""

    kinds = (read.FUNC_PROTO,)
    ret: int
    params: tuple[Param, ...]
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Func(Type):
    """A function; ``type_id`` is its FuncProto. ``linkage``: 0 static, 1 global, 2 extern."""

    kinds = (read.FUNC,)
    name: str
    type_id: int
    linkage: int = 0


@dataclass(frozen=True, slots=True)
class Var(Type):
    """A variable, of which kernels describe the per-CPU ones. ``linkage``: 0 static, 1 global."""

    kinds = (read.VAR,)
    name: str
    type_id: int
    linkage: int = 0


@dataclass(frozen=True, slots=True)
class SectionVar:
    """A variable in a section: ``type_id`` is its Var, ``offset`` and ``size`` in bytes."""

    type_id: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Datasec(Type):
    """The variables of a section, e.g. ``.data..percpu``."""

    kinds = (read.DATASEC,)
    name: str
    size: int
    variables: tuple[SectionVar, ...]


TypeClass = type[Type]
QUALIFIERS = (Volatile, Const, Restrict, TypeTag)
VOID = Void()
