"""Where the lab keeps what it fetched and built, and how two labs share that place safely.

The cache may be deleted at any time; everything in it can be made again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


def lab_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The lab's directory (not made): ``$KLASY_CACHE/lab``, else below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := environ.get("KLASY_CACHE"):
        return Path(chosen).absolute() / "lab"
    base = environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    root = Path(base) if os.path.isabs(base) else Path(environ.get("HOME") or Path.home()) / ".cache"
    return root / "klasy" / "lab"


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``, which ends at the latest with this process.

    ``on_wait`` is called once when another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keep_newest(paths: Iterable[Path], count: int) -> None:
    """Remove all but the ``count`` last modified of ``paths``: several checkouts share the cache, and take turns."""
    by_age = sorted((path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in by_age[count:]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def all_or_nothing(target: Path) -> Iterator[Path]:
    """A new directory that becomes ``target`` when the block ends well, and vanishes when it does not.

    The caller holds the lock; leftovers of killed predecessors are cleared here.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    for leftover in target.parent.glob(prefix + "*"):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    fresh.chmod(0o755)
    try:
        yield fresh
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
