"""At a syntax error: say what is wrong, and find a way to go on, so that the next error is found too.

First the smallest change is tried that lets the parser read on for a while: a token put in, left out or replaced.
Where none does, the statement, the member of the aspect or the aspect is given up, and reading goes on behind it.
What is said comes from ``syntax_help``, or follows from the change that helped.
"""

from __future__ import annotations

import re

from klasy.diag import did_you_mean, suggest
from klasy.lang import ast
from klasy.lang.foreign import SIGILS, probe
from klasy.lang.lalr import END, ERROR, SYMBOLS, Failure, Machine, Stack, Token
from klasy.lang.parser import ExtraBrace
from klasy.lang.rawtext import RawToken, raw_token
from klasy.lang.syntax_help import NAMED, Named, either, syntax_help
from klasy.lang.typenames import RESERVED_WORDS
from klasy.lang.vocabulary import DESIGNATORS
from klasy.plain import TYPE_CHECKING, dataclass
from klasy.source import SourceFile, Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from klasy.diag import DiagnosticBag
    from klasy.lang.lalr import Builder

MAX_ERRORS = 20

# A repair is tried on so many tokens; one that puts something in must get past the first number of them, another
# past the second: where much is thrown away, much must fit.
_LOOKAHEAD = 8
_ENOUGH_FOR_INSERTION = 2
_ENOUGH = 4

_INSERTABLE = (";", ")", "]", ",", ":", "{")
_REPLACEABLE = (";", ")", "]", ",", ":")
_CODES = {
    ";": "missing-semicolon", ")": "missing-parenthesis", "(": "missing-parenthesis", "]": "missing-bracket",
    ",": "missing-comma", ":": "missing-colon", "{": "missing-brace", "}": "missing-brace",
}  # fmt: skip
_OPENING = {")": "(", "]": "[", "}": "{"}

# What begins a member of an aspect, or an aspect, and hardly a statement.
_MEMBER = re.compile(r"(before|after|around)\s*\(|(pointcut)\b\s*\w|(aspect)\s+\w+\s*(?:\{|extends\b)", re.ASCII)
_LINE_REST = re.compile(r"[^\n]*")


@dataclass(frozen=True)
class _Repair:
    """Read ``insert``, if any, and go on at ``position``, which skips a token or not; ``reach`` tokens then fit."""

    insert: str | None
    kind: int
    position: int
    reach: int
    skipped: bool

    @property
    def helps(self) -> bool:
        """Whether enough fits."""
        return self.reach >= (_ENOUGH if self.skipped else _ENOUGH_FOR_INSERTION)


class Recovery:
    """Handles the syntax errors of one file."""

    def __init__(self, machine: Machine, file: SourceFile, text: str, bag: DiagnosticBag, builder: Builder) -> None:
        self.machine = machine
        self.file = file
        self.text = text  # what is read: that of the file, but for braces that are too many
        self.bag = bag
        self.builder = builder
        self.help = syntax_help(machine)
        self.count = 0
        self.progress = -1  # where the last error was
        self.end = len(file.text)

    # --- the way through ---

    def handle(self, failure: Failure) -> int | None:
        """Say what is wrong; change the failure's stack so that parsing can go on, and return where. None: give up."""
        found = raw_token(self.text, failure.token.start, self.end)
        self.count += 1
        if self.count > MAX_ERRORS:
            self._error("too-many-errors", "there are more errors from here on", found.start, found.end)
            return None
        if found.start <= self.progress:  # what was done at the last error led to no progress
            return self._give_up(failure, found, forced=True)
        self.progress = found.start
        for attempt in (
            self._lexical,
            self._end_of_file,
            self._swallowed_member,
            self._reopen_aspect,
            self._misspelt_keyword,
        ):
            handled, position = attempt(failure, found)
            if handled:
                return position
        named = self.help.named(failure.stack.states[-1], found)
        if named is not None and not (named.unless and self._missing(named.unless, failure.stack.states, found)):
            if named.code == "untyped-pointcut-parameters" and self._word_of_member(failure.stack, 1) in DESIGNATORS:
                named = next(n for n in NAMED if n.code == "designator-as-name")
            return self._handle_named(named, failure, found)
        repair = self._best_repair(failure.stack.states, found)
        self._explain(failure, found, repair)
        return self._apply(failure, repair) if repair else self._give_up(failure, found, forced=False)

    def report_inner(self, failure: Failure, what: str, end: int) -> None:
        """Say what is wrong in a text between quotes, which is not mended."""
        found = raw_token(self.text, failure.token.start, end)
        expected = self.help.expected(failure.stack.states)
        if found.kind == "end" and failure.previous is None:
            message = f"there is no {what} between the quotes"
        elif found.kind == "end":
            closing = [e for e in expected if e in ("')'", "']'")]
            message = f"this {what} ends too early: expected {either(closing or expected)}"
        elif not expected:
            message = f"{found.describe()} cannot follow a whole {what}"
        else:
            message = f"{found.describe()} cannot stand in a {what} here: expected {either(expected)}"
        self._error("bad-" + what.partition(" ")[0], message, found.start, found.end)

    def _error(
        self,
        code: str,
        message: str,
        start: int,
        end: int,
        *,
        hint: str = "",
        related: Sequence[tuple[Span, str]] = (),
    ) -> None:
        self.bag.error(code, message, Span(self.file, start, end), hints=[hint], related=related)

    def _note(self, token: Token, text: str) -> tuple[Span, str]:
        return Span(self.file, token.start, token.end), text

    # --- saying it ---

    def _explain(self, failure: Failure, found: RawToken, repair: _Repair | None) -> None:
        states, previous = failure.stack.states, failure.previous
        if self._unknown_designator(failure):
            pass
        elif repair and repair.insert in _CODES and not repair.skipped and previous:
            self._say_missing(repair.insert, failure.stack, previous)
        elif found.text in _OPENING and not self._opened(failure.stack, _OPENING[found.text]):
            self._error("closes-nothing", f"this '{found.text}' closes nothing", found.start, found.end)
        else:
            code, message, hint = self.help.unexpected(states, found)
            self._error(code, message, found.start, found.end, hint=hint)

    def _word_of_member(self, stack: Stack, symbol: int) -> str:
        """The word that a symbol of the member that is being read begins with."""
        place = self._level(stack)[0] + 1 + symbol
        return raw_token(self.text, stack.starts[place], self.end).text if place < len(stack.starts) else ""

    def _handle_named(self, named: Named, failure: Failure, found: RawToken) -> int | None:
        stack, previous = failure.stack, failure.previous

        def fill(text: str) -> str:
            return text.replace("<found>", found.text).replace("<before>", previous.text if previous else "")

        place = previous if named.behind and previous else found
        start, end = place.start, place.end
        if named.symbol is not None:
            first = self._level(stack)[0] + 1
            start, end = stack.starts[first + named.symbol], stack.ends[first + named.symbol]
        self._error(named.code, fill(named.message), start, end, hint=fill(named.hint))
        if named.instead:
            kind = self.machine.punctuation.get(named.instead, _kind("CBODY"))
            end = found.start if found.text == "}" else found.end  # which still has to close something
            self.machine.advance(stack, Token(kind, named.instead, found.start, end), self.builder)
            return end
        if named.skip_to:
            target = self.text.find(named.skip_to, found.start)
            return target if target >= 0 else self._give_up(failure, found, forced=False)
        repair = None if named.give_up else self._best_repair(stack.states, found)
        return self._apply(failure, repair) if repair else self._give_up(failure, found, forced=False)

    def _say_missing(self, text: str, stack: Stack, previous: Token) -> None:
        opening = self._opened(stack, _OPENING.get(text, ""))
        related = [self._note(opening, f"to close this '{opening.text}'")] if opening else []
        if related and related[0][0].line == self.file.position(previous.end)[0]:
            related = []  # seen at a glance
        self._error(_CODES[text], f"missing '{text}'", previous.end, previous.end, related=related)

    def _opened(self, stack: Stack, text: str) -> Token | None:
        """The innermost bracket of a kind that is still open."""
        for value in reversed(stack.values):
            if isinstance(value, Token) and value.text == text:
                return value
        return None

    def _unknown_designator(self, failure: Failure) -> bool:
        """``exec(struct sock *sk)``: a signature in what reads as the arguments of a named pointcut."""
        stack = failure.stack
        for index in range(len(stack.states) - 1, 1, -1):
            value = stack.values[index]
            if isinstance(value, Token) and value.text == "(":
                break
            if isinstance(value, Token) and value.name not in ("NAME", "COMMA", "STAR"):
                return False
        else:
            return False
        name, before = stack.values[index - 1], stack.states[: index - 1]
        if not isinstance(name, Token) or name.name != "NAME" or self.machine.fits(before, _kind("EXECUTION")) is None:
            return False
        designators = list(self.help.keywords(before))
        near = suggest(name.text, designators) or [d for d in designators if d.startswith(name.text)]
        self._error(
            "unknown-designator",
            f"there is no designator '{name.text}'",
            name.start,
            name.end,
            hint=probe(name.text)
            or (did_you_mean(near[:1]) if near else "signatures stand in 'call', 'execution' and 'within'"),
        )
        return True

    # --- what is wrong below the grammar ---

    def _lexical(self, failure: Failure, found: RawToken) -> tuple[bool, int | None]:
        start = found.start
        if found.kind == "comment":
            self._error("unterminated-comment", "this comment is not closed", start, start + 2, hint="'*/' closes it")
            return True, None
        if found.kind == "open_c_body":
            self._error("unterminated-c-body", "this C body is not closed", start, start + 2, hint="'%}' closes it")
            return True, None
        if found.kind in ("open_string", "open_character"):
            return True, self._open_string(failure, found)
        if found.kind == "stray":
            return True, self._stray(found)
        return False, None

    def _stray(self, found: RawToken) -> int:
        """A character that the language does not use. It is skipped; of a preprocessor's line all is."""
        if found.text == "#":
            hint = "there is no preprocessor: the kernel's types and constants are known"
            self._error("stray-character", "'#' has no meaning here", found.start, found.end, hint=hint)
            rest = _LINE_REST.match(self.text, found.start)
            return rest.end() if rest else found.end
        name = found.describe()
        if not found.text.isascii():
            import unicodedata

            called = unicodedata.name(found.text, "unnamed").lower()
            name += f" ({called})" if name.startswith("the") else f" (U+{ord(found.text):04X}, {called})"
        hint = SIGILS.get(found.text, "")
        self._error("stray-character", f"{name} has no meaning here", found.start, found.end, hint=hint)
        return found.end

    def _open_string(self, failure: Failure, found: RawToken) -> int | None:
        states, start = failure.stack.states, found.start
        quoted = self.machine.fits(states, _kind("QUOTED")) is not None
        if found.kind == "open_character" and not quoted:
            if found.text.startswith("''"):
                self._error("bad-character", "a character is missing between the quotes", start, start + 2)
            else:
                message, hint = "this character constant is not closed", "a string stands in double quotes"
                self._error("unterminated-character", message, start, start + 1, hint=hint)
            end = min(start + 2, found.end)
            if not self.machine.advance(failure.stack, Token(_kind("CHARACTER"), "'?'", start, end), self.builder):
                return None
            return end
        closing = "”" if found.text[0] in "“”„" else found.text[0]
        message = "this string is not closed on its line"
        self._error("unterminated-string", message, start, found.end, hint=f"'{closing}' closes it")
        string = _kind("STRING")
        if quoted or self.machine.fits(states, string) is None:
            return self._give_up(failure, found, forced=False)
        # Read on as if it ended before what seems to close the statement on that line.
        inside = re.sub(r"\)*\s*;?\s*\}?\s*\Z", "", found.text)
        end = start + len(inside)
        self.machine.advance(failure.stack, Token(string, inside + closing, start, end), self.builder)
        return end

    # --- braces, and words that only all but fit ---

    def _end_of_file(self, failure: Failure, found: RawToken) -> tuple[bool, int | None]:
        stack = failure.stack
        opening = self._opened(stack, "{")
        if found.kind != "end" or opening is None:
            return False, None
        self._error("missing-brace", "this '{' is not closed before the file ends", opening.start, opening.end)
        if self.machine.fits(stack.states, self.machine.punctuation["}"]) is None:  # in the midst of something
            self._drop(stack, found.start)
        closed = self._close_until(stack, END, self.end)
        return True, self.end if closed else None

    def _swallowed_member(self, failure: Failure, found: RawToken) -> tuple[bool, int | None]:
        """Advice, a pointcut or an aspect that was read as a statement or state, for want of a ``}`` before it."""
        stack = failure.stack
        index, level = self._level(stack)
        if level == "aspect" or index + 1 == len(stack.states):
            return False, None
        start = stack.starts[index + 1]
        match = _MEMBER.match(self.text, start)
        if not match or (level == "advice" and not match[3]):
            return False, None
        word = next(group for group in match.groups() if group)
        opening, end = self._opened(stack, "{"), stack.ends[index]
        related = [self._note(opening, "opened here")] if opening else []
        self._error("missing-brace", f"missing '}}' before '{word}'", end, end, related=related)
        stack.cut(index + 1)
        return True, start if self._close_until(stack, self.machine.keywords[word], end) else None

    def _close_until(self, stack: Stack, kind: int, place: int) -> bool:
        """Put in a ``}`` until a terminal fits. False where that does not help."""
        closing = self.machine.punctuation["}"]
        while self.machine.fits(stack.states, kind) is None:
            if self.machine.fits(stack.states, closing) is None:
                return False
            self.machine.advance(stack, Token(closing, "}", place, place), self.builder)
        return True

    def _reopen_aspect(self, failure: Failure, found: RawToken) -> tuple[bool, int | None]:
        """Advice behind the end of an aspect, which a ``}`` too many has brought about. Raises ExtraBrace."""
        previous = failure.previous
        if previous is None or previous.text != "}" or self._level(failure.stack)[1] != "aspect":
            return False, None
        match = _MEMBER.match(self.text, found.start)
        if not match or match[3]:
            return False, None
        raise ExtraBrace(previous.start, found.start, found.end)

    def _misspelt_keyword(self, failure: Failure, found: RawToken) -> tuple[bool, int | None]:
        """``befor(struct sock *sk)``: the word before the failure is near to one that lets the parser read on."""
        stack = failure.stack
        for height in (len(stack.states) - 1, self._level(stack)[0] + 1):  # this word, or that which begins it all
            if not 0 < height < len(stack.states):
                continue
            written = raw_token(self.text, stack.starts[height], self.end)
            if written.kind != "word":
                continue
            before = stack.states[:height]
            keywords = self.help.keywords(before)
            for word in suggest(written.text, [w for w in keywords if w != written.text]):
                repair = self._try(before, word, keywords[word], written.end, skipped=True)
                if repair.helps:
                    message, hint = f"'{written.text}' means nothing here", did_you_mean([word])
                    self._error("misspelt", message, written.start, written.end, hint=hint)
                    stack.cut(height)
                    self.machine.advance(stack, Token(repair.kind, word, written.start, written.end), self.builder)
                    return True, written.end
        return False, None

    # --- repairs ---

    def _best_repair(self, states: list[int], found: RawToken) -> _Repair | None:
        best: _Repair | None = None
        if found.kind != "end":
            for repair in self._repairs(states, found):
                if repair.helps and (best is None or repair.reach > best.reach):
                    best = repair
        return best

    def _missing(self, text: str, states: list[int], found: RawToken) -> bool:
        """Whether a token, put in here, is all that was wrong as far as can be seen."""
        return self._try(states, text, self.machine.punctuation[text], found.start, skipped=False).reach >= _LOOKAHEAD

    def _repairs(self, states: list[int], found: RawToken) -> Iterator[_Repair]:
        """Candidates, the likeliest first."""
        if found.kind == "word":
            keywords = self.help.keywords(states)
            for word in suggest(found.text, list(keywords)):
                yield self._try(states, word, keywords[word], found.end, skipped=True)
            if found.text in RESERVED_WORDS:  # a name that cannot be one
                yield self._try(states, found.text, _kind("NAME"), found.end, skipped=True)
        for text in _INSERTABLE:
            yield self._try(states, text, self.machine.punctuation[text], found.start, skipped=False)
        if found.text in (";", "}"):  # advice without a body
            position = found.end if found.text == ";" else found.start
            yield self._try(states, "%{%}", _kind("CBODY"), position, skipped=found.text == ";")
        yield self._try(states, "?", _kind("NAME"), found.start, skipped=False)
        for text in _REPLACEABLE:
            yield self._try(states, text, self.machine.punctuation[text], found.end, skipped=True)
        yield _Repair(None, ERROR, found.end, self._reach(states, found.end), True)

    def _try(self, states: list[int], text: str, kind: int, position: int, *, skipped: bool) -> _Repair:
        after = self.machine.fits(states, kind)
        return _Repair(text, kind, position, self._reach(after, position) if after else 0, skipped)

    def _reach(self, states: list[int], position: int) -> int:
        """How many tokens can be read."""
        for count in range(_LOOKAHEAD):
            token = self.machine.lex(self.text, position, self.end, states[-1])
            after = self.machine.fits(states, token.kind)
            if after is None:
                return count
            if token.kind == END:
                break
            states, position = after, token.end
        return _LOOKAHEAD

    def _apply(self, failure: Failure, repair: _Repair) -> int:
        if repair.insert is not None:
            previous = failure.previous
            start = failure.token.start if repair.skipped else previous.end if previous else repair.position
            end = repair.position if repair.skipped else start
            self.machine.advance(failure.stack, Token(repair.kind, repair.insert, start, end), self.builder)
        return repair.position

    # --- giving up a part ---

    def _give_up(self, failure: Failure, found: RawToken, *, forced: bool) -> int | None:
        """Drop the innermost statement, member or aspect that the failure is in, and go on behind it."""
        if found.kind == "end":
            return None
        level = self._drop(failure.stack, found.start)
        return self._skip(found.end if forced else found.start, level)

    def _level(self, stack: Stack) -> tuple[int, str]:
        """The highest place on the stack on which a whole statement, member (``advice``) or aspect could be put."""
        for index in range(len(stack.states) - 1, -1, -1):
            row = self.machine.row(stack.states[index])
            for level in ("statement", "advice", "aspect"):
                if _kind(level) in row:
                    return index, level
        raise AssertionError("a file is always open to another aspect")

    def _drop(self, stack: Stack, start: int) -> str:
        """Replace what is unfinished on the stack by an empty statement, member or aspect; tell which."""
        index, level = self._level(stack)
        begin = stack.starts[index + 1] if index + 1 < len(stack.starts) else start
        value: Any = ast.Block(Span(self.file, begin, start), ()) if level == "statement" else None
        stack.cut(index + 1)
        self.machine.put(stack, _kind(level), value, begin, self.builder)
        return level

    def _skip(self, position: int, level: str) -> int:
        """Where what follows a broken statement, member or aspect begins."""
        text, depth = self.text, 0
        while True:
            token = raw_token(text, position, self.end)
            if token.kind in ("end", "comment", "open_c_body"):
                return token.start
            if depth == 0:
                if level == "aspect" and token.text in ("aspect", "abstract", "import", "precedence"):
                    return token.start
                if level != "aspect" and (token.text == "}" or self._begins_member(token)):
                    return token.start
            position = token.end
            if token.text == "{":
                depth += 1
            elif token.text == "}" and depth:
                depth -= 1
            if depth or level == "aspect":
                continue
            if token.text == "}":
                following = raw_token(text, position, self.end)
                if following.text != "else":
                    return following.end if following.text == ";" else position
            if token.text == ";" or (token.kind == "c_body" and level == "advice"):
                return position

    def _begins_member(self, token: RawToken) -> bool:
        """Whether a word that begins a line begins a member of the aspect too."""
        before = self.text[: token.start].rstrip(" \t")
        return before[-1:] in ("\n", "}", ";") and _MEMBER.match(self.text, token.start) is not None


def _kind(symbol: str) -> int:
    return SYMBOLS.index(symbol)
