"""The types of what advice in user programs binds: the program's own, where its debug information tells them.

Names that no debug information tells, and the kernel knows, mean the kernel's types: right for what both share (struct
sockaddr, struct timespec); whoever follows a pointer to such a struct is told so.
"""

from __future__ import annotations

from klasy.btf.btf import Btf
from klasy.compiler.types import CHAR, Incomplete, Integer, Pointer, Struct, Types, pointer_to
from klasy.diag import did_you_mean
from klasy.lang import ast
from klasy.lang.walk import nodes
from klasy.match.glob import matches, star
from klasy.match.near import near
from klasy.match.pointcut import outside_flows
from klasy.match.typeref import TypeRefError, canonical_basic, find_base, spelled
from klasy.plain import TYPE_CHECKING, replace
from klasy.programs.debuginfo import types_at
from klasy.programs.files import NotAProgram, ProgramFile, find
from klasy.programs.types import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from klasy.compiler.check import AdviceChecker
    from klasy.compiler.checkexpr import ExprChecker
    from klasy.compiler.types import CType
    from klasy.programs.types import Found
    from klasy.source import Span

WHERE = (
    "compile it with -g; of a program of the distribution, install its debug symbols (Debian: the package's -dbgsym), "
    "which are found by its build id in /usr/lib/debug"
)


def give_types(aspect: ast.Aspect, types: Types) -> dict[int, Types]:
    """The types of each advice that runs in programs, by its index; all that runs in the same files shares them."""
    by_files: dict[tuple[str, ...], list[ast.Advice]] = {}
    for advice in aspect.advice:
        files = tuple(sorted({leaf.file for leaf in _leaves(advice)}))
        if files:
            by_files.setdefault(files, []).append(advice)
    given: dict[int, Types] = {}
    for everyone in by_files.values():
        shared = ProgramTypes(types, *_read(everyone, aspect.functions))
        given |= {advice.index: shared for advice in everyone}
    return given


class ProgramTypes(Types):
    """The program's types, and behind them the kernel's."""

    of_program = True

    def __init__(self, base: Types, found: Found | None, stripped: tuple[str, ...]) -> None:
        """``found`` None: nothing is known. ``stripped`` are the files that have no debug information."""
        super().__init__(base.kernel, base.near, sure=base.sure)
        self.handed = base.handed
        self.found = found
        self.stripped = stripped
        self.program = Btf(found.data) if found is not None else None

    def knows(self, name: str) -> bool:
        """Whether the program has a type of a name, be it only declared."""
        return self.program is not None and bool(self.program.find(name))

    def written(self, ref: ast.TypeRef) -> CType:
        """See Types."""
        try:
            return super().written(ref)
        except TypeRefError as error:
            if error.diagnostic.code != "unknown-type":
                raise
            text = spelled(ast.TypeRef(ref.span, ref.tag, ref.name))
            close = near(ref.name, self.found.names) if self.found is not None else []
            hints = [did_you_mean([_tagged(text, name) for name in close])] if close else error.diagnostic.hints
            message = f"neither the program nor the kernel has a type '{text}'"
            if self.stripped:
                message = f"the kernel has no type '{text}', and '{self.stripped[0]}' has no debug information"
                hints = [WHERE]
            raise TypeRefError(replace(error.diagnostic, message=message, hints=tuple(hints))) from None

    def char(self) -> Integer:
        """See Types. Where nothing tells, that of C compilers for x86-64: signed."""
        return self._char_of(self.program) if self.program is not None else CHAR

    def base_type(self, ref: ast.TypeRef) -> CType | None:
        """See Types."""
        if self.program is not None and self.knows(ref.name):
            return self.of(self.program, find_base(self.program, ref))
        return super().base_type(ref)

    def complete(self, incomplete: Incomplete) -> Struct | None:
        """See Types. What the program only declares is not the kernel's of that name."""
        return None if self.program is not None and self.knows(incomplete.tag) else super().complete(incomplete)

    def constant_places(self) -> Iterable[list[Btf]]:
        """See Types."""
        if self.program is not None:
            yield [self.program]
        yield from super().constant_places()


def _leaves(advice: ast.Advice) -> Iterator[ast.User]:
    return (part for part in outside_flows(advice.pointcut) if isinstance(part, ast.User))


def _read(everyone: list[ast.Advice], functions: Iterable[ast.FunctionDecl]) -> tuple[Found | None, tuple[str, ...]]:
    """What the debug information of the files tells of the types that are named, and the files that have none."""
    tops: list[Any] = [*everyone, *functions]
    everything = [node for top in tops for node in nodes(top)]
    wanted = Wanted(
        frozenset(n.name for n in everything if isinstance(n, ast.TypeRef) and canonical_basic(n.name) is None),
        frozenset(n.name for n in everything if isinstance(n, ast.Member)),
        frozenset(n.name for n in everything if isinstance(n, ast.Name)),
    )
    if not wanted.types - {"void"}:
        return None, ()
    places: dict[tuple[str, int], None] = {}
    stripped: dict[str, None] = {}
    programs: dict[str, ProgramFile] = {}
    for leaf in (leaf for advice in everyone for leaf in _leaves(advice)):
        try:
            if leaf.file not in programs:
                programs[leaf.file] = ProgramFile(find(leaf.file), leaf.file)
        except NotAProgram:
            continue  # matching says so
        program = programs[leaf.file]
        debug = program.debug_file()
        if debug is None:
            stripped[leaf.file] = None
            continue
        pattern = star(leaf.signature.name)
        places |= {(debug, s.address): None for s in program.symbols() if matches(pattern, s.name)}
    return types_at(places, wanted), tuple(stripped)


# --- parameters -------------------------------------------------------------------------------------------------------


def parameter_type(checker: AdviceChecker, param: ast.Param) -> CType | None:
    """The type of a parameter: a pointer to a type that nobody knows leads to what is not known."""
    ref = param.type
    if ref.pointers and not _known(checker.types, ref):  # not by trying: it would look for names near
        kind: CType | None = Incomplete(spelled(ast.TypeRef(ref.span, ref.tag, ref.name)), ref.name)
        for _ in range(ref.pointers):
            assert kind is not None
            kind = pointer_to(kind)
        return kind
    kind = checker.type_of(ref)
    target = kind.target if isinstance(kind, Pointer) else None
    if isinstance(target, Struct) and _of_kernel(checker.types, target) and _followed(checker.advice, param.name):
        checker.bag.warning(
            "kernel-type-in-program",
            f"'{target.name}' is taken to be the kernel's type of that name: klasy does not know the program's",
            param.span,
        )
    return kind


def _of_kernel(types: Types, struct: Struct) -> bool:
    return not isinstance(types, ProgramTypes) or struct.btf is not types.program


def _known(types: Types, ref: ast.TypeRef) -> bool:
    if ref.name == "void" or canonical_basic(ref.name) is not None:
        return True
    return (isinstance(types, ProgramTypes) and types.knows(ref.name)) or bool(types.kernel.btf.find(ref.name))


def _followed(advice: ast.Advice, name: str) -> bool:
    return any(
        isinstance(node, ast.Member) and node.arrow and isinstance(node.object, ast.Name) and node.object.name == name
        for node in nodes(advice.body)
    )


def incomplete(checker: ExprChecker, kind: Incomplete, span: Span) -> None:
    """Report that the members of a struct are asked for which are not known, and what would make them known."""
    types = checker.types
    assert isinstance(types, ProgramTypes)
    why, hints = "its debug information does not tell them", []
    if types.stripped:
        why = f"'{types.stripped[0]}' has no debug information"
        hints = [WHERE]
    elif types.found is not None and kind.tag in types.found.several:
        why = "the program has several of that name, which differ"
        hints = ["name functions of one source file, or follow it in an advice of its own"]
    elif types.knows(kind.tag):
        why = "where the function was compiled it is only declared"
    elif types.found is not None:
        why = "the debug information of the function's source file has no such type"
        hints = [did_you_mean([_tagged(kind.name, name) for name in near(kind.tag, types.found.names)])]
    checker.error("incomplete-type", f"the members of '{kind.name}' are not known: {why}", span, *hints)


def _tagged(like: str, name: str) -> str:
    return f"struct {name}" if like.startswith("struct ") else name
