"""What all tests share: the option that rewrites golden files."""

from __future__ import annotations

import hypothesis
import pytest

# How long an example takes says more about the machine's load than about the code.
_TIMELESS = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}

# The same examples in each run, so that what fails fails again; --hypothesis-seed=N draws others.
hypothesis.settings.register_profile("klasy", derandomize=True, **_TIMELESS)
hypothesis.settings.register_profile("klasy seeded", derandomize=False, **_TIMELESS)


def pytest_configure(config: pytest.Config) -> None:
    """Which of them it is."""
    seeded = config.getoption("--hypothesis-seed", None) is not None
    hypothesis.settings.load_profile("klasy seeded" if seeded else "klasy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden``: write what is now, for a person to read in the diff."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected parts of tests/golden")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True where golden files are to be rewritten instead of compared."""
    return bool(request.config.getoption("--update-golden"))
