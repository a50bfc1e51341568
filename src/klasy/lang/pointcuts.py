"""Pointcut expressions: their parts, and how named ones are put in place of their references."""

from __future__ import annotations

from klasy.diag import did_you_mean, suggest
from klasy.lang import ast
from klasy.lang.walk import free_names, rename
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klasy.source import Span


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
    return [did_you_mean(found)] if found else []
