"""The part of the typed tree that is about state; see :mod:`klasy.compiler.tree`."""

from __future__ import annotations

from klasy.compiler.tree import Expr, Stmt
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from klasy.compiler.types import CType
    from klasy.record import Field
    from klasy.source import Span
    from klasy.state import State


@dataclass(eq=False)
class KeyType:
    """One key of a state: its type (Integer, Pointer or String), and its place among the bytes of the key."""

    type: CType
    field: Field


@dataclass(eq=False)
class StateVariable:
    """A state of the aspect. ``type`` is what reading it gives; None where it cannot be read, as a histogram.

    ``user``: it was declared ``__user``. ``read``: advice reads or clears it. ``deleted``: advice deletes elements.
    ``sound``: its declaration is right; what uses one that is not is no error of its own. ``layout`` is there once all
    advice has been checked.
    """

    index: int
    name: str
    kind: str
    span: Span
    type: CType | None
    keys: tuple[KeyType, ...]
    key_size: int
    bounds: tuple[int, int, int] | None
    value: Field | None
    sound: bool = True
    user: bool = False
    read: bool = False
    deleted: bool = False
    used: bool = False
    layout: State | None = None

    @property
    def placed(self) -> State:
        """Its layout. AssertionError before all advice has been checked."""
        assert self.layout is not None, f"{self.name} has no layout yet"
        return self.layout


@dataclass(eq=False)
class StateExpr(Expr):
    """Base of expressions on one element of a state. ``keys`` have the keys' types."""

    state: StateVariable
    keys: tuple[Expr, ...]


@dataclass(eq=False)
class StateRead(StateExpr):
    """Its value: a scalar's own, what an aggregation has come to; 0 where there is none yet."""


@dataclass(eq=False)
class StateAssign(StateExpr):
    """``x[k] = value``, the value converted. The expression's value is the new one, or the ``old``."""

    value: Expr
    old: bool = False


@dataclass(eq=False)
class StateChange(StateExpr):
    """``x[k] op= value`` for an integer, in one step: op of ``add and or xor``, the value of 64 bits, or its negative.

    The expression's value is the new one, or the ``old``.
    """

    op: str
    value: Expr
    negative: bool = False
    old: bool = False


@dataclass(eq=False)
class StateStmt(Stmt):
    """Base of statements on one element of a state."""

    state: StateVariable
    keys: tuple[Expr, ...]


@dataclass(eq=False)
class StateAdd(StateStmt):
    """``x[k].add(value)``, a value of 64 bits."""

    value: Expr


@dataclass(eq=False)
class StateDelete(StateStmt):
    """``delete x[k];``, ``x.clear();``"""
