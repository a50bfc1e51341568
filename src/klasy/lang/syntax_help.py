"""What a syntax error is called: wrong inputs, each with the message it deserves, and a fallback for all others.

An example is a wrong text with a mark before the token at which it goes wrong. It stands for all texts that bring the
parser into the same state and meet such a token there. ``x`` stands for any name. Loaded only when something is wrong.
"""

from __future__ import annotations

from klasy.diag import did_you_mean, suggest
from klasy.lang.foreign import probe
from klasy.lang.lalr import END, SYMBOLS
from klasy.lang.rawtext import RawToken, raw_token
from klasy.lang.typenames import RESERVED_WORDS
from klasy.lang.vocabulary import DESIGNATORS
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from klasy.lang.lalr import Machine

MARK = "¦"


@dataclass(frozen=True)
class Named:
    """A syntax error with a name.

    In message and hint ``<found>`` is the token at which it went wrong, ``<before>`` the one before that. ``behind``:
    the place shown is the token before; ``symbol``: it is that symbol of the member of the aspect, counted from 0.
    ``unless``: nothing of the kind is said where this token, put in, lets the parser read on for long.
    How to go on: ``instead`` is read for the token found, ``skip_to`` is the token to go on at, ``give_up`` drops the
    statement or member; without any of these a repair is looked for.
    """

    code: str
    message: str
    examples: tuple[str, ...]
    hint: str = ""
    behind: bool = False
    symbol: int | None = None
    unless: str = ""
    instead: str = ""
    skip_to: str = ""
    give_up: bool = False


def _examples(prefix: str, befores: str, founds: str) -> tuple[str, ...]:
    """Every text before the mark with every token behind it; both are lists with ``@`` between."""
    return tuple(
        f"{prefix}{before.strip()} {MARK}{found.strip()}"
        for before in befores.split("@")
        for found in founds.split("@")
    )


def _in_file(befores: str, founds: str) -> tuple[str, ...]:
    return _examples("", befores, founds)


def _in_aspect(befores: str, founds: str) -> tuple[str, ...]:
    return _examples("aspect a { ", befores, founds)


def _in_body(befores: str, founds: str) -> tuple[str, ...]:
    return _examples("aspect a { before() { ", befores, founds)


_SHAPES = ("x()", "x() && x()", "x() || x()")
_AFTER_POINTCUTS = " @ ".join(f"after(): {shape}" for shape in (*_SHAPES, "call(x)", "execution(x)", "x() && if(x)"))
_OPEN_POINTCUTS = " @ ".join(f"{head} {shape}" for head in ("before():", "pointcut") for shape in _SHAPES)
_BARE_DESIGNATORS = " @ ".join(f"pointcut {designator}" for designator in DESIGNATORS)
_ONE_SIGNATURE = "pointcut call(x @ pointcut call(x() @ pointcut execution(x() @ pointcut within(x()"
_NAMELESS = (
    "before(struct x @ before(x * @ before(struct x * @ before(int x, struct x @ before(const x @"
    "before(int x, const x @ before(unsigned int @ before(int x, int"
)
_A_PARAMETER = "a parameter has a type and a name: 'struct sock *sk'"

NAMED: tuple[Named, ...] = (
    # --- files and aspects ---
    Named("outside-aspect", "'<found>' must stand in an aspect",
          _in_file(' @ aspect a { } @ import "x";', "before @ after @ around @ pointcut"),
          "aspect name { .. }", give_up=True),
    Named("closes-nothing", "this '}' closes nothing",
          _in_file(' @ aspect a { } @ import "x";', "}")),
    Named("aspect-without-name", "the aspect has no name",
          _in_file("aspect", "{ @ ; @ string"),
          "aspect name { .. }"),
    Named("missing-brace", "missing '{' behind the aspect's name",
          _in_file("aspect a", "before @ after @ around @ pointcut"), behind=True),
    Named("extends-not-colon", "an aspect extends another by 'extends'",
          _in_file("aspect a", ":"),
          "aspect <before> extends other(arguments) { .. }", skip_to="{"),
    Named("import-needs-string", "'import' takes a file name in double quotes",
          _in_file("import", "x @ < @ ; @ '*'"),
          'import "other.asp";'),
    # --- advice ---
    Named("advice-without-body", "this advice has no body",
          _in_aspect("before() @ after() @ around() @ after() returning (int x) @ before(): x()", "; @ }"),
          "a body is '{ statements }' or '%{ C %}'", behind=True, instead="%{%}"),
    Named("advice-without-parameters", "behind '<before>' stands a parameter list, empty if need be",
          _in_aspect("before @ after @ around", "{ @ : @ x"),
          "<before>(): POINTCUT { .. }"),
    Named("misplaced-returning", "'returning' stands behind the parameters",
          _in_aspect("after", "returning"),
          "after(PARAMETERS) returning (int result): .."),
    Named("misplaced-returning", "'returning' stands behind the parameters, before the ':' of the pointcut",
          _in_aspect(_AFTER_POINTCUTS, "returning"),
          "after(PARAMETERS) returning (int result): ..", give_up=True),
    Named("no-such-word", "advice begins with 'before', 'after' or 'around', not with '<before>'",
          _in_aspect("x", ": @ {"),
          "before(): execution(f) { .. }", behind=True, give_up=True),
    Named("no-exceptions", "there is no '<found>': the kernel has no exceptions",
          _in_aspect("after @ after()", "throwing"),
          "'after() returning (long result)' gives the result, from which an error shows", give_up=True),
    Named("returning-needs-parameter", "'returning' names the result, with its type",
          _in_aspect("after() returning", "{ @ :") + _in_aspect("after() returning (", ")"),
          "after() returning (int result)"),
    Named("returning-only-after", "only 'after' advice has a result to name",
          _in_aspect("before() @ around()", "returning"),
          "after(PARAMETERS) returning (int result): ..", give_up=True),
    Named("bad-parameter", "'<before>' alone is no parameter",
          _in_aspect("before(x @ before(int x, x", ") @ ,"),
          _A_PARAMETER, behind=True),
    Named("parameter-without-name", "this parameter has a type but no name",
          _in_aspect(_NAMELESS, ") @ ,") + _in_aspect("before(int", ","),
          _A_PARAMETER, behind=True),
    Named("function-pointer-parameter", "a parameter that points to a function needs a type that has a name",
          _in_aspect("before(void @ before(int @ before(struct x * @ before(int x, void @ before(const x *", "("),
          "a typedef of the kernel's, 'rcu_callback_t f', or 'void *f'"),
    Named("no-wildcard-parameters", "the parameters of advice are names to bind: '<found>' stands in signatures only",
          _in_aspect("before( @ before(int x,", ".. @ ..."),
          "leave out what the advice does not use"),
    # --- pointcuts ---
    Named("pointcut-without-parameters", "a named pointcut has a parameter list, empty if need be",
          _in_aspect("pointcut x", ":"),
          "pointcut <before>(): .."),
    Named("untyped-pointcut-parameters", "the parameters of a named pointcut need types",
          _in_aspect("pointcut x(x) @ pointcut x(x, x)", ":"),
          "pointcut rcv(struct sock *sk): ..", symbol=1, give_up=True),
    Named("designator-as-name", "a pointcut cannot have the name of a designator",
          (),  # looks like the one above, but for the name
          "these are taken: " + ", ".join(DESIGNATORS), symbol=1, give_up=True),
    Named("condition-without-if", "a condition stands in 'if(..)'",
          _in_aspect("before(): x @ before(): x() && x @ before(): x() || x", "== @ != @ < @ > @ <= @ >= @ & @ ->"),
          "execution(f) && if(pid == 1)", behind=True, give_up=True),
    Named("condition-without-if", "a condition stands in 'if(..)'",
          _in_aspect(_OPEN_POINTCUTS, "/"),
          "execution(f) && if(pid == 1)", give_up=True),
    Named("reference-without-arguments", "'<before>' needs an argument list, empty if need be",
          _in_aspect("before(): x @ before(): !x @ before(): x() && x @ before(): (x @ pointcut x() : x",
                     "{ @ && @ || @ ) @ ;") + _in_aspect("pointcut x", "; @ && @ ||"),
          "<before>()", behind=True),
    Named("designator-without-parentheses", "what '<before>' selects stands in parentheses",
          _in_aspect(_BARE_DESIGNATORS, "; @ x @ string @ && @ || @ {"),
          "<before>(..)", behind=True),
    Named("empty-signature", "nothing is said of which functions",
          _in_aspect("pointcut call( @ pointcut execution( @ pointcut within(", ")"),
          "a function is 'type name(parameters)': 'int foo(struct bar *b, ..)', 'tcp_*'"),
    Named("one-signature", "a designator takes one signature: '<found>' stands between designators",
          _in_aspect(_ONE_SIGNATURE, "|| @ &&"),
          "call(tcp_sendmsg) <found> call(tcp_recvmsg)", unless=")", skip_to=")"),  # call(f && within(g)
    Named("one-signature", "a designator takes one signature",
          _in_aspect(_ONE_SIGNATURE, ","),
          "call(tcp_sendmsg) || call(tcp_recvmsg)", skip_to=")"),
    Named("one-signature", "'!' stands before a designator, not in it",
          _in_aspect("pointcut call( @ pointcut execution( @ pointcut within(", "!"),
          "!within(tcp_*)"),
    Named("empty-data", "nothing is said of which data",
          _in_aspect("pointcut get( @ pointcut set( @ pointcut access(", ")"),
          "data is a global ('jiffies'), a member by its type ('struct sk_buff.len') "
          "or an object ('struct sk_buff *skb')"),
    Named("empty-condition", "the condition is missing",
          _in_aspect("pointcut if(", ")") + _in_body("if ( @ while (", ")")),
    Named("pointcut-operator", "pointcuts are joined by '&&' and '||', not by '<found>'",
          _in_aspect(_OPEN_POINTCUTS, "& @ and"), instead="&&"),
    Named("pointcut-operator", "pointcuts are joined by '&&' and '||', not by '<found>'",
          _in_aspect(_OPEN_POINTCUTS, "| @ or @ ,"), instead="||"),
    Named("bad-event", "an event is 'category:name'",
          _in_aspect("pointcut event(x", ") @ , @ /") + _in_aspect("pointcut event(", ")"),
          "event(sched:sched_switch)"),
    Named("file-and-function", "'user' takes the file and, behind a ':', what is selected in it",
          _in_aspect('pointcut user("x"', ")"),
          'user("/bin/bash": execution(readline))'),
    Named("file-and-function", "the file of a program or library is written in quotes",
          _in_aspect("pointcut user(", "x @ /"),
          'user("libc.so.6": execution(fopen))', give_up=True),
    Named("place-needs-quotes", "a source line is written in quotes",
          _in_aspect("pointcut at(x @ pointcut at(x.c", "/ @ : @ -"),
          'at("net/ipv4/tcp.c:123")'),
    # --- state, and what is none ---
    Named("pointer-key", "as a key a pointer needs 'struct' in front, or a word of C's",
          _in_aspect("x x[x * @ count x[x * @ int x[x * @ hist x[x, x *", "] @ ,"),
          "'struct sock *', 'void *', 'unsigned int *'"),
    Named("state-in-advice", "what has keys is state: it is declared in the aspect, not in advice",
          _in_body("x x[ @ int x[", "x"),
          "aspect a { u64 start[tid]; before(): .. { start[tid] = now; } }", give_up=True),
    Named("state-with-value", "state begins at 0 and takes no other value here",
          _in_aspect("x x @ int x @ x *x @ int x[x] @ count x", "="),
          "set it in advice"),
    Named("statement-in-aspect", "a statement must stand in the body of advice",
          _in_aspect("x", "( @ = @ . @ -> @ ++ @ -- @ += @ [")
          + _in_aspect(" @ pointcut x();", "if @ for @ while @ return @ {"),
          "before() { .. }", give_up=True),
    # --- statements ---
    Named("else-without-if", "this 'else' belongs to no 'if'",
          _in_body(" @ x;", "else")),
    Named("no-initialiser-list", "a list in braces is no value",
          _in_body("x x = @ int x = @ x =", "{"),
          "set the members one by one", give_up=True),
    Named("no-type-definitions", "types are the kernel's own: an aspect defines none",
          _in_body("struct x @ struct", "{") + _in_aspect("struct x @ struct", "{"), give_up=True),
)  # fmt: skip

_FOREIGN_WORDS = {
    "switch": "use 'if' and 'else'",
    "case": "use 'if' and 'else'",
    "default": "use 'if' and 'else'",
    "do": "use 'while'",
    "goto": "use 'if' and 'else'",
    "static": "leave it out; what lasts from one run of the advice to the next is state of the aspect",
    "extern": "types and enum constants of the kernel are known without declaration",
    "typedef": "types are the kernel's own",
    "inline": "leave it out: functions are put in place of their calls",
    "register": "leave it out",
    "auto": "leave it out",
    "restrict": "leave it out",
}

# How terminals are called that do not stand for themselves.
_DESCRIPTIONS = {
    "NAME": "a name",
    "INTEGER": "a number",
    "CHARACTER": "a character",
    "STRING": "a string",
    "CBODY": "'%{ C %}'",
    "WORD": "a name",
    "DATA_WORD": "a name",
    "QUOTED": "a text in quotes",
    "GLOB": "a pattern",
}
_TYPE_TERMINALS = {"BASIC", "TAG", "QUALIFIER", "DECLARED", "CAST_NAME", "STATE_KIND"}
_STATEMENT_WORDS = {"return", "break", "continue", "delete", "if", "for", "while", "{", ";"}
_BEFORE_OPERAND = {"~", "!", "-", "+", "*", "&", "++", "--", "(", "sizeof", "container_of"}
_BEHIND_OPERAND = {
    "=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "?", "||", "&&", "|", "^", "&", "==", "!=", "<",
    ">", "<=", ">=", "<<", ">>", "+", "-", "*", "/", "%", "++", "--", ".", "->", "[", "(",
}  # fmt: skip


_help: SyntaxHelp | None = None


def syntax_help(machine: Machine) -> SyntaxHelp:
    """The help for a parser: made once, as its examples are read by that parser first."""
    global _help  # noqa: PLW0603  # one serves the process, as one set of tables does
    if _help is None or _help.machine is not machine:
        _help = SyntaxHelp(machine)
    return _help


class SyntaxHelp:
    """Finds what to say at a syntax error."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._by_place: dict[tuple[int, str], Named] = {}
        for named in NAMED:
            for example in named.examples:
                self._by_place.setdefault(self._place(example), named)
        self._texts = {kind: text for text, kind in machine.punctuation.items()}
        for word, kind in machine.keywords.items():
            if SYMBOLS[kind] not in _TYPE_TERMINALS:
                self._texts[kind] = word

    def named(self, state: int, found: RawToken) -> Named | None:
        """The error that has a name, if an example matches."""
        return self._by_place.get((state, found.text)) or self._by_place.get((state, _class_of(found)))

    def _place(self, example: str) -> tuple[int, str]:
        """State and token at which an example goes wrong."""
        machine = self.machine
        begin = example.index(MARK)
        text = example.replace(MARK, " ")
        stack = machine.start("file")
        position = 0
        while True:
            token = machine.lex(text, position, begin, stack.states[-1])
            if token.kind == END:
                break
            if not machine.advance(stack, token, None):
                raise AssertionError(f"the example {example!r} goes wrong before its mark")
            position = token.end
        found = raw_token(text, begin, len(text))
        return stack.states[-1], {"x": "name", "string": "string", "number": "number"}.get(found.text, found.text)

    # --- errors without a name ---

    def expected(self, states: list[int]) -> list[str]:
        """What could stand at a place, in the language's terms, most telling first."""
        kinds = self.machine.expected(states)
        names = {SYMBOLS[k] for k in kinds}
        texts = {self._texts[k] for k in kinds if k in self._texts}
        parts: list[str] = []
        if "return" in texts:
            parts.append("a statement")
            texts -= _STATEMENT_WORDS | _BEFORE_OPERAND
            names -= {"INTEGER", "CHARACTER", "STRING", "NAME"} | _TYPE_TERMINALS
        elif "TILDE" in names:
            parts.append("an expression")
            texts -= _BEFORE_OPERAND
            names -= {"INTEGER", "CHARACTER", "STRING", "NAME"} | _TYPE_TERMINALS
        if "EXECUTION" in names:
            parts.append("a pointcut")
            texts -= {*DESIGNATORS, "!", "("}
            names.discard("NAME")
        if "TAG" in names:
            parts.append("a type")
            names.discard("NAME")
        if "QMARK" in names:
            parts.append("an operator")
            texts -= _BEHIND_OPERAND
        parts += list(dict.fromkeys(text for name, text in _DESCRIPTIONS.items() if name in names))
        marks = sorted(
            (t for t in texts if not t[0].isalpha()), key=lambda t: (t not in (";", ")", "]", "}", ",", ":"), t)
        )
        return parts + [f"'{t}'" for t in marks + sorted(t for t in texts if t[0].isalpha())]

    def unexpected(self, states: list[int], found: RawToken) -> tuple[str, str, str]:
        """Code, message and hint for an error without a name."""
        word = found.text if found.kind == "word" else ""
        if word in _FOREIGN_WORDS:
            return "no-such-word", f"there is no '{word}' in the language", _FOREIGN_WORDS[word]
        expected = self.expected(states)
        if (hint := probe(word)) and {"a name", "an expression"}.isdisjoint(expected):
            if "'aspect'" in expected and hint.startswith(("before", "after")):
                hint = f"aspect name {{ {hint} }}"
            return "no-such-word", f"there is no '{word}' in the language", hint
        if word in RESERVED_WORDS and not {"a name", "an expression"}.isdisjoint(expected):
            return "reserved-word", f"'{word}' is a word of C and cannot be a name", ""
        near = suggest(word, list(self.keywords(states))) if word else []
        if near:
            return "misspelt", f"'{word}' means nothing here", did_you_mean(near[:1])
        what = "the file ends too early" if found.kind == "end" else f"{found.describe()} cannot stand here"
        return "unexpected", f"{what}: expected {either(expected)}", ""

    def keywords(self, states: list[int]) -> dict[str, int]:
        """The keywords that could come next, and their terminals."""
        kinds = self.machine.expected(states)
        return {self._texts[k]: k for k in kinds if self._texts.get(k, "?")[0].isalpha()}


def _class_of(found: RawToken) -> str:
    return "name" if found.kind == "word" and found.text not in RESERVED_WORDS else found.kind


def either(parts: list[str]) -> str:
    """``a, b or c``."""
    if not parts:
        return "nothing more"
    if len(parts) > 7:
        parts = [*parts[:6], "the like"]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " or " + parts[-1]
