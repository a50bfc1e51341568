"""One type with all that showing a value of it takes, as BTF of its own: for who shows it when its module is gone.

What a pointer leads to is named only: structs and enumerations there have no parts.
"""

from __future__ import annotations

from klasy.btf.types import Array, Enum, FuncProto, Fwd, Ptr, Struct, Typedef, Union
from klasy.btf.write import BtfWriter
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from typing import Any

    from klasy.btf.btf import Btf
    from klasy.btf.types import Type

ROOT = 1  # the id that the type has


def extract(btf: Btf, type_id: int) -> bytes:
    """The bytes: the type is ``ROOT`` of them."""
    extracting = _Extracting(btf)
    extracting.id_of(type_id, True)
    writer = BtfWriter()
    for made in extracting.types:
        writer.add(made)
    return writer.data()


class _Extracting:
    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._ids: dict[tuple[int, bool], int] = {}
        self.types: list[Type] = []

    def id_of(self, type_id: int, whole: bool) -> int:
        """The new id of a type, with its parts or without."""
        if type_id == 0:
            return 0
        key = type_id, whole
        if key not in self._ids:
            self.types.append(Fwd("", False))  # its place: what it is made of may lead back to it
            self._ids[key] = number = len(self.types)
            self.types[number - 1] = self._made(self._btf.type(type_id), whole)
        return self._ids[key]

    def _made(self, found: Any, whole: bool) -> Any:
        match found:
            case Struct() if whole:
                parts = tuple(replace(m, type_id=self.id_of(m.type_id, True)) for m in found.members)
                return replace(found, members=parts)
            case Struct() if found.name:
                return Fwd(found.name, isinstance(found, Union))
            case Struct():
                return replace(found, size=0, members=())
            case Enum() if not whole:
                return replace(found, values=())
            case Typedef() if not whole:
                return replace(found, type_id=0)
            case Ptr():
                return Ptr(self.id_of(found.type_id, False))
            case Array():
                index = self.id_of(found.index_type_id, False)
                return replace(found, type_id=self.id_of(found.type_id, whole), index_type_id=index)
            case FuncProto():
                params = tuple(replace(p, type_id=self.id_of(p.type_id, False)) for p in found.params)
                return replace(found, ret=self.id_of(found.ret, False), params=params)
        if hasattr(found, "type_id"):  # a qualifier, a typedef, a tag
            return replace(found, type_id=self.id_of(found.type_id, whole))
        return found
