"""Types the expressions of an advice, by C's rules over the kernel's types; reports every error it meets.

An expression that is wrong gives None after its error has been reported, and what is built upon it gives None in
silence: one mistake, one message. Here are the names and literals, and what all checks share; ``checkmemory`` and
``checkops`` have the rest. What can be said without a kernel (functions and their arguments, scopes, what can be
assigned) lang has seen to before.
"""

from __future__ import annotations

from klasy.btf import types as btf_types
from klasy.compiler import builtins, checkmemory, checkops, tree
from klasy.compiler.builtins import context
from klasy.compiler.convert import assignable, convert, rvalue
from klasy.compiler.types import (
    INT,
    LONG,
    STRING,
    ULONG,
    VOID,
    CType,
    Function,
    Incomplete,
    Integer,
    Pointer,
    String,
    Struct,
    Types,
    Void,
    literal_type,
    pointer_to,
)
from klasy.compiler.wording import a_type, operand_text, quoted
from klasy.diag import DiagnosticBag, did_you_mean, suggest
from klasy.lang import ast
from klasy.lang.vocabulary import CONTEXT_NAMES, DATA_NAMES, JOINPOINT
from klasy.match.near import near
from klasy.match.typeref import TypeRefError
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.compiler.builtins.objects import Objects
    from klasy.compiler.formats import Formats
    from klasy.compiler.functions import FunctionChecker
    from klasy.compiler.observed import DataNames
    from klasy.compiler.statetree import StateVariable
    from klasy.source import Span


class ExprChecker:
    """Checks the expressions of one advice, in nested scopes of names."""

    def __init__(self, types: Types, bag: DiagnosticBag, formats: Formats, advice_index: int) -> None:
        self.types = types
        self.bag = bag
        self.formats = formats
        self.advice_index = advice_index
        self.in_program = False  # in the advice of user programs
        self.kernel_memory = False  # what it reads there may be the kernel's nevertheless
        self.data: DataNames | None = None  # in the advice of data pointcuts
        self.watching = False  # in the advice of accesses that a debug register sees, and what it calls
        self.scopes: list[dict[str, tree.Variable]] = []
        self.states: dict[str, StateVariable] = {}
        self.objects: Objects | None = None  # what advice may watch
        self.functions: Mapping[str, ast.FunctionDecl] = {}  # the user's
        self.called: dict[str, FunctionChecker] = {}  # those that this advice calls

    # --- what checks of functions and statements use too

    def error(self, code: str, message: str, span: Span, *hints: str) -> None:
        """Report an error."""
        self.bag.error(code, message, span, hints=hints)

    def value(self, node: ast.Expr) -> tree.Expr | None:
        """The value of an expression: of integer, pointer or string type, or a struct's place."""
        expr = self.any(node)
        if isinstance(expr, tree.JoinPointAttribute):
            self.error(
                "joinpoint-outside-log",
                f"'{expr.span.text}' can only be logged, or be the key of a state: what it is, is known when they are "
                "read, not to the advice",
                expr.span,
                "a pointcut selects by kind, function and module: call, execution, within, withinmodule",
            )
            return None
        return None if expr is None else self.value_of(expr)

    def value_of(self, expr: tree.Expr) -> tree.Expr:
        """The value of an expression that was checked already."""
        return rvalue(expr)

    def any(self, node: ast.Expr) -> tree.Expr | None:
        """An expression, as a place where it is one."""
        check = _CHECKS.get(type(node))
        assert check is not None, f"no check for {type(node).__name__}"
        return check(self, node)

    def effect(self, node: ast.Expr) -> tree.Stmt | None:
        """An expression whose value is not used."""
        if isinstance(node, ast.Binary) and node.op == ",":
            first, second = self.effect(node.left), self.effect(node.right)
            return tree.Sequence(node.span, (first, second)) if first and second else None
        if self.states:
            from klasy.compiler import checkstate

            if checkstate.is_effect(self, node):
                return checkstate.effect(self, node)
        made = self.call(node) if isinstance(node, ast.Apply) else self.any(node)
        if made is None or isinstance(made, tree.Stmt):
            return made
        if isinstance(made, tree.Call):
            return tree.Evaluate(node.span, made)
        if not isinstance(node, ast.Assign | ast.IncDec):
            text = node.span.text
            self.bag.warning("no-effect", f"'{text}' has no effect", node.span, hints=[f"log({text}) logs it"])
        return tree.Evaluate(node.span, self.value_of(made))

    def condition(self, node: ast.Expr) -> tree.Expr | None:
        """An expression used as a condition: an integer or a pointer."""
        expr = self.value(node)
        return expr if expr is None or self.is_scalar(expr, "a condition must be a number or a pointer") else None

    def initial(self, node: ast.Expr, to: CType, what: str) -> tree.Expr | None:
        """The value of an expression, converted as by assignment to ``what``, which has the type ``to``."""
        expr = self.value(node)
        if expr is None:
            return None
        if assignable(expr, to):
            return convert(expr, to)
        hint = ""
        if isinstance(to, Integer | Pointer) and isinstance(expr.type, Integer | Pointer):
            hint = f"a cast says that it is meant: ({to.name}){operand_text(node)}"
        self.error(
            "bad-assignment", f"{what} is {a_type(to)}, and {quoted(node)} is {self.describe(expr)}", node.span, hint
        )
        return None

    def describe(self, expr: tree.Expr) -> str:
        """What an expression is, for messages: its type, with an article."""
        if isinstance(expr, tree.Literal):
            return "a string literal"
        if isinstance(expr, tree.JoinPointAttribute):
            return {"line": "a number", "address": "an address"}.get(expr.attribute, "a string")
        return a_type(expr.type)

    def type_of(self, ref: ast.TypeRef) -> CType | None:
        """A type as written."""
        try:
            found = self.types.written(ref)
        except TypeRefError as error:
            error.report(self.bag)
            return None
        while self.types.unsure:
            self.bag.warning("ambiguous-type", self.types.unsure.pop(), ref.span)
        return found

    def lookup(self, name: str) -> tree.Variable | None:
        """The variable that a name means here."""
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    # --- leaves

    def _in_flow(self, node: ast.InFlow) -> tree.Expr:
        from klasy.compiler import flows

        return flows.check_condition(node)

    def _int_literal(self, node: ast.IntLiteral) -> tree.Expr | None:
        if node.char:
            return tree.Constant(INT, node.span, node.value)
        kind = literal_type(node.value, unsigned=node.unsigned, longs=node.longs, decimal=node.decimal)
        if kind is None:
            hint = "with the suffix 'u' it is one" if 0 <= node.value < 1 << 64 else ""
            self.error("literal-too-large", f"{node.span.text} fits no integer type", node.span, hint)
            return None
        return tree.Constant(kind, node.span, node.value)

    def _string_literal(self, node: ast.StringLiteral) -> tree.Expr:
        return tree.Literal(STRING, node.span, node.value)

    def _name(self, node: ast.Name) -> tree.Expr | None:
        variable = self.lookup(node.name)
        if variable is not None:
            variable.used = True
            if isinstance(variable.type, Void):
                return None
            return tree.Local(variable.type, node.span, variable)
        if self.data is not None and node.name in DATA_NAMES:
            return self.data.check(self, node)
        if node.name == JOINPOINT:
            from klasy.compiler.wholecalls import check_whole

            return check_whole(self, node)
        if node.name in self.states:
            from klasy.compiler import checkstate

            return checkstate.read(self, node)
        fact = context.NAMES.get(node.name)
        if fact is not None:
            return tree.ContextValue(fact.type, node.span, fact.what, fact.shift, fact.bits)
        if node.name == context.COMM:
            return tree.Comm(STRING, node.span)
        if node.name == context.CURRENT:
            return self._current(node)
        found = self.types.constant(node.name)
        if found is not None:
            value, enum = found
            # C gives a constant the type int where it fits, and gcc the wider one where not
            kind = next((c for c in (INT, LONG, ULONG) if c.holds(value)), enum)
            return tree.Constant(kind, node.span, value)
        number = self.types.macro(node.name)
        if number is not None:
            return tree.Constant(number[1], node.span, number[0])
        from klasy.compiler import globals

        return globals.check(self, node)

    def _current(self, node: ast.Name) -> tree.Expr:
        self.kernel_memory = True
        btf = self.types.kernel.btf
        found = btf.find("task_struct", btf_types.Struct)
        task = self.types.of(btf, found[0]) if found else VOID
        return tree.ContextValue(pointer_to(task), node.span, context.TASK, 0, 64)

    def has_meaning(self, name: str) -> bool:
        """Whether a name means something before the kernel's variables and functions are looked through."""
        here = self.lookup(name) is not None or name in self.states or (self.data is not None and name in DATA_NAMES)
        return here or name in CONTEXT_NAMES or name == JOINPOINT or self.types.has_constant(name)

    def unknown_name(self, node: ast.Name) -> None:
        """Report that a name means nothing, and what may have been meant."""
        from klasy.lang import foreign

        name = node.name
        known = [*(n for scope in self.scopes for n in scope), *self.states, *CONTEXT_NAMES]
        close = suggest(name, known)
        hints = [did_you_mean(close)]
        if name in foreign.NAMES:
            hints = [foreign.NAMES[name]]
        elif not close and name.upper() == name:
            from klasy.kernel import macros

            close = near(name, [*self.types.kernel.btf.constant_names, *macros.names(self.types.kernel)])
            hints = [
                did_you_mean(close),
                "enum constants are known by name, of macros only some that are much used: the kernel's type "
                "information lacks them; write the number",
            ]
        elif name in DATA_NAMES:
            hints = [f"'{name}' is bound in the advice of 'get', 'set' and 'access'"]
        elif not close:
            from klasy.match.globals import alike

            hints = [did_you_mean(alike(self.types.kernel, name)) or self.where_bound(name)]
        self.error("unknown-name", f"'{name}' is not known here", node.span, *hints)

    def where_bound(self, name: str) -> str:
        """How something comes to be known under a name; "" where there is nothing to say."""
        return ""

    # --- what is computed with

    def completed(self, kind: CType, span: Span) -> Struct | None:
        """A struct with its members. Reports an error where the kernel's types do not tell them."""
        if isinstance(kind, Incomplete):
            found = self.types.complete(kind)
            if found is None and self.types.of_program:
                from klasy.compiler import programtypes

                programtypes.incomplete(self, kind, span)
            elif found is None:
                self.error(
                    "incomplete-type",
                    f"the members of '{kind.name}' are not known: the kernel's type information only declares it",
                    span,
                )
            return found
        assert isinstance(kind, Struct)
        return kind

    def element_size(self, kind: CType, span: Span) -> int | None:
        """What one step of a pointer to a type is, in bytes. As gcc has it, 1 for void and functions."""
        if isinstance(kind, Void | Function):
            return 1
        if isinstance(kind, Incomplete):
            struct = self.completed(kind, span)
            return struct.size if struct else None
        if not kind.size:
            self.error("incomplete-type", f"the size of '{kind.name}' is not known", span)
            return None
        return kind.size

    def is_scalar(self, expr: tree.Expr, rule: str) -> bool:
        """Whether a value is a number or a pointer; an error with the rule where not."""
        if isinstance(expr.type, Integer | Pointer):
            return True
        hint = 'compare it: == "..."' if isinstance(expr.type, String) else ""
        self.error("bad-operand", f"{rule}, and this is {self.describe(expr)}", expr.span, hint)
        return False

    # --- functions of the language

    def _apply(self, node: ast.Apply) -> tree.Expr | None:
        made = self.call(node)
        assert not isinstance(made, tree.Stmt), "lang lets no function without a value into an expression"
        return made

    def call(self, node: ast.Apply) -> tree.Expr | tree.Stmt | None:
        """A call of one of the language's functions: its value, or a statement where it gives none."""
        assert isinstance(node.callee, ast.Name)
        if node.callee.name in self.functions:
            from klasy.compiler import functions

            return functions.call(self, node, node.callee.name)
        return builtins.function(node.callee.name).check(self, node)


# Each is given the node of its own class only, which the type of a table cannot say.
_CHECKS: dict[type[ast.Expr], Callable[..., tree.Expr | None]] = {
    ast.IntLiteral: ExprChecker._int_literal,
    ast.StringLiteral: ExprChecker._string_literal,
    ast.Name: ExprChecker._name,
    ast.Apply: ExprChecker._apply,
    ast.InFlow: ExprChecker._in_flow,
    **checkmemory.CHECKS,
    **checkops.CHECKS,
}
