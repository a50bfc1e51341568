"""File systems of a test's own, each on a block device of its own."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Else a thread of the kernel's writes the rest of it in its own time.
_OPTIONS = {"ext4": ["-E", "lazy_itable_init=0,lazy_journal_init=0"]}


@contextmanager
def file_system(place: Path, kind: str = "ext4", size: int = 8 << 20) -> Iterator[Path]:
    """The folder, below ``place``, where one of ``size`` bytes is mounted."""
    subprocess.run(["modprobe", "-a", "loop", kind], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        image, folder = place / "image", place / "disk"
        folder.mkdir()
        with open(image, "wb") as file:
            file.truncate(size)
        subprocess.run([f"mkfs.{kind}", "-q", *_OPTIONS.get(kind, []), image], check=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)
    finally:
        subprocess.run(["umount", place], check=True)
