"""What all tests share: the option that rewrites golden files."""

from __future__ import annotations

import hypothesis
import pytest

# A deadline for each example says more about the machine's load than about the code.
hypothesis.settings.register_profile("klasy", deadline=None)
hypothesis.settings.load_profile("klasy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden``: write what is now, for a person to read in the diff."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected parts of tests/golden")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True where golden files are to be rewritten instead of compared."""
    return bool(request.config.getoption("--update-golden"))
