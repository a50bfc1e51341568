"""Writes BTF: types given as the objects of ``types``, in the order of their ids, become the bytes of a blob."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from klasy.btf import read
from klasy.btf.btf import Btf
from klasy.btf.types import (
    Array,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Ptr,
    Restrict,
    Struct,
    Type,
    Typedef,
    TypeTag,
    Union,
    Var,
    Volatile,
)

_MOST_PARTS = 0xFFFF
_U32 = 0xFFFF_FFFF


class BtfWriter:
    """Collects types and gives each its id. ``base``: what the new types, a module's, are built upon."""

    def __init__(self, base: Btf | None = None) -> None:
        self._first = base.end if base else 1
        self._strings_start = base.strings_length if base else 0
        self._base = base
        self._strings: dict[str, int] = {}
        self._string_bytes = bytearray(b"" if base else b"\0")
        self._records: list[bytes] = []

    def add(self, new: Type) -> int:
        """Append a type; its id. The ids it refers to may be of types that are yet to come.

        Raises ValueError for what the format cannot hold.
        """
        self._records.append(self._encode(new))
        return self.next_id - 1

    @property
    def next_id(self) -> int:
        """The id that the next type will have."""
        return self._first + len(self._records)

    def data(self) -> bytes:
        """The blob."""
        types = b"".join(self._records)
        strings = bytes(self._string_bytes)
        head = read.HEADER.pack(read.MAGIC, 1, 0, read.HEADER.size, 0, len(types), len(types), len(strings))
        return head + types + strings

    def _string(self, text: str) -> int:
        if not text:
            return 0
        if text not in self._strings:
            inherited = self._base.string_offsets(text) if self._base else []
            if inherited:
                self._strings[text] = inherited[0]
            else:
                self._strings[text] = self._strings_start + len(self._string_bytes)
                self._string_bytes += text.encode() + b"\0"
        return self._strings[text]

    def _encode(self, new: Type) -> bytes:  # one branch for each kind
        name = self._string(getattr(new, "name", ""))
        match new:
            case Int():
                encoding = new.signed | new.is_char << 1 | new.is_bool << 2
                bits = new.bits or 8 * new.size
                return _record(name, read.INT, new.size, encoding << 24 | new.offset << 16 | bits)
            case Float():
                return _record(name, read.FLOAT, new.size)
            case Ptr():
                return _record(0, read.PTR, new.type_id)
            case Array():
                return _record(0, read.ARRAY, 0, new.type_id, new.index_type_id, new.count)
            case Struct():
                return self._struct(name, new)
            case Enum():
                return self._enum(name, new)
            case Fwd():
                return _record(name, read.FWD, 0, flag=new.is_union)
            case Typedef():
                return _record(name, read.TYPEDEF, new.type_id)
            case Volatile():
                return _record(0, read.VOLATILE, new.type_id)
            case Const():
                return _record(0, read.CONST, new.type_id)
            case Restrict():
                return _record(0, read.RESTRICT, new.type_id)
            case TypeTag():
                return _record(name, read.TYPE_TAG, new.type_id)
            case DeclTag():
                return _record(name, read.DECL_TAG, new.type_id, new.component & _U32)
            case FuncProto():
                parts = [word for param in new.params for word in (self._string(param.name), param.type_id)]
                parts += [0, 0] if new.variadic else []
                return _record(0, read.FUNC_PROTO, new.ret, *parts, count=len(parts) // 2)
            case Func():
                return _record(name, read.FUNC, new.type_id, count=new.linkage)
            case Var():
                return _record(name, read.VAR, new.type_id, new.linkage)
            case Datasec():
                parts = [word for var in new.variables for word in (var.type_id, var.offset, var.size)]
                return _record(name, read.DATASEC, new.size, *parts, count=len(new.variables))
        raise ValueError(f"{type(new).__name__} cannot be written")

    def _struct(self, name: int, new: Struct) -> bytes:
        flag = any(member.bitfield_size for member in new.members)
        parts: list[int] = []
        for member in new.members:
            if flag and (member.bit_offset >> 24 or member.bitfield_size >> 8):
                raise ValueError(f"member {member.name!r} lies too far behind for a struct with bit-fields")
            place = member.bitfield_size << 24 | member.bit_offset
            parts += (self._string(member.name), member.type_id, place)
        kind = read.UNION if isinstance(new, Union) else read.STRUCT
        return _record(name, kind, new.size, *parts, count=len(new.members), flag=flag)

    def _enum(self, name: int, new: Enum) -> bytes:
        parts: list[int] = []
        wide = new.size == 8
        for constant, value in new.values:
            parts += (self._string(constant), value & _U32, value >> 32 & _U32)[: 3 if wide else 2]
        kind = read.ENUM64 if wide else read.ENUM
        return _record(name, kind, new.size, *parts, count=len(new.values), flag=new.signed)


def _record(name: int, kind: int, rest: int, *more: int, count: int = 0, flag: bool = False) -> bytes:
    if count > _MOST_PARTS:
        raise ValueError(f"a type of {count} parts")
    info = flag << 31 | kind << 24 | count
    try:
        return struct.pack(f"<{3 + len(more)}I", name, info, rest, *more)
    except struct.error as error:
        raise ValueError(f"a number does not fit BTF's 32 bits: {error}") from None


def write(types: Iterable[Type], base: Btf | None = None) -> bytes:
    """A blob of types, the first with the id behind the base's last, or 1."""
    writer = BtfWriter(base)
    for new in types:
        writer.add(new)
    return writer.data()
