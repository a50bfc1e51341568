"""The reliability runs of tests/stress, scaled down: the same code, small numbers. ``make stress`` does them whole."""

from __future__ import annotations

from importlib import import_module

import pytest
from stress.run import NAMES
from support.livekernel import leftovers


# To draw members of the whole kernel and to find their accesses takes the guest itself a minute.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "sites"])
def test_scaled_down(name):
    """It finds no fault, and leaves nothing in the kernel."""
    experiment = import_module(f"stress.{name}")
    figures = experiment.run(experiment.SMALL, seed=experiment.SMALL)
    print(figures)
    assert figures
    assert leftovers() == {}
