"""What is said of what the compiler inlined: what is known without debug information, and no more."""

from __future__ import annotations

from support.fakekernel import FakeKernel
from support.matching import messages

DECLARATIONS = "int split(int a); int whole(int a); int caller(int a);"
KERNEL = FakeKernel(DECLARATIONS, "caller: split.part.0\nsplit: whole")


def test_a_function_inlined_in_part():
    """Where its rest shows that a function was inlined in part, that is said, by the name of the rest."""
    said = messages(KERNEL, "before(): call(split) && within(split) { log(1); }")
    assert "split.part.0 is the rest of split, whose beginning was inlined: such calls cannot be seen" in said


def test_calls_that_were_inlined_are_not_counted():
    """An error about calls that are not there says that inlined ones cannot be known."""
    said = messages(KERNEL, "before(): call(whole) && within(caller) { log(1); }")
    assert "only debug information could tell" in said
    assert "is the rest of" not in said


def test_a_name_without_code():
    """Of a name of which nothing is known it is said why the source may have it; where more is known, that alone."""
    said = messages(KERNEL, "before(): execution(skb_put_zero) { log(1); }")
    assert (
        "it is a macro, is in a module that is not loaded, or was inlined everywhere (execution and call find that"
        in said
    )
    known = FakeKernel(DECLARATIONS, absent={"early": "it runs only while the kernel boots"})
    said = messages(known, "before(): execution(early) { log(1); }")
    assert "only while the kernel boots" in said
    assert "macro" not in said
