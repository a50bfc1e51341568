"""An aspect that takes more than its budget switches itself off, and says so; another goes on. Costs are shown."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from support.livekernel import leftovers
from support.weaving import woven

from klasy.backend import Options
from klasy.backend.maps import Budget
from klasy.cli.main import main
from klasy.weaver.woven import read_registry

CONDITION = f"execution(ksys_lseek) && if(pid == {os.getpid()})"
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")


def seek(file: int, times: int) -> None:
    """So many calls, by this process."""
    for _ in range(times):
        os.lseek(file, 0, 0)


def test_over_budget(file, tmp_path, capfd):
    """It stops in the middle of its work, and at the next reading it is taken out with the figures."""
    (tmp_path / "b.asp").write_text(f'aspect dear {{ before(): {CONDITION} {{ log("%d %s", pid, comm); }} }}')
    assert main(["weave", "--budget", "0.2%", str(tmp_path / "b.asp")]) == 0
    seek(file, 20_000)
    (aspect,) = read_registry()
    with aspect:
        (count,) = aspect.counts()
        assert 0 < count.hits < 20_000
        assert not aspect.active
        over = aspect.over_budget()
        assert over is not None
        taken, span = over
        assert aspect.budget == 0.2
        assert taken > Budget(0.2, os.cpu_count() or 1).window
        assert span < 1_000_000_000 + taken
        seek(file, 100)
        assert aspect.counts()[0].hits == count.hits
    capfd.readouterr()
    assert main(["log"]) == 0
    captured = capfd.readouterr()
    assert captured.out.count("\n") == count.hits
    figures = r"[\d.e+]+ ms of processor time (?:within [\d.e+]+ ms|at once)"
    assert re.search(rf"aspect 'dear' was over its budget \({figures}\) and has stopped itself", captured.err)
    assert leftovers() == {}


def test_within_budget(file, capfd):
    """With enough it goes on; and the kernel's statistics give the cost by join point, where they are on."""
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        text = f"aspect cheap {{ count n; before(): {CONDITION} {{ n++; }} }}"
        with woven(text, limits=Options(budget=Budget(100, os.cpu_count() or 1))) as aspect:
            seek(file, 2_000)
            assert aspect.aspect.active
            assert aspect.aspect.over_budget() is None
            assert [count.hits for count in aspect.aspect.counts()] == [2_000]
            capfd.readouterr()
            assert main(["joinpoints", "cheap", "--json"]) == 0
            (point,) = json.loads(capfd.readouterr().out)["joinpoints"]
            assert point["runs"] >= 2_000
            assert point["run_time_ns"] > point["runs"]
            assert main(["joinpoints", "cheap"]) == 0
            assert " ns a run" in capfd.readouterr().out
    finally:
        STATISTICS.write_text(before)
