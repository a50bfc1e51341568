"""Types of one name in several descriptions."""

from __future__ import annotations

import pytest

from klasy.btf.alike import alike
from klasy.btf.btf import Btf
from klasy.btf.types import Array, Enum, Fwd, Int, Member, Ptr, Struct, Typedef, Union
from klasy.btf.write import write

BASE = Btf(write([Int("int", 4, True), Struct("node", 16, (Member("next", 3, 0), Member("n", 1, 64))), Ptr(2)]))


def module(*types) -> Btf:
    """A module's own types, from id 4 on."""
    return Btf(write(types, BASE), BASE)


@pytest.mark.parametrize(
    ("types", "same"),
    [
        ([Struct("node", 16, (Member("next", 5, 0), Member("n", 1, 64))), Ptr(4)], True),
        ([Struct("node", 16, (Member("next", 5, 0), Member("n", 6, 64))), Ptr(4), Typedef("s32", 1)], True),
        ([Struct("node", 16, (Member("next", 5, 0), Member("n", 1, 64))), Ptr(6), Fwd("node", False)], True),
        ([Struct("node", 16, (Member("next", 5, 0), Member("n", 1, 64))), Ptr(6), Fwd("edge", False)], False),
        ([Struct("node", 16, (Member("next", 5, 0), Member("n", 1, 64))), Ptr(1)], False),
        ([Struct("node", 16, (Member("prev", 5, 0), Member("n", 1, 64))), Ptr(4)], False),
        ([Struct("node", 16, (Member("next", 5, 0), Member("n", 1, 96))), Ptr(4)], False),
        ([Struct("node", 16, (Member("next", 5, 0), Member("n", 6, 64))), Ptr(4), Int("unsigned", 4, False)], False),
        ([Struct("node", 24, (Member("next", 5, 0), Member("n", 1, 64))), Ptr(4)], False),
        ([Struct("node", 16, (Member("next", 5, 0),)), Ptr(4)], False),
        ([Union("node", 16, (Member("next", 5, 0), Member("n", 1, 64))), Ptr(4)], False),
        ([Fwd("node", False)], True),
        ([Fwd("node", True)], False),
    ],
)
def test_a_copy_of_the_kernels(types, same):
    """A module's struct is the kernel's where name, size and members are the same, and what these lead to."""
    assert alike((module(*types), 4), (BASE, 2)) is same
    assert alike((BASE, 2), (module(*types), 4)) is same


def test_what_pointers_lead_to_counts():
    """Structs of two modules that differ only in what a member points to are two."""
    parts = [Struct("own", 8, (Member("p", 5, 0),)), Ptr(6)]
    (one, two, three) = (module(*parts, Struct("far", n, (Member("n", 1, 8 * n - 32),))) for n in (4, 8, 4))
    assert not alike((one, 4), (two, 4))
    assert alike((one, 4), (three, 4))


def test_numbers_and_arrays():
    """Enumerations are one by their constants, arrays by their length and elements."""
    one = module(Enum("e", 4, False, (("A", 1),)), Array(4, 1, 3), Array(1, 1, 3))
    two = module(Enum("e", 4, False, (("A", 2),)), Array(4, 1, 3), Array(1, 1, 4), Enum("e", 4, False, (("A", 1),)))
    assert not alike((one, 4), (two, 4))
    assert alike((one, 4), (two, 7))
    assert not alike((one, 5), (two, 5))
    assert not alike((one, 6), (two, 6))
    assert alike((one, 6), (BASE, 1)) is False
