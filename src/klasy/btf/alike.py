"""Whether types of one name, of a kernel and its modules, are one: a module's BTF may hold its own copy of a type."""

from __future__ import annotations

from klasy.btf.types import Array, Enum, Float, Fwd, Int, Ptr, Struct
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.btf.btf import Btf
    from klasy.btf.types import Type

_Id = tuple["Btf", int]


def home(btf: Btf, type_id: int) -> tuple[Btf, int]:
    """Where a type is described: a module's BTF has the kernel's types, too. Typedefs and qualifiers are off."""
    type_id = btf.resolve(type_id)
    while btf.base is not None and type_id < btf.first:
        btf = btf.base
    return btf, type_id


def alike(left: _Id, right: _Id) -> bool:
    """Whether two types are laid out alike, they and all that their pointers lead to.

    What is only declared in one place (a ``Fwd``) is like whatever has its name; functions are like functions.
    """
    pairs = [(home(*left), home(*right))]
    seen: set[tuple[int, int, int, int]] = set()
    while pairs:
        (a, one), (b, other) = pairs.pop()
        key = id(a), one, id(b), other
        if key in seen or (a is b and one == other):
            continue
        seen.add(key)
        x, y = a.type(one), b.type(other)
        if not _one_level(x, y):
            return False
        if isinstance(x, Struct) and isinstance(y, Struct):
            inner = zip(x.members, y.members, strict=True)
            pairs += [(home(a, p.type_id), home(b, q.type_id)) for p, q in inner]
        elif isinstance(x, Array | Ptr) and isinstance(y, Array | Ptr):
            pairs.append((home(a, x.type_id), home(b, y.type_id)))
    return True


def _one_level(x: Type, y: Type) -> bool:
    """Whether two types are alike as far as they themselves say."""
    if isinstance(x, Fwd) or isinstance(y, Fwd):
        return _tag(x) == _tag(y)
    if x.__class__ is not y.__class__:
        return False
    if isinstance(x, Struct) and isinstance(y, Struct):
        return (x.name, x.size, len(x.members)) == (y.name, y.size, len(y.members)) and all(
            (p.name, p.bit_offset, p.bitfield_size) == (q.name, q.bit_offset, q.bitfield_size)
            for p, q in zip(x.members, y.members, strict=True)
        )
    if isinstance(x, Int) and isinstance(y, Int):
        return (x.size, x.signed, x.is_bool) == (y.size, y.signed, y.is_bool)
    if isinstance(x, Enum) and isinstance(y, Enum):
        return (x.size, x.values) == (y.size, y.values)
    if isinstance(x, Array) and isinstance(y, Array):
        return x.count == y.count
    return not isinstance(x, Float) or x == y


def _tag(found: Type) -> tuple[bool, str] | None:
    return (found.is_union, found.name) if isinstance(found, Fwd | Struct) else None
