"""Types the functions of an aspect and their calls.

A function is checked once for each advice that calls it, for what it logs is logged by that advice; its errors are
told once. What can be said without a kernel (names, the number of arguments, recursion) lang has seen to.
"""

from __future__ import annotations

from klasy.compiler import spaces, tree
from klasy.compiler.check import AdviceChecker
from klasy.compiler.checkexpr import ExprChecker
from klasy.compiler.formats import Formats
from klasy.compiler.types import VOID, CType, Integer, Pointer, Void
from klasy.compiler.wording import a_type
from klasy.plain import TYPE_CHECKING, dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.lang import ast
    from klasy.lang.ast import Aspect


@dataclass(eq=False)
class Typed:
    """A checked function. ``body`` None: there are errors in it."""

    result: tree.Variable | None
    type: CType
    body: tree.Sequence | None


class FunctionChecker(AdviceChecker):
    """Checks one function as an advice calls it."""

    def __init__(self, caller: ExprChecker, decl: ast.FunctionDecl, formats: Formats) -> None:
        ExprChecker.__init__(self, caller.types, caller.bag, formats, caller.advice_index)
        self.states = caller.states
        self.objects = caller.objects
        self.watching = caller.watching
        self.functions = caller.functions
        self.called = caller.called
        self.decl = decl
        self.parameters = self.declared(decl.params)
        for variable in self.parameters.values():
            variable.user = variable.user or None  # else the first call tells
        self.scopes = [self.parameters]
        self.result: tree.Variable | None = None
        self.typed: Typed | None = None  # once it is checked

    def function(self) -> Typed:
        """The typed form of the function."""
        decl = self.decl
        count = len(self.bag.errors)
        kind = self.type_of(decl.result)
        if kind is not None and not isinstance(kind, Integer | Pointer | Void):
            self.error("bad-result", f"'{_name(decl)}' gives {a_type(kind)}: a function gives a number or a pointer",
                       decl.result.span, "give a pointer to it")  # fmt: skip
            kind = None
        if isinstance(kind, Integer | Pointer):
            name, user = f"{_name(decl)}.result", decl.result.user or None
            self.result = tree.Variable(name, kind, decl.span, assigned=True, used=True, user=user)
        sound = kind is not None and all(not isinstance(p.type, Void) for p in self.parameters.values())
        body = self._block(decl.body)
        sound = sound and len(self.bag.errors) == count
        return Typed(self.result, kind or VOID, body if sound else None)

    def where_bound(self, name: str) -> str:
        """How a function comes to know what the advice that calls it does."""
        return f"a function knows what it is given: take it as a parameter, {_name(self.decl)}(.., TYPE {name})"

    def returned(self, node: ast.Return) -> tree.Stmt | None:
        """``return``, with the value that lang has made sure is there, or is not."""
        if node.value is None:
            return tree.Return(node.span)
        if self.result is None:
            self.value(node.value)  # for its errors
            return None
        value = self.initial(node.value, self.result.type, f"what '{_name(self.decl)}' gives")
        if value is None:
            return None
        spaces.given(self, self.result, value, node.value.span)
        return tree.Return(node.span, value)


def call(checker: ExprChecker, node: ast.Apply, name: str) -> tree.Expr | None:
    """A call of a function."""
    decl = checker.functions[name]
    inner = checker.called.get(name)
    if inner is None:
        inner = checker.called[name] = FunctionChecker(checker, decl, checker.formats)
    arguments = []
    for given, param, variable in zip(node.args, decl.params, inner.parameters.values(), strict=True):
        count = len(checker.bag.errors)
        if isinstance(variable.type, Void):
            checker.value(given)  # for its errors
            continue
        value = checker.initial(given, variable.type, f"the parameter '{param.name}'")
        if value is not None:
            spaces.given(checker, variable, value, given.span, "function")
            arguments.append((variable, value))
        elif len(checker.bag.errors) > count:
            last = checker.bag.items[-1]
            if not last.related:
                checker.bag.items[-1] = replace(last, related=((param.span, "the parameter"),))
    if inner.typed is None:  # now it is known whose memory the arguments lie in
        inner.typed = inner.function()
        checker.kernel_memory = checker.kernel_memory or inner.kernel_memory
    typed = inner.typed
    if typed.body is None or len(arguments) < len(decl.params):
        return None
    return tree.Call(typed.type, node.span, tuple(arguments), typed.body, typed.result)


def prepare(aspect: Aspect, checkers: Sequence[AdviceChecker]) -> list[FunctionChecker]:
    """Make the functions known to all advice. Given back is a checker for each, whose parameters keys may name."""
    functions = {function.name: function for function in aspect.functions}
    for checker in checkers:
        checker.functions = functions
        checker.called = {}
    return _apart(aspect, checkers[0])


def _apart(aspect: Aspect, checker: AdviceChecker) -> list[FunctionChecker]:
    """A checker for each function, which no advice has."""
    formats = Formats()
    found = []
    for function in aspect.functions:
        each = FunctionChecker(checker, function, formats)
        each.called = {}
        found.append(each)
    return found


def check_uncalled(aspect: Aspect, checkers: Sequence[AdviceChecker]) -> None:
    """Check what no advice calls, and say of the aspect's own functions that nothing does."""
    called = {name for checker in checkers for name in checker.called}
    for each in _apart(aspect, checkers[0]):
        decl = each.decl
        if decl.name in called:
            continue
        each.function()
        inner = aspect.span.file is decl.span.file and aspect.span.start <= decl.span.start < aspect.span.end
        if inner and not each.bag.errors:
            each.bag.warning("unused-function", f"'{_name(decl)}' is never called", decl.head)


def _name(decl: ast.FunctionDecl) -> str:
    return decl.name.partition(".")[2]
