"""Types as C text: declarations, prototypes, definitions."""

from __future__ import annotations

from klasy.btf.btf import Btf
from klasy.btf.read import BtfError
from klasy.btf.types import (
    Array,
    Const,
    DeclTag,
    Enum,
    Func,
    FuncProto,
    Fwd,
    Ptr,
    Restrict,
    Struct,
    Type,
    Typedef,
    TypeTag,
    Var,
    Void,
    Volatile,
)

_WORD = {Const: "const", Volatile: "volatile", Restrict: "restrict"}
_LONGEST_DECLARATOR = 64  # pointers, arrays, functions and qualifiers around one base type
_DEEPEST = 12  # anonymous types inside types, functions inside parameters: malformed BTF may nest without end


def declaration(btf: Btf, type_id: int, declares: str = "", depth: int = 0) -> str:
    """A type as C writes it, with the name it declares in its place, if there is one.

    C's declarators are read from the name outwards, so the text grows around ``declares``: pointers to its left,
    arrays and parameters to its right, in parentheses where a pointer has been written already.
    """
    words: list[str] = []  # qualifiers met since the last pointer, outermost first
    for _ in range(_LONGEST_DECLARATOR):
        found = btf.type(type_id)
        if isinstance(found, (Const, Volatile, Restrict)):
            words.append(_WORD[type(found)])
            type_id = found.type_id
        elif isinstance(found, (TypeTag, DeclTag)):
            type_id = found.type_id
        elif isinstance(found, Ptr):
            mark = "*" + " ".join(words)
            declares = mark + (" " if words and declares else "") + declares
            words = []
            type_id = found.type_id
        elif isinstance(found, Array):
            declares = f"{_enclosed(declares)}[{found.count or ''}]"
            type_id = found.type_id  # qualifiers of an array are its elements'
        elif isinstance(found, FuncProto):
            declares = f"{_enclosed(declares)}({_parameters(btf, found, depth + 1)})"
            words = []
            type_id = found.ret
        elif isinstance(found, (Func, Var)):
            declares = declares or found.name
            type_id = found.type_id
        else:
            break
    else:
        raise BtfError(f"BTF type {type_id} is made of itself")
    base = " ".join([*dict.fromkeys(words), _base_name(btf, found)])
    return f"{base} {declares}" if declares else base


def _enclosed(declares: str) -> str:
    return f"({declares})" if declares.startswith("*") else declares


def _base_name(btf: Btf, found: Type) -> str:
    if isinstance(found, Void):
        return "void"
    if isinstance(found, Struct):
        return f"{_tag(found)} {found.name or '{...}'}"
    if isinstance(found, Fwd):
        return f"{'union' if found.is_union else 'struct'} {found.name}"
    if isinstance(found, Enum):
        return f"enum {found.name or '{...}'}"
    return str(getattr(found, "name", "?"))


def _tag(found: Struct) -> str:
    return "union" if found.is_union else "struct"


def _parameters(btf: Btf, proto: FuncProto, depth: int) -> str:
    if depth > _DEEPEST:
        raise BtfError("BTF has a function whose parameters are functions without end")
    params = [declaration(btf, param.type_id, param.name, depth) for param in proto.params]
    if proto.variadic:
        params.append("...")
    return ", ".join(params) or "void"


def prototype(btf: Btf, func_id: int) -> str:
    """A function as C declares it: ``void kfree(const void *objp)``."""
    func = btf.type(func_id)
    return declaration(btf, func_id, func.name if isinstance(func, Func) else "")


def definition(btf: Btf, type_id: int) -> str:
    """What a type is, as C text over several lines; for structs with offsets in bytes, for bit-fields :bit in byte."""
    type_id = btf.strip_qualifiers(type_id)
    found = btf.type(type_id)
    if isinstance(found, Typedef):
        return f"typedef {declaration(btf, found.type_id, found.name)};"
    if isinstance(found, Enum):
        lines = [f"    {name} = {value}," for name, value in found.values]
        return "\n".join([f"enum {found.name} {{".replace("  ", " "), *lines, f"}};  /* {found.size} bytes */"])
    if isinstance(found, Struct):
        head = f"{_tag(found)} {found.name} {{".replace("  ", " ")
        return "\n".join([head, *_member_lines(btf, found, 0, 1), f"}};  /* {found.size} bytes */"])
    return declaration(btf, type_id) + ";"


def _member_lines(btf: Btf, struct: Struct, base: int, depth: int) -> list[str]:
    lines = []
    indent = "    " * depth
    for member in struct.members:
        at = base + member.bit_offset
        inner = btf.type(btf.strip_qualifiers(member.type_id))
        if isinstance(inner, Struct) and not inner.name and depth < _DEEPEST:
            lines.append(f"{indent}{_tag(inner)} {{")
            lines += _member_lines(btf, inner, at, depth + 1)
            lines.append(f"{indent}}}{' ' * bool(member.name)}{member.name};  /* {at // 8} */")
        elif member.bitfield_size:
            text = declaration(btf, member.type_id, member.name)
            lines.append(f"{indent}{text}:{member.bitfield_size};  /* {at // 8}:{at % 8} */")
        else:
            lines.append(f"{indent}{declaration(btf, member.type_id, member.name)};  /* {at // 8} */")
    return lines
