"""``Btf``, which finds the types that BTF describes and decodes them one by one.

A type is known by its id; id 0 is void. Opening BTF decodes nothing: of a kernel's 100,000 types an aspect needs a
few dozen. A module's BTF is *split*: its ids go on where those of its base, the kernel's, end.
"""

from __future__ import annotations

from klasy.btf import read
from klasy.btf.read import Blob, BtfError, Layout
from klasy.btf.types import (
    QUALIFIERS,
    VOID,
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
    Member,
    Param,
    Ptr,
    Restrict,
    SectionVar,
    Struct,
    Type,
    Typedef,
    TypeTag,
    Union,
    Var,
    Volatile,
)
from klasy.plain import TYPE_CHECKING, cached_property

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from mmap import mmap

    from klasy.btf.types import TypeClass

# Macros of include/linux/types.h and socket.h: who writes an aspect knows the names on the left.
_DEFINED = {"rcu_head": "callback_head", "sockaddr_storage": "__kernel_sockaddr_storage"}
_FEW_FUNCS = 20  # looked for by name; more are found quicker by reading the names of all (0.05 s for a kernel)
_LONGEST_CHAIN = 64  # of typedefs and qualifiers; as many as the kernel's own verifier of BTF lets pass


class Btf:
    """The types of a kernel or, with ``base``, of one of its modules.

    Raises BtfError, from any method, where the bytes are malformed. ``layout`` is one kept from an earlier reading of
    the same bytes. The BTF of a kernel is /sys/kernel/btf/vmlinux, that of a module lies beside it.
    """

    def __init__(self, data: bytes | mmap, base: Btf | None = None, *, layout: Layout | None = None) -> None:
        self.blob = Blob(data, layout)
        self.base = base
        self._types: dict[int, Type] = {}
        self._constants: dict[str, list[tuple[int, int]]] = {}
        self._all_names: dict[tuple[TypeClass, ...], frozenset[str]] = {}
        self._first: int | None = None if base else 1
        self._funcs_sought = 0

    # --- types by id

    @property
    def first(self) -> int:
        """The first id that is not the base's."""
        if self._first is None:
            self._first = self.base.end if self.base else 1
        return self._first

    @property
    def end(self) -> int:
        """The id behind the last."""
        return self.first + self.blob.count

    def type(self, type_id: int) -> Type:
        """The type with an id."""
        found = self._types.get(type_id)
        if found is None:
            if type_id == 0:
                return VOID
            if self.base and type_id < self.first:
                return self.base.type(type_id)
            found = self._types[type_id] = self._decode(self._index(type_id))
        return found

    def _index(self, type_id: int) -> int:
        index = type_id - self.first
        if not 0 <= index < self.blob.count:
            raise BtfError(f"BTF has no type {type_id}")
        return index

    def _kind(self, type_id: int) -> int:
        """The kind of a type that is not the base's, without decoding it."""
        return read.kind_of(self.blob.info(self._index(type_id)))

    def string(self, offset: int) -> str:
        """The string at an offset among all strings, the base's included."""
        if self.base:
            inherited = self.base.strings_length
            if offset < inherited:
                return self.base.string(offset)
            offset -= inherited
        return self.blob.string(offset)

    @property
    def strings_length(self) -> int:
        """Length of all strings, the base's included: where those of a module built upon this one begin."""
        return self.blob.strings_length + (self.base.strings_length if self.base else 0)

    def _decode(self, index: int) -> Type:
        words = self.blob.words
        at = self.blob.layout.offsets[index]
        name, info, rest = words[at], words[at + 1], words[at + 2]
        more = words[at + 3 : at + read.record_words(info)].tolist()
        return _DECODERS[read.kind_of(info)](self, name, info, rest, more)

    # --- types by name

    def find(self, name: str, *kinds: TypeClass) -> list[int]:
        """Ids, ascending, of the types with a name; with ``kinds`` only those of these classes. The base's included.

        ``Struct`` stands for structs alone, ``Union`` for unions. A name that the kernel's headers define as a macro
        for another, and no type has, is taken for that.
        """
        wanted = _numbers(kinds)
        found: list[int] = []
        for offset in self.string_offsets(name):
            found += self._named(offset, wanted)
        if not found and name in _DEFINED:
            return self.find(_DEFINED[name], *kinds)
        return sorted(found)

    def string_offsets(self, text: str) -> list[int]:
        """Where a string stands among all strings, the base's included."""
        inherited = self.base.strings_length if self.base else 0
        own = [inherited + offset for offset in self.blob.string_offsets(text)]
        return (self.base.string_offsets(text) if self.base else []) + own

    def _named(self, name_offset: int, wanted: frozenset[int]) -> list[int]:
        found = self.base._named(name_offset, wanted) if self.base else []
        for index in self.blob.named(name_offset):
            if not wanted or read.kind_of(self.blob.info(index)) in wanted:
                found.append(self.first + index)
        return found

    def find_func(self, name: str) -> int | None:
        """The id of the (first) Func with a name, or None; the base's do not count: they are not the module's."""
        found = self.find_funcs(name)
        return found[0] if found else None

    def find_funcs(self, name: str) -> Sequence[int]:
        """Ids, ascending, of all Funcs with a name, without the base's. Many are found by one look at all there are."""
        self._funcs_sought += 1
        if self._funcs_sought > _FEW_FUNCS:
            return self._all_funcs.get(name, ())
        return [found for found in self.find(name, Func) if found >= self.first]

    def find_one_func(self, name: str) -> int | None:
        """The id of the Func with a name; None also where several of that name differ in type.

        They may call their parameters something else, as the weak one does that stands for a system call that was not
        built: where there is another, that one is taken.
        """
        found = self.find_funcs(name)
        if len(found) > 1:
            if len({self._types_text(each) for each in found}) > 1:
                return None
            return next((each for each in found if not self._is_stub(each)), found[0])
        return found[0] if found else None

    def _is_stub(self, func_id: int) -> bool:
        """Whether a Func is what __COND_SYSCALL makes (arch/x86/include/asm/syscall_wrapper.h)."""
        return any(param.name == "__unused" for param in self.proto(func_id).params)

    def _types_text(self, func_id: int) -> tuple[str, ...]:
        """The types of a Func's result and parameters."""
        proto = self.proto(func_id)
        types = [self.c_name(each) for each in (proto.ret, *[param.type_id for param in proto.params])]
        return (*types, "..") if proto.variadic else tuple(types)

    @cached_property
    def _all_funcs(self) -> dict[str, tuple[int, ...]]:
        blob, first = self.blob, self.first
        words, offsets = blob.words, blob.layout.offsets
        found: dict[str, tuple[int, ...]] = {}
        for entry in blob.layout.names:
            index = entry & 0xFFFF_FFFF
            if read.kind_of(words[offsets[index] + 1]) == read.FUNC:
                name = self.string(entry >> 32)
                found[name] = (*found.get(name, ()), first + index)
        return found

    def func_type(self, func_id: int) -> int:
        """The id of the type of a Func, which need not be decoded for that; of another type its own."""
        if self.base and func_id < self.first:
            return self.base.func_type(func_id)
        at = self.blob.layout.offsets[self._index(func_id)]
        words = self.blob.words
        return words[at + 2] if read.kind_of(words[at + 1]) == read.FUNC else func_id

    def matching(self, pattern: str, *kinds: TypeClass) -> list[int]:
        """Ids, ascending, of the named types whose name matches a glob in which only ``*`` is special."""
        import re

        wanted = _numbers(kinds)
        any_run = b"[^\\0]*"
        glob = re.compile(
            b"(?:(?<=\\0)|\\A)" + any_run.join(re.escape(part.encode()) for part in pattern.split("*")) + b"(?=\\0)"
        )
        found: list[int] = []
        level: Btf | None = self
        while level:
            inherited = level.base.strings_length if level.base else 0
            for match in glob.finditer(level.blob.strings):
                if match.end() > match.start():
                    found += self._named(inherited + match.start(), wanted)
            level = level.base
        return sorted(found)

    def find_constant(self, name: str) -> list[tuple[int, int]]:
        """The enumeration constants with a name, as (id of the Enum, value). The base's included."""
        found = self._constants.get(name)
        if found is None:
            found = self._constants[name] = []
            for holder in self._holders(name, Enum):
                enum = self.type(holder)
                assert isinstance(enum, Enum)
                found += [(holder, value) for constant, value in enum.values if constant == name]
        return found

    @cached_property
    def constants(self) -> dict[str, list[tuple[int, int]]]:
        """All enumeration constants by name, each as :meth:`find_constant` has it, at the price of many of those."""
        found: dict[str, list[tuple[int, int]]] = {}
        for holder in self._all_of(Enum):
            enum = self.type(holder)
            assert isinstance(enum, Enum)
            for name, value in enum.values:
                found.setdefault(name, []).append((holder, value))
        return found

    @cached_property
    def constant_names(self) -> frozenset[str]:
        """The names of all enumeration constants, the base's included."""
        return frozenset(self.constants)

    def _all_of(self, *kinds: TypeClass) -> list[int]:
        """Ids, ascending, of all types of some kinds, those without a name and the base's included."""
        wanted = _numbers(kinds)
        first, words = self.first, self.blob.words
        infos = [words[offset + 1] for offset in self.blob.layout.offsets]
        own = [first + index for index, info in enumerate(infos) if read.kind_of(info) in wanted]
        return [*(self.base._all_of(*kinds) if self.base else ()), *own]

    def _holders(self, name: str, *kinds: TypeClass) -> list[int]:
        """Ids, ascending, of the types of some kinds that have a part (member, constant) with a name."""
        wanted = _numbers(kinds)
        found: set[int] = set()
        level: Btf | None = self
        offsets = self.string_offsets(name)
        while level:
            for offset in offsets:
                for index, place in level.blob.holders_of_word(offset):
                    info = level.blob.info(index)
                    if read.kind_of(info) in wanted and place >= 3 and read.is_name_place(info, place - 3):
                        found.add(level.first + index)
            level = level.base
        return sorted(found)

    def names(self, *kinds: TypeClass) -> Iterator[tuple[str, int]]:
        """Name and id of all named types, of some kinds only if given; the base's first."""
        if self.base:
            yield from self.base.names(*kinds)
        wanted = _numbers(kinds)
        for entry in self.blob.layout.names:
            index = entry & 0xFFFF_FFFF
            if not wanted or read.kind_of(self.blob.info(index)) in wanted:
                yield self.string(entry >> 32), self.first + index

    def all_names(self, *kinds: TypeClass) -> frozenset[str]:
        """The names of all types of some kinds, the base's included; of one call the same set as of the next."""
        found = self._all_names.get(kinds)
        if found is None:
            found = self._all_names[kinds] = frozenset([name for name, _ in self.names(*kinds)])
        return found

    # --- what types mean

    def strip_qualifiers(self, type_id: int) -> int:
        """The id of a type without ``const``, ``volatile``, ``restrict`` and tags on it; typedefs stay."""
        for _ in range(_LONGEST_CHAIN):
            found = self.type(type_id)
            if not isinstance(found, QUALIFIERS):
                return type_id
            type_id = found.type_id
        raise BtfError(f"BTF type {type_id} qualifies itself")

    def resolve(self, type_id: int) -> int:
        """The id of what a type is: without qualifiers, tags and typedefs."""
        for _ in range(_LONGEST_CHAIN):
            found = self.type(type_id)
            if not isinstance(found, (Typedef, *QUALIFIERS)):
                return type_id
            type_id = found.type_id
        raise BtfError(f"BTF type {type_id} is defined by itself")

    def resolved(self, type_id: int) -> Type:
        """The type that ``resolve`` leads to."""
        return self.type(self.resolve(type_id))

    def size_of(self, type_id: int) -> int:
        """Size of a type in bytes; 0 where it has none: void, functions, and structs known by name only."""
        count = 1
        for _ in range(_LONGEST_CHAIN):
            found = self.resolved(type_id)
            if isinstance(found, (Int, Float, Struct, Enum, Datasec)):
                return count * found.size
            if isinstance(found, Ptr):
                return count * read.POINTER_SIZE
            if isinstance(found, Array):
                count *= found.count
            elif not isinstance(found, Var):
                return 0
            type_id = found.type_id
        raise BtfError(f"BTF type {type_id} is an array of itself")

    def pointee(self, type_id: int) -> int | None:
        """The id of what a type points to, or None if it is no pointer; its qualifiers stay."""
        found = self.resolved(type_id)
        return found.type_id if isinstance(found, Ptr) else None

    def proto(self, func_id: int) -> FuncProto:
        """The prototype of a Func, or of a (pointer to a) function type."""
        known = self._types.get(func_id)
        if isinstance(known, FuncProto):
            return known
        found = self.resolved(self.func_type(func_id) if func_id else 0)
        for _ in range(2):
            if isinstance(found, (Func, Ptr)):
                found = self.resolved(found.type_id)
        if not isinstance(found, FuncProto):
            raise BtfError(f"BTF type {func_id} is no function")
        return found

    # --- C text

    def c_name(self, type_id: int, declares: str = "") -> str:
        """A type as C writes it: ``struct sk_buff *``; with ``declares`` the declaration of that name."""
        from klasy.btf.ctext import declaration

        return declaration(self, type_id, declares)

    def c_prototype(self, func_id: int) -> str:
        """The prototype of a Func as C writes it, with the names of the parameters."""
        from klasy.btf.ctext import prototype

        return prototype(self, func_id)

    def c_definition(self, type_id: int) -> str:
        """A struct, union, enum or typedef as C defines it, over several lines, with the offsets of members."""
        from klasy.btf.ctext import definition

        return definition(self, type_id)


def _int(btf: Btf, name: int, info: int, rest: int, more: list[int]) -> Type:
    encoding = more[0] >> 24
    signed, char, boolean = bool(encoding & 1), bool(encoding & 2), bool(encoding & 4)
    return Int(btf.string(name), rest, signed, boolean, char, more[0] & 0xFF, more[0] >> 16 & 0xFF)


def _array(btf: Btf, name: int, info: int, rest: int, more: list[int]) -> Type:
    return Array(*more)


def _struct(btf: Btf, name: int, info: int, rest: int, more: list[int]) -> Type:
    text = btf.string
    triples = zip(more[::3], more[1::3], more[2::3], strict=True)
    if read.flag_of(info):
        members = tuple([Member(text(n), t, place & 0xFF_FFFF, place >> 24) for n, t, place in triples])
    else:
        members = tuple([Member(text(n), t, place) for n, t, place in triples])
    cls = Union if read.kind_of(info) == read.UNION else Struct
    return cls(text(name), rest, members)


def _enum(btf: Btf, name: int, info: int, rest: int, more: list[int]) -> Type:
    signed = read.flag_of(info)
    pairs = zip(more[::2], more[1::2], strict=True)
    # Before the kind flag said so (Linux 6.0), every value was taken as signed: what has the sign bit, is.
    values = tuple([(btf.string(n), v - (1 << 32) if signed and v >> 31 else v) for n, v in pairs])
    return Enum(btf.string(name), rest, signed, values)


def _enum64(btf: Btf, name: int, info: int, rest: int, more: list[int]) -> Type:
    signed = read.flag_of(info)
    triples = zip(more[::3], more[1::3], more[2::3], strict=True)
    values = tuple(
        [(btf.string(n), (high << 32 | low) - (1 << 64 if signed and high >> 31 else 0)) for n, low, high in triples]
    )
    return Enum(btf.string(name), rest, signed, values)


def _func_proto(btf: Btf, name: int, info: int, rest: int, more: list[int]) -> Type:
    variadic = len(more) >= 2 and not more[-1] and not more[-2]  # a last parameter without name and type
    if variadic:
        del more[-2:]
    params = tuple([Param(btf.string(n), t) for n, t in zip(more[::2], more[1::2], strict=True)])
    return FuncProto(rest, params, variadic)


def _datasec(btf: Btf, name: int, info: int, rest: int, more: list[int]) -> Type:
    return Datasec(btf.string(name), rest, tuple(map(SectionVar, more[::3], more[1::3], more[2::3])))


def _decl_tag(btf: Btf, name: int, info: int, rest: int, more: list[int]) -> Type:
    return DeclTag(btf.string(name), rest, more[0] - (1 << 32 if more[0] >> 31 else 0))


_DECODERS: dict[int, Callable[[Btf, int, int, int, list[int]], Type]] = {
    read.INT: _int,
    read.PTR: lambda btf, name, info, rest, more: Ptr(rest),
    read.ARRAY: _array,
    read.STRUCT: _struct,
    read.UNION: _struct,
    read.ENUM: _enum,
    read.FWD: lambda btf, name, info, rest, more: Fwd(btf.string(name), read.flag_of(info)),
    read.TYPEDEF: lambda btf, name, info, rest, more: Typedef(btf.string(name), rest),
    read.VOLATILE: lambda btf, name, info, rest, more: Volatile(rest),
    read.CONST: lambda btf, name, info, rest, more: Const(rest),
    read.RESTRICT: lambda btf, name, info, rest, more: Restrict(rest),
    read.FUNC: lambda btf, name, info, rest, more: Func(btf.string(name), rest, read.count_of(info)),
    read.FUNC_PROTO: _func_proto,
    read.VAR: lambda btf, name, info, rest, more: Var(btf.string(name), rest, more[0]),
    read.DATASEC: _datasec,
    read.FLOAT: lambda btf, name, info, rest, more: Float(btf.string(name), rest),
    read.DECL_TAG: _decl_tag,
    read.TYPE_TAG: lambda btf, name, info, rest, more: TypeTag(btf.string(name), rest),
    read.ENUM64: _enum64,
}


def _numbers(kinds: Iterable[TypeClass]) -> frozenset[int]:
    """By what numbers records tell that they are of some kinds."""
    return frozenset(number for cls in kinds for number in cls.kinds)
