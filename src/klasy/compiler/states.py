"""The states that an aspect declares: the types of their values and keys, and their layout in maps.

A key is declared by an example: a context name (``start[tid]``), a parameter of the advice or an expression over such
parameters (``drops[skb->dev->name]``), whose type is the key's; or by a type (``seen[struct sock *]``).
"""

from __future__ import annotations

from klasy.compiler import ir, tree
from klasy.compiler.builtins.network import IP4, IP6, MAC
from klasy.compiler.builtins.strings import as_string
from klasy.compiler.convert import rvalue
from klasy.compiler.formats import one_line
from klasy.compiler.statetree import KeyType, StateVariable
from klasy.compiler.types import (
    U64,
    Array,
    Bool,
    Char,
    CType,
    Enum,
    Function,
    Integer,
    Pointer,
    Shown,
    String,
)
from klasy.compiler.wording import a_type
from klasy.lang import ast
from klasy.lang.vocabulary import CONTEXT_NAMES, FUNCTIONS, JOINPOINT
from klasy.lang.walk import free_names
from klasy.match.typeref import TypeRefError
from klasy.plain import TYPE_CHECKING, replace
from klasy.record import Field
from klasy.state import MAX_LHIST_BUCKETS, State, lhist_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.compiler.check import AdviceChecker
    from klasy.compiler.types import Types
    from klasy.lang.ast import Aspect, StateDecl

S64 = Integer(8, True, "s64")
MAX_KEY = 256  # bytes; a BPF program has 512 of stack
ADDRESSES: dict[CType, str] = {IP4: "ip4", IP6: "ip6", MAC: "mac"}
_TEXT = String(ir.MAX_STRING, "string")
_MADE: dict[str, CType] = {"str": _TEXT, "ustr": _TEXT, "ip4": IP4, "ip6": IP6, "mac": MAC}
_READABLE = {"count": U64, "sum": S64, "min": S64, "max": S64, "avg": S64}


def declare(aspect: Aspect, types: Types, checkers: Sequence[AdviceChecker]) -> dict[str, StateVariable]:
    """The states of an aspect by name, for the advice to use. Reports what is wrong with them."""
    return {decl.name: _Declaring(decl, index, types, checkers).state() for index, decl in enumerate(aspect.state)}


def lay_out(states: Sequence[StateVariable]) -> tuple[State, ...]:
    """The layouts, once all advice has been checked: it is known then who only adds."""
    for state in states:
        per_cpu = state.kind != "scalar" and not state.read
        if per_cpu and state.key_size and state.kind in ("hist", "lhist"):
            per_cpu = False  # some kilobytes for every key and CPU: shared buckets are seldom written at once
        state.layout = State(
            index=state.index,
            name=state.name,
            kind=state.kind,
            line=state.span.line,
            value=state.value,
            keys=tuple(key.field for key in state.keys),
            key_size=state.key_size,
            bounds=state.bounds,
            per_cpu=per_cpu,
        )
    return tuple(state.placed for state in states)


class _Declaring:
    """Reads one declaration."""

    def __init__(self, decl: StateDecl, index: int, types: Types, checkers: Sequence[AdviceChecker]) -> None:
        self.decl = decl
        self.index = index
        self.types = types
        self.checkers = checkers
        self.checker = checkers[0]  # an aspect without advice has been refused
        self.errors = len(self.checker.bag.errors)

    def state(self) -> StateVariable:
        decl = self.decl
        kind = decl.kind.value
        type_: CType | None = _READABLE.get(kind)
        value = None
        if decl.type is not None:
            type_ = self._value_type(decl.type)
            value = None if type_ is None else _field(one_line(decl.type.span), type_, self.types, 0)
        if decl.bounds is not None:
            self._check_steps(decl.bounds)
        keys, size = self._keys()
        # What was said of an advice's parameter is not said again of a key made of it: there may be no error here.
        known = len(keys) == len(decl.keys) and (decl.type is None or type_ is not None)
        sound = known and len(self.checker.bag.errors) == self.errors
        user = decl.type is not None and decl.type.user
        return StateVariable(
            self.index, decl.name, kind, decl.span, type_, keys, size, decl.bounds, value, sound=sound, user=user
        )

    def _value_type(self, ref: ast.TypeRef) -> CType | None:
        kind = self.checker.type_of(ref)
        if kind is None or isinstance(kind, Integer | Pointer):
            return kind
        self.checker.error(
            "bad-state",
            f"'{self.decl.name}' is of type '{kind.name}': a state holds a number or a pointer",
            ref.span,
            "keep a state for each member that matters",
        )
        return None

    def _check_steps(self, bounds: tuple[int, int, int]) -> None:
        if bounds[1] > ir.MAX_IMMEDIATE:
            self.checker.error("bad-histogram", "the upper bound of this histogram is no signed number", self.decl.span)
            return
        number = lhist_steps(bounds)
        if number > MAX_LHIST_BUCKETS:
            self.checker.error(
                "bad-histogram",
                f"this histogram has {number} steps, and at most {MAX_LHIST_BUCKETS} are possible",
                self.decl.span,
                f"take a step of {-(-(bounds[1] - bounds[0]) // MAX_LHIST_BUCKETS)} or more",
            )

    # --- keys

    def _keys(self) -> tuple[tuple[KeyType, ...], int]:
        found: list[KeyType] = []
        end = 0
        for node in self.decl.keys:
            kind = self._key_type(node)
            if kind is None:
                continue
            field = _field(one_line(node.span), kind, self.types, end)
            end = field.offset + field.size
            found.append(KeyType(kind, field))
        if end > MAX_KEY:
            self.checker.error(
                "bad-key",
                f"the key of '{self.decl.name}' has {end} bytes, and at most {MAX_KEY} are possible",
                self.decl.span,
                "a string in an array, p->name, takes less than one that a pointer points to",
            )
        return tuple(found), end if end < 8 else -(-end // 8) * 8

    def _key_type(self, node: ast.Expr | ast.TypeRef) -> CType | None:
        """The type that a key is declared with."""
        if isinstance(node, ast.TypeRef):
            return self._fitting(self.checker.type_of(node), node)
        if isinstance(node, ast.IntLiteral):
            self.checker.error(
                "bad-key",
                f"'{node.span.text}' is no key: a state has a slot for each key that comes, not a number of slots",
                node.span,
                f"say what its type is: {self.decl.name}[int], {self.decl.name}[cpu]",
            )
            return None
        function = self._function(node)
        if function is not None:
            return self._fitting(self.checker.type_of(function.result), node)
        if isinstance(node, ast.Apply) and isinstance(node.callee, ast.Name) and len(node.args) == 1:
            made_of_it = _MADE.get(node.callee.name)
            # What the function is given need not be the advice's; where the key is used this is checked.
            if made_of_it is not None and self._function(node.args[0]) is not None:
                return made_of_it
        checker = self._checker_for(node)
        if checker is None:
            return self._type_name(node) if isinstance(node, ast.Name) else self._unknown(node)
        made = checker.any(node)
        if made is None:
            return None
        if isinstance(made, tree.JoinPointAttribute | tree.Stack):
            from klasy.compiler import placekeys

            return placekeys.declared(checker, made)
        string = as_string(made if isinstance(made.type, Array) else rvalue(made))
        if isinstance(string, tree.Literal):
            checker.error("bad-key", "a string says nothing of the key", node.span, "name what its slots are for: comm")
            return None
        if isinstance(string, tree.Comm):
            return String(ir.COMM_SIZE, "string")
        if isinstance(string, tree.StringAt):
            return String(-(-(string.limit + 1) // 8) * 8, "string")
        if made.type in ADDRESSES:
            return made.type
        return self._fitting(made.type if isinstance(made.type, Array) else rvalue(made).type, node)

    def _function(self, node: ast.Node) -> ast.FunctionDecl | None:
        """The aspect's own function that is called."""
        if isinstance(node, ast.Apply) and isinstance(node.callee, ast.Name):
            return self.checker.functions.get(node.callee.name)
        return None

    def _checker_for(self, node: ast.Expr) -> AdviceChecker | None:
        """The first advice whose parameters a key's expression can be of."""
        names = {name.name for name in free_names(node)}
        names -= {*CONTEXT_NAMES, JOINPOINT, *FUNCTIONS}
        names = {name for name in names if not self.types.has_constant(name)}
        return next((c for c in self.checkers if names <= c.parameters.keys()), None)

    def _type_name(self, node: ast.Name) -> CType | None:
        try:
            kind = self.types.written(ast.TypeRef(node.span, ast.TagKind.NONE, node.name))
        except TypeRefError:
            return self._unknown(node)
        return self._fitting(kind, node)

    def _unknown(self, node: ast.Expr) -> CType | None:
        params = list(dict.fromkeys(name for checker in self.checkers for name in checker.parameters))
        known = f"a parameter of the advice ({', '.join(params)})" if params else "a parameter of an advice"
        self.checker.error(
            "unknown-key",
            f"'{node.span.text}' is not known here",
            node.span,
            f"a key is named by what it will be: tid, comm ..; {known}; a type",
        )
        return None

    def _fitting(self, kind: CType | None, node: ast.Node) -> CType | None:
        if kind is None or isinstance(kind, Integer | Pointer):
            return kind
        text = node.span.text
        hint = ""
        if isinstance(kind, Array) and isinstance(kind.element, Integer) and kind.element.size == 1:
            hint = f"mac({text}) is the address in it" if kind.count == MAC.size else f"str({text}) is the string in it"
        self.checker.error(
            "bad-key",
            f"'{text}' is {a_type(kind)}: a key is a number, a pointer, a string or an address of the network",
            node.span,
            hint,
        )
        return None


def _field(name: str, kind: CType, types: Types, end: int) -> Field:
    """How a value of a type is decoded, with the next place for it behind ``end``."""
    if isinstance(kind, Shown) and kind not in ADDRESSES:
        from klasy.compiler import placekeys

        return placekeys.field(name, kind, end)
    size = kind.size
    alignment = 8 if isinstance(kind, String | Shown) else size
    offset = -(-end // alignment) * alignment
    field = Field(name, "int", offset, size, type_name=kind.name)
    if isinstance(kind, String):
        return replace(field, kind="string", type_name="")
    if isinstance(kind, Shown):
        return replace(field, kind=ADDRESSES[kind], type_name="")
    if isinstance(kind, Pointer):
        return replace(field, kind="symbol" if isinstance(kind.target, Function) else "pointer")
    assert isinstance(kind, Integer)
    if isinstance(kind, Enum):
        module, type_id = types.shown(kind)
        return replace(field, kind="enum", signed=kind.signed, module=module, type_id=type_id)
    name = "bool" if isinstance(kind, Bool) else "char" if isinstance(kind, Char) else "int"
    return replace(field, kind=name, signed=kind.signed)
