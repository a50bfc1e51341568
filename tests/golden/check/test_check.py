"""What is said of advice that does not fit the kernel's types, as the user reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from golden.harness import Case, cases, check
from golden.kernel import KERNEL
from support.compiling import errors_of

if TYPE_CHECKING:
    from collections.abc import Iterator


SHAPES = Path(__file__).parents[2] / "data" / "programs" / "shapes.so"


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the programs are that the cases name without a path in front; bare.so has no debug information."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "bare.so").write_bytes(SHAPES.read_bytes().replace(b".debug_info", b".nothing_in"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{SHAPES.parent}:{folder}")
        yield


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
