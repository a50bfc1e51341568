"""Advice in C, ``%{ .. %}``: what of its text the compiler must know. The rest is for a C compiler to judge.

That is each ``log(FORMAT, ..)``, which gets a record format of its own, and which of the aspect's states it touches, by
``NAME_get``, ``NAME_set``, ``NAME_add`` and ``NAME_delete``.
"""

from __future__ import annotations

import re
from itertools import pairwise

from klasy import printf
from klasy.compiler import tree
from klasy.compiler.formats import LAST_FAULT_BIT, one_line
from klasy.lang import ast, literals
from klasy.lang.ast import AdviceKind
from klasy.match.typeref import TypeRefError
from klasy.plain import TYPE_CHECKING, dataclass
from klasy.record import HEADER_SIZE, Field, Format
from klasy.source import Span
from klasy.state import STACK_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.compiler.check import AdviceChecker
    from klasy.compiler.statetree import StateVariable
    from klasy.compiler.types import CType
    from klasy.printf import Directive

STRING_SIZE = 64  # bytes of a string that is logged
_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/) | (?P<string>"(?:[^"\\\n]|\\.)*") | (?P<char>'(?:[^'\\\n]|\\.)+')
      | (?P<word>[A-Za-z_]\w*) | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_TAGS = {"struct": ast.TagKind.STRUCT, "union": ast.TagKind.UNION}
_ACTIONS = {
    "scalar": ("get", "set", "add", "delete"),
    "count": ("add", "get", "delete"),
    "sum": ("add", "get", "delete"),
    "avg": ("add", "delete"),
    "hist": ("add", "delete"),
    "lhist": ("add", "delete"),
}


@dataclass(frozen=True, slots=True)
class CLog:
    """One ``log`` in the text. ``start`` and ``end``: from the word to behind the ``(``. ``bits``: of each field."""

    start: int
    end: int
    format: Format
    bits: tuple[int, ...]


@dataclass(eq=False)
class CCode(tree.Stmt):
    """A body in C. ``text`` is what stands between the brackets, ``start`` where that is in the file.

    ``words`` are the names in it, ``states`` those of the aspect that it touches. ``types``: structs and unions that it
    names and that modules have for themselves.
    """

    text: str
    start: int
    words: frozenset[str]
    logs: tuple[CLog, ...]
    states: tuple[StateVariable, ...]
    types: tuple[CType, ...]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def check(checker: AdviceChecker, body: ast.CBody) -> CCode | None:
    """The checked form of a body in C, or None where its errors allow none."""
    before = len(checker.bag.errors)
    start = body.span.start + 2
    tokens = [
        _Token(str(m.lastgroup), m.group(), m.start(), m.end())
        for m in _TOKEN.finditer(body.text)
        if m.lastgroup != "skip"
    ]
    logs = []
    for at, token in enumerate(tokens):
        member = at > 0 and (tokens[at - 1].text == "." or (tokens[at - 1].text == ">" and tokens[at - 2].text == "-"))
        called = at + 1 < len(tokens) and tokens[at + 1].text == "("
        if token.kind == "word" and token.text == "log" and called and not member:
            found = _log(checker, body, tokens, at)
            if found is not None:
                logs.append(found)
    words = frozenset(token.text for token in tokens if token.kind == "word")
    states = _states(checker, body, tokens)
    types = _types(checker, body, tokens)
    if checker.in_program:
        checker.error(
            "c-in-program", "advice in user programs cannot be written in C", body.span,
            "write it in klasy's own language: { .. }",
        )  # fmt: skip
    if checker.advice.kind is AdviceKind.AROUND:
        checker.error("c-around", "'around' advice cannot be written in C", body.span, "deny(..) is klasy's: { .. }")
    if checker.data is not None:
        checker.error(
            "c-at-data", "advice at accesses to data cannot be written in C", body.span,
            "write it in klasy's own language: { .. }",
        )  # fmt: skip
    if len(checker.bag.errors) > before:
        return None
    return CCode(body.span, body.text, start, words, tuple(logs), states, types)


def _types(checker: AdviceChecker, body: ast.CBody, tokens: Sequence[_Token]) -> tuple[CType, ...]:
    """The types of modules' own that are named by their tags."""
    found: dict[str, CType] = {}
    for tag, token in pairwise(tokens):
        if tag.text not in _TAGS or token.kind != "word" or token.text in found:
            continue
        start = body.span.start + 2
        span = Span(body.span.file, start + tag.start, start + token.end)
        try:
            kind = checker.types.base_type(ast.TypeRef(span, _TAGS[tag.text], token.text))
        except TypeRefError as error:
            if error.diagnostic.code == "ambiguous-type":  # what else is wrong the C compiler says
                error.report(checker.bag)
            continue
        if kind is not None and kind.btf is not None and kind.btf.base is not None:
            found[token.text] = kind
    return tuple(found.values())


def _span(body: ast.CBody, start: int, end: int) -> Span:
    first = body.span.start + 2
    return Span(body.span.file, first + start, first + end)


def _states(checker: AdviceChecker, body: ast.CBody, tokens: Sequence[_Token]) -> tuple[StateVariable, ...]:
    used: dict[str, StateVariable] = {}
    for token in tokens:
        name, _, action = token.text.rpartition("_")
        state = checker.states.get(name)
        if token.kind != "word" or state is None or action not in ("get", "set", "add", "delete", "min", "max"):
            continue
        span = _span(body, token.start, token.end)
        places = next((key.field for key in state.keys if key.field.kind in ("joinpoint", *STACK_KINDS)), None)
        if places is not None:
            checker.error(
                "bad-state-use", f"the key '{places.name}' of '{name}' cannot be given by advice in C", span,
                "use it in an advice in klasy's own language",
            )  # fmt: skip
            continue
        allowed = _ACTIONS.get(state.kind, ())
        if action not in allowed:
            what = f"'{name}' is a state of the kind '{state.kind}'"
            checker.error(
                "bad-state-use",
                f"there is no '{token.text}': {what}" if allowed else f"{what}, which advice in C cannot use",
                span,
                f"there is {', '.join(f'{name}_{word}' for word in allowed)}"
                if allowed
                else "log the value, or use it in an advice in klasy's own language",
            )
            continue
        used[name] = state
        state.used = True
        state.read = True  # C adds by atomic additions to what all CPUs share
        state.deleted = state.deleted or action == "delete"
    return tuple(used.values())


def _log(checker: AdviceChecker, body: ast.CBody, tokens: Sequence[_Token], at: int) -> CLog | None:
    """The ``log`` at a token: its template and how its values lie in the record."""
    word = tokens[at]
    arguments = _arguments(tokens, at + 1)
    if arguments is None:
        checker.error("missing-parenthesis", "this 'log' is not closed", _span(body, word.start, word.end))
        return None
    whole = _span(body, word.start, tokens[at + 1].end)
    if not (arguments and arguments[0]) or any(token.kind != "string" for token in arguments[0]):
        checker.error("log-in-c", "in C 'log' needs a format first", whole, 'log("%d %s", number, string)')
        return None
    first, values = arguments[0], arguments[1:]
    template = "".join(
        literals.string(token.text, _span(body, token.start, token.end), checker.bag) for token in first
    ).removesuffix("\n")
    place = _span(body, first[0].start, first[-1].end)
    try:
        wanted = printf.directives(printf.parse(template))
    except printf.TemplateError as error:
        checker.error("bad-format", error.message, place, error.hint)
        return None
    if len(wanted) != len(values):
        have, need = len(values), len(wanted)
        checker.error(
            "format-arguments",
            f"the format has {need} conversion{'s' * (need != 1)}, and {have} value{'s' * (have != 1)} "
            f"follow{'s' * (have == 1)}",
            place,
        )
        return None
    fields: list[Field] = []
    end = HEADER_SIZE
    for directive, tokens_of in zip(wanted, values, strict=True):
        name = one_line(_span(body, tokens_of[0].start, tokens_of[-1].end)) if tokens_of else "?"
        fields.append(_field(directive, name, end))
        end += fields[-1].size
    line = _span(body, word.start, word.end).line
    form = Format(len(checker.formats.all), checker.advice_index, line, template, tuple(fields), end)
    checker.formats.all.append(form)
    bits = tuple(min(index, LAST_FAULT_BIT) for index in range(len(fields)))
    return CLog(word.start, tokens[at + 1].end, form, bits)


def _field(directive: Directive, name: str, offset: int) -> Field:
    """How a value is kept: numbers in 64 bits, whatever their type in C."""
    if directive.kind == "s":
        return Field(name, "string", offset, STRING_SIZE)
    if directive.kind.startswith("p"):
        return Field(name, "symbol" if directive.is_symbol else "pointer", offset, 8)
    return Field(name, "int", offset, 8, directive.kind in "di", "long" if directive.kind in "di" else "unsigned long")


def _arguments(tokens: Sequence[_Token], at: int) -> list[list[_Token]] | None:
    """The tokens of each argument of the call whose ``(`` is at ``at``; None where it has no end."""
    found: list[list[_Token]] = [[]]
    depth = 0
    for token in tokens[at:]:
        if token.text in ("(", "[", "{") and token.kind == "other":
            depth += 1
            if depth == 1:
                continue
        elif token.text in (")", "]", "}") and token.kind == "other":
            depth -= 1
            if not depth:
                return found if found != [[]] else []
        elif token.text == "," and depth == 1:
            found.append([])
            continue
        found[-1].append(token)
    return None
