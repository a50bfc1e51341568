"""What pointcuts bind, and whether that is what the parameters want.

A pointcut binds the names of its advice's (or its own) parameters; a name in a signature that is no parameter is
documentation. In ``&&`` each side may bind, no name twice; both arms of ``||`` must bind the same; ``!`` binds nothing.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.pointcuts import designators, near
from klasy.lang.typenames import is_basic
from klasy.plain import TYPE_CHECKING, dataclass

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


def check_bound(
    pointcut: ast.Pointcut,
    params: Mapping[str, ast.Param],
    named: Mapping[str, ast.PointcutDecl],
    whose: str,
    bag: DiagnosticBag,
    *,
    returning: ast.Param | None = None,
) -> None:
    """Check that a pointcut binds each parameter, rightly and with its type.

    ``whose`` it is, in words; ``returning``: the parameter that is the result, which the pointcut must not bind.
    """
    bound = Binder(params, named, bag).bound(pointcut)
    for name, binding in bound.names.items():
        wanted = params[name].type
        if binding.type and types_disagree(binding.type, wanted):
            bag.error(
                "type-mismatch",
                f"'{name}' is '{_written(wanted)}' here, but the pointcut binds '{_written(binding.type)}'",
                params[name].span,
                related=[(binding.span, "bound here")],
            )
    if returning and returning.name in bound.names and params[returning.name] is returning:
        bag.error("bound-twice", f"'{returning.name}' is the result, and bound by the pointcut too",
                       returning.span, related=[(bound.names[returning.name].span, "bound here")])  # fmt: skip
    for name, param in params.items():
        if name not in bound.names and not bound.any and param is not returning:
            hint = _how_to_bind(param, pointcut, set(bound.names))
            bag.error(
                "unbound-parameter",
                f"{whose} does not bind the parameter '{name}'",
                param.span,
                hints=[hint],
                related=[(pointcut.span, "the pointcut")],
            )


def _how_to_bind(param: ast.Param, pointcut: ast.Pointcut, bound: set[str]) -> str:
    from klasy.lang.printer import print_declaration  # only errors need it

    wanted = print_declaration(param.type, param.name)
    offered: list[str] = []
    functions: list[str] = []
    for part in designators(pointcut):
        if isinstance(part, ast.Call | ast.Execution):
            functions.append(part.signature.name)
            for index, pattern in enumerate(part.signature.params or ()):
                if pattern.name:
                    offered.append(pattern.name)
                elif pattern.type and pattern.type.name == param.name and not pattern.type.pointers:
                    place = f"parameter {index + 1} of '{part.signature.name}'"
                    return f"in a signature a lone word is a type: write '{wanted}' for {place}"
        elif isinstance(part, ast.Within) and any(p.name == param.name for p in part.signature.params or ()):
            return "'within' binds nothing: the function that it names is not the one that is called"
        elif isinstance(part, ast.Access) and part.data.name:
            offered.append(part.data.name)
    offered = [name for name in offered if name not in bound]
    hints = near(param.name, offered)
    if hints:
        return hints[0]
    if len(offered) == 1:
        return f"the pointcut names '{offered[0]}'"
    if not functions and param.type.pointers and any(isinstance(part, ast.Access) for part in designators(pointcut)):
        return f"'&& target({param.name})' binds the object whose member is accessed"
    function = functions[0] if len(functions) == 1 else "f"
    return f"name it in the signature: '{function}({wanted}, ..)'"


def _written(type_: ast.TypeRef) -> str:
    """A type as it was written, on one line."""
    return " ".join(type_.span.text.split())


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
