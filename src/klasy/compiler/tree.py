"""The typed tree: an advice after checking, every expression with its C type and every conversion explicit.

``check`` makes it, ``lower`` reads it. Nothing in it can be wrong in C's terms any more.

Kernel memory is named by a :class:`Place` and its content taken by a :class:`Read`; whatever has not a Read, Local,
Constant or ContextValue at its leaves is computed. A value of integer type is one of that type's values; a pointer is
an address.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from klasy.compiler.types import CType, Integer, Pointer
    from klasy.record import Field, Format
    from klasy.source import Span


@dataclass(eq=False)
class Variable:
    """A parameter of the advice, or a local. ``assigned``: it changes after it got its first value. ``user``: what it
    points to, if it is a pointer, lies in the memory of the task's process; None until it has a value.

    Its type is VOID where its declaration was wrong: a use of it is then no error of its own.
    """

    name: str
    type: CType
    span: Span
    parameter: bool = False
    assigned: bool = False
    used: bool = False
    user: bool | None = False


# --- expressions ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Expr:
    """Base: the type of the value, and where it stands in the aspect."""

    type: CType
    span: Span


@dataclass(eq=False)
class Constant(Expr):
    """A number, one of the type's values; of pointer type an address."""

    value: int


@dataclass(eq=False)
class Local(Expr):
    """The value of a parameter or local."""

    variable: Variable


@dataclass(eq=False)
class ContextValue(Expr):
    """``bits`` bits from bit ``shift`` of the fact of the moment that ir.Context calls ``what``."""

    what: str
    shift: int
    bits: int


@dataclass(eq=False)
class Observed(Expr):
    """What a probe found of the data it watches: ``what`` of ir.OBSERVED, or ``address``, the data's own.

    ``sure``: its memory is there as long as the kernel is.
    """

    what: str
    sure: bool


@dataclass(eq=False)
class Comm(Expr):
    """``comm``: a string."""


@dataclass(eq=False)
class Literal(Expr):
    """A string literal."""

    value: str


@dataclass(eq=False)
class StringAt(Expr):
    """The string in kernel memory at the address ``pointer``; at most ``limit`` bytes, its NUL not counted.

    ``whole``: its memory is an array of exactly ``limit`` bytes, all of which belong to it. ``user``: it lies in the
    memory of the task's process instead.
    """

    pointer: Expr
    limit: int
    whole: bool = False
    user: bool = False


@dataclass(eq=False)
class Shown(Expr):
    """A value that can only be logged; of type ``types.Shown``. ``kind`` is that of its record field."""

    kind: str


@dataclass(eq=False)
class Formatted(Shown):
    """A number, shown in a way of its own."""

    value: Expr


@dataclass(eq=False)
class Stack(Shown):
    """The functions that led to the join point; ``user``: in the process's own code."""

    user: bool


@dataclass(eq=False)
class Memory(Shown):
    """``size`` bytes of memory at ``pointer``; with a ``length`` as many as it says, at most ``size``."""

    pointer: Expr
    size: int
    length: Expr | None = None


# What is logged of ``joinpoint`` itself: of a system call the whole call.
WHOLE_BEFORE = "before"
WHOLE_AFTER = "after"


@dataclass(eq=False)
class JoinPointAttribute(Expr):
    """``joinpoint.attribute``: known to the reader of the log, not to the program. ``joinpoint``: WHOLE_BEFORE .."""

    attribute: str

    @property
    def is_whole(self) -> bool:
        """Whether it is no attribute, but ``joinpoint`` itself."""
        return self.attribute in (WHOLE_BEFORE, WHOLE_AFTER)


@dataclass(eq=False)
class Place(Expr):
    """An lvalue in memory: ``offset`` bytes from the address ``base``. Its type is that of what lies there.

    For a bit-field ``bits`` is its width, ``shift`` its lowest bit counted from the byte at ``offset``. ``struct``
    holds the offset and size of the struct it is a member of, if any: memory that is sure to be there as a whole.
    """

    base: Expr
    offset: int
    bits: int = 0
    shift: int = 0
    struct: tuple[int, int] | None = None


@dataclass(eq=False)
class Read(Expr):
    """The content of a place of integer or pointer type."""

    place: Place


@dataclass(eq=False)
class AddressOf(Expr):
    """The address of a place that is no bit-field."""

    place: Place


@dataclass(eq=False)
class Convert(Expr):
    """The value of integer or pointer type, converted to another of these. ``user``: to an address of the process's."""

    operand: Expr
    user: bool = False


@dataclass(eq=False)
class Negate(Expr):
    """``-operand``, of the operand's (promoted) type."""

    operand: Expr


@dataclass(eq=False)
class Complement(Expr):
    """``~operand``, of the operand's (promoted) type."""

    operand: Expr


@dataclass(eq=False)
class SwapBytes(Expr):
    """The operand, which has the expression's (unsigned) type, with its bytes in the opposite order."""

    operand: Expr


@dataclass(eq=False)
class LogicalNot(Expr):
    """``!operand``: 1 or 0."""

    operand: Expr


@dataclass(eq=False)
class Arithmetic(Expr):
    """``left op right`` with op of ``+ - * / % & | ^``; both operands have the expression's type."""

    op: str
    left: Expr
    right: Expr


@dataclass(eq=False)
class Shift(Expr):
    """``left op right`` with op ``<<`` or ``>>``; left has the expression's type. Counts modulo the width."""

    op: str
    left: Expr
    right: Expr


@dataclass(eq=False)
class PointerAdd(Expr):
    """``pointer`` moved by ``index`` elements of ``scale`` bytes, backwards where ``minus``."""

    pointer: Expr
    index: Expr
    scale: int
    minus: bool = False


@dataclass(eq=False)
class PointerDifference(Expr):
    """How many elements of ``scale`` bytes lie between two pointers."""

    left: Expr
    right: Expr
    scale: int


@dataclass(eq=False)
class Comparison(Expr):
    """``left op right``: 1 or 0. Both operands have one type, or both are pointers."""

    op: str
    left: Expr
    right: Expr


@dataclass(eq=False)
class StringComparison(Expr):
    """Whether ``string`` (a StringAt or Comm) is ``literal``, or is not where ``negated``."""

    string: Expr
    literal: bytes
    negated: bool


@dataclass(eq=False)
class Logical(Expr):
    """``left op right`` with op ``&&`` or ``||``: 1 or 0. The right one is evaluated only where it decides."""

    op: str
    left: Expr
    right: Expr


@dataclass(eq=False)
class Conditional(Expr):
    """``condition ? then : otherwise``."""

    condition: Expr
    then: Expr
    otherwise: Expr


@dataclass(eq=False)
class Assign(Expr):
    """``variable = value``, the value converted. The expression's value is the new one, or the ``old``."""

    variable: Variable
    value: Expr
    old: bool = False


@dataclass(eq=False)
class Comma(Expr):
    """``first, value``: the one for its effect, then the other."""

    first: Stmt
    value: Expr


@dataclass(eq=False)
class Call(Expr):
    """A function of the user's, put in place of its call: the ``arguments`` get their values, then ``body`` runs.

    ``result`` holds what it gives; None where it gives nothing, and then the type is void. One function's parameters,
    variables and body serve all its calls in an advice.
    """

    arguments: tuple[tuple[Variable, Expr], ...]
    body: Sequence
    result: Variable | None


# --- statements -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Stmt:
    """Base of statements."""

    span: Span


@dataclass(eq=False)
class Sequence(Stmt):
    """Statements one after another."""

    body: tuple[Stmt, ...]


@dataclass(eq=False)
class Evaluate(Stmt):
    """An expression, for its effect."""

    expr: Expr


@dataclass(eq=False)
class Declare(Stmt):
    """A local begins, with a value: 0 where the aspect gives none."""

    variable: Variable
    value: Expr | None


@dataclass(eq=False)
class If(Stmt):
    """``if``."""

    condition: Expr
    then: Stmt
    otherwise: Stmt | None


@dataclass(eq=False)
class Loop(Stmt):
    """Runs ``body`` and then ``step`` as long as ``condition`` holds (None: always)."""

    condition: Expr | None
    body: Stmt
    step: Stmt | None


@dataclass(eq=False)
class Break(Stmt):
    """Ends the loop."""


@dataclass(eq=False)
class Continue(Stmt):
    """Goes on with the loop's ``step``."""


@dataclass(eq=False)
class Return(Stmt):
    """Ends the advice, or the function, with the ``value`` that it gives."""

    value: Expr | None = None


@dataclass(eq=False)
class Sample(Stmt):
    """Ends the advice but for ``threshold`` of 2**32 times."""

    threshold: int


@dataclass(eq=False)
class Limit(Stmt):
    """Ends the advice where the bucket ``slot`` is empty; see ir.Limit."""

    slot: int
    interval: int
    size: int


@dataclass(eq=False)
class InFlow(Expr):
    """1 in a control flow, else 0: ``cflow``."""

    flow: int


@dataclass(eq=False)
class FlowStep(Stmt):
    """Enters, leaves or ends a control flow; ``values`` are kept while it lasts."""

    step: str
    flow: int
    values: tuple[Local, ...]


@dataclass(eq=False)
class Stop(Stmt):
    """Switches the aspect off."""


@dataclass(eq=False)
class WatchObject(Stmt):
    """Has the member ``member`` of an object watched; see ir.WatchObject."""

    address: AddressOf
    member: int
    size: int
    hits: int
    duration: int


@dataclass(eq=False)
class UnwatchObject(Stmt):
    """Ends that."""

    address: AddressOf
    member: int


@dataclass(eq=False)
class Deny(Stmt):
    """Ends the advice, and all of the probe's: the function does not run, and its result is -``errno``."""

    errno: int


@dataclass(eq=False)
class Item:
    """One value of a log: ``value`` is written to ``field``; a load that fails sets bit ``bit`` of the faults.

    A field of kind ``address`` or ``object`` holds a pointer's value and what it points to: both have the pointer as
    ``value``. ``string`` and ``bytes`` fields have a StringAt, Comm or pointer. A joinpoint field has no bytes.
    """

    field: Field
    value: Expr
    bit: int


@dataclass(eq=False)
class Log(Stmt):
    """``log(..)``."""

    format: Format
    items: tuple[Item, ...]


# --- the whole ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Advice:
    """One advice, checked. ``parameters`` by name, ``returning`` among them. ``body``: a Sequence, or a cbody.CCode."""

    index: int
    parameters: dict[str, Variable]
    body: Stmt


def integer(expr: Expr) -> Integer:
    """The type of an expression that is known to be an integer."""
    from klasy.compiler.types import Integer

    assert isinstance(expr.type, Integer), expr
    return expr.type


def pointer(expr: Expr) -> Pointer:
    """The type of an expression that is known to be a pointer."""
    from klasy.compiler.types import Pointer

    assert isinstance(expr.type, Pointer), expr
    return expr.type
