"""Tests of the lab itself: they begin guests, on any machine with QEMU. The kernels are fetched on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from klasy.lab.fetch import kernel_files
from klasy.lab.guest import Guest
from klasy.lab.kernels import KERNELS, LabKernel

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _kernels_are_there() -> None:
    """On a fresh machine they are fetched before the first test: the lab says so on standard error, once."""
    for kernel in KERNELS:
        kernel_files(kernel)


@pytest.fixture(scope="module", params=KERNELS, ids=lambda kernel: kernel.name)
def kernel(request: pytest.FixtureRequest) -> LabKernel:
    """Each supported kernel in turn."""
    found: LabKernel = request.param
    return found


@pytest.fixture(scope="module")
def guest(kernel: LabKernel) -> Iterator[Guest]:
    """One guest for all tests of a module; what they leave in it, later ones see."""
    with Guest(kernel) as running:
        yield running
