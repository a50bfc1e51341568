"""Tokens of a text that the grammar has no use for: what stands there, whatever it should have been."""

from __future__ import annotations

import re

from klasy.plain import dataclass

_RAW = re.compile(
    r"""(?P<comment>/\*)
      | (?P<c_body>%\{)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<number>[0-9](?:\w|\.(?=\d))*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|[“”„](?:[^“”„\\\n]|\\.)*[“”„]|'(?:[^'\\\n]|\\.)+')
      | (?P<open_string>["“”„][^\n]*)
      | (?P<open_character>'[^\n]*)
      | (?P<mark><<=|>>=|\.\.\.|\|\||&&|[|^=!<>]=|<<|>>|\.\.|\+\+|--|->|[-+*/%&]=|[-+*/%&|^!~?:;,.(){}\[\]=<>])
      | (?P<stray>.)""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_SKIPPED = re.compile(r"(?:[ \t\r\n\f\v]+|//[^\n]*|/\*[^*]*\*+(?:[^/*][^*]*\*+)*/)*")
_C_BODY = re.compile(r"%\{[^%]*(?:%(?!\})[^%]*)*%\}")


@dataclass(frozen=True)
class RawToken:
    """``kind`` is word, number, string, mark, c_body, stray, end, or, unterminated, comment, open_string,
    open_character, open_c_body. Offsets as ever."""

    kind: str
    text: str
    start: int
    end: int

    def describe(self) -> str:
        """How a message calls it."""
        if self.kind == "string":
            return "this string" if self.text[0] != "'" else self.text
        if self.kind == "end":
            return "the end of the file"
        if self.kind == "c_body":
            return "this C body"
        if self.kind == "stray" and not self.text.isprintable():
            return f"the character U+{ord(self.text):04X}"
        return f"'{self.text}'"


def raw_token(text: str, position: int, end: int) -> RawToken:
    """The token at a position, or behind the blanks and comments there."""
    skipped = _SKIPPED.match(text, position, end)
    position = skipped.end() if skipped else position
    if position >= end:
        return RawToken("end", "", end, end)
    match = _RAW.match(text, position, end)
    assert match is not None  # the last alternative takes any character
    kind, stop = str(match.lastgroup), match.end()
    if kind == "comment":
        stop = end
    elif kind == "c_body":
        body = _C_BODY.match(text, position, end)
        kind, stop = ("c_body", body.end()) if body else ("open_c_body", end)
    return RawToken(kind, text[position:stop], position, stop)
