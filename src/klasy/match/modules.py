"""Types that modules define for themselves: what a name means in the code of a module.

A module's BTF goes on where the kernel's ends. It may have types that the kernel proper has not, others of a name that
the kernel has too (``struct console`` of virtio_console), and copies of the kernel's own, which mean the same.
"""

from __future__ import annotations

from klasy.btf.alike import alike
from klasy.btf.types import Fwd, Ptr, Struct, Union
from klasy.diag import Diagnostic, Severity
from klasy.match.pointcut import KERNEL_PROPER
from klasy.match.typeref import NAMED, TypeRefError, find_base, spelled
from klasy.plain import TYPE_CHECKING, NamedTuple, replace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.btf.btf import Btf
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import TypeRef
    from klasy.match.shadow import Shadow


class Meaning(NamedTuple):
    """A type that a name stands for: where it is described, and whose it is (None: the kernel proper's)."""

    module: str | None
    btf: Btf
    type_id: int

    @property
    def whole(self) -> bool:
        """Whether it is more than a name."""
        return not isinstance(self.btf.resolved(self.type_id), Fwd)


def of_kernel(kernel: Kernel, ref: TypeRef) -> Meaning | None:
    """What the kernel proper calls so; None where it has nothing of the name. Raises TypeRefError as find_base."""
    if not kernel.btf.find(ref.name, *NAMED):
        return None  # find_base would look for names near it, which takes long
    return Meaning(None, kernel.btf, find_base(kernel.btf, ref))


def namesakes(kernel: Kernel, first: int) -> list[Meaning]:
    """The different types of the kernel proper of one kind and name, of which ``first`` is the first; that one first.

    The kernel's source has some twenty such names, each in files that do not know each other.
    """
    btf = kernel.btf
    found = btf.type(first)
    ids = btf.find(found.name, type(found)) if isinstance(found, Struct) else []
    return distinct([Meaning(None, btf, first), *(Meaning(None, btf, each) for each in ids if each != first)])


def told_apart(ref: TypeRef, meanings: list[Meaning], mentioned: Iterable[int]) -> Meaning | None:
    """Which of :func:`namesakes` is meant where some types of the kernel proper are mentioned: the one among them.

    None where none is. Raises TypeRefError where several are.
    """
    btf = meanings[0].btf
    first = btf.type(meanings[0].type_id)
    assert isinstance(first, Struct)
    there = set(mentioned).intersection(btf.find(first.name, type(first)))
    found = [each for each in meanings if any(_are_one(each, Meaning(None, btf, one)) for one in there)]
    if len(found) > 1:
        raise TypeRefError(_several(ref, found))
    return found[0] if found else None


def structs_of(kernel: Kernel, shadows: Iterable[Shadow]) -> set[int]:
    """The structs of the kernel proper that functions take or give, or whose members are accessed, by id."""
    btf = kernel.btf
    found: set[int] = set()
    for proto in {one.proto for shadow in shadows if (one := shadow.callee or shadow.function) and not one.module}:
        if proto is not None:
            kind = btf.proto(proto)
            found.update(_pointed_to(btf, each) for each in (kind.ret, *(p.type_id for p in kind.params)))
    for shadow in shadows:
        if shadow.access is not None:
            found.update(member.struct for member in shadow.access.members if member.module is None)
    return found


def _pointed_to(btf: Btf, type_id: int) -> int:
    kind = btf.resolved(type_id)
    while isinstance(kind, Ptr):
        type_id = kind.type_id
        kind = btf.resolved(type_id)
    return btf.resolve(type_id)


def own(kernel: Kernel, ref: TypeRef, modules: Iterable[str], kernels: Meaning | None) -> list[Meaning]:
    """What modules call so and define for themselves, other than the ``kernels``: all definitions of each."""
    found: list[Meaning] = []
    bare = replace(ref, pointers=0, array=())
    for module in modules:
        btf = kernel.module_btf(module)
        if btf is None or not any(each >= btf.first for each in btf.find(ref.name, *NAMED)):
            continue
        for type_id in _bases(btf, bare):
            new = Meaning(module, btf, type_id)
            if kernels is None or not kernels.whole or not _are_one(new, kernels):
                found.append(new)
    return found


def _bases(btf: Btf, ref: TypeRef) -> list[int]:
    """The ids that a module's own types of a name have; but for the first only what is of the first's kind."""
    try:
        first = find_base(btf, ref, least=btf.first)
    except TypeRefError as error:
        if error.diagnostic.code == "ambiguous-type":
            raise
        return []  # of another kind
    same_kind = btf.find(ref.name, type(btf.type(first)))
    return [first, *(each for each in same_kind if each > first)]


def distinct(meanings: Iterable[Meaning]) -> list[Meaning]:
    """Without those that say what an earlier one says, and without mere names where there is more."""
    found: list[Meaning] = []
    for meaning in sorted(meanings, key=lambda each: not each.whole):
        if not any(_are_one(meaning, other) for other in found):
            found.append(meaning)
    return found


def _are_one(left: Meaning, right: Meaning) -> bool:
    return alike((left.btf, left.type_id), (right.btf, right.type_id))


def definitions(kernel: Kernel, tag: str, is_union: bool) -> list[tuple[Btf, int]]:
    """The structs or unions of a name that modules define, but for those that are another's over again."""
    kind = Union if is_union else Struct
    found = []
    for module in sorted(kernel.modules()):
        btf = kernel.module_btf(module)
        if btf is not None:
            found += [Meaning(module, btf, each) for each in btf.find(tag, kind) if each >= btf.first]
    return [(each.btf, each.type_id) for each in distinct(found)]


def meaning(kernel: Kernel, ref: TypeRef, near: Iterable[str | None], *, sure: bool = True) -> Meaning | None:
    """What a name stands for in the code of some modules (None: of the kernel proper); None where nobody knows it.

    A module's own type comes before the kernel's in that module; a type that neither it nor the kernel knows may be
    another's. Raises TypeRefError where different types have the name there, unless it is not ``sure`` what is near.
    """
    near = list(dict.fromkeys(near))
    kernels = of_kernel(kernel, ref)
    whole = kernels if kernels is not None and kernels.whole else None
    found: list[Meaning] = []
    for module in near:
        mine = own(kernel, ref, [module], kernels) if module is not None else []
        found += mine or ([whole] if whole is not None else [])
    if not any(each.whole for each in found):
        if whole is not None:
            return whole
        found += own(kernel, ref, sorted(set(kernel.modules()).difference(near)), kernels)
    found = distinct([*found, *([kernels] if kernels is not None and whole is None else [])])
    if len(found) > 1 and sure:
        raise TypeRefError(_several(ref, found))
    return found[0] if found else None


def sizes(found: Iterable[Meaning]) -> str:
    """What types of one name can be told apart by, for messages."""
    return ", ".join(str(each.btf.size_of(each.type_id)) for each in found)


def _several(ref: TypeRef, found: list[Meaning]) -> Diagnostic:
    name = spelled(replace(ref, pointers=0, array=(), const=False, volatile=False))
    owners = list(dict.fromkeys(each.module for each in found))
    if len(owners) == 1:
        (owner,) = owners
        who_has = f"module {owner} has" if owner is not None else "this advice is woven into functions of"
        message = f"{who_has} {len(found)} different types '{name}' (of {sizes(found)} bytes)"
        hints = () if owner is not None else ("write an advice for the functions of each",)
        return Diagnostic(Severity.ERROR, "ambiguous-type", message, ref.span, hints)
    who = [f"module {owner}" if owner is not None else "the kernel proper" for owner in owners]
    message = f"'{name}' is one type in {', another in '.join(who)}"
    globs = " or ".join(f"withinmodule({owner or KERNEL_PROPER})" for owner in owners)
    hint = f"write an advice for each, at join points of one only: {globs}"
    return Diagnostic(Severity.ERROR, "ambiguous-type", message, ref.span, (hint,))
