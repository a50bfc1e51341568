"""What all tests share: the option that rewrites golden files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In the tests' folder: to tidy it up would be to delete what is mounted there, of this machine's own kernel."""
    yield
    folder = str(tmp_path_factory.getbasetemp())
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    assert [line for line in mounts if line.split()[1].startswith(folder)] == []


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True where golden files are to be rewritten instead of compared."""
    return bool(request.config.getoption("--update-golden"))
