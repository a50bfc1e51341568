"""The reliability runs of tests/stress, scaled down: the same code, small numbers. ``make stress`` does them whole."""

from __future__ import annotations

from importlib import import_module

import pytest
from stress.run import NAMES
from support.livekernel import leftovers


# To find accesses to members takes the guest itself too long, and for "sites", of the whole kernel, a minute.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"sites", "everywhere"}])
def test_scaled_down(name):
    """It finds no fault, and leaves nothing in the kernel."""
    experiment = import_module(f"stress.{name}")
    figures = experiment.run(experiment.SMALL, seed=experiment.SMALL)
    print(figures)
    assert figures
    assert leftovers() == {}
