"""Waiting for what comes to be so in its own time: how long that takes depends on the machine's load."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 60.0  # an emulated machine may be busy with others; where all is well none of it passes


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Until something is so; it fails where that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be so"
        time.sleep(0.01)
