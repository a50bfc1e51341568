"""Checks of advice bodies and conditions that need no kernel: scopes, functions, what can be assigned, loops.

A name that nothing here declares may be an enum constant of the kernel, so a plain unknown name is left to the
compiler; one that is dereferenced or assigned to cannot be, and is an error here.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.pointcuts import near
from klasy.lang.vocabulary import (
    CONTEXT_NAMES,
    DATA_NAMES,
    FUNCTIONS,
    JOINPOINT,
    JOINPOINT_MEMBERS,
    LOGS,
    STATE_METHODS,
)
from klasy.lang.walk import children, nodes, transform
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klasy.diag import DiagnosticBag
    from klasy.lang.functions import Calls
    from klasy.source import Span


class ExpressionChecker:
    """Checks expressions in which ``variables`` (parameters and locals, name to where it was declared) are known."""

    def __init__(
        self,
        bag: DiagnosticBag,
        state: Mapping[str, ast.StateDecl],
        variables: Mapping[str, Span],
        *,
        data: bool = False,
        around: bool = False,
        condition: bool = False,
    ) -> None:
        self.bag = bag
        self.state = state
        self.scopes: list[dict[str, Span]] = [dict(variables)]
        self.data = data  # value, old and new are bound
        self.around = around
        self.condition = condition  # of `if(..)` in a pointcut: it must not change anything
        self.calls: Calls | None = None  # where there are functions of the user's

    # --- names ---

    def variable(self, name: str) -> Span | None:
        """Where a parameter or local was declared."""
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return None

    def known(self, name: str) -> bool:
        """Whether a name has a meaning without the kernel."""
        return (
            self.variable(name) is not None
            or name in self.state
            or name in CONTEXT_NAMES
            or name == JOINPOINT
            or (self.data and name in DATA_NAMES)
        )

    def candidates(self) -> list[str]:
        """All names with a meaning here, for suggestions."""
        names = [name for scope in self.scopes for name in scope]
        return [*names, *self.state, *CONTEXT_NAMES, JOINPOINT, *(DATA_NAMES if self.data else ())]

    # --- expressions ---

    def check(self, expr: ast.Expr, *, statement: bool = False) -> None:
        """Check an expression. ``statement``: it stands alone, its value is not used."""
        if isinstance(expr, ast.Name):
            self._name(expr)
        elif isinstance(expr, ast.Apply):
            self._apply(expr, statement=statement)
        elif isinstance(expr, ast.Member):
            self._member(expr)
        elif isinstance(expr, ast.Index):
            self._index(expr)
        elif isinstance(expr, ast.Unary):
            self.check(expr.operand)
        elif isinstance(expr, ast.Assign | ast.IncDec):
            if isinstance(expr, ast.Assign):
                self.check(expr.value)
            if self.condition:
                hints = ["'==' compares"] if expr.op == "=" else []
                self.bag.error("condition-changes", "a condition must not change anything", expr.span, hints=hints)
            else:
                self._target(expr.target, expr.op)
        elif isinstance(expr, ast.SizeOf):
            if isinstance(expr.operand, ast.Expr) and not isinstance(expr.operand, ast.Name):
                self.check(expr.operand)
        elif isinstance(expr, ast.Binary) and expr.op == ",":
            self.check(expr.left, statement=True)
            self.check(expr.right, statement=statement)
        else:
            for child in children(expr):
                if isinstance(child, ast.Expr):
                    self.check(child)

    def _name(self, expr: ast.Name) -> None:
        name = expr.name
        if self.variable(name) is not None:
            return
        if name == JOINPOINT:
            self.bag.error(
                "bare-joinpoint",
                "'joinpoint' is no value by itself: it can only be logged",
                expr.span,
                hints=[
                    "log(joinpoint) in advice of system calls, or one of "
                    + ", ".join(f"joinpoint.{m}" for m in JOINPOINT_MEMBERS)
                ],
            )
        elif name in self.state:
            state = self.state[name]
            if state.keys:
                self.bag.error(
                    "missing-key",
                    f"'{name}' has a slot for each key, so a key must say which",
                    expr.span,
                    hints=[f"{name}[{', '.join(k.span.text for k in state.keys)}]"],
                )
        elif name in FUNCTIONS and name not in CONTEXT_NAMES:
            self.bag.error(
                "function-as-value",
                f"'{name}' is a function of the language",
                expr.span,
                hints=[f"call it: {FUNCTIONS[name].form}"],
            )

    def _member(self, expr: ast.Member) -> None:
        if isinstance(expr.object, ast.Name) and expr.object.name == JOINPOINT and not self.variable(JOINPOINT):
            if expr.name not in JOINPOINT_MEMBERS:
                self.bag.error(
                    "unknown-member",
                    f"'joinpoint' has no '{expr.name}'",
                    expr.span,
                    hints=near(expr.name, list(JOINPOINT_MEMBERS)) or ["it has " + ", ".join(JOINPOINT_MEMBERS)],
                )
            elif expr.arrow:
                self.bag.error("joinpoint-arrow", "'joinpoint' is no pointer", expr.span,
                               hints=[f"joinpoint.{expr.name}"])  # fmt: skip
            return
        self.check(expr.object)

    def _index(self, expr: ast.Index) -> None:
        for key in expr.keys:
            self.check(key)
        state = self._state_of(expr.object)
        if state is None:
            self.check(expr.object)
            if len(expr.keys) > 1:
                self.bag.error(
                    "several-keys", "only a state can have several keys", expr.span, hints=["an array is a[i][j]"]
                )
        elif not state.keys:
            if state.type is None or not state.type.pointers:
                self.bag.error("key-of-scalar", f"'{state.name}' was declared without a key", expr.span,
                               related=[(state.span, "declared here")])  # fmt: skip
        elif len(state.keys) != len(expr.keys):
            self.bag.error(
                "wrong-keys",
                f"'{state.name}' has {_count(len(state.keys), 'key')}, here {_are(len(expr.keys))} given",
                expr.span,
                hints=[f"{state.name}[{', '.join(k.span.text for k in state.keys)}]"],
                related=[(state.span, "declared here")],
            )

    def _state_of(self, expr: ast.Expr) -> ast.StateDecl | None:
        if isinstance(expr, ast.Name) and self.variable(expr.name) is None:
            return self.state.get(expr.name)
        return None

    # --- calls ---

    def _apply(self, expr: ast.Apply, *, statement: bool) -> None:
        callee = expr.callee
        if self.calls is not None and self.calls.check(self, expr, statement=statement):
            for argument in expr.args:
                self.check(argument)
            return
        if isinstance(callee, ast.Member) and not callee.arrow:
            state = self._state_of(callee.object.object if isinstance(callee.object, ast.Index) else callee.object)
            if state is not None:
                self._method(expr, callee, state, statement=statement)
                return
        if not isinstance(callee, ast.Name):
            self.bag.error(
                "not-a-function",
                "this cannot be called: functions are those of aspects and of the language",
                callee.span,
            )
            return
        function = FUNCTIONS.get(callee.name)
        if function is None:  # a variable of a function's name hides nothing: the kernel calls an argument ``buf``
            self._unknown_function(callee)
            for argument in expr.args:
                self.check(argument)
            return
        self._arity(expr, function.least, function.most, function.form)
        if not function.value and not statement:
            self.bag.error("no-value", f"'{function.name}' gives no value", expr.span,
                           hints=["it stands alone as a statement"])  # fmt: skip
        if function.name == "deny" and not self.around:
            self.bag.error(
                "deny-outside-around",
                "only 'around' advice can deny: the others run beside the join point, not in its place",
                expr.span,
            )
        if function.name not in ("sample", "limit", "deny"):  # their arguments are rates, 1/100, 100/s, and EPERM
            logs = function.name in LOGS and not self.variable(JOINPOINT)
            for argument in expr.args:
                if not (logs and isinstance(argument, ast.Name) and argument.name == JOINPOINT):
                    self.check(argument)

    def _unknown_function(self, callee: ast.Name) -> None:
        from klasy.lang import foreign

        name = callee.name
        if self.known(name):
            message, hints = f"'{name}' is no function", []
        elif name in foreign.FUNCTIONS:
            message, hints = f"there is no function '{name}'", [foreign.FUNCTIONS[name]]
        else:
            own = self.calls.names() if self.calls is not None else []
            message, hints = f"there is no function '{name}'", near(name, [*FUNCTIONS, *own])
            hints = [f"aspect '{n.partition('.')[0]}' has it: '{n}'" for n in own if n.endswith(f".{name}")] or hints
            if not hints:
                hints = ["advice can call the functions of aspects and of the language only, not the kernel's"]
        self.bag.error("unknown-function", message, callee.span, hints=hints)

    def _method(self, expr: ast.Apply, callee: ast.Member, state: ast.StateDecl, *, statement: bool) -> None:
        self.check(callee.object)
        for argument in expr.args:
            self.check(argument)
        if callee.name not in STATE_METHODS:
            self.bag.error(
                "unknown-method",
                f"'{state.name}' has no '{callee.name}'",
                callee.span,
                hints=near(callee.name, list(STATE_METHODS)) or [f"a state is changed by '{state.name}.add(value)'"],
            )
        else:
            wanted = STATE_METHODS[callee.name]
            self._arity(expr, wanted, wanted, f"{callee.span.text}({'value' if wanted else ''})")
            if not statement:
                self.bag.error("no-value", f"'{callee.span.text}' gives no value", expr.span,
                               hints=["it stands alone as a statement"])  # fmt: skip

    def _arity(self, expr: ast.Apply, least: int, most: int | None, form: str) -> None:
        given = len(expr.args)
        if given < least or (most is not None and given > most):
            wanted = _count(least, "argument") if least == most else f"at least {_count(least, 'argument')}"
            self.bag.error(
                "wrong-arguments",
                f"'{expr.callee.span.text}' takes {wanted}, here {_are(given)} given",
                expr.span,
                hints=[form],
            )

    # --- what can be assigned ---

    def _target(self, target: ast.Expr, op: str) -> None:
        what = "be assigned to" if op.endswith("=") else f"be changed by '{op}'"
        if isinstance(target, ast.Name):
            name = target.name
            if self.variable(name) is not None:
                return
            if name in self.state:
                self._name(target)
            elif name in CONTEXT_NAMES or name == JOINPOINT or (self.data and name in DATA_NAMES):
                self.bag.error("not-assignable", f"'{name}' is given by the join point and cannot {what}", target.span)
            else:
                hints = near(name, self.candidates()) or [f"declare it first: 'u64 {name} = ..;'"]
                self.bag.error("unknown-name", f"'{name}' is not declared", target.span, hints=hints)
            return
        self.check(target)
        root = target
        while (isinstance(root, ast.Member) and not root.arrow) or isinstance(root, ast.Index):
            root = root.object
        if isinstance(root, ast.Name) and root is not target:
            if root.name != JOINPOINT or self.variable(JOINPOINT):
                return  # an element or member of a local or a state; whether it is one the compiler knows
            text = target.span.text
            self.bag.error("not-assignable", f"'{text}' is given by the join point and cannot {what}", target.span)
            return
        if isinstance(target, ast.Member | ast.Index) or (isinstance(target, ast.Unary) and target.op == "*"):
            self.bag.error(
                "kernel-memory",
                f"'{target.span.text}' lies in the kernel's memory, which advice may read but not change",
                target.span,
            )
        else:
            self.bag.error("not-assignable", f"'{target.span.text}' cannot {what}", target.span,
                           hints=["'==' compares"] if op == "=" else [])  # fmt: skip


class BodyChecker(ExpressionChecker):
    """Checks the statements of one advice."""

    def __init__(
        self,
        bag: DiagnosticBag,
        state: Mapping[str, ast.StateDecl],
        params: Mapping[str, Span],
        *,
        data: bool = False,
        around: bool = False,
    ) -> None:
        super().__init__(bag, state, params, data=data, around=around)
        self.loops = 0
        self.function: ast.FunctionDecl | None = None  # whose body it is, if not an advice's

    def body(self, block: ast.Block) -> None:
        """Check a whole body. Its outermost block shares its scope with the parameters, as in C."""
        self._statements(block.body)

    def _statements(self, statements: Sequence[ast.Stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, statement: ast.Stmt) -> None:
        if isinstance(statement, ast.Block):
            self.scopes.append({})
            self._statements(statement.body)
            self.scopes.pop()
        elif isinstance(statement, ast.Declare):
            self._declare(statement)
        elif isinstance(statement, ast.ExprStmt):
            self.check(statement.expr, statement=True)
        elif isinstance(statement, ast.IfStmt):
            self.check(statement.condition)
            self._statement(statement.then)
            if statement.otherwise:
                self._statement(statement.otherwise)
        elif isinstance(statement, ast.While):
            self.check(statement.condition)
            self._loop(statement.body)
        elif isinstance(statement, ast.For):
            self.scopes.append({})
            self._statements(statement.init)
            if statement.condition:
                self.check(statement.condition)
            if statement.step:
                self.check(statement.step, statement=True)
            self._loop(statement.body)
            self.scopes.pop()
        elif isinstance(statement, ast.Return):
            self._return(statement)
        elif isinstance(statement, ast.Break | ast.Continue):
            if not self.loops:
                word = "break" if isinstance(statement, ast.Break) else "continue"
                hints = [] if self.function else ["'return;' ends the advice"]
                self.bag.error("outside-loop", f"'{word}' stands in no loop", statement.span, hints=hints)
        elif isinstance(statement, ast.Delete):
            self._delete(statement)

    def _return(self, statement: ast.Return) -> None:
        function = self.function
        if statement.value is not None:
            self.check(statement.value)
        if function is None:
            if statement.value is not None:
                self.bag.error("return-value", "advice gives no value back", statement.value.span, hints=["return;"])
        elif function.gives_value != (statement.value is not None):
            message = "gives a value, which is missing here" if function.gives_value else "gives no value back"
            self.bag.error("return-value", f"'{function.name}' {message}", statement.span,
                           related=[(function.head, "the function")])  # fmt: skip

    def _loop(self, body: ast.Stmt) -> None:
        self.loops += 1
        self._statement(body)
        self.loops -= 1

    def _declare(self, statement: ast.Declare) -> None:
        name = statement.name
        if statement.value:
            self.check(statement.value)
        if name in self.scopes[-1]:
            self.bag.error("declared-twice", f"'{name}' is declared twice", statement.span,
                           related=[(self.scopes[-1][name], "first declared here")])  # fmt: skip
        elif name in self.state:
            self.bag.error("hides-state", f"'{name}' would hide the state of that name", statement.span,
                           related=[(self.state[name].span, "the state")])  # fmt: skip
        self.scopes[-1][name] = statement.span

    def _delete(self, statement: ast.Delete) -> None:
        target = statement.target
        state = self._state_of(target.object) if isinstance(target, ast.Index) else self._state_of(target)
        if state is None:
            self.bag.error("delete-no-state", f"'{target.span.text}' is no state, and only state can be deleted",
                           target.span)  # fmt: skip
        elif not isinstance(target, ast.Name):
            self.check(target)


def settle_sizeof(body: ast.Block, names: set[str]) -> ast.Block:
    """``sizeof(name)``: of a variable if one has that name, else of a type. ``names``: parameters and state."""
    declared = names | {n.name for n in nodes(body) if isinstance(n, ast.Declare)}

    def change(node: ast.Node) -> ast.Node:
        if isinstance(node, ast.SizeOf) and isinstance(node.operand, ast.Name):
            name = node.operand
            if name.name not in declared and name.name not in CONTEXT_NAMES:
                return ast.SizeOf(node.span, ast.TypeRef(name.span, ast.TagKind.NONE, name.name))
        return node

    return transform(body, change)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _are(number: int) -> str:
    return "none is" if number == 0 else f"{number} {'is' if number == 1 else 'are'}"
