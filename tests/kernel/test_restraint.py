"""sample, limit and stop in the kernel: what passes and what is left out add up to what happened."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from support.livekernel import leftovers
from support.weaving import Account, woven

from klasy.cli.main import main
from klasy.weaver.woven import read_registry

FUNCTION = "vfs_fsync_range"
CONDITION = f"execution({FUNCTION}) && if(pid == {os.getpid()})"


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_sample(file, force):
    """Each hit is logged or counted as left out, and about one in four is logged."""
    number = 4000
    with woven(f"aspect s {{ before(): {CONDITION} {{ sample(1/4); log(1); }} }}", force=force) as aspect:
        for _ in range(number):
            os.fsync(file)
        (count,) = aspect.aspect.counts()
        logged = len(aspect.mine())
    assert count.hits == number
    assert logged + count.left_out == number
    assert abs(logged - number / 4) < 6 * (number * 3 / 16) ** 0.5  # six standard deviations


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_limit_with_several_threads(file, force):
    """Two CPUs at once: never more than the bucket held and what flowed in meanwhile; and nothing is lost count of."""
    text = f"aspect s {{ before(): {CONDITION} {{ limit(50/s); log(1); }} }}"
    with woven(text, force=force) as aspect, Account([FUNCTION]) as account:
        program = f"import os\nfor _ in range(4000): os.fsync({file})"
        started = time.monotonic()
        threads = [threading.Thread(target=exec, args=(program, {})) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - started
        (count,) = aspect.aspect.counts()
        passed = account.passed()[FUNCTION]
        events = aspect.mine()
    assert passed >= count.hits
    assert count.hits + count.missed >= 8000
    assert len(events) + count.left_out + count.lost == count.hits
    assert len(events) <= 50 + took * 50 + 1
    assert len(events) >= 50
    times = sorted(event.time_ns for event in events)
    for first, last in zip(times, times[60:], strict=False):
        assert last - first >= 10 * 20_000_000 - 20_000_000  # 61 within a time need ten intervals at least


def test_stop(file, tmp_path, capfd):
    """After stop() nothing is counted any more; the next reading shows the rest, takes the aspect out and says so."""
    (tmp_path / "s.asp").write_text(
        f'aspect once {{ before(): {CONDITION} {{ log("first and last"); stop(); log("behind"); }} }}'
    )
    assert main(["weave", str(tmp_path / "s.asp")]) == 0
    for _ in range(5):
        os.fsync(file)
    (aspect,) = read_registry()
    with aspect:
        assert not aspect.active
        assert [count.hits for count in aspect.counts()] == [1]
    assert main(["status"]) == 0
    assert "once (stopped)" in capfd.readouterr().out
    assert main(["log", "--keep"]) == 0
    assert capfd.readouterr().out.count("\n") == 2
    assert main(["log"]) == 0
    captured = capfd.readouterr()
    assert [line.rpartition(": ")[2] for line in captured.out.splitlines()] == ["first and last", "behind"]
    assert "aspect 'once' has stopped itself, and is unwoven now" in captured.err
    assert read_registry() == []
    assert leftovers() == {}


def test_status_takes_out_what_is_read(file, tmp_path, capfd):
    """An aspect that stopped and logged nothing more is taken out by klasy status."""
    (tmp_path / "s.asp").write_text(f"aspect silent {{ before(): {CONDITION} {{ stop(); }} }}")
    assert main(["weave", str(tmp_path / "s.asp")]) == 0
    os.fsync(file)
    assert main(["status"]) == 0
    captured = capfd.readouterr()
    assert "no aspect is woven" in captured.out
    assert "aspect 'silent' has stopped itself, and is unwoven now" in captured.err
    assert leftovers() == {}


def test_weave_f_ends(tmp_path):
    """klasy weave -f shows what was logged, and ends by itself."""
    (tmp_path / "s.asp").write_text('aspect done { before(): execution(vfs_mkdir) { log("made"); stop(); } }')
    command = [sys.executable, "-m", "klasy", "weave", "-f", str(tmp_path / "s.asp")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "woven: done" in process.stderr.readline()
        (tmp_path / "made").mkdir()
        out, err = process.communicate(timeout=60)
    assert out.count("made") == 1
    assert "aspect 'done' has stopped itself, and is unwoven now" in err
    assert process.returncode == 0
    assert leftovers() == {}
