"""From the tree of a file to aspects in which every name is settled and each advice stands alone.

Reports all that is wrong without asking a kernel: names, scopes, arguments, bindings. It knows nothing of functions
or types that the kernel has.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.body import BodyChecker, ExpressionChecker, settle_sizeof
from klasy.lang.pointcuts import Binder, Bound, Expander, condition_names, designators, near, types_disagree
from klasy.lang.vocabulary import CONTEXT_NAMES, DESIGNATORS, JOINPOINT
from klasy.lang.walk import free_names, transform
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from klasy.diag import DiagnosticBag
    from klasy.lang.functions import Calls, Functions
    from klasy.lang.inherit import Inheritance
    from klasy.source import Span

    N = TypeVar("N", bound=ast.Node)

LONGEST_NAME = 128  # characters: a woven aspect is a directory of that name, and of a longer one while it is woven


def broken_places(bag: DiagnosticBag) -> list[int]:
    """The offsets of the errors in a bag."""
    return [d.span.start for d in bag.errors if d.span is not None]


def is_broken(node: ast.Node, broken: Sequence[int]) -> bool:
    """Whether one of the errors is in a node, or right behind it, where something is missing."""
    return any(node.span.start <= place <= node.span.end for place in broken)


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
        {name: everything.get(name, known[name]) for name in known}, everything, broken=broken, lame=lame, whole=whole
    )
    found: list[ast.Aspect] = []
    for aspect in tree.aspects:
        inherits = inheritance is not None and (aspect.abstract or aspect.extends or aspect.params or aspect.open)
        if inheritance is not None and inherits:
            resolved = _resolve_inherited(aspect, tree, bag, scope, inheritance)
        else:
            resolved = _AspectResolver(aspect, tree, bag, broken, scope).resolve()
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
    resolved = _AspectResolver(whole, tree, bag, broken, scope).resolve()
    tell_extends(whole, bag.items, start)
    if whole.abstract:
        return None
    return replace(resolved, extends=aspect.extends.span if aspect.extends is not None else None)


class Scope:
    """The aspects that those of a file can name: the file's own and those it imports."""

    def __init__(
        self,
        visible: Mapping[str, ast.AspectDecl],
        everything: Mapping[str, ast.AspectDecl],
        *,
        broken: Sequence[int],
        lame: bool,
        whole: bool,
    ) -> None:
        self.visible = visible
        self.everything = everything
        self.broken = broken
        self.lame = lame
        self.whole = whole
        self._foreign: dict[str, ast.PointcutDecl] | None = None
        self.functions: Functions | None = None
        if any(aspect.functions for aspect in self.everything.values()):
            from klasy.lang.functions import Functions  # few aspects have any

            self.functions = Functions(self.everything)

    def settled(self, node: N, aspect: ast.AspectDecl) -> N:
        """A part of an aspect in which functions are called by their whole names."""
        if self.functions is None:
            return node
        from klasy.lang.functions import settled

        return settled(node, aspect, self.everything)

    def foreign(self) -> dict[str, ast.PointcutDecl]:
        """The named pointcuts of all aspects, as ``aspect.name``; and so do they refer to others."""
        if self._foreign is None:
            self._foreign = {
                f"{aspect.name}.{declaration.name}": self.settled(_qualified(declaration, aspect.name), aspect)
                for aspect in self.everything.values()
                for declaration in aspect.pointcuts
                if declaration.name is not None
            }
        return self._foreign

    def visible_pointcuts(self) -> list[str]:
        """All that could be written as ``aspect.name``."""
        return [f"{a.name}.{p.name}" for a in self.visible.values() for p in a.pointcuts if p.name is not None]


def _qualified(declaration: ast.PointcutDecl, aspect: str) -> ast.PointcutDecl:
    """A pointcut as it is seen from another aspect."""

    def change(node: ast.Node) -> ast.Node:
        if isinstance(node, ast.PointcutRef) and "." not in node.name:
            return replace(node, name=f"{aspect}.{node.name}")
        return node

    return transform(declaration, change)


class _AspectResolver:
    """Resolves one aspect."""

    def __init__(
        self, aspect: ast.AspectDecl, tree: ast.File, bag: DiagnosticBag, broken: Sequence[int], scope: Scope
    ) -> None:
        self.aspect = aspect
        self.tree = tree
        self.bag = bag
        self.broken = broken
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
            for place in broken
        )

    def resolve(self) -> ast.Aspect:
        aspect = self.aspect
        self._collect()
        self._check_functions()
        for declaration in aspect.pointcuts:
            if not self._broken(declaration):
                self._check_named(declaration)
        self._check_recursion()
        for state in aspect.state:
            self._check_state(state)
        for index, advice in enumerate(aspect.advice):
            if not self._broken(advice):
                self._check_advice(advice, index)
        if not aspect.advice and not self.incomplete and not aspect.abstract:
            self.bag.error("no-advice", f"aspect '{aspect.name}' has no advice, so it would do nothing",
                           aspect.name_span, hints=["before() { log(..); }"])  # fmt: skip
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

    def _broken(self, node: ast.Node) -> bool:
        return node.span.file is self.tree.source and is_broken(node, self.broken)

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
        if any("." in ref.name for ref in self._references()):
            self.named |= self.scope.foreign()

    def _references(self) -> Iterator[ast.PointcutRef]:
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
        check_functions(self.aspect, self.calls, self.state, self.bag, self._broken)

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
            self._check_parts(declaration.expr, None)
            return
        sound = self._check_parts(declaration.expr, params)
        bound = self._check_bound(declaration.expr, params, "this pointcut") if sound else None
        if bound:
            self._check_conditions(declaration.expr, {n: p.span for n, p in params.items()})

    def _check_recursion(self) -> None:
        """Report each ring of pointcuts that use each other once, at its first member."""
        reported: set[str] = set()

        def visit(name: str, path: list[str]) -> None:
            if name in path:
                ring = path[path.index(name) :]
                if not reported.intersection(ring):
                    reported.update(ring)
                    first = self.named[ring[0]]
                    how = " uses ".join(f"'{n}'" for n in [*ring, name])
                    self.bag.error("recursive-pointcut", f"a pointcut cannot use itself: {how}", first.span)
                return
            declaration = self.named.get(name)
            if declaration:
                for part in designators(declaration.expr):
                    if isinstance(part, ast.PointcutRef):
                        visit(part.name, [*path, name])

        for name in self.own:
            if name not in reported:
                visit(name, [])

    def _check_parts(self, pointcut: ast.Pointcut, params: Mapping[str, ast.Param] | None) -> bool:
        """Check what stands in a pointcut by itself: references. False where one cannot be used."""
        sound = True
        for part in designators(pointcut):
            if isinstance(part, ast.PointcutRef):
                sound &= self._check_reference(part, params)
        return sound

    def _check_reference(self, reference: ast.PointcutRef, params: Mapping[str, ast.Param] | None) -> bool:
        foreign = "." in reference.name
        if foreign and self.scope.lame:
            return False
        declaration = self.named.get(reference.name)
        if declaration is None or (foreign and not self._is_visible(reference)):
            if declaration is None and not self.incomplete:
                self._unknown_pointcut(reference)
            return False
        wanted, args = len(declaration.params), reference.args
        if ".." in args[:-1]:
            self.bag.error("wrong-arguments", "nothing can follow '..', which stands for all further arguments",
                           reference.span)  # fmt: skip
            return False
        given = len(args) - (args[-1:] == ("..",))
        if given > wanted or (given < wanted and args[-1:] != ("..",)):
            plural = "" if wanted == 1 else "s"
            self.bag.error(
                "wrong-arguments",
                f"pointcut '{reference.name}' takes {wanted or 'no'} argument{plural}, here {given or 'none'} "
                f"{'is' if given <= 1 else 'are'} given",
                reference.span,
                related=[(declaration.span, "declared here")],
            )
            return False
        if self._broken(declaration):
            return False
        return self._check_arguments(reference, declaration, params)

    def _is_visible(self, reference: ast.PointcutRef) -> bool:
        """Whether a pointcut of another aspect can be used here."""
        aspect = reference.name.partition(".")[0]
        if aspect not in self.scope.visible and reference.span.file is self.tree.source:  # else it was checked there
            self._unknown_aspect(aspect, reference.span)
            return False
        declared = self.scope.everything[aspect]
        if self._is_abstract(reference, declared):
            return False
        state = {s.name: s for s in declared.state}
        for part in self._reachable(reference):
            for name in free_names(part.condition) if isinstance(part, ast.If) else ():
                if name.name in state and aspect != self.aspect.name:
                    self.bag.error(
                        "foreign-state",
                        f"pointcut '{reference.name}' tests '{name.name}', which only its own aspect has",
                        reference.span,
                        related=[(name.span, "tested here")],
                    )
                    return False
        return True

    def _is_abstract(self, reference: ast.PointcutRef, aspect: ast.AspectDecl) -> bool:
        """Whether a pointcut of another aspect is not whole until that is extended. Then an error is said."""
        inner = [part.name for part in self._reachable(reference) if isinstance(part, ast.PointcutRef)]
        opened = [name for name in inner if name not in self.named]
        if not (aspect.abstract and (aspect.params or opened)) or aspect.name == self.aspect.name:
            return False
        why = f"leaves '{opened[0].partition('.')[2]}' open" if opened else "has parameters"
        self.bag.error(
            "abstract-aspect",
            f"pointcut '{reference.name}' serves only aspects that extend '{aspect.name}', which {why}",
            reference.span,
            related=[(aspect.name_span, "the aspect")],
        )
        return True

    def _unknown_aspect(self, name: str, span: Span) -> None:
        hints = near(name, list(self.scope.visible))
        known = self.scope.everything.get(name)
        if known is not None:
            hints = [f"it is in '{known.span.file.name}': this file must import it, too"]
        self.bag.error("unknown-aspect", f"there is no aspect '{name}' here", span, hints=hints)

    def _unknown_pointcut(self, reference: ast.PointcutRef) -> None:
        aspect, _, name = reference.name.rpartition(".")
        if aspect and aspect not in self.scope.visible:
            self._unknown_aspect(aspect, reference.span)
            return
        if aspect:
            message = f"aspect '{aspect}' has no pointcut '{name}'"
            hints = near(reference.name, self.scope.visible_pointcuts())
        else:
            message = f"there is no pointcut '{name}'"
            others = [each for each in self.scope.visible_pointcuts() if each.partition(".")[2] == name]
            hints = near(name, [*self.own, *DESIGNATORS])
            if others:
                hints = [f"aspect '{others[0].partition('.')[0]}' has one of that name: '{others[0]}'"]
        self.bag.error("unknown-pointcut", message, reference.span, hints=hints)

    def _check_arguments(
        self,
        reference: ast.PointcutRef,
        declaration: ast.PointcutDecl,
        params: Mapping[str, ast.Param] | None,
    ) -> bool:
        sound = True
        conditions = condition_names(declaration.expr)
        for index, param in enumerate(declaration.params):
            argument = reference.args[index] if index < len(reference.args) else ".."
            if argument in ("*", ".."):
                if param.name in conditions:
                    self.bag.error(
                        "argument-needed",
                        f"pointcut '{reference.name}' tests '{param.name}' in 'if', so a name must be given for it",
                        reference.span,
                        related=[(conditions[param.name], "tested here")],
                    )
                    sound = False
                if argument == "..":
                    continue
            elif params is not None and argument not in params:
                from klasy.lang.printer import print_declaration

                self.bag.error(
                    "unknown-name",
                    f"'{argument}' is no parameter here, so pointcut '{reference.name}' cannot bind it",
                    reference.span,
                    hints=near(argument, list(params))
                    or [f"add a parameter: '{print_declaration(param.type, argument)}'"],
                )
                sound = False
        return sound

    # --- bindings ---

    def _check_bound(
        self, pointcut: ast.Pointcut, params: Mapping[str, ast.Param], whose: str, *, returning: ast.Param | None = None
    ) -> Bound:
        """Check that a pointcut binds each parameter, rightly and with its type."""
        bound = Binder(params, self.named, self.bag).bound(pointcut)
        for name, binding in bound.names.items():
            wanted = params[name].type
            if binding.type and types_disagree(binding.type, wanted):
                self.bag.error(
                    "type-mismatch",
                    f"'{name}' is '{_written(wanted)}' here, but the pointcut binds '{_written(binding.type)}'",
                    params[name].span,
                    related=[(binding.span, "bound here")],
                )
        if returning and returning.name in bound.names and params[returning.name] is returning:
            self.bag.error("bound-twice", f"'{returning.name}' is the result, and bound by the pointcut too",
                           returning.span, related=[(bound.names[returning.name].span, "bound here")])  # fmt: skip
        for name, param in params.items():
            if name not in bound.names and not bound.any and param is not returning:
                hint = self._how_to_bind(param, pointcut, set(bound.names))
                self.bag.error(
                    "unbound-parameter",
                    f"{whose} does not bind the parameter '{name}'",
                    param.span,
                    hints=[hint],
                    related=[(pointcut.span, "the pointcut")],
                )
        return bound

    def _how_to_bind(self, param: ast.Param, pointcut: ast.Pointcut, bound: set[str]) -> str:
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
        if (
            not functions
            and param.type.pointers
            and any(isinstance(part, ast.Access) for part in designators(pointcut))
        ):
            return f"'&& target({param.name})' binds the object whose member is accessed"
        function = functions[0] if len(functions) == 1 else "f"
        return f"name it in the signature: '{function}({wanted}, ..)'"

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
        elif advice.pointcut is None and declaration and self._broken(declaration):
            pass
        else:
            own = advice.pointcut is not None
            sound = self._check_parts(pointcut, params) if own else self._anonymous_is_sound(pointcut, params)
            if sound:
                whose = "this advice's pointcut" if own else "the aspect's pointcut"
                self._check_bound(pointcut, params, whose, returning=advice.returning)
                self._check_conditions(pointcut, variables)
                self._check_capture(pointcut, params)
        if isinstance(advice.body, ast.Block):
            data = pointcut is not None and any(isinstance(p, ast.Access) for p in self._reachable(pointcut))
            around = advice.kind is ast.AdviceKind.AROUND
            checker = BodyChecker(self.bag, self.state, variables, data=data, around=around)
            checker.calls = self.calls
            checker.scopes.insert(0, self.constants)
            checker.body(advice.body)

    def _anonymous_is_sound(self, pointcut: ast.Pointcut, params: Mapping[str, ast.Param]) -> bool:
        """References in an anonymous pointcut were checked at its declaration, but for the names they are given."""
        sound = True
        for part in designators(pointcut):
            if isinstance(part, ast.PointcutRef):
                declaration = self.named.get(part.name)
                sound &= declaration is not None and self._check_arguments(part, declaration, params)
        return sound

    def _reachable(self, pointcut: ast.Pointcut, seen: frozenset[str] = frozenset()) -> list[ast.Pointcut]:
        """All designators of a pointcut and of the named ones it uses."""
        found: list[ast.Pointcut] = []
        for part in designators(pointcut):
            found.append(part)
            if isinstance(part, ast.PointcutRef) and part.name in self.named and part.name not in seen:
                found += self._reachable(self.named[part.name].expr, seen | {part.name})
        return found

    def _check_capture(self, pointcut: ast.Pointcut, params: Mapping[str, ast.Param]) -> None:
        """A named pointcut's condition means its own names: a parameter of the advice must not catch one."""
        for part in self._reachable(pointcut):
            if not isinstance(part, ast.PointcutRef) or part.name not in self.named:
                continue
            declaration = self.named[part.name]
            own = {p.name for p in declaration.params}
            for name, span in condition_names(declaration.expr).items():
                if name in params and name not in own:
                    self.bag.error(
                        "captured-name",
                        f"pointcut '{part.name}' tests '{name}', which this parameter would hide",
                        params[name].span,
                        hints=["give the parameter another name"],
                        related=[(span, "tested here")],
                    )

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


def _written(type_: ast.TypeRef) -> str:
    """A type as it was written, on one line."""
    return " ".join(type_.span.text.split())
