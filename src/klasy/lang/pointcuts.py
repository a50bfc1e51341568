"""Pointcut expressions: what they bind, and how named ones are put in place of their references.

A pointcut binds the names of its advice's (or its own) parameters; a name in a signature that is no parameter is
documentation. In ``&&`` each side may bind, no name twice; both arms of ``||`` must bind the same; ``!`` binds nothing.
"""

from __future__ import annotations

from klasy.diag import suggest
from klasy.lang import ast
from klasy.lang.typenames import is_basic
from klasy.lang.walk import free_names, rename
from klasy.plain import TYPE_CHECKING, dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klasy.diag import DiagnosticBag
    from klasy.source import Span


@dataclass(frozen=True)
class Binding:
    """One place that binds a name, with the type written there, if one was."""

    name: str
    type: ast.TypeRef | None
    span: Span


@dataclass(frozen=True)
class Bound:
    """What a pointcut binds. ``any``: it is not the aspect that names what is offered (``syscall``, ``event``, and
    ``user`` without parameters), so any name may be."""

    names: dict[str, Binding]
    any: bool = False


def designators(pointcut: ast.Pointcut) -> Iterator[ast.Pointcut]:
    """All designators and references in a pointcut, from left to right."""
    if isinstance(pointcut, ast.And | ast.Or):
        yield from designators(pointcut.left)
        yield from designators(pointcut.right)
    elif isinstance(pointcut, ast.Not):
        yield from designators(pointcut.operand)
    else:
        yield pointcut
        if isinstance(pointcut, ast.Cflow):
            yield from designators(pointcut.operand)


class Binder:
    """Finds what a pointcut binds of a set of parameters, and says what is wrong with that."""

    def __init__(
        self, params: Mapping[str, ast.Param], named: Mapping[str, ast.PointcutDecl], bag: DiagnosticBag
    ) -> None:
        self.params = params
        self.named = named
        self.bag = bag

    def bound(self, pointcut: ast.Pointcut) -> Bound:
        """What is bound. A name that is bound wrongly counts as bound, to be reported once."""
        if isinstance(pointcut, ast.And):
            return self._both(self.bound(pointcut.left), self.bound(pointcut.right))
        if isinstance(pointcut, ast.Or):
            return self._either(pointcut)
        if isinstance(pointcut, ast.Not):
            inner = self.bound(pointcut.operand)
            for binding in inner.names.values():
                self.bag.error(
                    "bound-under-not",
                    f"'{binding.name}' cannot be bound under '!': there it stands for what did not happen",
                    binding.span,
                    hints=["in a signature under '!' write types only, or '..'"],
                )
            return Bound(inner.names)
        if isinstance(pointcut, ast.Cflow):
            return self.bound(pointcut.operand)
        if isinstance(pointcut, ast.Syscall | ast.Event) or _names_parameters(pointcut):
            return Bound({}, any=True)
        found: dict[str, Binding] = {}
        for binding in self._bindings(pointcut):
            if binding.name not in self.params:
                continue
            if binding.name in found:
                self._twice(found[binding.name], binding)
            found[binding.name] = binding
        return Bound(found)

    def _bindings(self, pointcut: ast.Pointcut) -> Iterator[Binding]:
        if isinstance(pointcut, ast.Call | ast.Execution):
            for param in pointcut.signature.params or ():
                if param.name:
                    yield Binding(param.name, param.type, param.span)
        elif isinstance(pointcut, ast.Access):
            if pointcut.data.name:
                yield Binding(pointcut.data.name, pointcut.data.type, pointcut.data.span)
        elif isinstance(pointcut, ast.Target):
            yield Binding(pointcut.name, None, pointcut.span)
        elif isinstance(pointcut, ast.Args):
            for param in pointcut.params:
                name = ast.bound_name(param, self.params)
                if name:
                    yield Binding(name, param.type if param.name else None, param.span)
        elif isinstance(pointcut, ast.PointcutRef):
            declaration = self.named.get(pointcut.name)
            for index, name in enumerate(pointcut.args):
                params = declaration.params if declaration else ()
                yield Binding(name, params[index].type if index < len(params) else None, pointcut.span)

    def _both(self, left: Bound, right: Bound) -> Bound:
        for name in left.names.keys() & right.names.keys():
            self._twice(left.names[name], right.names[name])
        return Bound({**left.names, **right.names}, left.any or right.any)

    def _twice(self, first: Binding, second: Binding) -> None:
        self.bag.error(
            "bound-twice",
            f"'{first.name}' is bound twice",
            second.span,
            related=[(first.span, "it is bound here already")] if first.span.start != second.span.start else [],
        )

    def _either(self, pointcut: ast.Or) -> Bound:
        left, right = self.bound(pointcut.left), self.bound(pointcut.right)
        for one, other, arm in ((left, right, pointcut.right), (right, left, pointcut.left)):
            for name, binding in one.names.items():
                if name not in other.names and not other.any:
                    self.bag.error(
                        "bound-in-one-arm",
                        f"'{name}' is bound in one arm of '||' only: where the other matches, it would have no value",
                        binding.span,
                        hints=[f"bind '{name}' in both arms, or write two advice"],
                        related=[(arm.span, "this arm does not bind it")],
                    )
        return Bound({**left.names, **right.names}, left.any and right.any)


def types_disagree(one: ast.TypeRef, other: ast.TypeRef) -> bool:
    """Whether two types, as written, cannot be one, whatever the kernel's typedefs are. ``const`` does not count."""
    if any(c in t.name for t in (one, other) for c in "*%"):
        return False  # wildcards: the matcher's business
    depths = [t.pointers + len(t.array) for t in (one, other)]
    if one.name == other.name and (one.tag == other.tag or ast.TagKind.NONE in (one.tag, other.tag)):
        return depths[0] != depths[1]
    settled = [t.tag is not ast.TagKind.NONE or is_basic(t.name) for t in (one, other)]
    if not all(settled):
        return False  # a typedef may be anything
    # An enum may well be written as the integer that it is.
    return not (ast.TagKind.ENUM in (one.tag, other.tag) and (is_basic(one.name) or is_basic(other.name)))


def _names_parameters(pointcut: ast.Pointcut) -> bool:
    """Whether the debug information of a user program may name what is bound, for the signature names nothing."""
    return isinstance(pointcut, ast.User) and pointcut.signature.params is None


class Expander:
    """Puts named pointcuts in the place of their references, with the names that the references give.

    Presupposes that the aspect was found to be right: references resolve, arguments fit and nothing recurs.
    """

    def __init__(self, named: Mapping[str, ast.PointcutDecl]) -> None:
        self.named = named

    def expand(self, pointcut: ast.Pointcut, names: Mapping[str, str | None] | None = None) -> ast.Pointcut:
        """The pointcut without references.

        Inside a named pointcut ``names`` maps its parameters to the names at the reference, None for one that is
        left out there; what is not its parameter is documentation and loses its name, so that nothing outside can
        be caught by it.
        """
        if isinstance(pointcut, ast.And | ast.Or):
            return replace(pointcut, left=self.expand(pointcut.left, names), right=self.expand(pointcut.right, names))
        if isinstance(pointcut, ast.Not | ast.Cflow):
            return replace(pointcut, operand=self.expand(pointcut.operand, names))
        if isinstance(pointcut, ast.PointcutRef):
            declaration = self.named[pointcut.name]
            inner: dict[str, str | None] = {p.name: None for p in declaration.params}
            for param, argument in zip(declaration.params, pointcut.args, strict=False):
                if argument == "..":
                    break
                if argument != "*":
                    inner[param.name] = argument if names is None else names.get(argument)
            return self.expand(declaration.expr, inner)
        if names is None:
            return pointcut
        if isinstance(pointcut, ast.Call | ast.Execution | ast.Within):
            return replace(pointcut, signature=_rename_signature(pointcut.signature, names))
        if isinstance(pointcut, ast.Access):
            return replace(pointcut, data=_rename_data(pointcut.data, names))
        if isinstance(pointcut, ast.Event | ast.Syscall):
            return replace(pointcut, binds=tuple((outside, name) for name, outside in names.items() if outside))
        if isinstance(pointcut, ast.Target):
            return replace(pointcut, name=names.get(pointcut.name) or "*")
        if isinstance(pointcut, ast.Args):
            return replace(pointcut, params=tuple(_rename_argument(p, names) for p in pointcut.params))
        if isinstance(pointcut, ast.If):
            return replace(pointcut, condition=rename(pointcut.condition, {k: v for k, v in names.items() if v}))
        return pointcut


def _rename_signature(signature: ast.Signature, names: Mapping[str, str | None]) -> ast.Signature:
    params = signature.params
    if params is not None:
        params = tuple(replace(p, name=names.get(p.name) if p.name else None) for p in params)
    other = _rename_signature(signature.other, names) if signature.other else None
    return replace(signature, params=params, other=other)


def _rename_argument(param: ast.ParamPattern, names: Mapping[str, str | None]) -> ast.ParamPattern:
    name = ast.bound_name(param, names)
    if name and not param.name:  # a lone word that binds is no type
        return replace(param, kind=ast.ParamKind.ANY_ONE, type=None, name=names[name])
    return replace(param, name=names[name] if name else None)


def _rename_data(data: ast.DataPattern, names: Mapping[str, str | None]) -> ast.DataPattern:
    if data.name is None:
        return data
    if data.name in names or data.watched:
        return replace(data, name=names.get(data.name))
    return replace(data, type=None, path=(data.name,), name=None, declared=data.type)  # a global of that name


def condition_names(pointcut: ast.Pointcut) -> dict[str, Span]:
    """The names that the conditions of a pointcut mention, each with the first place."""
    found: dict[str, Span] = {}
    for part in designators(pointcut):
        if isinstance(part, ast.If):
            for name in free_names(part.condition):
                found.setdefault(name.name, name.span)
    return found


def near(name: str, candidates: list[str]) -> list[str]:
    """A hint naming what was probably meant, or none."""
    found = suggest(name, candidates)
    return [f"did you mean '{'' or ''.join(found)}'?"] if found else []
