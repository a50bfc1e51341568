"""Types as written in an aspect, against the types of a kernel.

``struct`` may be left out: a bare name is a typedef, a struct's or a union's tag, and an error where these differ.
Types compare after typedefs and qualifiers are stripped from both sides, unless a qualifier is written.
"""

from __future__ import annotations

from klasy.btf.types import Array, Const, Enum, Float, Func, FuncProto, Fwd, Int, Ptr, Struct, Typedef, Union, Volatile
from klasy.diag import Diagnostic, Severity
from klasy.lang.ast import TagKind
from klasy.match.glob import is_glob, matches
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from klasy.btf.btf import Btf
    from klasy.btf.types import Type
    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import TypeRef

NAMED = (Typedef, Struct, Union, Enum, Fwd)  # what a name in an aspect may mean, but for basic types

# The basic types by their sets of keywords, as BTF (that is, gcc's DWARF) spells them.
_BASIC = {
    "char": "char",
    "char signed": "signed char",
    "char unsigned": "unsigned char",
    "short": "short int",
    "short signed": "short int",
    "short unsigned": "short unsigned int",
    "int": "int",
    "signed": "int",
    "unsigned": "unsigned int",
    "long": "long int",
    "long signed": "long int",
    "long unsigned": "long unsigned int",
    "long long": "long long int",
    "long long signed": "long long int",
    "long long unsigned": "long long unsigned int",
    "_Bool": "_Bool",
    "__int128": "__int128",
    "__int128 unsigned": "__int128 unsigned",
    "double": "double",
    "float": "float",
    "double long": "long double",
}
_KEYWORDS = frozenset(word for keys in _BASIC for word in keys.split())


NOT_LOADED = "a module's own types are known while it is loaded"


class TypeRefError(Exception):
    """A written type that the kernel does not have, or that is not what it is said to be."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic

    def with_hint(self, hint: str) -> TypeRefError:
        """The same, with a hint more where nothing is known of the type, nor what was probably meant."""
        found = self.diagnostic
        if found.code != "unknown-type" or found.hints:
            return self
        return TypeRefError(replace(found, hints=(hint,)))

    def report(self, bag: DiagnosticBag) -> None:
        """Add it to a bag."""
        bag.items.append(self.diagnostic)


def canonical_basic(name: str) -> str | None:
    """BTF's spelling of a basic type written with its keywords in any order, or None if it is no basic type."""
    words = name.split()
    if not words or not _KEYWORDS.issuperset(words):
        return None
    if "int" in words and len(words) > 1:
        words.remove("int")
    return _BASIC.get(" ".join(sorted(words)))


def spelled(ref: TypeRef) -> str:
    """The type as C writes it."""
    words = []
    if ref.const:
        words.append("const")
    if ref.volatile:
        words.append("volatile")
    if ref.tag is not TagKind.NONE:
        words.append(ref.tag.value)
    words.append(ref.name)
    text = " ".join(words)
    if ref.pointers:
        text += " " + "*" * ref.pointers
    return text + "".join(f"[{count}]" if count else "[]" for count in ref.array)


_TAG_CLASSES: dict[TagKind, tuple[type[Type], ...]] = {
    TagKind.STRUCT: (Struct, Fwd),
    TagKind.UNION: (Union, Fwd),
    TagKind.ENUM: (Enum,),
}


def find_base(btf: Btf, ref: TypeRef, least: int = 0) -> int:
    """The id of what a written type is before its pointers, dimensions and qualifiers are applied; 0 is void.

    Of several types of one kind and name the first complete one is taken; with ``least`` of those with such an id or a
    higher one, which are a module's own. Raises TypeRefError where there is none
    (``unknown-type``), where a bare name is the name of several different types (``ambiguous-type``), and where a tag
    is written for a type of another kind (``wrong-tag``).
    """
    if ref.tag is not TagKind.NONE:
        found = _tagged(btf, ref.name, ref.tag, least)
        if found is None:
            raise TypeRefError(_unknown(btf, ref))
        return found
    if ref.name == "void":
        return 0
    basic = canonical_basic(ref.name)
    if basic is not None:
        ids = btf.find(basic, Int, Float)
        if not ids:
            raise TypeRefError(_unknown(btf, ref))
        return ids[0]
    return _bare(btf, ref, least)


def base_in(kernel: Kernel, ref: TypeRef, module: str | None = None) -> tuple[Btf, int]:
    """``find_base`` in the code of a module, or of the kernel proper, whichever module's the type may be: whose BTF
    the id is of, too."""
    btf = kernel.btf
    basic = ref.name == "void" or (ref.tag is TagKind.NONE and canonical_basic(ref.name) is not None)
    if not basic and (module is not None or not btf.find(ref.name, Typedef, Struct, Union, Enum)):
        from klasy.match.modules import meaning

        meant = meaning(kernel, ref, [module])
        if meant is not None:
            return meant.btf, meant.type_id
    return btf, find_base(btf, ref)


def _tagged(btf: Btf, name: str, tag: TagKind, least: int = 0) -> int | None:
    fallback = None
    for type_id in btf.find(name, *_TAG_CLASSES[tag]):
        if type_id < least:
            continue
        found = btf.type(type_id)
        if isinstance(found, Fwd):
            if found.is_union == (tag is TagKind.UNION) and fallback is None:
                fallback = type_id
        elif not (isinstance(found, Enum) and not found.values):
            return type_id
        elif fallback is None:
            fallback = type_id
    return fallback


def _bare(btf: Btf, ref: TypeRef, least: int) -> int:
    """A name without a keyword: typedef, struct or union; an enum only if nothing else has the name."""
    candidates: list[tuple[str, int]] = []
    typedefs = [each for each in btf.find(ref.name, Typedef) if each >= least]
    if typedefs:
        candidates.append((f"typedef {ref.name}", typedefs[0]))
    for tag in (TagKind.STRUCT, TagKind.UNION):
        found = _tagged(btf, ref.name, tag, least)
        if found is not None and not any(_same_base(btf, found, other) for _, other in candidates):
            candidates.append((f"{tag.value} {ref.name}", found))
    if len(candidates) == 1:
        return candidates[0][1]
    if candidates:
        names = [name for name, _ in candidates]
        raise TypeRefError(
            Diagnostic(
                Severity.ERROR,
                "ambiguous-type",
                f"'{ref.name}' is ambiguous: the kernel has both {names[0]} and {' and '.join(names[1:])}",
                ref.span,
                tuple(f"for {name} write '{name}'" for name in names if not name.startswith("typedef"))
                + tuple(
                    f"typedef {ref.name} is {btf.c_name(_typedef_target(btf, type_id))}: write that"
                    for name, type_id in candidates
                    if name.startswith("typedef")
                ),
            )
        )
    enum = _tagged(btf, ref.name, TagKind.ENUM, least)
    if enum is not None:
        return enum
    raise TypeRefError(_unknown(btf, ref))


def _typedef_target(btf: Btf, type_id: int) -> int:
    found = btf.type(type_id)
    return found.type_id if isinstance(found, Typedef) else type_id


def _unknown(btf: Btf, ref: TypeRef) -> Diagnostic:
    name = ref.name
    if ref.tag is not TagKind.NONE:
        for tag in _TAG_CLASSES:
            if tag is not ref.tag and _tagged(btf, name, tag) is not None:
                return Diagnostic(
                    Severity.ERROR,
                    "wrong-tag",
                    f"there is no '{ref.tag.value} {name}': '{name}' is {_article(tag)} {tag.value}",
                    ref.span,
                    (f"write '{tag.value} {name}'",),
                )
        if btf.find(name, Typedef):
            target = btf.c_name(_typedef_target(btf, btf.find(name, Typedef)[0]))
            return Diagnostic(
                Severity.ERROR,
                "wrong-tag",
                f"there is no '{ref.tag.value} {name}': '{name}' is a typedef of '{target}'",
                ref.span,
                (f"write '{name}'",),
            )
        classes = _TAG_CLASSES[ref.tag]
    else:
        classes = (Typedef, Struct, Union, Fwd)
    from klasy.diag import did_you_mean
    from klasy.match.near import near

    what = f"{ref.tag.value} {name}" if ref.tag is not TagKind.NONE else name
    close = near(name, btf.all_names(*classes))
    hints = [did_you_mean(_with_tags(btf, close, ref.tag))] if close else []
    return Diagnostic(Severity.ERROR, "unknown-type", f"the kernel has no type '{what}'", ref.span, tuple(hints))


def _article(tag: TagKind) -> str:
    return "an" if tag is TagKind.ENUM else "a"


def _with_tags(btf: Btf, names: list[str], tag: TagKind) -> list[str]:
    shown = []
    for name in names:
        keyword = tag
        if tag is TagKind.NONE and not btf.find(name, Typedef):
            keyword = TagKind.UNION if _tagged(btf, name, TagKind.STRUCT) is None else TagKind.STRUCT
        shown.append(f"{keyword.value} {name}" if keyword is not TagKind.NONE else name)
    return shown


# --- comparison -----------------------------------------------------------------------------------------------------


def same_type(btf: Btf, type_id: int, ref: TypeRef) -> bool:
    """Whether a type of the kernel is the one written. Array dimensions of the written one count as pointers.

    Raises TypeRefError where the written type does not exist and holds no wildcard.
    """
    pointers = ref.pointers + len(ref.array)
    if is_glob(ref.name):
        return _matches_glob(btf, type_id, ref, pointers)
    return same_as(btf, type_id, ref, find_base(btf, ref))


class Comparer:
    """``same_type`` for many types: each written one is looked up once, each pair compared once."""

    def __init__(self) -> None:
        self._bases: dict[tuple[int, int], int | TypeRefError] = {}
        self._answers: dict[tuple[int, int, int], bool] = {}
        self._kept: list[object] = []  # what the keys are the ids of

    def same(self, btf: Btf, type_id: int, ref: TypeRef) -> bool:
        """As ``same_type``."""
        key = id(btf), type_id, id(ref)
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = self._compare(btf, type_id, ref)
        return answer

    def _compare(self, btf: Btf, type_id: int, ref: TypeRef) -> bool:
        if is_glob(ref.name):
            return same_type(btf, type_id, ref)
        key = id(btf), id(ref)
        base = self._bases.get(key)
        if base is None:
            self._kept += btf, ref
            try:
                base = find_base(btf, ref)
            except TypeRefError as error:
                base = error
            self._bases[key] = base
        if isinstance(base, TypeRefError):
            raise base
        return same_as(btf, type_id, ref, base)


def same_written(btf: Btf, left: TypeRef, right: TypeRef) -> bool:
    """Whether two written types are one, qualifiers aside, and an enumeration the integer that it is.

    Array dimensions count as pointers. Raises TypeRefError where one does not exist.
    """
    (depth, one), (other_depth, other) = (_unwound(btf, find_base(btf, ref)) for ref in (left, right))
    if depth + left.pointers + len(left.array) != other_depth + right.pointers + len(right.array):
        return False
    if _same_base(btf, one, other):
        return True
    kinds = {type(btf.type(one)), type(btf.type(other))}
    return kinds == {Int, Enum} and btf.size_of(one) == btf.size_of(other)


def same_as(btf: Btf, type_id: int, ref: TypeRef, base: int) -> bool:
    """``same_type`` for a written type whose base is known already; one without wildcards."""
    depth, found = _unwound(btf, type_id)
    wanted_depth, wanted = _unwound(btf, base)
    wanted_depth += ref.pointers + len(ref.array)
    if depth != wanted_depth or not _same_base(btf, found, wanted):
        return False
    return _qualified(btf, type_id, ref, ref.pointers + len(ref.array))


def _unwound(btf: Btf, type_id: int) -> tuple[int, int]:
    """How many pointers lead to what a type is in the end, and the id of that. Arrays count as pointers to elements."""
    depth = 0
    while True:
        type_id = btf.resolve(type_id)
        found = btf.type(type_id)
        if not isinstance(found, Ptr | Array):
            return depth, type_id
        type_id = found.type_id
        depth += 1


def _same_base(btf: Btf, left: int, right: int) -> bool:
    left, right = btf.resolve(left), btf.resolve(right)
    if left == right:
        return True
    a, b = btf.type(left), btf.type(right)
    if isinstance(a, FuncProto) and isinstance(b, FuncProto):
        return _same_proto(btf, a, b)
    # A module may hold its own copy of a type of the kernel's, and a struct may be known by its name only.
    return (a.__class__ is b.__class__ and bool(_tag(a)) and _tag(a) == _tag(b)) or _one_is_forward(a, b)


def _one_is_forward(a: Type, b: Type) -> bool:
    if isinstance(b, Fwd):
        a, b = b, a
    return isinstance(a, Fwd) and isinstance(b, Struct) and a.is_union == b.is_union and a.name == b.name


def _tag(found: Type) -> str:
    return found.name if isinstance(found, Int | Float | Struct | Enum | Fwd) else ""


def _same_proto(btf: Btf, a: FuncProto, b: FuncProto) -> bool:
    if len(a.params) != len(b.params) or a.variadic != b.variadic:
        return False
    pairs = [(a.ret, b.ret), *((x.type_id, y.type_id) for x, y in zip(a.params, b.params, strict=True))]
    for x, y in pairs:
        (depth_x, base_x), (depth_y, base_y) = _unwound(btf, x), _unwound(btf, y)
        if depth_x != depth_y:
            return False
        if base_x != base_y and (isinstance(btf.type(base_x), FuncProto) or not _same_base(btf, base_x, base_y)):
            return False
    return True


def _qualified(btf: Btf, type_id: int, ref: TypeRef, pointers: int) -> bool:
    """Whether the type has, under its pointers, the qualifiers that were written."""
    if not (ref.const or ref.volatile):
        return True
    for _ in range(pointers):
        found = btf.resolved(type_id)
        if not isinstance(found, Ptr | Array):
            return False
        type_id = found.type_id
    const = volatile = False
    while True:
        found = btf.type(type_id)
        const |= isinstance(found, Const)
        volatile |= isinstance(found, Volatile)
        target = getattr(found, "type_id", None)
        if target is None or isinstance(found, Ptr | Array | Func):
            return (const or not ref.const) and (volatile or not ref.volatile)
        type_id = target


def _matches_glob(btf: Btf, type_id: int, ref: TypeRef, pointers: int) -> bool:
    """Whether some name of the type (a typedef's, its tag, a basic type's) at the written depth matches."""
    if not _qualified(btf, type_id, ref, pointers):
        return False
    for _ in range(pointers):
        found = btf.resolved(type_id)
        if not isinstance(found, Ptr | Array):
            return False
        type_id = found.type_id
    while True:
        found = btf.type(type_id)
        if isinstance(found, Typedef):
            if ref.tag is TagKind.NONE and matches(ref.name, found.name):
                return True
        elif isinstance(found, Ptr | Array | FuncProto):
            return False
        else:
            name = "void" if type_id == 0 else _tag(found)
            if name or type_id == 0:
                return _has_tag(found, ref.tag) and matches(ref.name, name)
        target = getattr(found, "type_id", None)
        if target is None:
            return False
        type_id = target


def _has_tag(found: Type, tag: TagKind) -> bool:
    if tag is TagKind.NONE:
        return True
    if isinstance(found, Fwd):
        return tag is (TagKind.UNION if found.is_union else TagKind.STRUCT)
    return found.__class__ is {TagKind.STRUCT: Struct, TagKind.UNION: Union, TagKind.ENUM: Enum}[tag]
