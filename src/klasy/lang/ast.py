"""The tree of an aspect file: frozen dataclasses, each with the span of its text.

Nothing here knows a kernel: a type is a name as it was written, a signature a pattern. The second half holds the
resolved form, in which named pointcuts are expanded and each advice stands alone.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, Enum, dataclass, field
from klasy.source import SourceFile, Span

if TYPE_CHECKING:
    from collections.abc import Container


@dataclass(frozen=True)
class Node:
    """Base of the tree: every node knows its place."""

    span: Span = field(compare=False, repr=False)


# --- types and signatures -------------------------------------------------------------------------------------------


class TagKind(Enum):
    """The keyword a type was written with. NONE: a typedef's or basic type's name, or the keyword was left out."""

    NONE = ""
    STRUCT = "struct"
    UNION = "union"
    ENUM = "enum"


@dataclass(frozen=True)
class TypeRef(Node):
    """A C type as written, e.g. ``const struct sk_buff *`` or ``unsigned long``.

    ``name`` is the tag, typedef or normalised basic type (``unsigned long``, ``long long``), and may hold wildcards
    in a signature; ``pointers`` counts ``*``; ``array`` the declared dimensions; ``const``, ``volatile`` and ``user``
    (``__user``) say that the qualifier was written on the base type.
    """

    tag: TagKind
    name: str
    pointers: int = 0
    array: tuple[int, ...] = ()
    const: bool = False
    volatile: bool = False
    user: bool = False


class ParamKind(Enum):
    """What one element of a signature's parameter list stands for."""

    ONE = "one"  # a parameter of this type
    ANY_ONE = "*"  # one parameter of any type
    ANY_REST = ".."  # any further parameters
    VARIADIC = "..."  # the function is C-variadic


@dataclass(frozen=True)
class ParamPattern(Node):
    """One element of a signature's parameter list. ``int ..`` is a ONE followed by an ANY_REST."""

    kind: ParamKind
    type: TypeRef | None = None
    name: str | None = None


def bound_name(pattern: ParamPattern, names: Container[str]) -> str | None:
    """What an element of ``args`` binds of ``names``: its name, or a lone word, ``args(x)``, that is one of them."""
    if pattern.name:
        return pattern.name if pattern.name in names else None
    ref = pattern.type
    if ref is None or ref.tag is not TagKind.NONE or ref.pointers or ref.const or ref.volatile:
        return None
    return ref.name if ref.name in names else None


@dataclass(frozen=True)
class Signature(Node):
    """``[type] name [(parameters)]``. ``result`` None: any type. ``params`` None: any parameters.

    ``name`` may hold ``*`` and ``%``, both wildcards. ``other`` is the second reading of an ambiguous ``*``, if there
    is one: reported when this one matches nothing and that one does.
    """

    result: TypeRef | None
    name: str
    params: tuple[ParamPattern, ...] | None
    other: Signature | None = None


@dataclass(frozen=True)
class DataPattern(Node):
    """What ``get``, ``set`` and ``access`` take.

    ``struct sk_buff.len``: type given, path ("len",). ``init_net.ipv4.sysctl_ip_default_ttl`` and ``jiffies``: type
    None, path the dotted names; a step through a pointer is "->name", one into an array "[2]". ``struct sk_buff *skb``
    or ``mbuf *m``: type a pointer, name given, path empty; so is ``unsigned long jiffies``, where no parameter has that
    name. ``struct net init_net.ipv4.x``: type None, and ``declared`` the type of what the path begins with.

    ``cpu``: of a per-CPU variable, the CPU whose copy is meant.

    ``watched``: of the objects that the aspect's ``watch`` names. ``watched skb->len``: name "skb", path ("len",).
    ``watched struct sk_buff.len``: as without that word, with no name.
    """

    type: TypeRef | None
    path: tuple[str, ...]
    name: str | None = None
    declared: TypeRef | None = None
    cpu: int | None = None
    watched: bool = False

    @property
    def text(self) -> str:
        """The path as it is written."""
        first, *steps = self.path or ("",)
        head = first if self.cpu is None else f"per_cpu({first}, {self.cpu})"
        return head + "".join(step if step[0] in "-[" else f".{step}" for step in steps)


# --- pointcuts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pointcut(Node):
    """Base of pointcut expressions."""


@dataclass(frozen=True)
class And(Pointcut):
    """``a && b``."""

    left: Pointcut
    right: Pointcut


@dataclass(frozen=True)
class Or(Pointcut):
    """``a || b``."""

    left: Pointcut
    right: Pointcut


@dataclass(frozen=True)
class Not(Pointcut):
    """``!a``."""

    operand: Pointcut


@dataclass(frozen=True)
class PointcutRef(Pointcut):
    """``name(args)``: a named pointcut. Absent from resolved advice. Each argument is a name, or ``..`` or ``*``.

    The name of another aspect's pointcut is ``aspect.name``.
    """

    name: str
    args: tuple[str, ...]


@dataclass(frozen=True)
class Call(Pointcut):
    """``call(SIG)``."""

    signature: Signature


@dataclass(frozen=True)
class Execution(Pointcut):
    """``execution(SIG)``."""

    signature: Signature


@dataclass(frozen=True)
class User(Execution):
    """``user("FILE": execution(SIG))``: the body of a function of a user program or library."""

    file: str = ""


class AccessKind(Enum):
    """Which accesses a data pointcut selects."""

    GET = "get"
    SET = "set"
    ACCESS = "access"


@dataclass(frozen=True)
class Access(Pointcut):
    """``get(DATA)``, ``set(DATA)``, ``access(DATA)``."""

    kind: AccessKind
    data: DataPattern


@dataclass(frozen=True)
class Syscall(Pointcut):
    """``syscall(NAME)``, NAME with wildcards. ``binds`` as in :class:`Event`."""

    name: str
    binds: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True)
class Event(Pointcut):
    """``event(CATEGORY:NAME)``, both with wildcards.

    ``binds``: where it came out of a named pointcut, the names outside for the names of fields inside; None: the same.
    """

    category: str
    name: str
    binds: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True)
class At(Pointcut):
    """``at(FUNCTION+OFFSET)`` (function given) or ``at("file.c:123")`` (file given)."""

    function: str | None = None
    offset: int = 0
    file: str | None = None
    line: int = 0


@dataclass(frozen=True)
class Within(Pointcut):
    """``within(SIG)``: the join point lies in a matching function."""

    signature: Signature


@dataclass(frozen=True)
class WithinFile(Pointcut):
    """``withinfile(GLOB)``."""

    glob: str


@dataclass(frozen=True)
class WithinModule(Pointcut):
    """``withinmodule(GLOB)``. The kernel proper is ``vmlinux``."""

    glob: str


@dataclass(frozen=True)
class Cflow(Pointcut):
    """``cflow(PC)``; ``cflowbelow(PC)`` when ``below``."""

    operand: Pointcut
    below: bool


@dataclass(frozen=True)
class Args(Pointcut):
    """``args(struct sock *sk, *, ..)``: binds arguments by position, and keeps what has such arguments.

    The elements are those of a signature, but a lone word may be the name of a parameter: see ``bound_name``.
    """

    params: tuple[ParamPattern, ...]


@dataclass(frozen=True)
class Target(Pointcut):
    """``target(x)``: binds the object whose member is accessed."""

    name: str


@dataclass(frozen=True)
class If(Pointcut):
    """``if(EXPR)``: a condition over what is bound, tested at run time."""

    condition: Expr


# --- expressions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expr(Node):
    """Base of expressions; ``span.text`` is the expression as written, under which ``log`` shows it."""


@dataclass(frozen=True)
class IntLiteral(Expr):
    """An integer or character constant with C's type rules: ``unsigned`` and ``longs`` from its suffix.

    ``decimal`` tells a decimal constant (never unsigned without a suffix) from a hexadecimal or octal one.
    """

    value: int
    unsigned: bool = False
    longs: int = 0
    decimal: bool = True
    char: bool = False


@dataclass(frozen=True)
class StringLiteral(Expr):
    """A string with its escapes resolved; adjacent ones joined."""

    value: str


@dataclass(frozen=True)
class Name(Expr):
    """A variable, parameter, state, enum constant or context name (``now``, ``pid`` ..)."""

    name: str


@dataclass(frozen=True)
class Member(Expr):
    """``object.name`` or, when ``arrow``, ``object->name``. ``joinpoint.function`` is one too."""

    object: Expr
    name: str
    arrow: bool


@dataclass(frozen=True)
class Index(Expr):
    """``array[i]``; several keys only for state: ``calls[pid, comm]``."""

    object: Expr
    keys: tuple[Expr, ...]


@dataclass(frozen=True)
class Unary(Expr):
    """``- + ! ~ * &`` before an operand."""

    op: str
    operand: Expr


@dataclass(frozen=True)
class Binary(Expr):
    """A binary operator of C, ``&&`` and ``||`` among them."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Conditional(Expr):
    """``a ? b : c``."""

    condition: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True)
class Assign(Expr):
    """``target op value`` with op ``=``, ``+=`` ..."""

    op: str
    target: Expr
    value: Expr


@dataclass(frozen=True)
class IncDec(Expr):
    """``x++``, ``--x``: op ``++`` or ``--``."""

    op: str
    target: Expr
    prefix: bool


@dataclass(frozen=True)
class Cast(Expr):
    """``(type) operand``."""

    type: TypeRef
    operand: Expr


@dataclass(frozen=True)
class SizeOf(Expr):
    """``sizeof(type)`` or ``sizeof expr``."""

    operand: TypeRef | Expr


@dataclass(frozen=True)
class ContainerOf(Expr):
    """``container_of(pointer, type, member.path)``."""

    pointer: Expr
    type: TypeRef
    path: tuple[str, ...]


@dataclass(frozen=True)
class Apply(Expr):
    """``f(args)``: a function of the language; or, ``callee`` a Member of state, ``hist.add(v)``."""

    callee: Expr
    args: tuple[Expr, ...]


@dataclass(frozen=True)
class InFlow(Expr):
    """Whether what runs here is in a control flow, by its number in the aspect: what ``cflow`` becomes. Not written."""

    flow: int


# --- statements -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stmt(Node):
    """Base of statements."""


@dataclass(frozen=True)
class Block(Stmt):
    """``{ .. }``: a scope."""

    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Declare(Stmt):
    """``type name [= value];``. A line with several declarators becomes several of these."""

    type: TypeRef
    name: str
    value: Expr | None


@dataclass(frozen=True)
class ExprStmt(Stmt):
    """An expression as a statement."""

    expr: Expr


@dataclass(frozen=True)
class IfStmt(Stmt):
    """``if (..) .. [else ..]``."""

    condition: Expr
    then: Stmt
    otherwise: Stmt | None


@dataclass(frozen=True)
class For(Stmt):
    """``for (init; condition; step) body``. ``init`` holds declarations or one expression statement."""

    init: tuple[Stmt, ...]
    condition: Expr | None
    step: Expr | None
    body: Stmt


@dataclass(frozen=True)
class While(Stmt):
    """``while (..) body``."""

    condition: Expr
    body: Stmt


@dataclass(frozen=True)
class Return(Stmt):
    """``return;`` ends this advice or function, ``return value;`` a function that gives one."""

    value: Expr | None = None


@dataclass(frozen=True)
class Break(Stmt):
    """``break;``."""


@dataclass(frozen=True)
class Continue(Stmt):
    """``continue;``."""


@dataclass(frozen=True)
class Delete(Stmt):
    """``delete state[key];``."""

    target: Expr


@dataclass(frozen=True)
class FlowStep(Stmt):
    """``enter`` or ``leave`` a control flow, or ``end`` it with its task: what ``cflow`` needs besides. Not written.

    ``names``: the parameters whose values are kept for as long as the flow lasts.
    """

    step: str
    flow: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class CBody(Node):
    """``%{ C %}``: raw C, compiled by bcc. ``text`` is what stands between the marks."""

    text: str


# --- aspects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Param(Node):
    """A named, typed parameter of an advice or a named pointcut."""

    type: TypeRef
    name: str


class AdviceKind(Enum):
    """When advice runs, relative to its join point."""

    BEFORE = "before"
    AFTER = "after"
    AROUND = "around"


@dataclass(frozen=True)
class PointcutDecl(Node):
    """``pointcut [name(params):] expr;``. ``name`` None: the aspect's anonymous pointcut."""

    name: str | None
    params: tuple[Param, ...]
    expr: Pointcut


@dataclass(frozen=True)
class AdviceDecl(Node):
    """An advice as written. ``head`` spans kind and parameters, for messages."""

    kind: AdviceKind
    params: tuple[Param, ...]
    returning: Param | None
    pointcut: Pointcut | None
    body: Block | CBody
    head: Span = field(compare=False, repr=False)


class StateKind(Enum):
    """What a state holds: a value of a C type, or an aggregation."""

    SCALAR = "scalar"
    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    AVG = "avg"
    HIST = "hist"
    LHIST = "lhist"


@dataclass(frozen=True)
class StateDecl(Node):
    """``T name;``, ``T name[key, ..];``, ``hist name[..];``, ``lhist(lo, hi, step) name[..];``.

    A key is an expression of the key's type, or a type.
    """

    kind: StateKind
    type: TypeRef | None
    name: str
    keys: tuple[Expr | TypeRef, ...]
    bounds: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class FunctionDecl(Node):
    """``T name(params) { .. }``: a function of the user's. ``head`` spans type, name and parameters.

    In a resolved aspect the name is ``aspect.name``, and so are those of the functions that are called.
    """

    result: TypeRef
    name: str
    params: tuple[Param, ...]
    body: Block
    head: Span = field(compare=False, repr=False)

    @property
    def gives_value(self) -> bool:
        """Whether its result is not ``void``."""
        return self.result.name != "void" or self.result.pointers > 0


@dataclass(frozen=True)
class AbstractPointcut(Node):
    """``abstract pointcut name(params);``: left to the aspects that extend this one."""

    name: str
    params: tuple[Param, ...]


@dataclass(frozen=True)
class NameParam(Node):
    """A parameter of an abstract aspect that stands for a name (of functions, a module ..) or for a type."""

    name: str


@dataclass(frozen=True)
class NameArgument(Node):
    """What is given for one: the words of a name, which may hold wildcards, or of a type: ``struct sk_buff *``."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Extends(Node):
    """``extends name(arguments)``."""

    name: str
    arguments: tuple[NameArgument | Expr, ...]


@dataclass(frozen=True)
class AspectDecl(Node):
    """``[abstract] aspect name[(params)] [extends ..] { .. }``, its parts in source order.

    ``params`` are those of an abstract aspect: a Param is a constant.
    """

    name: str
    pointcuts: tuple[PointcutDecl, ...]
    advice: tuple[AdviceDecl, ...]
    state: tuple[StateDecl, ...]
    name_span: Span = field(compare=False, repr=False)
    functions: tuple[FunctionDecl, ...] = ()
    abstract: bool = False
    params: tuple[NameParam | Param, ...] = ()
    extends: Extends | None = None
    open: tuple[AbstractPointcut, ...] = ()


@dataclass(frozen=True)
class Import(Node):
    """``import "other.asp";``."""

    path: str


@dataclass(frozen=True)
class Precedence(Node):
    """``precedence a, b;``: the names, that of the outermost aspect first."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class File(Node):
    """A whole ``.asp`` file."""

    source: SourceFile = field(compare=False, repr=False)
    imports: tuple[Import, ...]
    aspects: tuple[AspectDecl, ...]
    precedence: tuple[Precedence, ...] = ()


# --- resolved form --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """One advice, standing alone: its pointcut has no PointcutRef left and binds the advice's own parameter names.

    ``index`` numbers the advice in its aspect, from 0; ``label`` is how it is shown, e.g. ``before#0`` . Advice that
    nobody wrote, but that ``cflow`` needs, says in ``keeps`` what for, and runs at a join point before the aspect's own
    (``order`` below 0) or behind it.
    """

    index: int
    kind: AdviceKind
    params: tuple[Param, ...]
    returning: Param | None
    pointcut: Pointcut
    body: Block | CBody
    span: Span = field(compare=False, repr=False)
    head: Span = field(compare=False, repr=False)
    keeps: str = ""
    order: int = 0

    @property
    def label(self) -> str:
        """How the advice is named in reports."""
        return self.keeps or f"{self.kind.value}#{self.index}"


@dataclass(frozen=True)
class Aspect:
    """One aspect, resolved.

    ``imports``: all the other files that its own file is made of, each once. ``functions``: its own, and those of
    others that are called. ``extends``: where it says what it extends, if it does. ``order``: pairs of aspects' names,
    that which goes before first, as the file and those it imports say.
    """

    name: str
    source: SourceFile
    advice: tuple[Advice, ...]
    state: tuple[StateDecl, ...]
    span: Span = field(compare=False, repr=False)
    name_span: Span = field(compare=False, repr=False)
    imports: tuple[SourceFile, ...] = ()
    functions: tuple[FunctionDecl, ...] = ()
    extends: Span | None = field(default=None, compare=False, repr=False)
    order: tuple[tuple[str, str], ...] = ()
