"""From the tree of a file to aspects in which every name is settled and each advice stands alone.

Reports all that is wrong without asking a kernel: names, scopes, arguments, bindings. It knows nothing of functions
or types that the kernel has.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.bindings import check_bound
from klasy.lang.body import BodyChecker, ExpressionChecker, settle_sizeof
from klasy.lang.pointcuts import Expander, designators
from klasy.lang.references import References
from klasy.lang.scope import Scope, broken_places, is_broken
from klasy.lang.vocabulary import CONTEXT_NAMES, JOINPOINT
from klasy.lang.walk import free_names
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from klasy.diag import DiagnosticBag
    from klasy.lang.functions import Calls
    from klasy.lang.inherit import Inheritance
    from klasy.source import Span

    N = TypeVar("N", bound=ast.Node)

LONGEST_NAME = 128  # characters: a woven aspect is a directory of that name, and of a longer one while it is woven


def resolve(
    tree: ast.File,
    bag: DiagnosticBag,
    *,
    visible: Sequence[ast.AspectDecl] = (),
    everything: Mapping[str, ast.AspectDecl] | None = None,
    lame: bool = False,
    whole: bool = True,
    given: bool = True,
    inheritance: Inheritance | None = None,
) -> list[ast.Aspect]:
    """The aspects of a file. Errors go into the bag; the result is whole only if there were none.

    Errors that are in the bag already are taken for those of the syntax: what they touched is not judged, nor is
    what hangs on it.

    ``visible``: what it imports, ``everything``: all aspects that are read together, by name. ``lame``: not all that is
    imported could be read, so nothing of it is judged; not ``whole``: there are errors in other files. ``given``: the
    file was given to klasy, not imported.
    """
    broken = broken_places(bag)
    if not tree.aspects and not broken and (given or not tree.imports):
        bag.error("no-aspect", "there is no aspect in this file", tree.span, hints=["aspect name { .. }"])
    seen: dict[str, Span] = {}
    for aspect in tree.aspects:
        if aspect.name in seen:
            bag.error("duplicate-aspect", f"two aspects are named '{aspect.name}'", aspect.name_span,
                      related=[(seen[aspect.name], "the first is here")])  # fmt: skip
        seen.setdefault(aspect.name, aspect.name_span)
        if len(aspect.name) > LONGEST_NAME:
            bag.error("name-too-long", f"an aspect's name has at most {LONGEST_NAME} characters", aspect.name_span)
    known = {aspect.name: aspect for aspect in (*tree.aspects, *visible)}
    everything = everything or known
    if inheritance is None and has_inheritance(everything.values()):
        from klasy.lang.inherit import Inheritance

        inheritance = Inheritance(everything, {tree.source: list(known)}, {tree.source: bag})
    if inheritance is not None:
        everything = {name: inheritance.whole(aspect) or aspect for name, aspect in everything.items()}
    scope = Scope(
        {name: everything.get(name, known[name]) for name in known},
        everything,
        source=tree.source,
        broken=broken,
        lame=lame,
        whole=whole,
    )
    found: list[ast.Aspect] = []
    for aspect in tree.aspects:
        inherits = inheritance is not None and (aspect.abstract or aspect.extends or aspect.params or aspect.open)
        if inheritance is not None and inherits:
            resolved = _resolve_inherited(aspect, tree, bag, scope, inheritance)
        else:
            resolved = _AspectResolver(aspect, tree, bag, scope).resolve()
        if resolved is not None:
            found.append(resolved)
    if tree.precedence:
        from klasy.lang.precedence import order_of

        order = order_of([tree], known, bag)
        found = [replace(aspect, order=order) for aspect in found]
    return found


def has_inheritance(aspects: Iterable[ast.AspectDecl]) -> bool:
    """Whether any of the aspects is abstract or extends one, or is written like one of these."""
    return any(a.abstract or a.extends is not None or a.params or a.open for a in aspects)


def _resolve_inherited(
    aspect: ast.AspectDecl,
    tree: ast.File,
    bag: DiagnosticBag,
    scope: Scope,
    inheritance: Inheritance,
) -> ast.Aspect | None:
    """An aspect that extends another, or is abstract: of the latter nothing is made."""
    from klasy.lang.inherit import check_abstract, standing_for, tell_extends

    broken = scope.broken
    check_abstract(aspect, bag)
    whole = inheritance.whole(aspect)
    if whole is None or (aspect.extends is not None and (broken or scope.lame)):
        return None  # what is inherited may be missing
    start = len(bag.items)
    if whole.open:
        whole = replace(whole, pointcuts=(*whole.pointcuts, *standing_for(whole)))
    resolved = _AspectResolver(whole, tree, bag, scope).resolve()
    tell_extends(whole, bag.items, start)
    if whole.abstract:
        return None
    return replace(resolved, extends=aspect.extends.span if aspect.extends is not None else None)


class _AspectResolver:
    """Resolves one aspect."""

    def __init__(self, aspect: ast.AspectDecl, tree: ast.File, bag: DiagnosticBag, scope: Scope) -> None:
        self.aspect = aspect
        self.tree = tree
        self.bag = bag
        self.scope = scope
        self.named: dict[str, ast.PointcutDecl] = {}  # its own, and as `aspect.name` those of others that are used
        self.anonymous: ast.PointcutDecl | None = None
        self.state: dict[str, ast.StateDecl] = {}
        self.calls: Calls | None = None
        self.constants = {p.name: p.span for p in aspect.params if isinstance(p, ast.Param)}
        parts = (*aspect.pointcuts, *aspect.advice, *aspect.state, *aspect.functions)
        # A syntax error outside the parts that came through: one is missing, so nothing can be said to be missing.
        self.incomplete = any(
            aspect.span.start <= place < aspect.span.end and not any(is_broken(p, (place,)) for p in parts)
            for place in scope.broken
        )

    def resolve(self) -> ast.Aspect:
        aspect = self.aspect
        self._collect()
        self._check_functions()
        for declaration in aspect.pointcuts:
            if not self.scope.is_broken(declaration):
                self._check_named(declaration)
        self.references.check_recursion()
        for state in aspect.state:
            self._check_state(state)
        for index, advice in enumerate(aspect.advice):
            if not self.scope.is_broken(advice):
                self._check_advice(advice, index)
        if not aspect.advice and not self.incomplete and not aspect.abstract:
            hints = ["before() { log(..); }"]
            if any(p.name for p in aspect.pointcuts) or aspect.functions:
                hints = [f"what only lends pointcuts and functions to others is 'abstract aspect {aspect.name}'"]
            message = f"aspect '{aspect.name}' has no advice, so it would do nothing"
            self.bag.error("no-advice", message, aspect.name_span, hints=hints)
        advice_list: tuple[ast.Advice, ...] = ()
        if self.scope.whole and not self.bag.errors and not aspect.abstract:
            advice_list = tuple(self._expand(advice, index) for index, advice in enumerate(aspect.advice))
        states = aspect.state
        if aspect.functions:  # which a key may call
            states = tuple(self.scope.settled(each, aspect) for each in states)
        return ast.Aspect(
            aspect.name, self.tree.source, advice_list, states, span=aspect.span, name_span=aspect.name_span,
            functions=self._functions(advice_list),
        )  # fmt: skip

    # --- declarations ---

    def _collect(self) -> None:
        for declaration in self.aspect.pointcuts:
            if declaration.name is None:
                if self.anonymous:
                    self.bag.error(
                        "two-anonymous-pointcuts",
                        "an aspect can have one anonymous pointcut",
                        declaration.span,
                        hints=["join them with '||', or name them: 'pointcut name(): ..;'"],
                        related=[(self.anonymous.span, "the first one")],
                    )
                else:
                    self.anonymous = declaration
            elif declaration.name in self.named:
                self.bag.error(
                    "duplicate-pointcut",
                    f"there are two pointcuts named '{declaration.name}'",
                    declaration.span,
                    related=[(self.named[declaration.name].span, "the first one")],
                )
            else:
                self.named[declaration.name] = declaration
        for state in self.aspect.state:
            if state.name in self.state:
                self.bag.error("declared-twice", f"'{state.name}' is declared twice", state.span,
                               related=[(self.state[state.name].span, "first declared here")])  # fmt: skip
            elif state.name in CONTEXT_NAMES or state.name == JOINPOINT:
                self.bag.error("hides-context", f"'{state.name}' has a meaning of its own in advice", state.span,
                               hints=["choose another name for the state"])  # fmt: skip
            self.state.setdefault(state.name, state)
        self.own = dict(self.named)
        if any("." in ref.name for ref in self._written_references()):
            self.named |= self.scope.foreign()
        self.references = References(
            self.aspect, self.named, self.own, self.scope, self.bag, incomplete=self.incomplete
        )

    def _written_references(self) -> Iterator[ast.PointcutRef]:
        exprs = [d.expr for d in self.aspect.pointcuts] + [a.pointcut for a in self.aspect.advice if a.pointcut]
        return (part for expr in exprs for part in designators(expr) if isinstance(part, ast.PointcutRef))

    def _check_state(self, state: ast.StateDecl) -> None:
        # A key may be of what advice has: which advice, and whether it fits, is for the compiler to say.
        known = {param.name: param.span for advice in self.aspect.advice for param in advice.params}
        checker = ExpressionChecker(self.bag, {}, known, condition=True)
        checker.calls = self.calls
        for key in state.keys:
            if isinstance(key, ast.Expr):
                checker.check(key)

    def _check_functions(self) -> None:
        """To be done before conditions and bodies are judged: they call functions."""
        functions = self.scope.functions
        if functions is None:
            return
        from klasy.lang.functions import Calls, check_functions

        self.calls = Calls(self.aspect, functions, self.scope.visible)
        check_functions(self.aspect, self.calls, self.state, self.bag, self.scope.is_broken)

    def _functions(self, advice_list: Sequence[ast.Advice]) -> tuple[ast.FunctionDecl, ...]:
        """All that the aspect has, and all that its advice calls."""
        functions = self.scope.functions
        if functions is None or not advice_list:
            return ()
        from klasy.lang.functions import check_copies

        own = {
            f"{self.aspect.name}.{f.name}": functions.all[f"{self.aspect.name}.{f.name}"] for f in self.aspect.functions
        }
        parts: list[ast.Node] = [*own.values()]
        for advice in advice_list:
            check_copies((advice.pointcut, advice.body), advice.head, functions, self.bag)
            parts += (advice.pointcut, advice.body)
        return tuple((own | functions.reached(parts)).values())

    def _params(self, params: Sequence[ast.Param]) -> dict[str, ast.Param]:
        found: dict[str, ast.Param] = {}
        for param in params:
            if param.name in found:
                self.bag.error("declared-twice", f"there are two parameters named '{param.name}'", param.span,
                               related=[(found[param.name].span, "the first one")])  # fmt: skip
            elif param.name in self.state:
                self.bag.error("hides-state", f"'{param.name}' would hide the state of that name", param.span,
                               related=[(self.state[param.name].span, "the state")])  # fmt: skip
            found.setdefault(param.name, param)
        return found

    # --- named pointcuts ---

    def _check_named(self, declaration: ast.PointcutDecl) -> None:
        params = self._params(declaration.params)
        if declaration.name is None:
            # What it binds shows in each advice that uses it; here only what is wrong for all of them.
            self.references.check(declaration.expr, None)
            return
        sound = self.references.check(declaration.expr, params)
        if sound:
            check_bound(declaration.expr, params, self.named, "this pointcut", self.bag)
            self._check_conditions(declaration.expr, {n: p.span for n, p in params.items()})

    def _check_conditions(self, pointcut: ast.Pointcut, variables: Mapping[str, Span]) -> None:
        data = any(isinstance(p, ast.Access) for p in designators(pointcut))
        documented = {
            param.name: param.span
            for part in designators(pointcut)
            if isinstance(part, ast.Call | ast.Execution | ast.Args)
            for param in (part.params if isinstance(part, ast.Args) else part.signature.params or ())
            if param.name
        }
        for part in designators(pointcut):
            if not isinstance(part, ast.If):
                continue
            known = {**documented, **variables}
            checker = ExpressionChecker(self.bag, self.state, known, data=data, condition=True)
            checker.calls = self.calls
            checker.scopes.insert(0, self.constants)
            checker.check(part.condition)
            for name in free_names(part.condition):
                if name.name in documented and name.name not in variables:
                    self.bag.error(
                        "unbound-name",
                        f"'{name.name}' is named in the signature, but is no parameter here, so 'if' cannot test it",
                        name.span,
                        hints=[f"add a parameter '{name.name}' with its type"],
                        related=[(documented[name.name], "named here")],
                    )
                    break

    # --- advice ---

    def _check_advice(self, advice: ast.AdviceDecl, index: int) -> None:
        named = [*advice.params, *([advice.returning] if advice.returning else [])]
        params = self._params(named)
        variables = {name: param.span for name, param in params.items()}
        declaration = self.anonymous
        pointcut = advice.pointcut or (declaration.expr if declaration else None)
        if pointcut is None:
            if not self.incomplete and not self.aspect.abstract:
                hints = ["add an anonymous 'pointcut ..;'"]
                if self.own:
                    uses = " or ".join(f"'{n}({', '.join(p.name for p in d.params)})'" for n, d in self.own.items())
                    hints.insert(0, f"add ':' and a pointcut behind the parameters: {uses}")
                self.bag.error(
                    "no-pointcut",
                    f"this '{advice.kind.value}' names no pointcut, and the aspect has no anonymous one",
                    advice.head,
                    hints=hints,
                )
        elif advice.pointcut is None and declaration and self.scope.is_broken(declaration):
            pass
        else:
            own = advice.pointcut is not None
            sound = self.references.check(pointcut, params) if own else self.references.check_names(pointcut, params)
            if sound:
                whose = "this advice's pointcut" if own else "the aspect's pointcut"
                check_bound(pointcut, params, self.named, whose, self.bag, returning=advice.returning)
                self._check_conditions(pointcut, variables)
                self.references.check_capture(pointcut, params)
        if isinstance(advice.body, ast.Block):
            data = pointcut is not None and any(isinstance(p, ast.Access) for p in self.references.reachable(pointcut))
            around = advice.kind is ast.AdviceKind.AROUND
            checker = BodyChecker(self.bag, self.state, variables, data=data, around=around)
            checker.calls = self.calls
            checker.scopes.insert(0, self.constants)
            checker.body(advice.body)

    # --- result ---

    def _expand(self, advice: ast.AdviceDecl, index: int) -> ast.Advice:
        pointcut = advice.pointcut or (self.anonymous.expr if self.anonymous else None)
        assert pointcut is not None  # an error was reported otherwise
        names = {p.name for p in advice.params} | ({advice.returning.name} if advice.returning else set())
        body = advice.body
        if isinstance(body, ast.Block):
            body = self.scope.settled(settle_sizeof(body, {*names, *self.state}), self.aspect)
        expanded = self.scope.settled(Expander(self.named).expand(pointcut), self.aspect)
        return ast.Advice(
            index, advice.kind, advice.params, advice.returning, expanded, body,
            span=advice.span, head=advice.head,
        )  # fmt: skip
