"""Turns grammar/klasy.lark into the parsing tables of ``_tables.py``: ``python -m klasy.lang.generate``.

The only importer of lark. Importing lark and building its tables costs more than the whole rest of a weave's start,
so that is done here, once, and a test holds that the tracked tables are what this gives. Everything that the parser
needs to know of the grammar is in the tables; nothing of the language is written down here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from klasy import resources
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    import lark

# A whole file; and what may stand between quotes.
STARTS = ("file", "signature", "data", "event_name", "instruction")

_WORD = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
_WORD_GROUP = re.compile(r"\(\?:([A-Za-z_|]+)\)\\b\Z", re.ASCII)  # (?:struct|union|enum)\b
_END = "$END"

# Numbers stand in strings: they cost nothing to import, even where no byte code is cached, and only those of the
# states that a text visits are ever read.
_TEMPLATE = '''"""Parsing tables of the aspect language. Generated: do not edit, run `python -m klasy.lang.generate`."""

# ruff: noqa
# fmt: off

from klasy.plain import ASCII, pattern

# Names of the symbols, one a line: terminals, the end of the text, nonterminals.
SYMBOLS = """\\
{symbols}"""
END = {end}

# The regular expressions of what is skipped, and of the terminals in the order they are tried.
IGNORE = pattern({ignore!r}, ASCII)
PATTERNS = (
{patterns}
)
KEYWORDS = {keywords!r}
PUNCTUATION = {punctuation!r}

# A rule a line: its left side, number of symbols, name of the node or -, whether a lone child takes its place (1 or
# 0), the indices of the symbols that are kept, each with * if its own children are taken over.
RULES = """\\
{rules}"""

# A row a line: symbol, action, symbol, action .. An action is a state to go to, or -1 - a rule to reduce by.
ROWS = """\\
{rows}"""
ROW_OF_STATE = """\\
{row_of_state}"""

# The first state of each start.
STARTS = {starts!r}
'''


def build_lark(grammar: str) -> lark.Lark:
    """Lark's own parser of the grammar: source of the tables, and the oracle that tests compare ours with."""
    from lark import Lark

    return Lark(
        grammar,
        parser="lalr",
        lexer="contextual",
        start=list(STARTS),
        maybe_placeholders=False,
        propagate_positions=True,
        g_regex_flags=re.ASCII,
    )


def generate(grammar: str) -> str:
    """The text of ``_tables.py`` for a grammar. Deterministic."""
    parser = build_lark(grammar)
    table: Any = parser.parser.parser._parse_table  # lark shows its tables nowhere else
    terminals = [t for t in parser.terminals if t.name not in parser.ignore_tokens]
    ignored = [t.pattern.to_regexp() for t in parser.terminals if t.name in parser.ignore_tokens]
    # The order in which lark's lexer tries them.
    terminals.sort(key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name))
    symbols = [t.name for t in terminals] + [_END] + sorted({str(rule.origin.name) for rule in parser.rules})
    number = {name: index for index, name in enumerate(symbols)}

    punctuation: dict[str, int] = {}
    keywords: dict[str, int] = {}
    patterns: list[tuple[int, str]] = []
    for terminal in terminals:
        text, index = terminal.pattern.value, number[terminal.name]
        group = _WORD_GROUP.match(text)
        if terminal.pattern.type == "re" and group:
            words = group[1].split("|")
        elif terminal.pattern.type == "re":
            patterns.append((index, text))
            continue
        elif _WORD.match(text):
            words = [text]
        else:
            punctuation[text] = index
            continue
        for word in words:
            if word in keywords:
                raise ValueError(f"{word!r} belongs to two terminals")
            keywords[word] = index

    rows, row_of_state, starts = _states(table, number, {rule: index for index, rule in enumerate(parser.rules)})
    return _TEMPLATE.format(
        symbols="\n".join(symbols),
        end=number[_END],
        ignore=f"(?:{'|'.join(ignored)})*",
        patterns="\n".join(f"    ({index}, pattern({text!r}, ASCII))," for index, text in patterns),
        keywords=keywords,
        punctuation=punctuation,
        rules="\n".join(_rule(rule, number) for rule in parser.rules),
        rows="\n".join(" ".join(map(str, row)) for row in rows),
        row_of_state=" ".join(map(str, row_of_state)),
        starts=starts,
    )


def _rule(rule: Any, number: dict[str, int]) -> str:
    """A rule as the tables have it, with lark's rules for the shape of the tree."""
    kept = []
    for index, symbol in enumerate(rule.expansion):
        if not symbol.is_term:
            kept.append(f"{index}*" if symbol.name.startswith("_") else f"{index}")
        elif rule.options.keep_all_tokens or not symbol.filter_out:
            kept.append(f"{index}")
    origin = str(rule.origin.name)
    name = "-" if origin.startswith("_") else str(rule.alias or origin)
    lone = int(bool(rule.options.expand1) and not rule.alias)
    return " ".join([str(number[origin]), str(len(rule.expansion)), name, str(lone), *kept])


def _states(
    table: Any, number: dict[str, int], rule_number: dict[Any, int]
) -> tuple[list[tuple[int, ...]], list[int], dict[str, int]]:
    """States renumbered in the order a walk from the starts meets them: lark's own numbers vary between runs."""
    from lark.parsers.lalr_analysis import Shift

    def entries(state: int) -> list[tuple[int, bool, Any]]:
        found = [(number[s], action is Shift, target) for s, (action, target) in table.states[state].items()]
        return sorted(found, key=lambda entry: entry[0])

    order = [table.start_states[start] for start in STARTS]
    renumbered = {state: index for index, state in enumerate(order)}
    for state in order:
        for _, is_shift, target in entries(state):
            if is_shift and target not in renumbered:
                renumbered[target] = len(order)
                order.append(target)
    ends = {table.end_states[start] for start in STARTS}
    rows: dict[tuple[int, ...], int] = {}
    row_of_state = []
    for state in order:
        row: list[int] = []
        for symbol, is_shift, target in entries(state):
            row += [symbol, renumbered[target] if is_shift else -1 - rule_number[target]]
        if state in ends:
            row += [number[_END], renumbered[state]]  # lark accepts by looking at the state; here the end is read
        row_of_state.append(rows.setdefault(tuple(row), len(rows)))
    return list(rows), row_of_state, {start: renumbered[table.start_states[start]] for start in STARTS}


def main() -> int:
    """Write the tables beside this module."""
    Path(__file__).with_name("_tables.py").write_text(generate(resources.grammar_text()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
