"""Run ``klasy lab`` as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

KLASY = str(Path(sys.executable).with_name("klasy"))


def lab(
    *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run ``klasy lab ARGUMENTS``; ``env`` is added to ours."""
    return subprocess.run(
        [KLASY, "lab", *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=300,
        cwd=cwd,
        env=os.environ | (env or {}),
    )
