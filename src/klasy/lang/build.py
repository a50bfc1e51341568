"""What each rule of the grammar makes: the nodes of ``ast``, built as the automaton reduces.

A method ``_on_NAME`` makes the node of the rule, or of the alias of its alternative, NAME. Texts that the grammar takes
as they are (numbers, strings, quoted signatures) are read here; what is wrong in them goes into the bag, and a
plausible node takes their place. One long file, since the grammar is one: its sections stand
here as they stand there.
"""

from __future__ import annotations

from klasy.lang import ast, literals
from klasy.lang.lalr import Token
from klasy.lang.signature import WordReader
from klasy.lang.typenames import BASIC_WORDS, QUALIFIERS, TAGS, USER, normalise
from klasy.plain import ASCII, TYPE_CHECKING, NamedTuple, pattern, replace
from klasy.source import SourceFile, Span

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from klasy.diag import DiagnosticBag

_PLACE = pattern(r"\s*([^\s:]+):([0-9]+)\s*\Z", ASCII)


class _Declarator(NamedTuple):
    """Pointers, name and dimensions: what stands behind the type in a declaration."""

    pointers: int
    name: Token
    dimensions: tuple[int, ...]
    span: Span


class _Declarations(NamedTuple):
    """One line of declarations, which may become several statements."""

    statements: tuple[ast.Declare, ...]
    span: Span


class AstBuilder:
    """Builds the tree of one file. ``inner`` parses a part of the text as another start: what stands between quotes."""

    def __init__(self, file: SourceFile, bag: DiagnosticBag, inner: Callable[[str, int, int], Any]) -> None:
        self.file = file
        self.bag = bag
        self._inner = inner
        self._words = WordReader(file, bag)

    def build(self, name: str, children: list[Any], start: int, end: int) -> Any:
        """The node of a rule."""
        return getattr(self, "_on_" + name)(children, Span(self.file, start, end))

    def _span(self, token: Token) -> Span:
        return Span(self.file, token.start, token.end)

    # --- files and aspects ---

    def _on_file(self, c: list[Any], span: Span) -> ast.File:
        imports = tuple(x for x in c if isinstance(x, ast.Import))
        aspects = tuple(x for x in c if isinstance(x, ast.AspectDecl))
        return ast.File(span, self.file, imports, aspects, tuple(x for x in c if isinstance(x, ast.Precedence)))

    def _on_precedence(self, c: list[Any], span: Span) -> ast.Precedence:
        return ast.Precedence(span, tuple(token.text for token in c))

    def _on_import(self, c: list[Any], span: Span) -> ast.Import:
        return ast.Import(span, c[0].value)

    def _on_aspect(self, c: list[Any], span: Span, *, abstract: bool = False) -> ast.AspectDecl:
        name, *heads, parts = c
        return ast.AspectDecl(
            span,
            name.text,
            tuple(x for x in parts if isinstance(x, ast.PointcutDecl)),
            tuple(x for x in parts if isinstance(x, ast.AdviceDecl)),
            tuple(x for x in parts if isinstance(x, ast.StateDecl)),
            self._span(name),
            tuple(x for x in parts if isinstance(x, ast.FunctionDecl)),
            abstract,
            next((x for x in heads if isinstance(x, tuple)), ()),
            next((x for x in heads if isinstance(x, ast.Extends)), None),
            tuple(x for x in parts if isinstance(x, ast.AbstractPointcut)),
        )

    def _on_abstract_aspect(self, c: list[Any], span: Span) -> ast.AspectDecl:
        return self._on_aspect(c, span, abstract=True)

    def _on_aspect_body(self, c: list[Any], _: Span) -> list[Any]:
        return c

    def _on_aspect_parameters(self, c: list[Any], _: Span) -> tuple[ast.NameParam | ast.Param, ...]:
        return tuple(c)

    def _on_name_parameter(self, c: list[Any], span: Span) -> ast.NameParam:
        return ast.NameParam(span, c[0].text)

    def _on_extends(self, c: list[Any], span: Span) -> ast.Extends:
        name, *arguments = c
        return ast.Extends(span, name.text, tuple(arguments))

    def _on_name_argument(self, c: list[Any], span: Span) -> ast.NameArgument:
        return ast.NameArgument(span, tuple(token.text for token in c[0]))

    def _on_quoted_argument(self, c: list[Any], span: Span) -> ast.NameArgument:
        return ast.NameArgument(span, tuple(self._plain(c[0], "a name").split()))

    def _on_negative_argument(self, c: list[Any], span: Span) -> ast.Unary:
        return ast.Unary(span, "-", c[0])

    def _on_abstract_pointcut(self, c: list[Any], span: Span) -> ast.AbstractPointcut:
        name, (params, _) = c
        return ast.AbstractPointcut(span, name.text, params)

    def _on_function(self, c: list[Any], span: Span) -> ast.FunctionDecl:
        type_, pointers, name, (params, last), body = c
        result = replace(type_, pointers=pointers)
        return ast.FunctionDecl(span, result, name.text, params, body, Span(self.file, span.start, last))

    def _on_anonymous_pointcut(self, c: list[Any], span: Span) -> ast.PointcutDecl:
        return ast.PointcutDecl(span, None, (), c[0])

    def _on_named_pointcut(self, c: list[Any], span: Span) -> ast.PointcutDecl:
        name, (params, _), expr = c
        return ast.PointcutDecl(span, name.text, params, expr)

    def _advice(self, kind: ast.AdviceKind, c: list[Any], span: Span) -> ast.AdviceDecl:
        (params, last), *others, body = c
        returning = None
        for part in others:
            if isinstance(part, tuple):
                returning, last = part
        pointcut = next((x for x in others if isinstance(x, ast.Pointcut)), None)
        head = Span(self.file, span.start, last)
        return ast.AdviceDecl(span, kind, params, returning, pointcut, body, head)

    def _on_before(self, c: list[Any], span: Span) -> ast.AdviceDecl:
        return self._advice(ast.AdviceKind.BEFORE, c, span)

    def _on_after(self, c: list[Any], span: Span) -> ast.AdviceDecl:
        return self._advice(ast.AdviceKind.AFTER, c, span)

    def _on_around(self, c: list[Any], span: Span) -> ast.AdviceDecl:
        return self._advice(ast.AdviceKind.AROUND, c, span)

    def _on_returning(self, c: list[Any], span: Span) -> tuple[ast.Param, int]:
        """The parameter, and the offset behind its closing parenthesis."""
        return c[0], span.end

    def _on_c_body(self, c: list[Any], span: Span) -> ast.CBody:
        return ast.CBody(span, c[0].text[2:-2])

    def _on_parameters(self, c: list[Any], span: Span) -> tuple[tuple[ast.Param, ...], int]:
        """The parameters, and the offset behind their closing parenthesis."""
        if len(c) == 1 and isinstance(c[0], Token):
            if c[0].text != "void":
                self.bag.error(
                    "parameter-without-name",
                    f"this parameter has a type, '{c[0].text}', but no name",
                    self._span(c[0]),
                    hints=["a parameter of a pointcut or an advice binds by its name: 'int len'"],
                )
            return (), span.end
        return tuple(c), span.end

    def _on_parameter(self, c: list[Any], span: Span) -> ast.Param:
        type_, declarator = c
        type_ = self._declared(type_, declarator, decay=True)
        if type_.name == "void" and not type_.pointers:
            self.bag.error("void-variable", f"'{declarator.name.text}' cannot be 'void'", span)
        return ast.Param(span, type_, declarator.name.text)

    # --- state ---

    def _on_value_state(self, c: list[Any], span: Span) -> ast.StateDecl:
        type_, (pointers, name, keys) = c
        type_ = replace(type_, pointers=pointers)
        if type_.name == "void" and not pointers:
            self.bag.error("void-variable", f"'{name.text}' cannot be 'void'", span)
        return ast.StateDecl(span, ast.StateKind.SCALAR, type_, name.text, keys)

    def _on_aggregation(self, c: list[Any], span: Span) -> ast.StateDecl:
        kind, declarator = c
        return self._aggregation(ast.StateKind(kind.text), declarator, None, span)

    def _on_linear_histogram(self, c: list[Any], span: Span) -> ast.StateDecl:
        low, high, step, declarator = c
        bounds = (low.value, high.value, step.value)
        if bounds[0] >= bounds[1] or bounds[2] <= 0:
            self.bag.error(
                "bad-histogram",
                "the steps of this histogram are empty",
                low.span.to(step.span),
                hints=["lhist(low, high, step): low below high, step above 0"],
            )
        return self._aggregation(ast.StateKind.LHIST, declarator, bounds, span)

    def _aggregation(
        self, kind: ast.StateKind, declarator: Any, bounds: tuple[int, int, int] | None, span: Span
    ) -> ast.StateDecl:
        pointers, name, keys = declarator
        if pointers:
            self.bag.error("bad-state", f"'{kind.value}' is no type that a pointer can point to", span)
        return ast.StateDecl(span, kind, None, name.text, keys, bounds)

    def _on_state_declarator(self, c: list[Any], _: Span) -> tuple[int, Token, tuple[ast.Expr | ast.TypeRef, ...]]:
        pointers, name, *keys = c
        return pointers, name, tuple(keys)

    def _on_key_type(self, c: list[Any], span: Span) -> ast.TypeRef:
        type_: ast.TypeRef = c[0]
        return replace(type_, pointers=c[1], span=span)

    # --- pointcuts ---

    def _on_or_(self, c: list[Any], span: Span) -> ast.Or:
        return ast.Or(span, c[0], c[1])

    def _on_and_(self, c: list[Any], span: Span) -> ast.And:
        return ast.And(span, c[0], c[1])

    def _on_not_(self, c: list[Any], span: Span) -> ast.Not:
        return ast.Not(span, c[0])

    def _on_call(self, c: list[Any], span: Span) -> ast.Call:
        return ast.Call(span, c[0])

    def _on_execution(self, c: list[Any], span: Span) -> ast.Execution:
        return ast.Execution(span, c[0])

    def _on_within(self, c: list[Any], span: Span) -> ast.Within:
        return ast.Within(span, c[0])

    def _on_get(self, c: list[Any], span: Span) -> ast.Access:
        return ast.Access(span, ast.AccessKind.GET, c[0])

    def _on_set(self, c: list[Any], span: Span) -> ast.Access:
        return ast.Access(span, ast.AccessKind.SET, c[0])

    def _on_access(self, c: list[Any], span: Span) -> ast.Access:
        return ast.Access(span, ast.AccessKind.ACCESS, c[0])

    def _on_syscall(self, c: list[Any], span: Span) -> ast.Syscall:
        return ast.Syscall(span, self._plain(c[0], "the name of a system call"))

    def _on_event(self, c: list[Any], span: Span) -> ast.Event:
        return ast.Event(span, *c[0])

    def _on_event_name(self, c: list[Any], _: Span) -> tuple[str, str]:
        return c[0].text, c[1].text

    def _on_quoted_event(self, c: list[Any], _: Span) -> Any:
        return self._quoted(c[0], "event_name") or ("?", "?")

    def _on_at(self, c: list[Any], span: Span) -> ast.At:
        at: ast.At = c[0]
        return replace(at, span=span)

    def _on_instruction(self, c: list[Any], span: Span) -> ast.At:
        return ast.At(span, function=c[0].text, offset=self._integer(c[1]).value if len(c) > 1 else 0)

    def _on_quoted_place(self, c: list[Any], span: Span) -> ast.At:
        place = _PLACE.match(c[0].text[1:-1])
        if place:
            return ast.At(span, file=place[1], line=int(place[2]))
        return self._quoted(c[0], "instruction") or ast.At(span, function="?")

    def _on_withinfile(self, c: list[Any], span: Span) -> ast.WithinFile:
        return ast.WithinFile(span, self._plain(c[0], "the name of a source file"))

    def _on_withinmodule(self, c: list[Any], span: Span) -> ast.WithinModule:
        return ast.WithinModule(span, self._plain(c[0], "the name of a module"))

    def _on_cflow(self, c: list[Any], span: Span) -> ast.Cflow:
        return ast.Cflow(span, c[0], below=False)

    def _on_cflowbelow(self, c: list[Any], span: Span) -> ast.Cflow:
        return ast.Cflow(span, c[0], below=True)

    def _on_args(self, c: list[Any], span: Span) -> ast.Args:
        return ast.Args(span, c[0])

    def _on_target(self, c: list[Any], span: Span) -> ast.Target:
        return ast.Target(span, c[0].text)

    def _on_user(self, c: list[Any], span: Span) -> ast.User:
        file, inner = c
        if not file.value:
            self.bag.error("empty-name", "the name of the program is missing between the quotes", file.span)
        if type(inner) is ast.Execution:
            return ast.User(span, inner.signature, file.value)
        self.bag.error(
            "user-needs-execution",
            "of a user program there are the executions of its functions, and nothing else, to select",
            inner.span,
            hints=[f"user(\"{file.value}\": execution(function)); join several with '||'"],
        )
        return ast.User(span, ast.Signature(span, None, "?", None), file.value)

    def _on_if_pointcut(self, c: list[Any], span: Span) -> ast.If:
        return ast.If(span, c[0])

    def _on_reference(self, c: list[Any], span: Span) -> ast.PointcutRef:
        return ast.PointcutRef(span, c[0].text, c[1] if len(c) > 1 else ())

    def _on_foreign_reference(self, c: list[Any], span: Span) -> ast.PointcutRef:
        return ast.PointcutRef(span, f"{c[0].text}.{c[1].text}", c[2] if len(c) > 2 else ())

    def _on_arguments(self, c: list[Any], _: Span) -> tuple[str, ...]:
        return tuple(c)

    def _on_argument(self, c: list[Any], _: Span) -> str:
        text: str = c[0].text
        return text

    def _plain(self, token: Token, what: str) -> str:
        """A word, or what stands between quotes."""
        text = token.text[1:-1].strip() if token.name == "QUOTED" else token.text
        if not text:
            self.bag.error("empty-name", f"{what} is missing between the quotes", self._span(token))
        return text or "?"

    # --- signatures and data ---

    def _quoted(self, token: Token, start: str) -> Any:
        """What stands between quotes, read by the grammar; None where it is wrong, which the bag then says."""
        return self._inner(start, token.start + 1, token.end - 1)

    def _on_quoted_signature(self, c: list[Any], span: Span) -> ast.Signature:
        return self._quoted(c[0], "signature") or ast.Signature(span, None, "?", None)

    def _on_signature(self, c: list[Any], span: Span) -> ast.Signature:
        words, *params = c
        return self._words.signature(words, params[0] if params else None, span)

    def _on_signature_parameters(self, c: list[Any], _: Span) -> tuple[ast.ParamPattern, ...]:
        # A parameter that is followed by `..` comes as a pair.
        return self._words.parameters([p for part in c for p in (part if isinstance(part, list) else [part])])

    def _on_one(self, c: list[Any], span: Span) -> ast.ParamPattern:
        return self._words.parameter(c[0], span)

    def _on_one_array(self, c: list[Any], span: Span) -> ast.ParamPattern:
        dimensions = self.file.text.count("[", c[0][-1].end, span.end)
        return self._words.parameter(c[0], span, arrays=dimensions)

    def _on_one_then_any(self, c: list[Any], span: Span) -> list[ast.ParamPattern]:
        words = c[0]
        first = self._words.parameter(words, Span(self.file, span.start, words[-1].end))
        return [first, ast.ParamPattern(Span(self.file, span.end - 2, span.end), ast.ParamKind.ANY_REST)]

    def _on_any_rest(self, _: list[Any], span: Span) -> ast.ParamPattern:
        return ast.ParamPattern(span, ast.ParamKind.ANY_REST)

    def _on_variadic(self, _: list[Any], span: Span) -> ast.ParamPattern:
        return ast.ParamPattern(span, ast.ParamKind.VARIADIC)

    def _on_function_pointer(self, c: list[Any], span: Span) -> ast.ParamPattern:
        name = c[1][-1].text.lstrip("*")
        return ast.ParamPattern(span, ast.ParamKind.ANY_ONE, None, name or None)

    def _on_words(self, c: list[Any], _: Span) -> list[Token]:
        return c

    def _on_quoted_data(self, c: list[Any], span: Span) -> ast.DataPattern:
        return self._quoted(c[0], "data") or ast.DataPattern(span, None, ("?",))

    def _on_data(self, c: list[Any], span: Span) -> ast.DataPattern:
        return self._words.data(c, span)

    # --- types ---

    def _type(self, c: list[Any], span: Span) -> ast.TypeRef:
        qualifiers = {token.text for token in c if token.text in QUALIFIERS}
        words = [token.text for token in c if token.text not in QUALIFIERS]
        tag, name = ast.TagKind.NONE, words[-1]
        if words[0] in TAGS:
            tag = ast.TagKind(words[0])
        elif words[0] in BASIC_WORDS:
            name = normalise(words) or ""
            if not name:
                self.bag.error("bad-type", f"'{' '.join(words)}' is not a type of C", span)
        const, volatile, user = (word in qualifiers for word in ("const", "volatile", USER))
        return ast.TypeRef(span, tag, name or "int", const=const, volatile=volatile, user=user)

    _on_definite_type = _on_type_name = _on_declared_type = _on_cast_type = _type

    def _on_pointers(self, c: list[Any], _: Span) -> int:
        return sum(1 for token in c if token.text == "*")

    def _on_declarator(self, c: list[Any], span: Span) -> _Declarator:
        pointers, name, *dimensions = c
        return _Declarator(pointers, name, tuple(d.value for d in dimensions), span)

    def _declared(self, type_: ast.TypeRef, declarator: _Declarator, *, decay: bool = False) -> ast.TypeRef:
        pointers, array = declarator.pointers, declarator.dimensions
        if decay and array:  # an array parameter is a pointer, as in C
            pointers, array = pointers + 1, array[1:]
        span = type_.span
        if pointers and span.end <= declarator.span.start:
            span = Span(self.file, span.start, declarator.name.start)
            span = Span(self.file, span.start, span.start + len(span.text.rstrip()))
        return replace(type_, span=span, pointers=pointers, array=array)

    # --- statements ---

    def _on_block(self, c: list[Any], span: Span) -> ast.Block:
        body: list[ast.Stmt] = []
        for statement in c:
            if isinstance(statement, _Declarations):
                body += statement.statements
            else:
                body.append(statement)
        return ast.Block(span, tuple(body))

    def _on_declaration(self, c: list[Any], span: Span) -> _Declarations:
        type_, *declarators = c
        made = []
        for declarator, value, place in declarators:
            full = self._declared(type_, declarator)
            if full.name == "void" and not full.pointers:
                self.bag.error("void-variable", f"'{declarator.name.text}' cannot be 'void'", place)
            made.append(ast.Declare(type_.span.to(place), full, declarator.name.text, value))
        return _Declarations(tuple(made), span)

    def _on_init_declarator(self, c: list[Any], span: Span) -> tuple[_Declarator, ast.Expr | None, Span]:
        return c[0], c[1] if len(c) > 1 else None, span

    def _branch(self, statement: Any) -> ast.Stmt:
        """What ``if`` or a loop governs: no declaration, which nothing could see."""
        if isinstance(statement, _Declarations):
            self.bag.error(
                "declaration-without-block",
                "a declaration cannot stand alone here: nothing could use what it declares",
                statement.span,
                hints=["put it and what uses it between '{' and '}'"],
            )
            return ast.Block(statement.span, statement.statements)
        result: ast.Stmt = statement
        return result

    def _on_expression_statement(self, c: list[Any], span: Span) -> ast.ExprStmt:
        return ast.ExprStmt(span, c[0])

    def _on_empty_statement(self, _: list[Any], span: Span) -> ast.Block:
        return ast.Block(span, ())

    def _on_if_statement(self, c: list[Any], span: Span) -> ast.IfStmt:
        otherwise = self._branch(c[2]) if len(c) > 2 else None
        return ast.IfStmt(span, c[0], self._branch(c[1]), otherwise)

    def _on_while_statement(self, c: list[Any], span: Span) -> ast.While:
        return ast.While(span, c[0], self._branch(c[1]))

    def _on_for_statement(self, c: list[Any], span: Span) -> ast.For:
        init, condition, step, body = c
        return ast.For(span, init, condition, step, self._branch(body))

    def _on_for_init(self, c: list[Any], _: Span) -> tuple[ast.Stmt, ...]:
        if not c:
            return ()
        if isinstance(c[0], _Declarations):
            return c[0].statements
        return (ast.ExprStmt(c[0].span, c[0]),)

    def _on_for_condition(self, c: list[Any], _: Span) -> ast.Expr | None:
        return c[0] if c else None

    _on_for_step = _on_for_condition

    def _on_return_statement(self, c: list[Any], span: Span) -> ast.Return:
        return ast.Return(span, c[0] if c else None)

    def _on_break_statement(self, _: list[Any], span: Span) -> ast.Break:
        return ast.Break(span)

    def _on_continue_statement(self, _: list[Any], span: Span) -> ast.Continue:
        return ast.Continue(span)

    def _on_delete_statement(self, c: list[Any], span: Span) -> ast.Delete:
        return ast.Delete(span, c[0])

    # --- expressions ---

    def _on_binary(self, c: list[Any], span: Span) -> ast.Binary:
        return ast.Binary(span, c[1].text, c[0], c[2])

    def _on_assign(self, c: list[Any], span: Span) -> ast.Assign:
        return ast.Assign(span, c[1].text, c[0], c[2])

    def _on_conditional_expression(self, c: list[Any], span: Span) -> ast.Conditional:
        return ast.Conditional(span, c[0], c[1], c[2])

    def _on_cast_expression(self, c: list[Any], span: Span) -> ast.Cast:
        type_, pointers, operand = c
        return ast.Cast(span, replace(type_, pointers=pointers), operand)

    def _on_prefix_step(self, c: list[Any], span: Span) -> ast.IncDec:
        return ast.IncDec(span, c[0].text, c[1], prefix=True)

    def _on_postfix_step(self, c: list[Any], span: Span) -> ast.IncDec:
        return ast.IncDec(span, c[1].text, c[0], prefix=False)

    def _on_unary_expression(self, c: list[Any], span: Span) -> ast.Unary:
        return ast.Unary(span, c[0].text, c[1])

    def _on_sizeof_expression(self, c: list[Any], span: Span) -> ast.SizeOf:
        return ast.SizeOf(span, c[0])

    def _on_sizeof_type(self, c: list[Any], span: Span) -> ast.SizeOf:
        return ast.SizeOf(span, replace(c[0], pointers=c[1]))

    def _on_index(self, c: list[Any], span: Span) -> ast.Index:
        return ast.Index(span, c[0], tuple(c[1:]))

    def _on_apply(self, c: list[Any], span: Span) -> ast.Apply:
        return ast.Apply(span, c[0], tuple(c[1:]))

    def _on_member(self, c: list[Any], span: Span) -> ast.Member:
        return ast.Member(span, c[0], c[1].text, arrow=False)

    def _on_arrow(self, c: list[Any], span: Span) -> ast.Member:
        return ast.Member(span, c[0], c[1].text, arrow=True)

    def _on_name(self, c: list[Any], span: Span) -> ast.Name:
        return ast.Name(span, c[0].text)

    def _on_container_of(self, c: list[Any], span: Span) -> ast.ContainerOf:
        pointer, type_, pointers, path = c
        if pointers:
            self.bag.error("bad-type", "container_of takes the type of the object, not of a pointer to it", type_.span)
        return ast.ContainerOf(span, pointer, type_, path)

    def _on_member_path(self, c: list[Any], _: Span) -> tuple[str, ...]:
        return tuple(token.text for token in c)

    def _on_integer(self, c: list[Any], _: Span) -> ast.IntLiteral:
        return self._integer(c[0])

    def _integer(self, token: Token) -> ast.IntLiteral:
        return literals.integer(token.text, self._span(token), self.bag)

    def _on_character(self, c: list[Any], span: Span) -> ast.IntLiteral:
        return literals.character(c[0].text, span, self.bag)

    def _on_string(self, c: list[Any], span: Span) -> ast.StringLiteral:
        value = "".join(literals.string(t.text, self._span(t), self.bag) for t in c)
        return ast.StringLiteral(span, value)
