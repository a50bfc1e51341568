"""Types as C text."""

from __future__ import annotations

import pytest

from klasy.btf import types as t
from klasy.btf.btf import Btf
from klasy.btf.read import BtfError
from klasy.btf.write import write

INT, CHAR, S, PS, PPS, CS, PCS, CPS, A, PA, AP, FN, PFN, APFN, TD, FRET, F, VOID_PTR, ANON, E = range(1, 21)

BTF = Btf(
    write(
        [
            t.Int("int", 4, True, bits=32),
            t.Int("char", 1, True, bits=8),
            t.Struct("s", 8, (t.Member("a", INT, 0, 5), t.Member("", ANON, 32), t.Member("u", ANON, 32))),
            t.Ptr(S),
            t.Ptr(PS),
            t.Const(S),
            t.Ptr(CS),
            t.Const(PS),
            t.Array(INT, INT, 4),
            t.Ptr(A),
            t.Array(PS, INT, 0),
            t.FuncProto(0, (t.Param("p", PCS), t.Param("", INT)), variadic=True),
            t.Ptr(FN),
            t.Array(PFN, INT, 2),
            t.Typedef("fn_t", PFN),
            t.FuncProto(PFN, (t.Param("sig", INT), t.Param("f", TD))),
            t.Func("handler", FRET),
            t.Ptr(0),
            t.Union("", 4, (t.Member("c", CHAR, 0), t.Member("i", INT, 0))),
            t.Enum("e", 4, True, (("MINUS", -1), ("TWO", 2))),
        ]
    )
)


@pytest.mark.parametrize(
    ("type_id", "text"),
    [
        (0, "void"),
        (PPS, "struct s **"),
        (PCS, "const struct s *"),
        (CPS, "struct s *const"),
        (A, "int [4]"),
        (PA, "int (*)[4]"),
        (AP, "struct s *[]"),
        (PFN, "void (*)(const struct s *p, int, ...)"),
        (APFN, "void (*[2])(const struct s *p, int, ...)"),
        (TD, "fn_t"),
        (VOID_PTR, "void *"),
        (E, "enum e"),
        (ANON, "union {...}"),
    ],
)
def test_c_name(type_id, text):
    """Each type reads as C writes it."""
    assert BTF.c_name(type_id) == text


@pytest.mark.parametrize(
    ("type_id", "text"),
    [
        (CPS, "struct s *const x"),
        (PA, "int (*x)[4]"),
        (APFN, "void (*x[2])(const struct s *p, int, ...)"),
        (INT, "int x"),
    ],
)
def test_declaration(type_id, text):
    """A declared name stands where C wants it."""
    assert BTF.c_name(type_id, "x") == text


def test_prototype_of_a_function_that_returns_a_function():
    """The parameters of the inner and the outer function stand in C's order."""
    assert BTF.c_prototype(F) == "void (*handler(int sig, fn_t f))(const struct s *p, int, ...)"


def test_definitions():
    """A struct's definition shows offsets, bit-fields and anonymous members; an enum's its values."""
    assert BTF.c_definition(S).splitlines() == [
        "struct s {",
        "    int a:5;  /* 0:0 */",
        "    union {",
        "        char c;  /* 4 */",
        "        int i;  /* 4 */",
        "    };  /* 4 */",
        "    union {",
        "        char c;  /* 4 */",
        "        int i;  /* 4 */",
        "    } u;  /* 4 */",
        "};  /* 8 bytes */",
    ]
    assert BTF.c_definition(E).splitlines() == ["enum e {", "    MINUS = -1,", "    TWO = 2,", "};  /* 4 bytes */"]
    assert BTF.c_definition(TD) == "typedef void (*fn_t)(const struct s *p, int, ...);"


def test_types_nested_without_end_do_not_hang():
    """An array of itself, which only broken BTF has, is an error."""
    looped = Btf(write([t.Array(1, 1, 2)]))
    with pytest.raises(BtfError):
        looped.c_name(1)
    with pytest.raises(BtfError):
        looped.size_of(1)


def test_functions_nested_without_end_do_not_hang():
    """A function that takes itself, which only broken BTF has, is an error."""
    with pytest.raises(BtfError):
        Btf(write([t.FuncProto(0, (t.Param("f", 1),))])).c_name(1)
