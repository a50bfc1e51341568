"""The types of what advice in user programs binds. Of a program's own types klasy knows but the names.

Names that the kernel knows too mean the kernel's types: right for numbers and for what both share (struct sockaddr,
struct timespec); whoever follows a pointer to such a struct is told so.
"""

from __future__ import annotations

from klasy.compiler.types import Incomplete, Pointer, Struct, pointer_to
from klasy.lang import ast
from klasy.lang.walk import nodes
from klasy.match.typeref import canonical_basic, spelled
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.check import AdviceChecker
    from klasy.compiler.types import CType


def parameter_type(checker: AdviceChecker, param: ast.Param) -> CType | None:
    """The type of a parameter: a pointer to a type that the kernel has not leads to what is not known."""
    ref = param.type
    if ref.pointers and not _known(checker, ref):  # not by trying: that would look for names like it, which takes long
        kind: CType | None = Incomplete(spelled(ast.TypeRef(ref.span, ref.tag, ref.name)), ref.name)
        for _ in range(ref.pointers):
            assert kind is not None
            kind = pointer_to(kind)
        return kind
    kind = checker.type_of(ref)
    if isinstance(kind, Pointer) and isinstance(kind.target, Struct) and _followed(checker.advice, param.name):
        checker.bag.warning(
            "kernel-type-in-program",
            f"'{kind.target.name}' is taken to be the kernel's type of that name: klasy does not know the program's",
            param.span,
        )
    return kind


def _known(checker: AdviceChecker, ref: ast.TypeRef) -> bool:
    return ref.name == "void" or canonical_basic(ref.name) is not None or bool(checker.types.kernel.btf.find(ref.name))


def _followed(advice: ast.Advice, name: str) -> bool:
    return any(
        isinstance(node, ast.Member) and node.arrow and isinstance(node.object, ast.Name) and node.object.name == name
        for node in nodes(advice.body)
    )
