"""Aspects that extend abstract ones: what a concrete aspect is made of, with the abstract one's parameters put in.

An aspect that extends another has all that the other has: pointcuts, state, functions and advice, as if it were
written there, and may define pointcuts and functions of its own in the place of inherited ones. Its own ``before``
comes before what it inherits and its own ``after`` behind, so that what is inherited lies inside, as in AspectJ. State
is its own: each concrete aspect has one.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.pointcuts import near
from klasy.lang.typenames import TAGS
from klasy.lang.vocabulary import CONTEXT_NAMES, FUNCTIONS, JOINPOINT
from klasy.lang.walk import nodes, transform
from klasy.plain import TYPE_CHECKING, replace, suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeVar

    from klasy.diag import Diagnostic, DiagnosticBag
    from klasy.source import SourceFile, Span

    N = TypeVar("N", bound=ast.Node)


class Unextendable(Exception):
    """What an aspect extends cannot be put in; the bag says why."""


class Inheritance:
    """Makes aspects whole.

    ``everything``: all that are read together, ``visible``: the names of those that the aspects of a file can name,
    ``bags``: where the errors of a file go.
    """

    def __init__(
        self,
        everything: Mapping[str, ast.AspectDecl],
        visible: Mapping[SourceFile, Iterable[str]],
        bags: Mapping[SourceFile, DiagnosticBag],
    ) -> None:
        self.everything = everything
        self._visible = visible
        self._bags = bags
        self._whole: dict[str, ast.AspectDecl | None] = {}

    def whole(self, aspect: ast.AspectDecl) -> ast.AspectDecl | None:
        """An aspect with all that it inherits. None, with an error in the bag of its file, where that cannot be."""
        if aspect.extends is None:
            return aspect
        if aspect.name not in self._whole:
            self._whole[aspect.name] = None  # for what extends itself
            with suppress(Unextendable):
                self._whole[aspect.name] = self._extended(aspect, aspect.extends)
        return self._whole[aspect.name]

    def _error(
        self, code: str, message: str, span: Span, hints: Sequence[str] = (), related: Sequence[tuple[Span, str]] = ()
    ) -> Unextendable:
        bag = self._bags.get(span.file)
        if bag is not None:
            bag.error(code, message, span, hints=hints, related=related)
        return Unextendable()

    def _extended(self, aspect: ast.AspectDecl, extends: ast.Extends) -> ast.AspectDecl:
        ring = [aspect]
        while (last := ring[-1]).extends is not None and last.extends.name in self.everything:
            following = self.everything[last.extends.name]
            if following is aspect:
                how = " extends ".join(f"'{each.name}'" for each in (*ring, aspect))
                related = [(each.extends.span, "here") for each in ring[1:] if each.extends is not None]
                raise self._error("recursive-aspect", f"an aspect cannot extend itself: {how}", extends.span,
                                  related=related)  # fmt: skip
            if following in ring:
                raise Unextendable  # those in the ring say so
            ring.append(following)
        if extends.name == "?":
            raise Unextendable  # the name is missing, which was said
        names = [name for name in self._visible.get(aspect.span.file, ()) if name != aspect.name]
        base = self.everything.get(extends.name)
        if base is None or extends.name not in names:
            hints = near(extends.name, names)
            if base is not None:
                hints = [f"it is in '{base.span.file.name}': this file must import it, too"]
            raise self._error("unknown-aspect", f"there is no aspect '{extends.name}' here", extends.span, hints)
        if not base.abstract:
            raise self._error(
                "extends-concrete",
                f"'{base.name}' is concrete, and only an abstract aspect can be extended",
                extends.span,
                [f"write 'abstract aspect {base.name}'; it is not woven itself then"],
                [(base.name_span, "the aspect")],
            )
        inherited = self.whole(base)
        if inherited is None:
            raise Unextendable
        return self._merged(aspect, self._bound(inherited, extends), extends)

    # --- parameters ---

    def _bound(self, base: ast.AspectDecl, extends: ast.Extends) -> ast.AspectDecl:
        """An abstract aspect with the arguments in place of its parameters."""
        wanted, given = base.params, extends.arguments
        if len(wanted) != len(given):
            raise self._error(
                "wrong-arguments",
                f"'{base.name}' takes {len(wanted) or 'no'} argument{'' if len(wanted) == 1 else 's'}, "
                f"here {len(given) or 'none'} {'is' if len(given) <= 1 else 'are'} given",
                extends.span,
                related=[(base.name_span, "the aspect")],
            )
        names: dict[str, ast.NameArgument] = {}
        constants: dict[str, tuple[ast.Param, ast.Expr]] = {}
        for param, argument in zip(wanted, given, strict=True):
            if isinstance(param, ast.NameParam):
                if not isinstance(argument, ast.NameArgument):
                    raise self._error("bad-argument", f"'{param.name}' is a name or a type, and this is a value",
                                      argument.span, related=[(param.span, "the parameter")])  # fmt: skip
                names[param.name] = argument
            elif isinstance(argument, ast.NameArgument):
                word = argument.words[0]
                if len(argument.words) > 1 or not word.isidentifier():
                    raise self._error(
                        "bad-argument",
                        f"'{param.name}' is a constant, and '{' '.join(argument.words)}' is none",
                        argument.span,
                        ["a constant is a number, or an expression in parentheses"],
                        [(param.span, "the parameter")],
                    )
                constants[param.name] = param, ast.Name(argument.span, word)
            else:
                constants[param.name] = param, argument
        if not names and not constants:
            return base
        put = _Putting(names, constants)
        return replace(
            base,
            pointcuts=tuple(map(put.into, base.pointcuts)),
            advice=tuple(map(put.into, base.advice)),
            state=tuple(map(put.into_state, base.state)),
            functions=tuple(map(put.into, base.functions)),
            open=tuple(map(put.into, base.open)),
        )

    # --- both together ---

    def _merged(self, aspect: ast.AspectDecl, base: ast.AspectDecl, extends: ast.Extends) -> ast.AspectDecl:
        own = {p.name: p for p in aspect.pointcuts}
        wanted: dict[str | None, ast.PointcutDecl | ast.AbstractPointcut] = {p.name: p for p in base.pointcuts}
        wanted.update((p.name, p) for p in base.open)
        for name, declaration in own.items():
            before = wanted.get(name)
            if name is not None and before is not None:
                self._check_params(f"pointcut '{name}'", declaration, declaration.params, before, before.params)
        for function in aspect.functions:
            inherited = next((f for f in base.functions if f.name == function.name), None)
            if inherited is not None:
                what = f"function '{function.name}'"
                self._check_params(what, function, function.params, inherited, inherited.params)
                if _plain(function.result) != _plain(inherited.result):
                    raise self._error("bad-override", f"{what} gives another type than the one it replaces",
                                      function.head, related=[(inherited.head, "the inherited one")])  # fmt: skip
        still_open = tuple(p for p in base.open if p.name not in own and p.name not in {o.name for o in aspect.open})
        if still_open and not aspect.abstract:
            raise self._error(
                "abstract-pointcut",
                f"'{aspect.name}' does not say what pointcut '{still_open[0].name}' is",
                extends.span,
                [f"pointcut {_declared(still_open[0])}: ..;"],
                [(p.span, f"left open by '{base.name}'") for p in still_open],
            )
        functions = {f.name for f in aspect.functions}
        own_open = {p.name for p in aspect.open}
        return replace(
            aspect,
            pointcuts=(
                *(p for p in base.pointcuts if p.name not in own and p.name not in own_open),
                *aspect.pointcuts,
            ),
            advice=(
                *(a for a in aspect.advice if a.kind is not ast.AdviceKind.AFTER),
                *base.advice,
                *(a for a in aspect.advice if a.kind is ast.AdviceKind.AFTER),
            ),
            state=(*base.state, *aspect.state),
            functions=(*(f for f in base.functions if f.name not in functions), *aspect.functions),
            open=(*still_open, *aspect.open),
        )

    def _check_params(
        self, what: str, own: ast.Node, params: Sequence[ast.Param], other: ast.Node, others: Sequence[ast.Param]
    ) -> None:
        if list(map(_written, params)) != list(map(_written, others)):
            raise self._error("bad-override", f"{what} has other parameters than the one it stands for",
                              own.span, related=[(other.span, "the inherited one")])  # fmt: skip


def _plain(type_: ast.TypeRef) -> tuple[str, int, tuple[int, ...]]:
    """A type as it was written, but for ``struct`` and ``const``, which can be left out."""
    return type_.name, type_.pointers, type_.array


def _written(param: ast.Param) -> tuple[str, int, tuple[int, ...]]:
    return _plain(param.type)


def _declared(pointcut: ast.AbstractPointcut) -> str:
    from klasy.lang.printer import print_declaration  # only errors need it

    return f"{pointcut.name}({', '.join(print_declaration(p.type, p.name) for p in pointcut.params)})"


class _Putting:
    """Puts arguments in place of parameters."""

    def __init__(
        self,
        names: Mapping[str, ast.NameArgument],
        constants: Mapping[str, tuple[ast.Param, ast.Expr]],
    ) -> None:
        self.names = names
        self.constants = constants

    def into(self, part: N) -> N:
        """A part of an aspect with the arguments in it."""
        return transform(part, self._change)

    def into_state(self, state: ast.StateDecl) -> ast.StateDecl:
        """State, whose keys may be types."""
        keys = tuple(
            self._type(ast.TypeRef(key.span, ast.TagKind.NONE, key.name))
            if isinstance(key, ast.Name) and key.name in self.names
            else self.into(key)
            for key in state.keys
        )
        return replace(self.into(replace(state, keys=())), keys=keys)

    def _change(self, node: ast.Node) -> ast.Node:
        if isinstance(node, ast.Name):
            return self._value(node)
        if isinstance(node, ast.TypeRef):
            return self._type(node)
        if isinstance(node, ast.Signature):
            return replace(node, name=self._name(node.name))
        if isinstance(node, ast.DataPattern):
            path = tuple(step for old in node.path for step in self._path(old))
            return replace(node, path=path, name=self._name(node.name) if node.name else node.name)
        if isinstance(node, ast.Syscall):
            return replace(node, name=self._name(node.name))
        if isinstance(node, ast.Event):
            return replace(node, category=self._name(node.category), name=self._name(node.name))
        if isinstance(node, ast.WithinFile | ast.WithinModule):
            return replace(node, glob=self._name(node.glob))
        if isinstance(node, ast.At) and node.function is not None:
            return replace(node, function=self._name(node.function))
        if (
            isinstance(node, ast.Apply)
            and isinstance(node.callee, ast.Name)
            and node.callee.name in ("sample", "limit")
        ):
            return replace(node, args=tuple(map(_bare, node.args)))
        if isinstance(node, ast.SizeOf) and isinstance(node.operand, ast.Name) and node.operand.name in self.names:
            operand = node.operand
            return ast.SizeOf(node.span, self._type(ast.TypeRef(operand.span, ast.TagKind.NONE, operand.name)))
        return node

    def _value(self, node: ast.Name) -> ast.Expr:
        if node.name in self.constants:
            param, value = self.constants[node.name]
            return ast.Cast(node.span, param.type, _placed(value, node.span))
        return node

    def _name(self, name: str) -> str:
        return " ".join(self.names[name].words) if name in self.names else name

    def _path(self, step: str) -> list[str]:
        if step in self.names:
            return self._name(step).split(".")
        return [step]

    def _type(self, node: ast.TypeRef) -> ast.TypeRef:
        if node.name not in self.names:
            return node
        words = list(self.names[node.name].words)
        tag = ast.TagKind(words.pop(0)) if words[0] in TAGS and len(words) > 1 else node.tag
        stars = sum(word.count("*") for word in words[1:])
        name = words[0]
        if len(words) == 1 and name.endswith("*") and tag is not ast.TagKind.NONE:
            stars, name = len(name) - len(name.rstrip("*")), name.rstrip("*")
        basic = [word for word in words if word.strip("*")]
        name = " ".join(basic) if len(basic) > 1 else name
        return replace(node, tag=tag, name=name, pointers=node.pointers + stars)


def _placed(value: ast.Expr, span: Span) -> ast.Expr:
    """A value as if it stood at a place: what is logged there is shown under the text that is there."""
    return transform(value, lambda node: replace(node, span=span))


def _bare(argument: ast.Expr) -> ast.Expr:
    """A rate, in which numbers stand by themselves."""

    def change(node: ast.Node) -> ast.Node:
        return node.operand if isinstance(node, ast.Cast) and isinstance(node.operand, ast.IntLiteral) else node

    return transform(argument, change)


# --- what is wrong with abstract aspects ---


def check_abstract(aspect: ast.AspectDecl, bag: DiagnosticBag) -> None:
    """Report what is wrong with the parameters and open pointcuts of an aspect, as it is written."""
    if not aspect.abstract:
        for what, span in (
            *(("parameters", param.span) for param in aspect.params[:1]),
            *(("an abstract pointcut", pointcut.span) for pointcut in aspect.open[:1]),
        ):
            bag.error("not-abstract", f"only an abstract aspect can have {what}", span,
                      hints=[f"write 'abstract aspect {aspect.name}'"])  # fmt: skip
    if aspect.params:
        _check_parameters(aspect, bag)
    opened: dict[str, ast.AbstractPointcut] = {}
    named_pointcuts = {p.name: p for p in aspect.pointcuts}
    for pointcut in aspect.open:
        other = opened.get(pointcut.name) or named_pointcuts.get(pointcut.name)
        if other is not None:
            bag.error("duplicate-pointcut", f"there are two pointcuts named '{pointcut.name}'", pointcut.span,
                      related=[(other.span, "the other one")])  # fmt: skip
        opened.setdefault(pointcut.name, pointcut)


def _check_parameters(aspect: ast.AspectDecl, bag: DiagnosticBag) -> None:
    first: dict[str, ast.NameParam | ast.Param] = {}
    for param in aspect.params:
        if param.name in first:
            bag.error("declared-twice", f"there are two parameters named '{param.name}'", param.span,
                      related=[(first[param.name].span, "the first one")])  # fmt: skip
        elif param.name in FUNCTIONS or param.name in CONTEXT_NAMES or param.name == JOINPOINT:
            bag.error("hides-context", f"'{param.name}' has a meaning of its own in advice", param.span,
                      hints=["choose another name for the parameter"])  # fmt: skip
        first.setdefault(param.name, param)
    inside: tuple[ast.Node, ...] = (
        *aspect.pointcuts, *aspect.open, *aspect.advice, *aspect.state, *aspect.functions,
        *(aspect.extends.arguments if aspect.extends is not None else ()),
    )  # fmt: skip
    for node in (node for part in inside for node in nodes(part)):
        if isinstance(node, ast.Param | ast.Declare | ast.StateDecl | ast.FunctionDecl) and node.name in first:
            bag.error("hides-parameter", f"'{node.name}' would hide the aspect's parameter of that name", node.span,
                      related=[(first[node.name].span, "the parameter")])  # fmt: skip
        if isinstance(node, ast.Assign | ast.IncDec) and isinstance(node.target, ast.Name):
            name = node.target.name
            if isinstance(first.get(name), ast.Param):
                bag.error("not-assignable", f"'{name}' is a constant of the aspect", node.target.span,
                          related=[(first[name].span, "the parameter")])  # fmt: skip


def standing_for(aspect: ast.AspectDecl) -> list[ast.PointcutDecl]:
    """A declaration in place of each pointcut that is left open: it binds its parameters."""
    return [
        ast.PointcutDecl(p.span, p.name, p.params, ast.Args(p.span, tuple(_bound(param) for param in p.params)))
        for p in aspect.open
    ]


def _bound(param: ast.Param) -> ast.ParamPattern:
    return ast.ParamPattern(param.span, ast.ParamKind.ONE, None, param.name)


def tell_extends(aspect: ast.Aspect | ast.AspectDecl, items: list[Diagnostic], start: int = 0) -> None:
    """Say of the findings from ``start`` on that are in what an aspect inherits, which aspect it is."""
    extends = aspect.extends.span if isinstance(aspect.extends, ast.Extends) else aspect.extends
    if extends is None:
        return
    for index in range(start, len(items)):
        item = items[index]
        span = item.span
        if span is None or (span.file is aspect.span.file and aspect.span.start <= span.start < aspect.span.end):
            continue
        note = (extends, f"in aspect '{aspect.name}', which extends it")
        if note not in item.related:
            items[index] = replace(item, related=(*item.related, note))
