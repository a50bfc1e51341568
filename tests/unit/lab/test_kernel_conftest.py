"""The guard of tests/kernel: outside the lab its tests are skipped, and never silently where they were meant to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[2] / "kernel" / "conftest.py"


@pytest.mark.skipif("KLASY_LAB" in os.environ, reason="these are facts about a machine that is not the lab's guest")
@pytest.mark.parametrize(("demanded", "status", "summary"), [("", 0, "1 skipped"), ("1", 1, "1 error")])
def test_outside_the_lab(tmp_path: Path, demanded: str, status: int, summary: str) -> None:
    """A kernel test is skipped with the command that would run it; KLASY_KERNEL_TESTS=1 makes that a failure."""
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_one.py").write_text("def test_one():\n    raise SystemError('it ran')\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"KLASY_KERNEL_TESTS": demanded},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert summary in done.stdout
    assert "klasy lab -- .venv/bin/python -m pytest tests/kernel" in done.stdout
    assert "it ran" not in done.stdout
