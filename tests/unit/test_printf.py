import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.printf import Directive, TemplateError, directives, faults, parse, render, show


def test_texts_and_directives_alternate():
    """A template is split into its literal texts and its directives, in order."""
    assert parse("a %d, 100%% of %-5.3lls|") == (
        "a ",
        Directive("%d", "d"),
        ", 100% of ",
        Directive("%-5.3lls", "s", "-", 5, 3),
        "|",
    )


def test_no_directive_is_one_text():
    """A template without conversions is a single text, an empty one nothing."""
    assert parse("hello") == ("hello",)
    assert parse("") == ()


@pytest.mark.parametrize("kind", ["p", "px", "pS", "ps"])
def test_pointer_forms(kind):
    """The kernel's %pS and %ps are one directive; a letter that ends the form begins the text again."""
    assert directives(parse(f"%{kind} x")) == [Directive(f"%{kind}", kind)]


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("%", "cut short"),
        ("a %5", "cut short"),
        ("%ll", "cut short"),
        ("%y", "'%y' is not known"),
        ("%n", "'%n' is not known"),
        ("%.2f", "floating-point"),
        ("%*d", "from an argument"),
        ("%.*s", "from an argument"),
        ("%pI4", "'%pI4' is not known"),
        ("%99999d", "over 1024"),
    ],
)
def test_bad_templates(template, part):
    """What C or klasy does not know is refused with the directive named."""
    with pytest.raises(TemplateError) as error:
        parse(template)
    assert part in error.value.message
    assert 0 <= error.value.start < error.value.end


def test_render_fills_in_order():
    """Each directive takes the next value; text stands for a value that could not be read."""
    pieces = parse("%d %s %x %d")
    assert render(pieces, [(-1, 4), ("eth0", 16), (-1, 2), ("<fault>", 8)]) == "-1 eth0 ffffffff <fault>"


def test_unsigned_value_with_signed_directive():
    """%d of an unsigned value shows the value, not its bits as signed."""
    assert show(Directive("%d", "d"), 0xFFFF_FFFF, 4) == "4294967295"


def test_what_has_no_size():
    """joinpoint.line and joinpoint.address are no part of the record: their size is 0, and they are shown whole."""
    assert render(parse("%u %x %X"), [(123, 0), (0xFFFFFFFF81000010, 0), (10, 0)]) == "123 ffffffff81000010 A"


def test_all_faults_in_order():
    """Each directive that means nothing is found, not only the first; the sound ones between them are none."""
    template = "%y %d %*d 100%% %pI4 %s %e %l"
    found = faults(template)
    assert [template[error.start : error.end] for error in found] == ["%y", "%*", "%pI4", "%e", "%l"]
    assert faults("%d %% %hhx") == []


_libc = ctypes.CDLL(None)


def _c_printf(template, value):
    buffer = ctypes.create_string_buffer(4096)
    _libc.snprintf(buffer, 4096, template.encode(), value)
    return buffer.value.decode()


@given(
    flags=st.lists(st.sampled_from("-+ #0"), unique=True).map("".join),
    width=st.sampled_from(["", "1", "7", "25"]),
    precision=st.sampled_from(["", ".", ".0", ".3", ".15"]),
    conversion=st.sampled_from("diuxXo"),
    value=st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20),
)
def test_integers_as_libc(flags, width, precision, conversion, value):
    """Numbers are laid out as libc's printf does, for any flags, width and precision."""
    template = f"%{flags}{width}{precision}ll{conversion}"
    (directive,) = directives(parse(template))
    assert show(directive, value, 8) == _c_printf(template, ctypes.c_longlong(value))


@given(
    length=st.sampled_from(["", "h", "hh"]),
    conversion=st.sampled_from("diuxXo"),
    precision=st.sampled_from(["", ".0", ".4"]),
    signed=st.integers(-(2**15), 2**15 - 1) | st.integers(-20, 20),
    size=st.sampled_from([1, 2, 4]),
)
def test_narrow_integers_as_libc(length, conversion, precision, signed, size):
    """A char and a short are passed as ints, h and hh cut what is passed: as C does it."""
    value = {1: ctypes.c_byte, 2: ctypes.c_short, 4: ctypes.c_int}[size](signed).value
    template = f"%{precision}{length}{conversion}"
    (directive,) = directives(parse(template))
    assert show(directive, value, size) == _c_printf(template, ctypes.c_int(value))


@given(
    flags=st.sampled_from(["", "-"]),
    width=st.sampled_from(["", "1", "12"]),
    precision=st.sampled_from(["", ".0", ".3"]),
    value=st.text("abcdef ", max_size=8),
)
def test_strings_as_libc(flags, width, precision, value):
    """Strings are cut and padded as libc's printf does."""
    template = f"%{flags}{width}{precision}s"
    (directive,) = directives(parse(template))
    assert show(directive, value) == _c_printf(template, ctypes.c_char_p(value.encode()))


def test_pointers_and_characters():
    """%p shows hexadecimal with 0x, padded within its width; %c the low byte as a character, or as a byte."""
    assert show(Directive("%p", "p"), 0xFFFF888000000000) == "0xffff888000000000"
    assert show(Directive("%20p", "p", width=20), 16) == "0x10".rjust(20)
    assert show(Directive("%c", "c"), 0x141) == "A"
    assert show(Directive("%2c", "c", width=2), 0xC3) == " \udcc3"  # the first of two bytes that are one character
    assert show(Directive("%c", "c"), -1) == "\udcff"
