"""What is written once and used in many aspects, in the kernel: imports."""

from __future__ import annotations

import os

import pytest
from support.livekernel import leftovers

from klasy.cli.main import main
from klasy.weaver.woven import open_woven

MINE = f"if(pid == {os.getpid()})"


@pytest.fixture(autouse=True)
def _nothing_left():
    """Nothing stays in the kernel."""
    yield
    assert leftovers() == {}


def test_import(file, tmp_path, capfd):
    """A pointcut of an imported file reaches the kernel; that file's aspect is not woven, and its text is kept."""
    library = f"aspect lib {{ pointcut mine(): {MINE}; before(): execution(vfs_fsync_range) {{ log(2); }} }}"
    (tmp_path / "lib.asp").write_text(library)
    (tmp_path / "user.asp").write_text(
        'import "lib.asp"; aspect user { before(): execution(vfs_fsync_range) && lib.mine() { log("synced"); } }'
    )
    assert main(["weave", str(tmp_path / "user.asp")]) == 0
    os.fsync(file)
    with open_woven("user") as aspect:
        assert [file["text"] for file in aspect.document["source"]["imports"]] == [library]
    capfd.readouterr()
    assert main(["log"]) == 0
    assert capfd.readouterr().out.count("synced") == 1
    assert main(["unweave"]) == 0
    assert capfd.readouterr().out == "unwoven: user\n"
