"""Who reads an aspect's log: one at a time, as each record is read once."""

from __future__ import annotations

import fcntl
import os

from klasy.errors import KernelRefused, SystemRefusal
from klasy.plain import suppress

LOCKS = "/run"


def is_read(aspect: str, folder: str = LOCKS) -> bool:
    """Whether somebody reads an aspect's log now."""
    try:
        descriptor = os.open(lock_path(aspect, folder), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False  # who had it was killed


def lock_path(aspect: str, folder: str = LOCKS) -> str:
    """The file that is locked while an aspect's log is read."""
    return f"{folder}/klasy-log-{aspect}.lock"


class ReadLock:
    """A lock on the reading of an aspect's log, held until it is released or the process ends."""

    def __init__(self, folder: str, aspect: str) -> None:
        self._path = lock_path(aspect, folder)
        try:
            while not self._take(aspect):
                pass
        except OSError as error:
            raise KernelRefused(f"cannot lock the log of aspect '{aspect}' by {self._path}", error.errno or 0) from None

    def _take(self, aspect: str) -> bool:
        """Lock the file; False if its holder removed it meanwhile, and another one is needed."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
                return True
        except BlockingIOError:
            os.close(self._descriptor)
            raise SystemRefusal(
                f"the log of aspect '{aspect}' is being read by another process",
                hint=f"each record is read once; end the other reader first (fuser {self._path} names it)",
            ) from None
        except FileNotFoundError:
            pass
        os.close(self._descriptor)
        return False

    def release(self) -> None:
        """Let go, and leave nothing behind."""
        with suppress(OSError):
            os.unlink(self._path)
        os.close(self._descriptor)
