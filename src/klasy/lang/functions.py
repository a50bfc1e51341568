"""The functions of aspects: who can call which, and what is wrong with them without asking a kernel.

A function is put in place of its calls, so none calls itself, by whatever way. In a resolved aspect every function,
and every name by which one is called, is ``aspect.name``.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.body import BodyChecker, settle_sizeof
from klasy.lang.pointcuts import near
from klasy.lang.vocabulary import CONTEXT_NAMES, FUNCTIONS, JOINPOINT
from klasy.lang.walk import nodes, transform
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from klasy.diag import DiagnosticBag
    from klasy.lang.body import ExpressionChecker
    from klasy.source import Span

    N = TypeVar("N", bound=ast.Node)

MOST_COPIES = 128  # of functions in one advice: the kernel takes programs of a million steps
_CHANGING = {name for name, function in FUNCTIONS.items() if not function.value}


def settled(node: N, aspect: ast.AspectDecl, known: Mapping[str, ast.AspectDecl]) -> N:
    """A part of an aspect in which what calls a function of an aspect calls it by its whole name."""
    own = {function.name for function in aspect.functions}
    state = {each.name for each in aspect.state}

    def change(node: ast.Node) -> ast.Node:
        if not isinstance(node, ast.Apply):
            return node
        callee = node.callee
        if isinstance(callee, ast.Name) and callee.name in own:
            return replace(node, callee=replace(callee, name=f"{aspect.name}.{callee.name}"))
        name = _foreign(callee)
        if name is not None and name[0] in known and name[0] not in state:
            return replace(node, callee=ast.Name(callee.span, ".".join(name)))
        return node

    return transform(node, change)


def _foreign(callee: ast.Expr) -> tuple[str, str] | None:
    """``aspect.name`` as its two names."""
    if isinstance(callee, ast.Member) and not callee.arrow and isinstance(callee.object, ast.Name):
        return callee.object.name, callee.name
    return None


class Functions:
    """The functions of all aspects that are read together, by their whole names."""

    def __init__(self, everything: Mapping[str, ast.AspectDecl]) -> None:
        self.everything = everything
        self.all: dict[str, ast.FunctionDecl] = {}
        for aspect in everything.values():
            for function in aspect.functions:
                name = f"{aspect.name}.{function.name}"
                names = {*(param.name for param in function.params), *(state.name for state in aspect.state)}
                body = settle_sizeof(settled(function.body, aspect, everything), names)
                self.all.setdefault(name, replace(function, name=name, body=body))
        self._copies: dict[str, int] = {}

    def called(self, node: ast.Node) -> Iterator[tuple[str, Span]]:
        """The functions that a part of an aspect calls, with the places."""
        for each in nodes(node):
            if isinstance(each, ast.Apply) and isinstance(each.callee, ast.Name) and each.callee.name in self.all:
                yield each.callee.name, each.span

    def reached(self, parts: Sequence[ast.Node]) -> dict[str, ast.FunctionDecl]:
        """All functions that run where parts of an aspect do."""
        found: dict[str, ast.FunctionDecl] = {}
        waiting = list(parts)
        while waiting:
            for name, _ in self.called(waiting.pop()):
                if name not in found:
                    found[name] = self.all[name]
                    waiting.append(self.all[name])
        return found

    def ring(self, start: str) -> list[tuple[str, Span]]:
        """The way by which a function calls itself: each step's callee and the call. Empty where there is none."""
        seen: set[str] = set()

        def walk(name: str, path: list[tuple[str, Span]]) -> list[tuple[str, Span]]:
            for callee, span in self.called(self.all[name]):
                if callee == start:
                    return [*path, (callee, span)]
                if callee not in seen:
                    seen.add(callee)
                    found = walk(callee, [*path, (callee, span)])
                    if found:
                        return found
            return []

        # A second aspect of the same name, which is an error by itself, may have functions that are not known here.
        return walk(start, []) if start in self.all else []

    def copies(self, part: ast.Node) -> int:
        """How many functions are put in place in a part of an aspect. Nothing must recur."""
        return sum(1 + self._copies_in(name) for name, _ in self.called(part))

    def _copies_in(self, name: str) -> int:
        if name not in self._copies:
            self._copies[name] = self.copies(self.all[name])
        return self._copies[name]

    def state_used(self, name: str) -> tuple[str, Span] | None:
        """The state that a function uses, directly or not, and where; None where it uses none."""
        for function in (self.all[name], *self.reached([self.all[name]]).values()):
            state = {each.name for each in self.everything[function.name.partition(".")[0]].state}
            for node in nodes(function.body):
                if isinstance(node, ast.Name) and node.name in state:
                    return node.name, node.span
        return None

    def change(self, name: str) -> Span | None:
        """Where a function changes or logs something; None where it only computes."""
        for function in (self.all[name], *self.reached([self.all[name]]).values()):
            state = {each.name for each in self.everything[function.name.partition(".")[0]].state}
            for node in nodes(function.body):
                if isinstance(node, ast.Delete):
                    return node.span
                if isinstance(node, ast.Apply):
                    callee = node.callee
                    if isinstance(callee, ast.Member) or (isinstance(callee, ast.Name) and callee.name in _CHANGING):
                        return node.span
                if isinstance(node, ast.Assign | ast.IncDec) and _root(node.target) in state:
                    return node.span
        return None


def _root(target: ast.Expr) -> str:
    while isinstance(target, ast.Member | ast.Index):
        target = target.object
    return target.name if isinstance(target, ast.Name) else ""


class Calls:
    """What the bodies and conditions of one aspect can call: its functions, and those of aspects it can name."""

    def __init__(self, aspect: ast.AspectDecl, functions: Functions, visible: Mapping[str, ast.AspectDecl]) -> None:
        self.aspect = aspect
        self.functions = functions
        self.visible = visible
        self.own = {function.name: function for function in aspect.functions}

    def check(self, checker: ExpressionChecker, call: ast.Apply, *, statement: bool) -> bool:
        """Check a call but for its arguments, which are another's. False where it is of no such function."""
        callee, bag = call.callee, checker.bag
        if isinstance(callee, ast.Name) and callee.name in self.own and checker.variable(callee.name) is None:
            function, name = self.own[callee.name], f"{self.aspect.name}.{callee.name}"
        else:
            both = _foreign(callee)
            # What is inherited from another file was checked there, and sees what that file sees.
            inner = callee.span.file is self.aspect.span.file
            visible = self.visible if inner else self.functions.everything
            if both is None or both[0] not in visible or checker.known(both[0]):
                return False
            name = ".".join(both)
            aspect = visible[both[0]]
            functions = {each.name: each for each in aspect.functions}
            if aspect.abstract and aspect.params and aspect.name != self.aspect.name:
                bag.error(
                    "abstract-aspect",
                    f"'{name}' serves only aspects that extend '{aspect.name}', which has parameters",
                    callee.span,
                    related=[(aspect.name_span, "the aspect")],
                )
                return True
            if both[1] not in functions:
                bag.error("unknown-function", f"aspect '{both[0]}' has no function '{both[1]}'", callee.span,
                          hints=near(both[1], list(functions)))  # fmt: skip
                return True
            function = functions[both[1]]
            used = self.functions.state_used(name) if both[0] != self.aspect.name else None
            if used is not None:
                bag.error(
                    "foreign-state",
                    f"function '{name}' uses '{used[0]}', which only its own aspect has",
                    callee.span,
                    related=[(used[1], "used here")],
                )
        given, wanted = len(call.args), len(function.params)
        if given != wanted:
            bag.error(
                "wrong-arguments",
                f"'{callee.span.text}' takes {wanted or 'no'} argument{'' if wanted == 1 else 's'}, "
                f"here {given or 'none'} {'is' if given <= 1 else 'are'} given",
                call.span,
                related=[(function.head, "the function")],
            )
        if not function.gives_value and not statement:
            bag.error("no-value", f"'{callee.span.text}' gives no value", call.span,
                      hints=["it stands alone as a statement"], related=[(function.head, "the function")])  # fmt: skip
        if checker.condition:
            place = self.functions.change(name)
            if place is not None:
                bag.error(
                    "condition-changes",
                    f"a condition must not change anything, but '{callee.span.text}' does",
                    call.span,
                    related=[(place, "here")],
                )
        return True

    def names(self) -> list[str]:
        """What can be called, for suggestions."""
        foreign = [f"{a.name}.{f.name}" for a in self.visible.values() if a is not self.aspect for f in a.functions]
        return [*self.own, *foreign]


def check_functions(
    aspect: ast.AspectDecl,
    calls: Calls,
    state: Mapping[str, ast.StateDecl],
    bag: DiagnosticBag,
    is_broken: Callable[[ast.Node], bool],
) -> None:
    """Report what is wrong with the functions of an aspect, but for those in which the syntax is broken."""
    first: dict[str, ast.FunctionDecl] = {}
    reported: set[str] = set()
    for function in aspect.functions:
        name = function.name
        other = first.setdefault(name, function)
        if other is not function:
            bag.error("declared-twice", f"there are two functions named '{name}'", function.head,
                      related=[(other.head, "the first one")])  # fmt: skip
        elif name in state:
            bag.error("declared-twice", f"'{name}' is a state and a function", function.head,
                      related=[(state[name].span, "the state")])  # fmt: skip
        elif name in FUNCTIONS or name in CONTEXT_NAMES or name == JOINPOINT:
            bag.error("hides-function", f"'{name}' has a meaning of its own in advice", function.head,
                      hints=["choose another name for the function"])  # fmt: skip
        if is_broken(function):
            continue
        _check_body(function, calls, state, bag)
        whole = f"{aspect.name}.{name}"
        ring = calls.functions.ring(whole) if whole not in reported else []
        if ring:
            reported.update(step for step, _ in ring)
            how = " calls ".join(f"'{_short(step, aspect)}'" for step in (whole, *(step for step, _ in ring)))
            bag.error(
                "recursive-function",
                f"a function cannot call itself: {how}",
                function.head,
                related=[(span, f"the call of '{_short(step, aspect)}'") for step, span in ring],
                hints=["it is put in place of its calls; a loop does what recursion does"],
            )


def _short(name: str, aspect: ast.AspectDecl) -> str:
    return name.removeprefix(f"{aspect.name}.")


def _check_body(
    function: ast.FunctionDecl, calls: Calls, state: Mapping[str, ast.StateDecl], bag: DiagnosticBag
) -> None:
    variables: dict[str, Span] = {}
    for param in function.params:
        if param.name in variables:
            bag.error("declared-twice", f"there are two parameters named '{param.name}'", param.span,
                      related=[(variables[param.name], "the first one")])  # fmt: skip
        elif param.name in state:
            bag.error("hides-state", f"'{param.name}' would hide the state of that name", param.span,
                      related=[(state[param.name].span, "the state")])  # fmt: skip
        variables.setdefault(param.name, param.span)
    checker = BodyChecker(bag, state, variables)
    checker.calls = calls
    checker.function = function
    checker.scopes.insert(0, {p.name: p.span for p in calls.aspect.params if isinstance(p, ast.Param)})
    checker.body(function.body)
    if function.gives_value and not _returns(function.body):
        bag.error(
            "no-return",
            f"not every way through '{function.name}' ends with its value",
            function.head,
            hints=["end it with 'return 0;', or say 'void'"],
        )


def _returns(statement: ast.Stmt) -> bool:
    """Whether a statement always ends the function. A loop may be cut off, so none does."""
    if isinstance(statement, ast.Block):
        return any(map(_returns, statement.body))
    if isinstance(statement, ast.IfStmt):
        return _returns(statement.then) and statement.otherwise is not None and _returns(statement.otherwise)
    return isinstance(statement, ast.Return)


def check_copies(parts: Sequence[ast.Node], head: Span, functions: Functions, bag: DiagnosticBag) -> None:
    """Report an advice in which too many functions would be put in place of their calls."""
    number = sum(map(functions.copies, parts))
    if number > MOST_COPIES:
        bag.error(
            "too-many-calls",
            f"{number} calls of functions come together here, at most {MOST_COPIES} can",
            head,
            hints=["each call is a copy of its function: call it in a loop, or keep what it gives in a variable"],
        )
