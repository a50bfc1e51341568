"""What a pattern of members means: which members of which types, the kernel's and its modules'.

``sk_buff.len``, ``tcp_sock.snd_*`` and the like; a pattern of a global's members is none of these.
"""

from __future__ import annotations

from klasy.btf.types import Array, Struct
from klasy.btf.walk import find_member, member_names, members
from klasy.diag import did_you_mean
from klasy.errors import KernelLacks
from klasy.lang import ast
from klasy.match import modules
from klasy.match.datum import DataType, MemberData
from klasy.match.glob import is_glob, matches
from klasy.match.typeref import NOT_LOADED, TypeRefError, find_base
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.btf.btf import Btf
    from klasy.flow.sites import Member
    from klasy.match.matcher import AdviceMatcher


def is_of_type(matcher: AdviceMatcher, data: ast.DataPattern) -> bool:
    """Whether a pattern names members of a type, not a global."""
    if data.type is not None:
        return bool(data.path) or (data.name is not None and data.name in matcher.binder.params)
    if len(data.path) < 2 or data.declared is not None or data.cpu is not None:
        return False
    name = data.path[0]
    if any(symbol.name == name for symbol in matcher.kernel.data_symbols(name)):
        return False
    ref = ast.TypeRef(data.span, ast.TagKind.NONE, name)
    kernel = matcher.kernel
    return bool(kernel.btf.find(name)) or bool(modules.own(kernel, ref, sorted(kernel.modules()), None))


class NamedMembers:
    """The members that a pattern names: of the kernel's types; of modules' where it has none of the name with such a
    member, or ``named``, modules that the pointcut names, have types of their own of the name.

    ``structs`` are those that have one of the members.
    """

    def __init__(self, matcher: AdviceMatcher, node: ast.Access, named: Sequence[str]) -> None:
        self.matcher = matcher
        self.node = node
        self.named = named
        self.btf: Btf = matcher.kernel.btf
        self.module: str | None = None
        self.structs: list[modules.Meaning] = []

    def _fail(self, code: str, message: str, *hints: str) -> None:
        self.matcher.bag.error(code, message, self.node.data.span, hints=hints)

    def find(self) -> list[tuple[Member, MemberData]]:
        """Empty where an error was reported."""
        data = self.node.data
        path = data.path
        ref = data.type
        if ref is None:
            ref = ast.TypeRef(data.span, ast.TagKind.NONE, path[0])
            path = path[1:]
        kernel, bag = self.matcher.kernel, self.matcher.bag
        try:
            kernels = modules.of_kernel(kernel, ref)
            known = kernels is not None and kernels.whole
            own = modules.own(kernel, ref, self.named if known else sorted(kernel.modules()), kernels)
            if known and not own and path and not is_glob(path[0]) and self._lacks(kernels, path[0]):
                own = modules.own(kernel, ref, sorted(kernel.modules()), kernels)
            if not own:
                kernels = kernels or modules.Meaning(None, self.btf, find_base(self.btf, ref))
        except TypeRefError as error:
            found = error.diagnostic
            if found.code == "unknown-type":
                found = replace(found, hints=(*found.hints, NOT_LOADED))
            bag.items.append(found)
            return []
        everyone = [*self._of_kernel(kernels if known or not own else None), *own]
        if path and not is_glob(path[0]):
            everyone = [each for each in everyone if not self._lacks(each, path[0])] or everyone[:1]
        members: list[tuple[Member, MemberData]] = []
        for each in everyone:
            self.module, self.btf, _ = each
            mine = self._of(self.btf.resolve(each.type_id), ref, path)
            if not mine:
                return []
            self.structs.append(each)
            members += mine
        return members

    def _of_kernel(self, first: modules.Meaning | None) -> list[modules.Meaning]:
        if first is None:
            return []
        return modules.namesakes(self.matcher.kernel, first.type_id) if first.whole else [first]

    def _lacks(self, struct: modules.Meaning | None, name: str) -> bool:
        return struct is not None and find_member(struct.btf, struct.type_id, name) is None

    def _of(self, struct: int, ref: ast.TypeRef, path: tuple[str, ...]) -> list[tuple[Member, MemberData]]:
        data = self.node.data
        if not isinstance(self.btf.type(struct), Struct):
            self._fail("not-a-struct", f"'{self.btf.c_name(struct)}' has no members")
            return []
        if data.path and ref.pointers:
            self._fail(
                "not-a-struct", f"'{self.btf.c_name(struct)} *' is a pointer, and has no members",
                f"a member of every such object: {self.btf.c_name(struct)}.{'.'.join(path)}",
            )  # fmt: skip
            return []
        if not data.path and ref.pointers != 1:
            self._fail("not-a-pointer", f"'{data.name}' is to be the object's address: write a pointer to its type")
            return []
        return self._below(struct, path or ("*",))

    def _below(self, struct: int, path: tuple[str, ...]) -> list[tuple[Member, MemberData]]:
        from klasy.flow.sites import member

        *way, last = path
        inner = struct
        for step in way:
            place = find_member(self.btf, inner, step) if not _leads_out(step) else None
            if place is None:
                self._absent(inner, step)
                return []
            inner = self.btf.resolve(place.type_id)
        if _leads_out(last) or not isinstance(self.btf.type(inner), Struct):
            self._absent(inner, last)
            return []
        names = list(dict.fromkeys(place.name for place in members(self.btf, inner) if place.name))
        chosen = [name for name in names if matches(last, name)] if is_glob(last) else [last]
        found = []
        for name in chosen:
            try:
                one = member(self.btf, struct, ".".join([*way, name]), self.module)
            except KernelLacks:
                self._absent(inner, name)
                return []
            if one.bits:  # not of a flexible array
                found.append((one, MemberData(str(one), DataType(self.btf, one.type_id))))
        if not found and chosen and not is_glob(last):
            self._fail(
                "not-a-member", f"'{self.btf.c_name(inner)}.{last}' is an array of no length that is known",
                "what it holds lies behind the object, where no access can be told from others",
            )  # fmt: skip
        elif not found:
            self._absent(inner, last)
        return found

    def _absent(self, struct: int, step: str) -> None:
        name = self.btf.c_name(struct)
        if _leads_out(step):
            self._fail(
                "not-a-member", f"'{step}' leads out of '{name}': what lies there is of no fixed place in it",
                "name the member of the type that is pointed to" if "->" in step else "name the array itself",
            )  # fmt: skip
            return
        from klasy.match.near import near

        array = self.btf.type(struct)
        if isinstance(array, Array):
            element = self.btf.c_name(array.type_id)
            self._fail(
                "not-a-member", f"'{name}' is an array, and '{step}' would be a member of each element",
                f"name the array itself: an access to any part of it is one; or '{element}.{step}', wherever that is",
            )  # fmt: skip
            return
        known = member_names(self.btf, struct)
        if not known:
            self._fail("not-a-struct", f"'{name}' has no members")
            return
        close = near(step, known)
        self._fail("unknown-member", f"'{name}' has no member '{step}'", did_you_mean(close))


def _leads_out(step: str) -> bool:
    """Whether a step of a path goes through a pointer or into an array."""
    return "->" in step or "[" in step
