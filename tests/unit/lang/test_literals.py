"""Numbers, characters and strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.diag import DiagnosticBag
from klasy.lang import ast, literals
from klasy.lang.typenames import normalise
from klasy.source import SourceFile, Span

SPAN = Span(SourceFile("test.asp", " " * 100), 0, 10)


def _integer(text: str) -> tuple[ast.IntLiteral, list[str]]:
    bag = DiagnosticBag()
    node = literals.integer(text, SPAN, bag)
    return node, [d.code for d in bag.items]


@pytest.mark.parametrize(
    ("text", "value", "unsigned", "longs", "decimal"),
    [
        ("0", 0, False, 0, True),
        ("42", 42, False, 0, True),
        ("0x2A", 42, False, 0, False),
        ("052", 42, False, 0, False),
        ("0b101010", 42, False, 0, False),
        ("42u", 42, True, 0, True),
        ("42Lu", 42, True, 1, True),
        ("42ULL", 42, True, 2, True),
        ("42ll", 42, False, 2, True),
        ("18446744073709551615", 2**64 - 1, False, 0, True),
    ],
)
def test_integers(text: str, value: int, unsigned: bool, longs: int, decimal: bool) -> None:
    """An integer constant has the value and the type that C gives it."""
    node, errors = _integer(text)
    assert errors == []
    assert (node.value, node.unsigned, node.longs, node.decimal) == (value, unsigned, longs, decimal)


@pytest.mark.parametrize(
    "text", ["0x", "09", "0b2", "1lul", "1lL", "1uu", "12ab", "1.5", "18446744073709551616", "9" * 5000]
)
def test_what_is_no_integer(text: str) -> None:
    """Malformed numbers, and those beyond 64 bits, are errors."""
    assert _integer(text)[1] == ["bad-number"]


@given(st.integers(0, 2**64 - 1), st.booleans(), st.integers(0, 2), st.booleans())
def test_written_integers_are_read_back(value: int, unsigned: bool, longs: int, decimal: bool) -> None:
    """Writing and reading an integer gives the same."""
    node = ast.IntLiteral(SPAN, value, unsigned, longs, decimal)
    assert _integer(literals.write_integer(node)) == (node, [])


@given(st.integers(-128, 127))
def test_written_characters_are_read_back(value: int) -> None:
    """Writing and reading a character constant gives the same."""
    node = ast.IntLiteral(SPAN, value, char=True)
    bag = DiagnosticBag()
    assert literals.character(literals.write_integer(node), SPAN, bag) == node
    assert bag.items == []


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_written_strings_are_read_back(value: str) -> None:
    """Writing and reading a string gives the same."""
    bag = DiagnosticBag()
    assert literals.string(literals.write_string(value), SPAN, bag) == value
    assert bag.items == []


@given(st.characters(exclude_categories=("Cs",)))
def test_characters_by_their_number(character: str) -> None:
    r"""Any character can be written as \U and eight digits, or if it has four as \u."""
    bag = DiagnosticBag()
    assert literals.string(f'"a\\U{ord(character):08x}1"', SPAN, bag) == f"a{character}1"
    if ord(character) < 0x10000:
        assert literals.string(f'"a\\u{ord(character):04X}1"', SPAN, bag) == f"a{character}1"
    assert bag.items == []


@given(st.binary())
def test_strings_hold_any_bytes(data: bytes) -> None:
    r"""Bytes written as \xff come out of the string as they were."""
    text = '"' + "".join(f"\\{byte:03o}" for byte in data) + '"'
    value = literals.string(text, SPAN, DiagnosticBag())
    assert value.encode("utf-8", "surrogateescape") == data


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("int", "int"),
        ("signed", "int"),
        ("unsigned", "unsigned int"),
        ("long unsigned int", "unsigned long"),
        ("int long long unsigned", "unsigned long long"),
        ("short int", "short"),
        ("signed char", "signed char"),
        ("char", "char"),
        ("char unsigned", "unsigned char"),
        ("long double", "long double"),
        ("void", "void"),
        ("long char", None),
        ("short long", None),
        ("long long long", None),
        ("int int", None),
        ("signed unsigned", None),
        ("void int", None),
        ("unsigned double", None),
        ("unsigned _Bool", None),
    ],
)
def test_basic_types_have_one_name(words: str, name: str | None) -> None:
    """The words of a basic type come in any order; not every heap of words is one."""
    assert normalise(words.split()) == name
