"""Checks what advice does with state: reads, assigns, adds, deletes. Whether there is a key is lang's to check."""

from __future__ import annotations

from klasy.compiler import spaces, tree
from klasy.compiler.builtins.strings import as_string
from klasy.compiler.checkops import arithmetic
from klasy.compiler.convert import assignable, convert, rvalue, word
from klasy.compiler.statetree import (
    StateAdd,
    StateAssign,
    StateChange,
    StateDelete,
    StateRead,
    StateVariable,
)
from klasy.compiler.types import INT, Array, Bool, CType, Integer, Pointer, Shown, String
from klasy.compiler.wording import a_type, operand_text
from klasy.lang import ast
from klasy.lang.walk import nodes
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.checkexpr import ExprChecker

_ATOMIC = {"+": "add", "-": "add", "&": "and", "|": "or", "^": "xor"}
_AGGREGATION = {
    "count": "a count", "sum": "a sum", "min": "a minimum", "max": "a maximum", "avg": "an average",
    "hist": "a histogram", "lhist": "a histogram",
}  # fmt: skip


def state_of(checker: ExprChecker, node: ast.Expr) -> tuple[StateVariable, tuple[ast.Expr, ...]] | None:
    """The state that an expression names, and the keys with it; None where it is something else."""
    name, keys = node, ()
    if isinstance(node, ast.Index):
        name, keys = node.object, node.keys  # type: ignore[assignment]
    if not isinstance(name, ast.Name) or checker.lookup(name.name) is not None:
        return None
    state = checker.states.get(name.name)
    if state is None or bool(state.keys or not state.sound) < bool(keys):
        return None  # the element of a pointer that a state without a key holds
    state.used = True
    return state, keys


def read(checker: ExprChecker, node: ast.Expr) -> tree.Expr | None:
    """The value of a state; ``node`` names one."""
    state, keys = _named(checker, node)
    made = _keys(checker, state, keys)
    if made is None:
        return None
    if state.type is None:
        checker.error(
            "histogram-value",
            f"'{state.name}' is a histogram, which has no one value",
            node.span,
            "klasy stat draws it; of the other aggregations advice can read the value",
        )
        return None
    state.read = True
    value = StateRead(state.type, node.span, state, made)
    return tree.Convert(state.type, node.span, value, user=True) if state.user else value


def effect(checker: ExprChecker, node: ast.Expr) -> tree.Stmt | None:
    """A statement that is a call of a method, or ``++`` or ``+=`` of an aggregation; see :func:`is_effect`."""
    if isinstance(node, ast.Apply):
        return _method(checker, node)
    if isinstance(node, ast.IncDec):
        state, keys = _named(checker, node.target)
        made = _keys(checker, state, keys)
        if not _counts(checker, state, node, node.op == "++"):
            return None
        one = tree.Constant(INT, node.span, 1)
        return None if made is None else StateAdd(node.span, state, made, word(one))
    assert isinstance(node, ast.Assign)
    state, keys = _named(checker, node.target)
    made = _keys(checker, state, keys)
    if not _counts(checker, state, node, node.op == "+="):
        checker.value(node.value)  # for its errors
        return None
    return _add(checker, node, state, made, node.value)


def is_effect(checker: ExprChecker, node: ast.Expr) -> bool:
    """Whether an expression is one that ``effect`` checks."""
    if isinstance(node, ast.Apply):
        return isinstance(node.callee, ast.Member)
    if not isinstance(node, ast.Assign | ast.IncDec):
        return False
    found = state_of(checker, node.target)
    return found is not None and found[0].kind != "scalar"


def change(checker: ExprChecker, node: ast.Assign | ast.IncDec) -> tree.Expr | None:
    """``x[k] = value``, ``x[k] += value``, ``x[k]++`` where the value counts; the target is a state."""
    state, keys = _named(checker, node.target)
    made = _keys(checker, state, keys)
    if state.kind != "scalar":
        if _counts(checker, state, node, node.op in ("++", "+=")):
            checker.error("no-value", f"'{node.span.text}' gives no value", node.span, "it stands alone as a statement")
        return None
    kind = state.type
    if kind is None or made is None:
        if isinstance(node, ast.Assign):
            checker.value(node.value)  # for its errors
        return None
    if isinstance(node, ast.Assign) and node.op == "=":
        value = checker.initial(node.value, kind, f"'{node.target.span.text}'")
        if value is None:
            return None
        spaces.kept(checker, state, value, node.value.span)
        return StateAssign(kind, node.span, state, made, value)
    old = isinstance(node, ast.IncDec) and not node.prefix
    op = node.op[0] if isinstance(node, ast.IncDec) else node.op[:-1]
    one = tree.Constant(INT, node.span, 1)
    operand = checker.value(node.value) if isinstance(node, ast.Assign) else one
    if operand is None:
        return None
    now = StateRead(kind, node.target.span, state, made)
    value = arithmetic(checker, op, now, operand, node.span)
    if value is None:
        return None
    if not assignable(value, kind):
        checker.error("bad-operand", f"'{node.op}' makes {checker.describe(value)} of '{state.name}'", node.span)
        return None
    if op in _ATOMIC and isinstance(kind, Integer) and not isinstance(kind, Bool) and isinstance(operand.type, Integer):
        return StateChange(kind, node.span, state, made, _ATOMIC[op], word(operand), negative=op == "-", old=old)
    if any(isinstance(part, ast.Assign | ast.IncDec) for key in keys for part in nodes(key)):
        checker.error(
            "bad-key",
            f"with '{node.op}' the key is computed twice, so nothing in it can change",
            node.target.span,
            "keep the key in a variable first",
        )
        return None
    return StateAssign(kind, node.span, state, made, convert(value, kind), old=old)


def delete(checker: ExprChecker, node: ast.Delete) -> tree.Stmt | None:
    """``delete x[k];``"""
    return _delete(checker, node.target, node)


# --- parts ------------------------------------------------------------------------------------------------------------


def _named(checker: ExprChecker, node: ast.Expr) -> tuple[StateVariable, tuple[ast.Expr, ...]]:
    found = state_of(checker, node)
    assert found is not None, f"{node.span.text} is no state"
    return found


def _keys(checker: ExprChecker, state: StateVariable, keys: tuple[ast.Expr, ...]) -> tuple[tree.Expr, ...] | None:
    """The keys, of the types that were declared."""
    if not state.sound:
        for key in keys:
            checker.value(key)  # for its errors
        return None
    made = [_key(checker, state, key, wanted.type) for key, wanted in zip(keys, state.keys, strict=True)]
    sound = tuple(key for key in made if key is not None)
    return sound if len(sound) == len(made) else None


def _key(checker: ExprChecker, state: StateVariable, node: ast.Expr, to: CType) -> tree.Expr | None:
    expr = checker.any(node)
    if expr is None:
        return None
    placed = isinstance(expr, tree.JoinPointAttribute)
    if isinstance(to, String) and not placed:
        return _string_key(checker, state, node, expr, to)
    if isinstance(to, Shown):
        from klasy.compiler import placekeys

        if placekeys.fits(checker, expr, to):
            return expr
        what = to.name
    else:
        assert isinstance(to, Integer | Pointer | String)
        what = "a string" if isinstance(to, String) else a_type(to)
        expr = expr if placed else rvalue(expr)
    if isinstance(to, Integer | Pointer) and assignable(expr, to):
        return convert(expr, to)
    hint = f"declared as {state.name}[{node.span.text}] it would have such keys" if placed else ""
    if isinstance(expr.type, Integer | Pointer) and isinstance(to, Integer | Pointer):
        hint = f"a cast says that it is meant: ({to.name}){operand_text(node)}"
    checker.error(
        "bad-key",
        f"the key of '{state.name}' is {what}, and '{node.span.text}' is "
        + (f"a join point's {expr.attribute}" if isinstance(expr, tree.JoinPointAttribute) else checker.describe(expr)),
        node.span,
        hint,
    )
    return None


def _string_key(
    checker: ExprChecker, state: StateVariable, node: ast.Expr, expr: tree.Expr, to: String
) -> tree.Expr | None:
    string = as_string(expr if isinstance(expr.type, Array) else rvalue(expr))
    if string is None:
        hint = f"str({node.span.text}) is the string at an address" if isinstance(expr.type, Pointer) else ""
        checker.error(
            "bad-key", f"the key of '{state.name}' is a string, and '{node.span.text}' is {checker.describe(expr)}",
            node.span, hint,
        )  # fmt: skip
        return None
    if isinstance(string, tree.Literal):
        text = string.value.encode()
        if len(text) >= to.size or b"\0" in text:
            checker.error(
                "string-too-long", f"a key of '{state.name}' has at most {to.size - 1} bytes and no \\0", node.span
            )
            return None
    return string


def _counts(checker: ExprChecker, state: StateVariable, node: ast.Expr, adds: bool) -> bool:
    """Whether an aggregation can be changed by an operator."""
    if adds and state.kind in ("count", "sum"):
        return True
    target = node.target.span.text if isinstance(node, ast.Assign | ast.IncDec) else state.name
    how = f"{target}++ counts one" if state.kind == "count" else f"{target}.add(value) gives it a value"
    what = "be assigned to" if isinstance(node, ast.Assign) and node.op == "=" else "be changed so"
    checker.error(
        "aggregate-assigned",
        f"'{state.name}' is {_AGGREGATION[state.kind]}: it cannot {what}",
        node.span,
        how,
    )
    return False


def _method(checker: ExprChecker, node: ast.Apply) -> tree.Stmt | None:
    """``x[k].add(value)``, ``x[k].clear()``."""
    callee = node.callee
    assert isinstance(callee, ast.Member)
    if callee.name == "clear":
        return _delete(checker, callee.object, node)
    state, keys = _named(checker, callee.object)
    made = _keys(checker, state, keys)
    if state.kind == "scalar":
        checker.value(node.args[0])  # for its errors
        text = callee.object.span.text
        checker.error(
            "not-an-aggregate",
            f"'{state.name}' holds a value: 'add' is for count, sum, min, max, avg, hist and lhist",
            node.span,
            f"{text} += value adds to it, or declare it as a sum",
        )
        return None
    return _add(checker, node, state, made, node.args[0])


def _add(
    checker: ExprChecker, node: ast.Expr, state: StateVariable, keys: tuple[tree.Expr, ...] | None, given: ast.Expr
) -> tree.Stmt | None:
    value = checker.value(given)
    if value is None or keys is None:
        return None
    if not isinstance(value.type, Integer):
        hint = f"a cast makes a number of it: (u64){operand_text(given)}" if isinstance(value.type, Pointer) else ""
        checker.error(
            "bad-operand", f"'{state.name}' takes numbers, and '{given.span.text}' is {checker.describe(value)}",
            given.span, hint,
        )  # fmt: skip
        return None
    return StateAdd(node.span, state, keys, word(value))


def _delete(checker: ExprChecker, target: ast.Expr, node: ast.Node) -> tree.Stmt | None:
    state, keys = _named(checker, target)
    if state.keys and not keys:
        key = ", ".join(one.field.name for one in state.keys)
        checker.error(
            "missing-key",
            f"'{state.name}' has a slot for each key, and advice cannot empty all at once",
            target.span,
            f"delete {state.name}[{key}] takes out one",
        )
        return None
    made = _keys(checker, state, keys)
    if state.keys:
        state.deleted = True
    else:
        state.read = True  # what is cleared must be in one place, not one for each CPU
    return None if made is None else StateDelete(node.span, state, made)
