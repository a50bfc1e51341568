"""The machine that runs the parsing tables: contextual lexer and LALR(1) automaton.

It knows nothing of the language: the grammar is in ``_tables``, and what a rule makes of its parts is the business of
a builder, called with them when the rule is reduced. Errors are the caller's business too, see ``recover.py``.

This is what lark's own parser does with the same tables (a test compares them), without the cost of importing lark.
"""

from __future__ import annotations

from klasy.lang import _tables
from klasy.plain import ASCII, TYPE_CHECKING, Protocol, pattern

if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from typing import Any

END = _tables.END
MAX_DEPTH = 200  # of the tree: what comes after the parser walks it recursively
ERROR = -1  # kind of a token that no rule can use where it stands
SYMBOLS = _tables.SYMBOLS.split("\n")
_WORD = pattern(r"[A-Za-z_]\w*", ASCII)


class Token:
    """A terminal found in the text. ``kind`` indexes SYMBOLS, or is ERROR; ``start`` and ``end`` are offsets."""

    __slots__ = ("end", "kind", "start", "text")

    def __init__(self, kind: int, text: str, start: int, end: int) -> None:
        self.kind = kind
        self.text = text
        self.start = start
        self.end = end

    def __repr__(self) -> str:
        return f"{self.name}({self.text!r})"

    @property
    def name(self) -> str:
        """The terminal's name in the grammar."""
        return SYMBOLS[self.kind] if self.kind >= 0 else "ERROR"


class Builder(Protocol):
    """Makes the value of each node of the tree from its children, which are tokens and such values."""

    def build(self, name: str, children: list[Any], start: int, end: int) -> Any:
        """The value of the node ``name`` that spans the offsets ``start`` to ``end``."""


class TooDeep(Exception):
    """A node has more than MAX_DEPTH others above one another below it. ``start`` and ``end`` are its offsets."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__("nested too deeply")
        self.start = start
        self.end = end


class Stack:
    """The automaton's stack: states, and for each but the first the value, the offsets and the depth of its symbol."""

    __slots__ = ("depths", "ends", "starts", "states", "values")

    def __init__(self, state: int) -> None:
        self.states = [state]
        self.values: list[Any] = [None]
        self.starts = [0]
        self.ends = [0]
        self.depths = [0]

    def copy(self) -> Stack:
        """A stack with the same contents."""
        new = Stack.__new__(Stack)
        new.states, new.values = self.states[:], self.values[:]
        new.starts, new.ends, new.depths = self.starts[:], self.ends[:], self.depths[:]
        return new

    def push(self, state: int, value: Any, start: int, end: int, depth: int = 0) -> None:
        """Add a symbol."""
        self.states.append(state)
        self.values.append(value)
        self.starts.append(start)
        self.ends.append(end)
        self.depths.append(depth)

    def cut(self, height: int) -> None:
        """Drop all but the ``height`` lowest entries."""
        del self.states[height:], self.values[height:], self.starts[height:], self.ends[height:], self.depths[height:]


class Failure:
    """Where the automaton could not go on: the stack before ``token`` was looked at, and the token before it."""

    __slots__ = ("previous", "stack", "token")

    def __init__(self, stack: Stack, token: Token, previous: Token | None) -> None:
        self.stack = stack
        self.token = token
        self.previous = previous


class Machine:
    """The tables, made usable. Rows and rules are decoded when first used."""

    def __init__(self) -> None:
        self._row_texts = _tables.ROWS.split("\n")
        self._row_of_state = _tables.ROW_OF_STATE.split()
        self._rule_texts = _tables.RULES.split("\n")
        self._rows: dict[int, dict[int, int]] = {}
        self._rules: dict[int, tuple[int, int, str, bool, list[tuple[int, bool]]]] = {}
        self._only_rules: dict[int, int | None] = {}
        self._patterns_of_state: dict[int, list[tuple[int, re.Pattern[str]]]] = {}
        self._ignore = _tables.IGNORE
        self._word = _WORD
        self.keywords = _tables.KEYWORDS
        self.punctuation = _tables.PUNCTUATION

    def row(self, state: int) -> dict[int, int]:
        """What a state does with each symbol: the state to go to, or -1 - a rule to reduce by."""
        row = self._rows.get(state)
        if row is None:
            numbers = map(int, self._row_texts[int(self._row_of_state[state])].split())
            row = self._rows[state] = dict(zip(numbers, numbers, strict=True))  # each symbol, and what is done with it
        return row

    def rule(self, number: int) -> tuple[int, int, str, bool, list[tuple[int, bool]]]:
        """Left side, length, node name or '-', whether a lone child takes its place, the children that are kept."""
        rule = self._rules.get(number)
        if rule is None:
            left, length, name, lone, *kept = self._rule_texts[number].split()
            picks = [(int(k.removesuffix("*")), k.endswith("*")) for k in kept]
            rule = self._rules[number] = (int(left), int(length), name, lone == "1", picks)
        return rule

    def start(self, start: str) -> Stack:
        """A stack at the beginning of a start symbol."""
        return Stack(_tables.STARTS[start])

    # --- lexer ---

    def lex(self, text: str, position: int, end: int, state: int) -> Token:
        """The next token that ``state`` can use; one of kind ERROR, without a width, where there is none."""
        skipped = self._ignore.match(text, position, end)
        position = skipped.end() if skipped else position
        if position >= end:
            return Token(END, "", end, end)
        row = self.row(state)
        if text.startswith("/*", position):  # an unterminated comment, for it was not skipped
            return Token(ERROR, "", position, position)
        word = self._word.match(text, position, end)
        if word:
            keyword = self.keywords.get(word.group())
            if keyword is not None and keyword in row:
                return Token(keyword, word.group(), position, word.end())
        for kind, expression in self._patterns(state):
            match = expression.match(text, position, end)
            if match:
                return Token(kind, match.group(), position, match.end())
        for width in (3, 2, 1):
            mark = text[position : min(position + width, end)]
            kind_or_none = self.punctuation.get(mark)
            if kind_or_none is not None and kind_or_none in row:
                return Token(kind_or_none, mark, position, position + len(mark))
        return Token(ERROR, "", position, position)

    def _patterns(self, state: int) -> list[tuple[int, re.Pattern[str]]]:
        patterns = self._patterns_of_state.get(state)
        if patterns is None:
            row = self.row(state)
            patterns = [(kind, expression) for kind, expression in _tables.PATTERNS if kind in row]
            self._patterns_of_state[state] = patterns
        return patterns

    # --- automaton ---

    def advance(self, stack: Stack, token: Token, builder: Builder | None) -> bool:
        """Reduce as ``token`` demands and shift it. False, with the stack in ruins, where it does not fit.

        Then what can only be reduced is: the lexer is to look at the state that the next token will meet. Without a
        builder all values are None. Raises TooDeep.
        """
        states = stack.states
        while True:
            action = self.row(states[-1]).get(token.kind)
            if action is None:
                return False
            if action >= 0:
                break
            self._reduce(stack, -1 - action, token.start, builder)
        stack.push(action, token, token.start, token.end)
        self._settle(stack, token.end, builder)
        return True

    def _reduce(self, stack: Stack, number: int, place: int, builder: Builder | None) -> None:
        """Replace the symbols of a rule by its left side. An empty one is at ``place``."""
        left, length, name, lone, picks = self.rule(number)
        values = stack.values
        value: Any = None
        start = end = place
        depth = 0
        if length:
            start, end = stack.starts[-length], stack.ends[-1]
            depth = max(stack.depths[-length:])
        if builder is not None:
            children: list[Any] = []
            base = len(values) - length
            for index, inline in picks:
                if inline:
                    children += values[base + index]
                else:
                    children.append(values[base + index])
            if name == "-":
                value = children
            elif lone and len(children) == 1:
                value = children[0]
            else:
                depth += 1
                if depth > MAX_DEPTH:
                    raise TooDeep(start, end)
                value = builder.build(name, children, start, end)
        stack.cut(len(values) - length)
        stack.push(self.row(stack.states[-1])[left], value, start, end, depth)

    def put(self, stack: Stack, symbol: int, value: Any, start: int, builder: Builder | None) -> None:
        """Push a nonterminal that was not read but stands for a part that was given up. It must fit."""
        stack.push(self.row(stack.states[-1])[symbol], value, start, start)
        self._settle(stack, start, builder)

    def _settle(self, stack: Stack, place: int, builder: Builder | None) -> None:
        while (rule := self._only_rule(stack.states[-1])) is not None:
            self._reduce(stack, rule, place, builder)

    def _only_rule(self, state: int) -> int | None:
        """The rule that a state reduces by whatever comes, unless that rule is empty."""
        if state not in self._only_rules:
            actions = {action for kind, action in self.row(state).items() if kind <= END}
            action = actions.pop()
            only = not actions and action < 0 and self.rule(-1 - action)[1] > 0
            self._only_rules[state] = -1 - action if only else None
        return self._only_rules[state]

    def fits(self, states: list[int], kind: int) -> list[int] | None:
        """The states after a terminal has been read, or None where it does not fit."""
        states = states[:]
        while True:
            action = self.row(states[-1]).get(kind)
            if action is None:
                return None
            if action >= 0:
                break
            self._reduce_states(states, -1 - action)
        states.append(action)
        while (rule := self._only_rule(states[-1])) is not None:
            self._reduce_states(states, rule)
        return states

    def _reduce_states(self, states: list[int], number: int) -> None:
        left, length, *_ = self.rule(number)
        if length:
            del states[-length:]
        states.append(self.row(states[-1])[left])

    def expected(self, states: list[int]) -> list[int]:
        """The terminals that could come next, END among them."""
        return [kind for kind in self.row(states[-1]) if kind <= END and self.fits(states, kind) is not None]

    def parse(
        self,
        text: str,
        start: str,
        builder: Builder,
        handle: Callable[[Failure], int | None],
        *,
        begin: int = 0,
        end: int | None = None,
    ) -> Any:
        """The value of ``text[begin:end]`` read as a ``start``. None where the error handler gave up.

        Raises TooDeep.
        """
        stack = self.start(start)
        stop = len(text) if end is None else end
        position, previous = begin, None
        while True:
            token = self.lex(text, position, stop, stack.states[-1])
            action = self.row(stack.states[-1]).get(token.kind)
            # Reducing spoils the stack; should the token not fit after all, the handler needs it as it was.
            before = stack.copy() if action is not None and action < 0 else stack
            if action is not None and self.advance(stack, token, builder):
                if token.kind == END:
                    return stack.values[1]
                previous, position = token, token.end
                continue
            stack = before
            resumed = handle(Failure(stack, token, previous))
            if resumed is None:
                return None
            position = resumed
