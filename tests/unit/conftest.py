"""What the unit tests share: a folder for caches that ends with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is left on the machine of what klasy keeps of the kernels that tests make up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLASY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
