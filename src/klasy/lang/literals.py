"""Numbers, characters and strings of the language: C's, from their text and back."""

from __future__ import annotations

from klasy.lang import ast
from klasy.plain import ASCII, DOTALL, TYPE_CHECKING, pattern
from klasy.source import Span

if TYPE_CHECKING:
    import re

    from klasy.diag import DiagnosticBag

_INTEGER = pattern(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9][0-9]*)(\w*)\Z", ASCII)
_SUFFIXES = {"u": 0, "l": 1, "ul": 1, "lu": 1, "ll": 2, "ull": 2, "llu": 2}
_ESCAPE = pattern(r"\\(?:x([0-9a-fA-F]+)|([0-7]{1,3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))", DOTALL)
_SIMPLE_ESCAPES = {
    "a": "\a", "b": "\b", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip
_ESCAPED = {value: "\\" + name for name, value in _SIMPLE_ESCAPES.items() if name not in "?'"}


def integer(text: str, span: Span, bag: DiagnosticBag) -> ast.IntLiteral:
    """An integer constant, decimal, 0x, 0b or octal, with u, l and ll behind it."""
    match = _INTEGER.match(text)
    suffix = match[2] if match else ""
    if not match or (suffix and (suffix.lower() not in _SUFFIXES or "lL" in suffix or "Ll" in suffix)):
        if "." in text:
            bag.error("bad-number", f"'{text}' is no integer: there is no floating point in the kernel", span)
        else:
            bag.error("bad-number", f"'{text}' is not a number", span, hints=_number_hints(text))
        return ast.IntLiteral(span, 0)
    digits = match[1]
    if digits[:2] in ("0x", "0X", "0b", "0B"):
        value = int(digits, 0)
    elif digits.startswith("0"):
        value = int(digits, 8)
    elif len(digits) > 20:  # also keeps int() from refusing absurd lengths
        value = 1 << 64
    else:
        value = int(digits)
    if value >> 64:
        bag.error("bad-number", f"'{text}' does not fit into 64 bits", span)
        value = 0
    suffix = suffix.lower()
    decimal = not digits.startswith("0") or digits == "0"
    return ast.IntLiteral(span, value, "u" in suffix, _SUFFIXES.get(suffix, 0), decimal)


def _number_hints(text: str) -> list[str]:
    if text[:2] in ("0x", "0X"):
        return ["digits of a hexadecimal number are 0 to 9 and a to f"]
    if text[0] == "0" and text.isdigit():
        return ["a number that begins with 0 is octal, with digits 0 to 7"]
    if text[0].isdigit() and text.isalnum():
        return ["behind the digits may stand 'u', 'l', 'ul', 'll' or 'ull'"]
    return []


def character(text: str, span: Span, bag: DiagnosticBag) -> ast.IntLiteral:
    """A character constant: a signed char, as on x86."""
    value = _unescape(text[1:-1], span, bag)
    code = ord(value[0]) if value else 0
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    elif len(value) == 1 and code > 127:
        bag.error("bad-character", f"{text} is more than one byte", span, hints=["write it as a string"])
        code = 0
    if len(value) > 1:
        bag.error(
            "bad-character",
            f"{text} holds more than one character",
            span,
            hints=[f'a string is written "{text[1:-1]}"'],
        )
    return ast.IntLiteral(span, code - 256 if code > 127 else code, char=True)


def string(text: str, span: Span, bag: DiagnosticBag) -> str:
    r"""The value of one string literal. A byte written ``\xff`` is a lone surrogate, as ``surrogateescape`` has it."""
    return _unescape(text[1:-1], span, bag)


def _unescape(body: str, span: Span, bag: DiagnosticBag) -> str:
    def one(match: re.Match[str]) -> str:
        hexadecimal, octal, four, eight, simple = match.groups()
        hint = r"a backslash itself is written '\\'"
        if simple is not None:
            if simple in _SIMPLE_ESCAPES:
                return _SIMPLE_ESCAPES[simple]
            if simple in "uU":
                hint = r"behind '\u' stand four hexadecimal digits, behind '\U' eight"
        elif four or eight:
            code = int(four or eight, 16)
            if code < 0xD800 or 0xDFFF < code <= 0x10FFFF:
                return chr(code)
            hint = "there is no such character"
        else:
            code = int(hexadecimal, 16) if hexadecimal else int(octal, 8)
            if code < 128:
                return chr(code)
            if code < 256:
                return chr(0xDC00 + code)
            hint = r"a byte is at most '\xff'"
        start = span.start + 1 + match.start()
        place = Span(span.file, start, start + len(match.group()))
        bag.error("bad-escape", f"'{match.group()}' means nothing in a string", place, hints=[hint])
        return "?"

    return _ESCAPE.sub(one, body) if "\\" in body else body


def write_string(value: str) -> str:
    """A string as a literal of the language."""
    return '"' + "".join(_write_character(c) for c in value) + '"'


def _write_character(c: str) -> str:
    code = ord(c)
    if c in _ESCAPED:
        return _ESCAPED[c]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\{code - 0xDC00:03o}"  # octal ends by itself; \x would eat digits that follow
    return f"\\{code:03o}" if code < 32 or code == 127 else c


def write_integer(node: ast.IntLiteral) -> str:
    """An integer or character constant as a literal of the language."""
    if node.char:
        code = node.value & 0xFF
        if code == ord("'"):
            return r"'\''"
        return f"'{_write_character(chr(code) if code < 128 else chr(0xDC00 + code))}'" if code != ord('"') else "'\"'"
    digits = str(node.value) if node.decimal else hex(node.value)
    return digits + ("u" if node.unsigned else "") + "l" * node.longs
