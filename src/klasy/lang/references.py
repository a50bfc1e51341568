"""References to named pointcuts, an aspect's own and others': what they lead to, and what is wrong with them."""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.pointcuts import condition_names, designators, near
from klasy.lang.vocabulary import DESIGNATORS
from klasy.lang.walk import free_names
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.diag import DiagnosticBag
    from klasy.lang.scope import Scope
    from klasy.source import Span


class References:
    """The references to named pointcuts that an aspect makes: whether they resolve, and what they lead to.

    ``named``: the aspect's own pointcuts and, as ``aspect.name``, those of others; ``own``: the aspect's. Of an
    ``incomplete`` aspect nothing can be said to be missing.
    """

    def __init__(
        self,
        aspect: ast.AspectDecl,
        named: Mapping[str, ast.PointcutDecl],
        own: Mapping[str, ast.PointcutDecl],
        scope: Scope,
        bag: DiagnosticBag,
        *,
        incomplete: bool,
    ) -> None:
        self.aspect = aspect
        self.named = named
        self.own = own
        self.scope = scope
        self.bag = bag
        self.incomplete = incomplete

    def check(self, pointcut: ast.Pointcut, params: Mapping[str, ast.Param] | None) -> bool:
        """Check the references in a pointcut by themselves. False where one cannot be used."""
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
        if self.scope.is_broken(declaration):
            return False
        return self._check_arguments(reference, declaration, params)

    def _is_visible(self, reference: ast.PointcutRef) -> bool:
        """Whether a pointcut of another aspect can be used here."""
        aspect = reference.name.partition(".")[0]
        if aspect not in self.scope.visible and reference.span.file is self.scope.source:  # else it was checked there
            self._unknown_aspect(aspect, reference.span)
            return False
        declared = self.scope.everything[aspect]
        if self._is_abstract(reference, declared):
            return False
        state = {s.name: s for s in declared.state}
        for part in self.reachable(reference):
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
        inner = [part.name for part in self.reachable(reference) if isinstance(part, ast.PointcutRef)]
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
            from klasy.lang.foreign import probe

            selected = reference.args[0] if len(reference.args) == 1 else "f"
            hints = [hint] if (hint := probe(name, selected)) else near(name, [*self.own, *DESIGNATORS])
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

    def check_names(self, pointcut: ast.Pointcut, params: Mapping[str, ast.Param]) -> bool:
        """References in an anonymous pointcut were checked at its declaration, but for the names they are given."""
        sound = True
        for part in designators(pointcut):
            if isinstance(part, ast.PointcutRef):
                declaration = self.named.get(part.name)
                sound &= declaration is not None and self._check_arguments(part, declaration, params)
        return sound

    def check_capture(self, pointcut: ast.Pointcut, params: Mapping[str, ast.Param]) -> None:
        """A named pointcut's condition means its own names: a parameter of the advice must not catch one."""
        for part in self.reachable(pointcut):
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

    def check_recursion(self) -> None:
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

    def reachable(self, pointcut: ast.Pointcut, seen: frozenset[str] = frozenset()) -> list[ast.Pointcut]:
        """All designators of a pointcut and of the named ones it uses."""
        found: list[ast.Pointcut] = []
        for part in designators(pointcut):
            found.append(part)
            if isinstance(part, ast.PointcutRef) and part.name in self.named and part.name not in seen:
                found += self.reachable(self.named[part.name].expr, seen | {part.name})
        return found
