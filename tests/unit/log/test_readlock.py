"""One reader of an aspect's log at a time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from klasy.errors import SystemRefusal
from klasy.log.readlock import ReadLock, is_read


def test_who_reads(tmp_path):
    """A second reader is refused, another log's is not; to ask whether there is one changes nothing."""
    folder = str(tmp_path)
    assert not is_read("a", folder)
    lock = ReadLock(folder, "a")
    assert is_read("a", folder)
    assert not is_read("b", folder)
    with pytest.raises(SystemRefusal, match="being read by another process"):
        ReadLock(folder, "a")
    assert is_read("a", folder)
    lock.release()
    assert not is_read("a", folder)
    assert os.listdir(folder) == []
    ReadLock(folder, "a").release()


def test_a_reader_that_was_killed(tmp_path):
    """It leaves its file, but reads no more, and is in nobody's way."""
    text = (
        f"from klasy.log.readlock import ReadLock; import os; ReadLock({str(tmp_path)!r}, 'a'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", text], check=False)
    assert os.listdir(tmp_path) == ["klasy-log-a.lock"]
    assert not is_read("a", str(tmp_path))
    ReadLock(str(tmp_path), "a").release()
