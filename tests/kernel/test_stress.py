"""The reliability runs of tests/stress, scaled down: the same code, small numbers. ``make stress`` does them whole."""

from __future__ import annotations

from importlib import import_module

import pytest
from stress.run import NAMES
from support.livekernel import leftovers

# To find accesses to members takes the guest itself too long, for "sites", of the whole kernel, a minute. Each of the
# others is run on one kernel here, on both by make stress.
KERNELS = {"killing": "6.1", "network": "6.1", "churn": "6.12", "crowd": "6.12", "verifying": "6.12", "danger": "6.1"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.only_on(on)) for name, on in KERNELS.items()])
def test_scaled_down(name):
    """It finds no fault, and leaves nothing in the kernel."""
    experiment = import_module(f"stress.{name}")
    figures = experiment.run(experiment.SMALL, seed=experiment.SMALL)
    print(figures)
    assert figures
    assert leftovers() == {}


def test_all_are_run():
    """None is forgotten here but for those that take too long."""
    assert {*KERNELS, "sites", "everywhere"} == set(NAMES)
