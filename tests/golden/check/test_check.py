"""What is said of advice that does not fit the kernel's types, as the user reads it."""

from __future__ import annotations

import pytest
from golden.harness import Case, cases, check
from golden.kernel import KERNEL
from support.compiling import errors_of


@pytest.mark.parametrize("case", cases("check", "bad_*.test"), ids=str)
def test_errors(case: Case, update_golden: bool) -> None:
    """Wrong advice is refused with these messages, all in one go."""
    text = errors_of(case.input, KERNEL)
    assert "error:" in text
    check(case, text, update_golden)


@pytest.mark.parametrize("case", cases("check", "warn_*.test"), ids=str)
def test_warnings(case: Case, update_golden: bool) -> None:
    """Doubtful advice compiles, with these warnings."""
    text = errors_of(case.input, KERNEL)
    assert "error:" not in text
    check(case, text, update_golden)
