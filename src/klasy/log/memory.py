"""Decodes bytes of kernel memory by their BTF type: what ``logging(x)`` of a whole struct shows."""

from __future__ import annotations

from struct import Struct

from klasy.btf import types
from klasy.log.value import Char, Elements, EnumValue, Pointer, Record, Value, text_of
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.btf.btf import Btf

_FLOATS = {4: Struct("<f"), 8: Struct("<d")}


def decode(btf: Btf, type_id: int, data: bytes, address: int | None = None) -> Value:
    """The value of a type in ``data``, which must hold at least its size. ``address`` is where it was read."""
    return _decode(btf, type_id, data, 0, address)


def _decode(btf: Btf, type_id: int, data: bytes, at: int, address: int | None) -> Value:
    resolved = btf.resolve(type_id)
    kind = btf.type(resolved)
    if isinstance(kind, types.Int):
        return _integer(kind, int.from_bytes(data[at : at + kind.size], "little"), 8 * kind.size)
    if isinstance(kind, types.Float) and kind.size in _FLOATS:  # of programs: the kernel keeps none
        (number,) = _FLOATS[kind.size].unpack_from(data, at)
        return float(number)
    if isinstance(kind, types.Ptr):
        return Pointer(int.from_bytes(data[at : at + 8], "little"), btf.c_name(type_id))
    if isinstance(kind, types.Enum):
        return _enum(kind, int.from_bytes(data[at : at + kind.size], "little"), 8 * kind.size)
    if isinstance(kind, types.Struct):
        members = tuple(_member(btf, member, data, at) for member in kind.members)
        return Record(btf.c_name(type_id), address, members)
    if isinstance(kind, types.Array):
        return _array(btf, type_id, kind, data, at)
    size = btf.size_of(resolved)
    return bytes(data[at : at + size])


def _member(btf: Btf, member: types.Member, data: bytes, at: int) -> tuple[str, Value]:
    if not member.bitfield_size:
        return member.name, _decode(btf, member.type_id, data, at + member.bit_offset // 8, None)
    first = at + member.bit_offset // 8
    shift = member.bit_offset % 8
    width = member.bitfield_size
    raw = int.from_bytes(data[first : first + (shift + width + 7) // 8], "little") >> shift
    kind = btf.type(btf.resolve(member.type_id))
    if isinstance(kind, types.Enum):
        return member.name, _enum(kind, raw, width)
    assert isinstance(kind, types.Int)
    return member.name, _integer(kind, raw, width)


def _integer(kind: types.Int, raw: int, width: int) -> Value:
    raw &= (1 << width) - 1
    if kind.is_bool:
        return bool(raw)
    if kind.signed and raw >> (width - 1):
        raw -= 1 << width
    return Char(raw) if kind.name == "char" and width == 8 else raw


def _enum(kind: types.Enum, raw: int, width: int) -> EnumValue:
    raw &= (1 << width) - 1
    if kind.signed and raw >> (width - 1):
        raw -= 1 << width
    return EnumValue(raw, next((name for name, value in kind.values if value == raw), None))


def _array(btf: Btf, type_id: int, kind: types.Array, data: bytes, at: int) -> Value:
    element = btf.type(btf.resolve(kind.type_id))
    size = btf.size_of(kind.type_id)
    if isinstance(element, types.Int) and element.size == 1 and kind.count:
        raw = data[at : at + kind.count]
        if is_text(raw) or (element.name == "char" and not any(raw)):
            return text_of(raw)
    items = (_decode(btf, kind.type_id, data, at + i * size, None) for i in range(kind.count))
    return Elements(btf.c_name(type_id), tuple(items))


def is_text(data: bytes) -> bool:
    """Whether the bytes are what C programmers keep in a char array: printable text, a NUL, then anything."""
    text = data.split(b"\0", 1)[0]
    return bool(text) and all(32 <= byte < 127 for byte in text)
