"""Signatures and data patterns from their words: which words are the type, which the name, what each ``*`` means.

The grammar gives lists of words that keep their stars (``struct``, ``sk_buff``, ``*skb_dequeue``), because the
language tells a pointer from a wildcard by what stands before the star and by blanks:

- behind a type a ``*`` makes a pointer: ``void *kmalloc``, ``void* kmalloc``;
- alone in front of the name, before a blank, it stands for any type: ``* tcp_*``;
- elsewhere it is any run of characters: ``*_output``, ``ip_*``; ``%`` is that everywhere.

Where a star could be read both ways the second reading goes into ``Signature.other``.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.lalr import Token
from klasy.lang.typenames import BASIC_WORDS, DROPPED_WORDS, QUALIFIERS, RESERVED_WORDS, TAGS, USER, normalise
from klasy.plain import ASCII, TYPE_CHECKING, pattern, replace
from klasy.source import SourceFile, Span

if TYPE_CHECKING:
    from klasy.diag import DiagnosticBag

_NAME = pattern(r"[A-Za-z_]\w*\Z", ASCII)
_GLUED = pattern(r"([A-Za-z_]\w*)(\*+)([A-Za-z_]\w*)\Z", ASCII)  # mbuf*m


class WordReader:
    """Reads lists of words of one source file; errors go into the bag, and a plausible node comes back."""

    def __init__(self, file: SourceFile, bag: DiagnosticBag) -> None:
        self.file = file
        self.bag = bag

    # --- signatures ---

    def signature(self, words: list[Token], params: tuple[ast.ParamPattern, ...] | None, span: Span) -> ast.Signature:
        """``[type] name`` with its parameters, if a list was written."""
        if len(words) == 1:
            return self._lone_name(words[0], params, span)
        *before, last = words
        if before[0].text == "*":
            if len(before) > 1:
                self._error(
                    "bad-signature",
                    "a '*' alone in front of a signature means any type, and only the function's name may follow it",
                    before[1],
                    hints=["a pointer's '*' stands behind its type: 'void *kmalloc(..)'"],
                )
            return self._named(None, last, params, span)
        glued = _GLUED.match(last.text)
        if before[-1].text in TAGS and glued:  # struct sk_buff*skb_get
            before, last = [*before, _cut(last, *glued.span(1))], _cut(last, glued.start(2), None)
        if before[-1].text in TAGS:
            written = f"{before[-1].text} {last.text}"
            self._error("bad-signature", f"a signature needs the name of a function; '{written}' is a type", last)
            return ast.Signature(span, None, last.text, params)
        stars, rest = _leading_stars(last)
        if not rest.text:  # `int *(..)`: the last star is the name
            stars, rest = _cut(last, 0, -1), _cut(last, -1, None)
        type_words = [*before, stars] if stars.text else before
        result, left = self.type(type_words)
        if left:
            self._too_many(left[0], "a signature is 'type name(parameters)', the type and the parameters optional")
        first = self._named(result, rest, params, span)
        if stars.text and rest.text != "*":
            result, _ = self.type(before)
            other: ast.Signature | None = ast.Signature(span, result, "*" + rest.text, params)
        else:
            other = self._other_tag(before, first)
        return replace(first, other=other) if other else first

    def _lone_name(self, word: Token, params: tuple[ast.ParamPattern, ...] | None, span: Span) -> ast.Signature:
        glued = _GLUED.match(word.text)
        if not glued:
            return self._named(None, word, params, span)
        base, stars, name = (_cut(word, *glued.span(i)) for i in (1, 2, 3))
        result, _ = self.type([base, stars])
        as_pointer = self._named(result, name, params, span)
        if base.text in BASIC_WORDS:  # no function's name begins with `void*`
            return as_pointer
        return replace(self._named(None, word, params, span), other=as_pointer)

    def _named(
        self, result: ast.TypeRef | None, name: Token, params: tuple[ast.ParamPattern, ...] | None, span: Span
    ) -> ast.Signature:
        if name.text in RESERVED_WORDS or name.text in DROPPED_WORDS:
            self._error(
                "bad-signature",
                f"a signature needs the name of a function; '{name.text}' is none",
                name,
                hints=["'*' stands for any name: 'unsigned long *(..)' is any function with that result"],
            )
        return ast.Signature(span, result, name.text, params)

    def _other_tag(self, before: list[Token], signature: ast.Signature) -> ast.Signature | None:
        """``struct sk_* foo``: a pointer to struct sk_, or any struct whose tag begins so."""
        result = signature.result
        last = before[-1].text
        if result is None or not result.pointers or not last.endswith("*") or last == "*" * len(last):
            return None
        if result.name != last.rstrip("*") or result.name in BASIC_WORDS:
            return None
        return replace(signature, result=replace(result, name=result.name + "*", pointers=0))

    # --- parameters ---

    def parameter(self, words: list[Token], span: Span, *, arrays: int = 0) -> ast.ParamPattern:
        """One parameter of a signature: a type, a type and a name, or ``*`` and perhaps a name."""
        if words[0].text in ("*", "%"):
            if len(words) > 2 or (len(words) == 2 and not _NAME.match(words[1].text)):
                self._error("bad-signature", "behind '*', one parameter of any type, only its name may stand", words[1])
            return ast.ParamPattern(span, ast.ParamKind.ANY_ONE, None, words[1].text if len(words) > 1 else None)
        type_, left = self.type(words)
        if len(left) > 1:
            self._too_many(left[1], "a parameter is 'type name', the name optional")
        name = left[0] if left else None
        if name and (not _NAME.match(name.text) or name.text in RESERVED_WORDS):
            self._error(
                "bad-signature",
                f"'{name.text}' cannot name a parameter",
                name,
                hints=["wildcards may stand in a parameter's type, not in its name"] if "*" in name.text else [],
            )
        if type_ and arrays:  # an array parameter is a pointer, as in C
            type_ = replace(type_, pointers=type_.pointers + arrays)
        return ast.ParamPattern(span, ast.ParamKind.ONE, type_, name.text if name else None)

    def parameters(self, found: list[ast.ParamPattern]) -> tuple[ast.ParamPattern, ...]:
        """A whole list: ``(void)`` is empty, and nothing follows ``...``."""
        only = found[0] if len(found) == 1 else None
        if only and only.type and only.type.name == "void" and not only.type.pointers:
            if only.name:
                self.bag.error("bad-signature", "a parameter cannot be 'void'", only.span)
            return ()
        for param in found:
            if param.type and param.type.name == "void" and not param.type.pointers:
                self.bag.error("bad-signature", "a parameter cannot be 'void'", param.span)
        for param in found[:-1]:
            if param.kind is ast.ParamKind.VARIADIC:
                self.bag.error("bad-signature", "nothing can follow '...', which says that the function is variadic",
                               param.span, hints=["'..', two dots, stands for any parameters"])  # fmt: skip
        return tuple(found)

    # --- types ---

    def type(self, words: list[Token]) -> tuple[ast.TypeRef | None, list[Token]]:
        """The type in front of a list of words, and the words left. None where only dropped words stand there."""
        tag, const, volatile, user, pointers = ast.TagKind.NONE, False, False, False, 0
        basic: list[Token] = []
        base: Token | None = None
        queue = list(words)
        used: list[Token] = []
        while queue:
            word = queue.pop(0)
            text = word.text
            if text in DROPPED_WORDS:
                continue
            if text in QUALIFIERS:
                user = user or text == USER
                if not pointers:  # what is said of the pointer itself does not count
                    const, volatile = const or text == "const", volatile or text == "volatile"
            elif base is None and not basic and text in TAGS:
                tag = ast.TagKind(text)
                if not queue:
                    self._error("bad-type", f"'{text}' needs a name behind it", word)
                    base = _cut(word, 0, 0)
                else:
                    base, behind = self._base(queue.pop(0), last=not queue)
                    queue[:0] = behind
            elif base is None and (stars := _inner_stars(text)) and text[:stars] in BASIC_WORDS and not pointers:
                basic.append(_cut(word, 0, stars))
                if stars < len(text):
                    queue.insert(0, _cut(word, stars, None))
            elif base is None and not basic:
                base, behind = self._base(word, last=not queue)
                queue[:0] = behind
            elif text.startswith("*"):
                stars_token, rest = _leading_stars(word)
                pointers += len(stars_token.text)
                if rest.text:
                    queue.insert(0, rest)
            else:
                queue.insert(0, word)
                break
            used.append(word)
        if base is None and not basic:
            if const or volatile:
                self._error("bad-type", f"'{used[0].text}' says nothing without a type", used[0])
            return None, queue
        span = Span(self.file, used[0].start, queue[0].start if queue else words[-1].end)
        text = span.text.rstrip()
        span = Span(self.file, span.start, span.start + len(text))
        if base is not None:
            return ast.TypeRef(span, tag, base.text, pointers, (), const, volatile, user), queue
        name = normalise(b.text for b in basic)
        if name is None:
            written = " ".join(b.text for b in basic)
            self.bag.error(
                "bad-type", f"'{written}' is not a type of C", Span(self.file, basic[0].start, basic[-1].end)
            )
        return ast.TypeRef(span, tag, name or "int", pointers, (), const, volatile, user), queue

    def _base(self, word: Token, *, last: bool) -> tuple[Token, list[Token]]:
        """A tag or a typedef's name, which may hold wildcards, and what is glued behind it: stars, stars and a name."""
        text = word.text
        if text.strip("*") == "":
            return word, []
        glued = _GLUED.match(text)
        if glued and last:  # sk_buff*skb
            return _cut(word, *glued.span(1)), [_cut(word, *glued.span(2)), _cut(word, *glued.span(3))]
        bare = len(text.rstrip("*"))
        base = _cut(word, 0, bare)
        if base.text in RESERVED_WORDS:
            self._error("bad-type", f"'{base.text}' is not the name of a type", base)
        return base, [_cut(word, bare, None)] if bare < len(text) else []

    # --- data ---

    def data(self, words: list[Token], span: Span) -> ast.DataPattern:
        """What ``get``, ``set`` and ``access`` take."""
        last = words[-1]
        if words[0].text == "watched" and len(words) > 1:
            return self._watched(words[1:], span)
        glued = _GLUED.match(words[0].text)
        if len(words) == 1 and not glued:
            if last.text in RESERVED_WORDS:
                self._error("bad-data", f"'{last.text}' names no data", last, hints=[_DATA_HINT])
            return self._path(last, span, None)
        stars, rest = _leading_stars(last)
        if _leads_on(rest.text) and not _ends_in_tag(words[:-1]):  # struct net init_net.ipv4.sysctl_ip_default_ttl
            type_, left = self.type([*words[:-1], stars] if stars.text else words[:-1])
            if left:
                self._too_many(left[0], "data of a given type is 'unsigned long avenrun[0]'", "bad-data")
            return self._path(rest, span, type_)
        dotted = next((i for i, w in enumerate(words) if "." in w.text), None)
        if dotted is not None:  # struct tcp_sock.*cwnd*
            name, path = words[dotted].text.split(".", 1)
            type_, left = self.type([*words[:dotted], _cut(words[dotted], 0, len(name))])
            behind = left or words[dotted + 1 :]
            if behind:
                self._too_many(behind[0], "a member by its type is 'struct sk_buff.len'", "bad-data")
            if type_ and type_.pointers:
                self.bag.error("bad-data", "a member by its type is written without '*'", type_.span,
                               hints=[f"{type_.tag.value} {type_.name}.{path}".strip()])  # fmt: skip
            return ast.DataPattern(span, type_, tuple(path.split(".")))
        type_, left = self.type(words)
        if not left:
            self.bag.error("bad-data", f"'{span.text}' names a type, but no data", span, hints=[_DATA_HINT])
            return ast.DataPattern(span, type_, ())
        if len(left) > 1:
            self._too_many(left[1], _DATA_HINT, "bad-data")
        if not _NAME.match(left[0].text) or left[0].text in RESERVED_WORDS:
            self._error("bad-data", f"'{left[0].text}' cannot name data", left[0], hints=[_DATA_HINT])
        return ast.DataPattern(span, type_, (), left[0].text)

    def _watched(self, words: list[Token], span: Span) -> ast.DataPattern:
        """``watched skb->len``, ``watched struct sk_buff.len``."""
        found = self.data(words, span)
        first, *steps = found.path or ("",)
        if found.type is None and found.declared is None and found.cpu is None and steps and steps[0].startswith("->"):
            return ast.DataPattern(span, None, (steps[0].removeprefix("->"), *steps[1:]), first, watched=True)
        if found.type is not None and found.path and not found.type.pointers:
            return ast.DataPattern(span, found.type, found.path, watched=True)
        self._error("bad-data", f"'{span.text}' names no member of an object", words[-1], hints=[_WATCHED_HINT])
        return found

    def _path(self, word: Token, span: Span, declared: ast.TypeRef | None) -> ast.DataPattern:
        """``init_net.ipv4.x``, ``init_task.mm->pgd``, ``avenrun[0]``, ``per_cpu(runqueues, 1).nr_running``."""
        text, cpu = word.text, None
        if text.startswith("per_cpu("):
            found = _PER_CPU.match(text)
            if found is None:
                self._error("bad-data", f"'{text}' names no data", word, hints=["write per_cpu(variable, 0)"])
                return ast.DataPattern(span, None, ("?",), None, declared)
            text, cpu = found[1] + text[found.end() :], int(found[2])
        steps = []
        for step in _STEP.finditer(text):
            name = step[0].removeprefix(".")
            if name.startswith("["):
                index = name[1:-1].strip()
                if not index.isdecimal():
                    place = _cut(word, *(at + len(word.text) - len(text) for at in step.span()))
                    self._error("bad-data", f"'{name}': an element of an array is written with its number", place)
                    index = "0"
                name = f"[{int(index)}]"
            steps.append(name)
        return ast.DataPattern(span, None, tuple(steps), None, declared, cpu)

    # --- messages ---

    def _error(self, code: str, message: str, token: Token, *, hints: list[str] | None = None) -> None:
        self.bag.error(code, message, Span(self.file, token.start, token.end), hints=hints or ())

    def _too_many(self, token: Token, form: str, code: str = "bad-signature") -> None:
        self._error(code, f"'{token.text}' is one word too many", token, hints=[form])


_DATA_HINT = (
    "data is a global ('jiffies'), a member by its type ('struct sk_buff.len') or an object ('struct sk_buff *skb')"
)


_WATCHED_HINT = "write the member as in watch(skb->len): 'watched skb->len', or 'watched struct sk_buff.len'"

# The steps of a path: the first name, then members, members through pointers, elements.
_STEP = pattern(r"\.?[\w*%]+|->\w+|\[[^\]]*\]")
_PER_CPU = pattern(r"per_cpu\(\s*([A-Za-z_]\w*)\s*,\s*(\d+)\s*\)")


def _leads_on(text: str) -> bool:
    """Whether a word is a path with more than one step, or one CPU's copy."""
    return (text[:1].isalpha() or text[:1] == "_") and any(sign in text for sign in (".", "->", "[", "("))


def _ends_in_tag(words: list[Token]) -> bool:
    """``struct sk_buff.len``: what follows is the struct's own name. And ``const sk_buff.len`` needs one, too."""
    return words[-1].text in TAGS or all(w.text in QUALIFIERS or w.text in DROPPED_WORDS for w in words)


def _cut(token: Token, start: int, end: int | None) -> Token:
    """A part of a token, with its own place."""
    start, stop, _ = slice(start, end).indices(len(token.text))
    return Token(token.kind, token.text[start:stop], token.start + start, token.start + stop)


def _leading_stars(token: Token) -> tuple[Token, Token]:
    count = len(token.text) - len(token.text.lstrip("*"))
    return _cut(token, 0, count), _cut(token, count, None)


def _inner_stars(text: str) -> int:
    """Where the first star is; the length where there is none."""
    star = text.find("*")
    return len(text) if star < 0 else star
