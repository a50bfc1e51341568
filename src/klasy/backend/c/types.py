"""The kernel's types as C, made from its BTF: no headers of the kernel are needed.

Of each struct only those members are declared that the C text can mean, for it has their names: ``sk->sk_prot->name``
needs ``sk_prot`` of ``struct sock`` and ``name`` of ``struct proto``. Each lies at its own offset, by bytes of padding
in front, in a struct of its own in one union of all; so packed structs, alignment and unions of the kernel's need no
thought, and ``sizeof`` is right. Bit-fields have no address, and bcc reads memory by address: they are left out.
"""

from __future__ import annotations

from klasy.btf import types as t
from klasy.btf import walk
from klasy.compiler.types import Array, CType, Function, Incomplete, Integer, Pointer, Struct
from klasy.errors import InputError
from klasy.kernel import member_macros
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from klasy.btf.btf import Btf
    from klasy.kernel.model import Kernel

_INTS = {1: "char", 2: "short", 4: "int", 8: "long long"}
_DEEPEST = 32


class Declarations:
    """Collects the declarations that some C text needs. ``words``: the names in it. ``known``: what others declare."""

    def __init__(self, kernel: Kernel, words: Collection[str], known: Collection[str]) -> None:
        self._kernel = kernel
        self._words = words
        self._known = known
        self._names: dict[tuple[int, int], str] = {}  # how a struct is called
        self._done: dict[str, tuple[Btf, int]] = {}
        self._todo: list[tuple[Btf, int]] = []  # structs that pointers lead to
        self._lines: list[str] = []
        self._forward: list[str] = []
        self._macros: list[str] = []
        self.bit_fields: dict[str, str] = {}  # a bit-field that was left out: of what

    def text(self) -> str:
        """All declarations, once everything has been asked for."""
        self._named()
        while self._todo:
            self._define(*self._todo.pop())
        return "\n".join([*dict.fromkeys(self._forward), *self._lines, *dict.fromkeys(self._macros)]) + "\n"

    # --- what is asked for

    def declare(self, kind: CType, name: str) -> str:
        """A declaration of a variable of a type."""
        if isinstance(kind, Pointer):
            return self.declare(kind.target, f"*{name}")
        if isinstance(kind, Array):
            return self.declare(kind.element, f"(*{name[1:]})[{kind.count}]" if name[0] == "*" else f"*{name}")
        if isinstance(kind, Struct) and kind.btf is not None:
            return self._spell(kind.btf, kind.type_id, name, 0)
        if isinstance(kind, Integer):
            return f"{_integer(kind.size, kind.signed, kind.name == 'char')} {name}"
        if isinstance(kind, Incomplete):
            found = self._kernel.btf.find(kind.tag, t.Union if kind.name.startswith("union") else t.Struct)
            if len(found) == 1:
                return self._spell(self._kernel.btf, found[0], name, 0)
            tag = f"{'union' if kind.name.startswith('union') else 'struct'} {kind.tag}"
            self._forward.append(f"{tag};")
            return f"{tag} {name}"
        if isinstance(kind, Function):
            return f"void {name}"
        return f"void {name}"

    def _named(self) -> None:
        """What the text names itself: structs, typedefs, constants of enumerations."""
        btf = self._kernel.btf
        for word in sorted(self._words - set(self._known) if isinstance(self._words, frozenset) else self._words):
            for type_id in btf.find(word, t.Struct, t.Union)[:1]:
                self._spell(btf, type_id, "x", 0)
            for type_id in btf.find(word, t.Typedef)[:1]:
                found = btf.type(type_id)
                assert isinstance(found, t.Typedef)
                self._macros.append(f"typedef {self._spell(btf, found.type_id, word, 0)};")
            for _, value in btf.find_constant(word)[:1]:
                self._macros.append(f"enum {{ {word} = {value} }};")
            if word.isupper() and not btf.find_constant(word):
                self._number(word)
            if btf.find(word, t.Enum):
                self._forward.append(f"enum {word} {{ klasy_enum_{word} = -1 }};")

    def _number(self, word: str) -> None:
        """A number that the kernel's headers name by a macro, unless a header that bcc includes has it, too."""
        from klasy.kernel import macros

        found = macros.find(word, self._kernel)
        if found is not None:
            value, suffix = found
            text = f"{value}{suffix}" if value >= 0 else f"-1 - {~value}{suffix}"  # C has no negative literals
            self._macros.append(f"#ifndef {word}\n#define {word} ({text})\n#endif")

    # --- types

    def _spell(self, btf: Btf, type_id: int, name: str, depth: int) -> str:
        """A declaration of ``name`` with a type of BTF's; structs that are no pointer's target are defined before."""
        found = btf.resolved(type_id)
        if isinstance(found, t.Ptr):
            return self._spell(btf, found.type_id, f"*{name}", depth + 1) if depth < _DEEPEST else f"void *{name}"
        if isinstance(found, t.Array):
            inner = f"({name})" if name.startswith("*") else name
            return self._spell(btf, found.type_id, f"{inner}[{found.count}]", depth + 1)
        if isinstance(found, t.Struct):
            called = self._called(btf, btf.resolve(type_id), found)
            self._forward.append(f"{called};")
            if name.startswith(("*", "(*")):
                self._todo.append((btf, btf.resolve(type_id)))
            else:
                self._define(btf, btf.resolve(type_id))
            return f"{called} {name}"
        if isinstance(found, t.Fwd):
            known = self._kernel.btf.find(found.name, t.Union if found.is_union else t.Struct)
            if len(known) == 1:
                return self._spell(self._kernel.btf, known[0], name, depth + 1)
            called = f"{'union' if found.is_union else 'struct'} {found.name}"
            self._forward.append(f"{called};")
            return f"{called} {name}"
        if isinstance(found, t.Int | t.Enum) and found.size in _INTS:
            if isinstance(found, t.Int) and (found.is_bool or found.name == "_Bool"):
                return f"_Bool {name}"
            is_char = isinstance(found, t.Int) and found.name == "char"
            return f"{_integer(found.size, found.signed, is_char)} {name}"
        if isinstance(found, t.Int | t.Float):
            return f"char {name}[{found.size}]"
        return f"void {name if name.startswith('*') else '*' + name}"

    def _called(self, btf: Btf, type_id: int, found: t.Struct) -> str:
        key = id(btf if type_id >= btf.first else btf.base), type_id
        if key not in self._names:
            name = found.name or f"klasy_anonymous_{len(self._names)}"
            self._names[key] = f"struct {name}" if not found.is_union else f"union {name}"
        return self._names[key]

    def _define(self, btf: Btf, type_id: int) -> None:
        """Define a struct or union, unless it is."""
        found = btf.resolved(type_id)
        assert isinstance(found, t.Struct)
        called = self._called(btf, btf.resolve(type_id), found)
        if called in self._done:
            self._must_be_one(called, (btf, btf.resolve(type_id)))
            return
        self._done[called] = btf, btf.resolve(type_id)
        views = [f"char klasy_size[{found.size}];"] if found.size else []
        for place in walk.members(btf, type_id):
            if place.name not in self._words:
                continue
            if place.bitfield_size:
                self.bit_fields[place.name] = called
                continue
            declared = self._spell(btf, place.type_id, place.name, 0)
            number = len(views)
            pad = f"char klasy_pad_{number}[{place.byte_offset}]; " if place.byte_offset else ""
            views.append(f"struct {{ {pad}{declared}; }} __attribute__((packed));")
        for word in sorted(self._words):
            path = member_macros.path_of(btf, type_id, word)
            if path is not None and walk.find_member(btf, type_id, word) is None:
                self._macro(btf, type_id, word, views)
        self._lines.append(f"{called} {{ union {{ {' '.join(views)} }}; }};")

    def _must_be_one(self, called: str, other: tuple[Btf, int]) -> None:
        """Raise InputError where the C text of an aspect would need two types of one name."""
        first = self._done[called]
        if other == first or first[0] is other[0]:
            return
        from klasy.btf.alike import alike

        if not alike(first, other):
            raise InputError(
                f"advice in C would need two different types '{called}': a module has one of its own of that name",
                hint="C knows types by their names: write it in klasy's own language, or in two aspects",
            )

    def _macro(self, btf: Btf, type_id: int, word: str, views: list[str]) -> None:
        """A macro of the kernel's headers that names a member of a member: a member at that place."""
        place = member_macros.find(btf, type_id, word)
        if place is not None and not place.bitfield_size:
            declared = self._spell(btf, place.type_id, word, 0)
            pad = f"char klasy_pad_{len(views)}[{place.byte_offset}]; " if place.byte_offset else ""
            views.append(f"struct {{ {pad}{declared}; }} __attribute__((packed));")


def _integer(size: int, signed: bool, is_char: bool = False) -> str:
    if size == 1:
        return "char" if is_char else "signed char" if signed else "unsigned char"
    return ("" if signed else "unsigned ") + _INTS[size]
