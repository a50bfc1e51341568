"""Types an advice: its parameters, its statements, the conditions of its pointcut. Reports all errors of an aspect.

Each advice is checked once, however many probes run it.
"""

from __future__ import annotations

from klasy.compiler import spaces, tree
from klasy.compiler.checkexpr import ExprChecker
from klasy.compiler.types import VOID, Array, CType, Function, Integer, Pointer, String, Types, Void
from klasy.lang import ast
from klasy.match.pointcut import outside_flows
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from klasy.compiler.formats import Formats
    from klasy.compiler.observed import DataNames
    from klasy.diag import DiagnosticBag
    from klasy.source import Span


class AdviceChecker(ExprChecker):
    """Checks one advice."""

    def __init__(
        self, types: Types, bag: DiagnosticBag, advice: ast.Advice, formats: Formats, data: DataNames | None = None
    ) -> None:
        super().__init__(types, bag, formats, advice.index)
        self.data = data
        self.advice = advice
        self.in_program = any(isinstance(part, ast.User) for part in outside_flows(advice.pointcut))
        self.parameters = self.declared((*advice.params, *([advice.returning] if advice.returning else [])))
        for part in outside_flows(advice.pointcut):
            for name in _of_process(part, self.parameters):
                self.parameters[name].user = True
        self.scopes = [self.parameters]

    def declared(self, params: Sequence[ast.Param]) -> dict[str, tree.Variable]:
        """The variables that parameters are."""
        found: dict[str, tree.Variable] = {}
        for param in params:
            if self.in_program:
                from klasy.compiler import programtypes

                kind = programtypes.parameter_type(self, param)
            else:
                kind = self.type_of(param.type)
            if isinstance(kind, Array):
                kind = Pointer(kind.element)  # as C adjusts a parameter
            if kind is not None and not isinstance(kind, Integer | Pointer):
                self.error(
                    "bad-parameter", f"'{param.name}' is of type '{kind.name}': a value no register holds", param.span
                )
                kind = None
            found[param.name] = tree.Variable(
                param.name, kind or VOID, param.span, parameter=True, user=param.type.user
            )
        return found

    def check(self) -> tree.Advice | None:
        """The typed form of the advice, or None where its errors allow none."""
        body = self.advice.body
        self.guards()
        count = len(self.bag.errors)
        typed: tree.Stmt | None
        if isinstance(body, ast.Block):
            typed = sequence = self._block(body)
            last = sequence.body[-1] if sequence.body else None
            if isinstance(last, tree.Sample | tree.Limit):
                word = "sample" if isinstance(last, tree.Sample) else "limit"
                hints = ["it stands before what it is to restrain"]
                self.bag.warning(
                    "no-effect", f"'{word}' leaves nothing out here: nothing follows it", last.span, hints=hints
                )
        else:
            from klasy.compiler import cbody

            typed = cbody.check(self, body)
        if typed is None or len(self.bag.errors) > count:
            return None
        return tree.Advice(self.advice.index, self.parameters, typed)

    def where_bound(self, name: str) -> str:
        """How what a join point has comes to be known under a name."""
        designators = {type(part) for part in outside_flows(self.advice.pointcut)}
        if ast.Event in designators:
            return f"a field of an event is bound by a parameter of its name: {self.advice.kind.value}(TYPE {name})"
        if designators & {ast.Call, ast.Execution, ast.Syscall}:
            return f"an argument is bound by a parameter of its name: {self.advice.kind.value}(TYPE {name})"
        return ""

    # --- conditions of the pointcut

    def guards(self) -> None:
        """Check every ``if`` of the pointcut."""
        for node in conditions(self.advice.pointcut):
            self.guard(node.condition)

    def guard(self, condition: ast.Expr) -> tree.Expr | None:
        """Check a condition over the parameters."""
        return self.condition(condition)

    # --- statements

    def _block(self, node: ast.Block) -> tree.Sequence:
        self.scopes.append({})
        body = [typed for statement in node.body if (typed := self._statement(statement)) is not None]
        for variable in self.scopes.pop().values():
            if not variable.used and not self.bag.errors:  # a use may have gone down with an error
                self.bag.warning("unused-variable", f"'{variable.name}' is never used", variable.span)
        return tree.Sequence(node.span, tuple(body))

    def _statement(self, node: ast.Stmt) -> tree.Stmt | None:
        match node:
            case ast.Block():
                return self._block(node)
            case ast.Declare():
                return self._declare(node)
            case ast.ExprStmt():
                return self.effect(node.expr)
            case ast.IfStmt():
                condition = self.condition(node.condition)
                then = self._branch(node.then)
                otherwise = self._branch(node.otherwise) if node.otherwise else None
                return tree.If(node.span, condition, then, otherwise) if condition else None
            case ast.While():
                condition = self.condition(node.condition)
                body = self._branch(node.body)
                return tree.Loop(node.span, condition, body, None) if condition else None
            case ast.For():
                return self._for(node)
            case ast.Break():
                return tree.Break(node.span)
            case ast.Continue():
                return tree.Continue(node.span)
            case ast.Return():
                return self.returned(node)
            case ast.Delete():
                from klasy.compiler import checkstate

                return checkstate.delete(self, node)
            case ast.FlowStep():
                from klasy.compiler import flows

                return flows.check_step(self, node)
            case _:
                raise AssertionError(f"lang lets no {type(node).__name__} through yet")

    def returned(self, node: ast.Return) -> tree.Stmt | None:
        """``return``: of advice, without a value."""
        return tree.Return(node.span)

    def _for(self, node: ast.For) -> tree.Stmt | None:
        """A scope that holds what the first part declares, and in it the loop."""
        self.scopes.append({})
        first = [typed for part in node.init if (typed := self._statement(part)) is not None]
        condition = self.condition(node.condition) if node.condition is not None else None
        step = self.effect(node.step) if node.step is not None else None
        body = self._branch(node.body)
        self.scopes.pop()
        if (node.condition is not None and condition is None) or (node.step is not None and step is None):
            return None
        return tree.Sequence(node.span, (*first, tree.Loop(node.span, condition, body, step)))

    def _branch(self, node: ast.Stmt) -> tree.Sequence:
        """A statement under ``if`` or ``else``: a scope of its own, braces or not."""
        return self._block(node if isinstance(node, ast.Block) else ast.Block(node.span, (node,)))

    def _declare(self, node: ast.Declare) -> tree.Stmt | None:
        kind = self.type_of(node.type)
        scope = self.scopes[-1]
        if kind is not None and not isinstance(kind, Integer | Pointer):
            self.error("bad-variable", *_no_variable(kind, node))
            kind = None
        if kind is None:
            if node.value is not None:
                self.value(node.value)  # for its errors
            scope[node.name] = tree.Variable(node.name, VOID, node.span, used=True)
            return None
        value = self.initial(node.value, kind, f"'{node.name}'") if node.value is not None else None
        variable = scope[node.name] = tree.Variable(node.name, kind, node.span, user=node.type.user or None)
        if value is not None:
            spaces.given(self, variable, value, node.span)
        return tree.Declare(node.span, variable, value)


def _of_process(part: ast.Pointcut, names: Collection[str]) -> Collection[str]:
    """Which parameters are, as a part of the pointcut has it, addresses of the process."""
    if isinstance(part, ast.Syscall):
        return names
    if isinstance(part, ast.Call | ast.Execution):
        marked = [p.name for p in part.signature.params or () if p.type is not None and p.type.user]
        return [name for name in marked if name is not None and name in names]
    return ()


def _no_variable(kind: CType, node: ast.Declare) -> tuple[str, Span, str]:
    hint = "" if isinstance(kind, Void | Function | String) else "keep a pointer to it"
    return f"'{node.name}' is of type '{kind.name}': a variable holds a number or a pointer", node.span, hint


def conditions(pointcut: ast.Pointcut) -> Iterator[ast.If]:
    """Every ``if`` of a pointcut, in source order."""
    match pointcut:
        case ast.If():
            yield pointcut
        case ast.And() | ast.Or():
            yield from conditions(pointcut.left)
            yield from conditions(pointcut.right)
        case ast.Not():
            yield from conditions(pointcut.operand)
