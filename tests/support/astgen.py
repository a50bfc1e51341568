"""Hypothesis strategies for trees of the aspect language: whatever the grammar can produce, and nothing else.

Spans are all alike: they do not count in comparison.
"""

from __future__ import annotations

from hypothesis import strategies as st

from klasy.lang import ast
from klasy.lang.typenames import DROPPED_WORDS, RESERVED_WORDS
from klasy.lang.vocabulary import DESIGNATORS
from klasy.source import SourceFile, Span

FILE = SourceFile("generated.asp", "")
SPAN = Span(FILE, 0, 0)

# Words that the grammar takes for a keyword where a statement, an expression or a member of an aspect begins.
_BEGINNING = {
    "delete", "container_of", "pointcut", "before", "after", "around", "lhist", "count", "sum", "min", "max", "avg",
    "hist",
}  # fmt: skip
_BASIC = (
    "void", "char", "signed char", "unsigned char", "short", "unsigned short", "int", "unsigned int", "long",
    "unsigned long", "long long", "unsigned long long", "_Bool",
)  # fmt: skip
_NUMBERS = st.one_of(st.integers(0, 100), st.integers(0, 2**64 - 1))

words = st.one_of(
    st.sampled_from(("a", "sk", "skb", "list", "u32", "foo_t", "mbuf", "call", "set", "before", "count", "_x1", "s")),
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,6}", fullmatch=True),
).filter(lambda w: w not in RESERVED_WORDS and w not in DROPPED_WORDS)
names = words.filter(lambda w: w not in _BEGINNING)
globs = st.one_of(words, st.sampled_from(("*", "%", "ip_%", "tcp_*", "%_output", "foo.constprop.0", "foo.isra.*")))
pointcut_names = words.filter(lambda w: w not in DESIGNATORS)

tags = st.sampled_from([tag for tag in ast.TagKind if tag is not ast.TagKind.NONE])
flags = st.booleans()


def types(
    array: bool = False, void: bool = True, base: st.SearchStrategy[str] = names
) -> st.SearchStrategy[ast.TypeRef]:
    """Types; without ``void`` none that no variable can have."""

    def fits(t: ast.TypeRef) -> bool:
        return void or t.name != "void" or t.pointers > 0

    dimensions = st.lists(st.integers(0, 99), max_size=2).map(tuple) if array else st.just(())
    plain = st.builds(
        ast.TypeRef, st.just(SPAN), st.just(ast.TagKind.NONE), st.one_of(base, st.sampled_from(_BASIC)),
        st.integers(0, 2), dimensions, flags, flags, flags,
    )  # fmt: skip
    tagged = st.builds(ast.TypeRef, st.just(SPAN), tags, words, st.integers(0, 2), dimensions, flags, flags, flags)
    return st.one_of(plain, tagged).filter(fits)


# --- expressions ---

_characters = st.integers(-128, 127).map(lambda v: ast.IntLiteral(SPAN, v, char=True))
_integers = st.builds(ast.IntLiteral, st.just(SPAN), _NUMBERS, flags, st.integers(0, 2), flags)
_bytes = st.integers(0x80, 0xFF).map(lambda b: chr(0xDC00 + b))
_strings = st.lists(st.one_of(st.characters(exclude_categories=("Cs",)), _bytes), max_size=6).map("".join)
_leaves = st.one_of(
    names.map(lambda n: ast.Name(SPAN, n)),
    _integers,
    _characters,
    _strings.map(lambda s: ast.StringLiteral(SPAN, s)),
)
_BINARY = ("||", "&&", "|", "^", "&", "==", "!=", "<", ">", "<=", ">=", "<<", ">>", "+", "-", "*", "/", "%", ",")
_ASSIGN = ("=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=")
# sizeof(name) is an expression until names are settled, unless the name is a basic type's.
_sizeof_types = types().filter(
    lambda t: t.tag is not ast.TagKind.NONE or t.pointers or t.const or t.name in (*_BASIC, "u32")
)


def _compound(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    span = st.just(SPAN)
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(ast.Member, span, inner, words, flags),
        st.builds(ast.Index, span, inner, several),
        st.builds(ast.Unary, span, st.sampled_from("-+!~*&"), inner),
        st.builds(ast.Binary, span, st.sampled_from(_BINARY), inner, inner),
        st.builds(ast.Conditional, span, inner, inner, inner),
        st.builds(ast.Assign, span, st.sampled_from(_ASSIGN), inner, inner),
        st.builds(ast.IncDec, span, st.sampled_from(("++", "--")), inner, flags),
        st.builds(ast.Cast, span, types(), inner),
        st.builds(ast.SizeOf, span, st.one_of(inner, _sizeof_types)),
        st.builds(
            ast.ContainerOf,
            span,
            inner,
            types().map(_without_pointers),
            st.lists(words, min_size=1, max_size=3).map(tuple),
        ),
        st.builds(ast.Apply, span, inner, st.lists(inner, max_size=3).map(tuple)),
    )


def _without_pointers(t: ast.TypeRef) -> ast.TypeRef:
    return ast.TypeRef(SPAN, t.tag, t.name, 0, (), t.const, t.volatile, t.user)


expressions: st.SearchStrategy[ast.Expr] = st.recursive(_leaves, _compound, max_leaves=10)

# --- statements ---

_declarations = st.builds(ast.Declare, st.just(SPAN), types(True, False), words, st.one_of(st.none(), expressions))
_simple = st.one_of(
    st.builds(ast.ExprStmt, st.just(SPAN), expressions),
    st.builds(ast.Delete, st.just(SPAN), expressions),
    st.builds(ast.Return, st.just(SPAN), expressions),
    st.sampled_from((ast.Return(SPAN), ast.Break(SPAN), ast.Continue(SPAN), ast.Block(SPAN, ()))),
)


def _blocks(inner: st.SearchStrategy[ast.Stmt]) -> st.SearchStrategy[ast.Block]:
    return st.builds(ast.Block, st.just(SPAN), st.lists(st.one_of(inner, _declarations), max_size=3).map(tuple))


def _governing(inner: st.SearchStrategy[ast.Stmt]) -> st.SearchStrategy[ast.Stmt]:
    span = st.just(SPAN)
    maybe = st.one_of(st.none(), expressions)
    block = _blocks(inner)
    init = st.one_of(
        st.just(()),
        st.builds(ast.ExprStmt, span, expressions).map(lambda s: (s,)),
        _declarations.map(lambda d: (d,)),
    )
    return st.one_of(
        block,
        # A branch before `else` is in braces, lest the `else` go to an inner `if`.
        st.builds(ast.IfStmt, span, expressions, block, st.one_of(st.none(), inner)),
        st.builds(ast.IfStmt, span, expressions, inner, st.none()),
        st.builds(ast.While, span, expressions, inner),
        st.builds(ast.For, span, init, maybe, maybe, inner),
    )


statements: st.SearchStrategy[ast.Stmt] = st.recursive(_simple, _governing, max_leaves=5)
bodies = st.one_of(
    _blocks(statements),
    st.text(max_size=8).filter(lambda t: "%}" not in t).map(lambda t: ast.CBody(SPAN, t)),
)

# --- pointcuts ---

_patterns = st.one_of(
    st.builds(
        ast.ParamPattern, st.just(SPAN), st.just(ast.ParamKind.ONE), types(void=False), st.one_of(st.none(), words)
    ),
    st.builds(ast.ParamPattern, st.just(SPAN), st.just(ast.ParamKind.ANY_ONE), st.none(), st.one_of(st.none(), words)),
    st.just(ast.ParamPattern(SPAN, ast.ParamKind.ANY_REST)),
)
_variadic = st.sampled_from(((), (ast.ParamPattern(SPAN, ast.ParamKind.VARIADIC),)))
_lists = st.tuples(st.lists(_patterns, max_size=3).map(tuple), _variadic).map(lambda pair: pair[0] + pair[1])
signatures = st.builds(ast.Signature, st.just(SPAN), st.one_of(st.none(), types()), globs, st.one_of(st.none(), _lists))

_paths = st.lists(words, min_size=1, max_size=3).map(tuple)
_member_types = types().map(_without_pointers).filter(lambda t: t.tag is not ast.TagKind.NONE and not t.user)
_steps = st.one_of(words, words.map("->{}".format), st.integers(0, 300).map("[{}]".format))
_long_paths = st.tuples(words, st.lists(_steps, min_size=1, max_size=3)).map(lambda parts: (parts[0], *parts[1]))
_whole_types = types(void=False).filter(lambda t: not t.array and not t.user and not any(c in t.name for c in "*%"))
data = st.one_of(
    st.builds(ast.DataPattern, st.just(SPAN), st.none(), _paths),
    st.builds(ast.DataPattern, st.just(SPAN), st.none(), _long_paths, st.none(), st.one_of(st.none(), _whole_types)),
    st.builds(ast.DataPattern, st.just(SPAN), st.none(), _long_paths, st.none(), st.none(), st.integers(0, 4096)),
    st.builds(ast.DataPattern, st.just(SPAN), _member_types, _paths),
    st.builds(ast.DataPattern, st.just(SPAN), types(void=False), st.just(()), words),
)
_arguments = st.lists(st.one_of(words, st.sampled_from(("*", ".."))), max_size=3).map(tuple)
_file_globs = st.from_regex(r"[a-z/*_.-]{1,8}", fullmatch=True)


def _designators() -> st.SearchStrategy[ast.Pointcut]:
    span = st.just(SPAN)
    return st.one_of(
        st.builds(ast.Call, span, signatures),
        st.builds(ast.Execution, span, signatures),
        st.builds(ast.Within, span, signatures),
        st.builds(ast.Access, span, st.sampled_from(list(ast.AccessKind)), data),
        st.builds(ast.Syscall, span, globs),
        st.builds(ast.Event, span, globs, globs),
        st.builds(ast.At, span, words, st.integers(0, 4096)),
        st.builds(ast.At, span, st.none(), st.just(0), st.just("net/ipv4/tcp.c"), st.integers(0, 9999)),
        st.builds(ast.WithinFile, span, _file_globs),
        st.builds(ast.WithinModule, span, _file_globs),
        st.builds(ast.Args, span, _lists),
        st.builds(ast.Target, span, words),
        st.builds(ast.If, span, expressions),
        st.builds(ast.PointcutRef, span, pointcut_names, _arguments),
        st.builds(ast.PointcutRef, span, st.tuples(pointcut_names, words).map(".".join), _arguments),
    )


def _joined(inner: st.SearchStrategy[ast.Pointcut]) -> st.SearchStrategy[ast.Pointcut]:
    span = st.just(SPAN)
    return st.one_of(
        st.builds(ast.And, span, inner, inner),
        st.builds(ast.Or, span, inner, inner),
        st.builds(ast.Not, span, inner),
        st.builds(ast.Cflow, span, inner, flags),
    )


pointcuts: st.SearchStrategy[ast.Pointcut] = st.recursive(_designators(), _joined, max_leaves=5)

# --- aspects ---

_params = st.lists(st.builds(ast.Param, st.just(SPAN), types(void=False), words), max_size=3).map(tuple)


@st.composite
def _advice(draw: st.DrawFn) -> ast.AdviceDecl:
    kind = draw(st.sampled_from(list(ast.AdviceKind)))
    returning = st.builds(ast.Param, st.just(SPAN), types(void=False), words)
    return ast.AdviceDecl(
        SPAN, kind, draw(_params), draw(st.one_of(st.none(), returning)) if kind is ast.AdviceKind.AFTER else None,
        draw(st.one_of(st.none(), pointcuts)), draw(bodies), SPAN,
    )  # fmt: skip


_state_types = types(void=False).filter(lambda t: not t.array)
# Where an expression could stand too, a type shows that it is one by a word of C's.
_key_types = types().filter(lambda t: not t.array and (t.tag is not ast.TagKind.NONE or t.name in _BASIC))
_keys = st.lists(st.one_of(expressions, _key_types), max_size=2).map(tuple)
_aggregations = [k for k in ast.StateKind if k not in (ast.StateKind.SCALAR, ast.StateKind.LHIST)]
states = st.one_of(
    st.builds(ast.StateDecl, st.just(SPAN), st.just(ast.StateKind.SCALAR), _state_types, words, _keys),
    st.builds(ast.StateDecl, st.just(SPAN), st.sampled_from(_aggregations), st.none(), words, _keys),
    st.builds(
        ast.StateDecl, st.just(SPAN), st.just(ast.StateKind.LHIST), st.none(), words, _keys,
        st.tuples(st.integers(0, 9), st.integers(10, 99), st.integers(1, 9)),
    ),
)  # fmt: skip
_pointcut_declarations = st.one_of(
    st.builds(ast.PointcutDecl, st.just(SPAN), st.none(), st.just(()), pointcuts),
    st.builds(ast.PointcutDecl, st.just(SPAN), pointcut_names, _params, pointcuts),
)
_functions = st.builds(
    ast.FunctionDecl,
    st.just(SPAN),
    types().filter(lambda t: not t.array),
    words,
    _params,
    _blocks(statements),
    st.just(SPAN),
)
_aspect_params = st.lists(
    st.one_of(
        st.builds(ast.NameParam, st.just(SPAN), words), st.builds(ast.Param, st.just(SPAN), types(void=False), words)
    ),
    max_size=2,
).map(tuple)
_name_arguments = st.one_of(
    globs.map(lambda g: (g,)), st.tuples(st.sampled_from(("struct", "union", "enum")), words, st.just("*"))
).map(lambda w: ast.NameArgument(SPAN, w))
_extends = st.builds(
    ast.Extends, st.just(SPAN), words, st.lists(st.one_of(_name_arguments, expressions), max_size=2).map(tuple)
)
_open = st.lists(st.builds(ast.AbstractPointcut, st.just(SPAN), pointcut_names, _params), max_size=1).map(tuple)
aspects = st.builds(
    ast.AspectDecl, st.just(SPAN), words,
    st.lists(_pointcut_declarations, max_size=2).map(tuple), st.lists(_advice(), max_size=2).map(tuple),
    st.lists(states, max_size=2).map(tuple), st.just(SPAN), st.lists(_functions, max_size=2).map(tuple),
    flags, _aspect_params, st.one_of(st.none(), _extends), _open,
)  # fmt: skip
files = st.builds(
    ast.File, st.just(SPAN), st.just(FILE),
    st.lists(st.builds(ast.Import, st.just(SPAN), _strings), max_size=1).map(tuple),
    st.lists(aspects, max_size=2).map(tuple),
    st.lists(
        st.builds(ast.Precedence, st.just(SPAN), st.lists(words, min_size=2, max_size=3).map(tuple)), max_size=1
    ).map(tuple),
)  # fmt: skip
