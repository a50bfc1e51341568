"""What klasy stat --clear does while advice counts: what is taken, over all the times, is all there was."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter

import pytest
from support.commands import good
from support.livekernel import leftovers
from support.weaving import woven

from klasy.weaver.states import read_states
from klasy.weaver.woven import WovenAspect

CALLS = 500_000
TEXT = """
aspect cleared {
    count n; sum s; avg a; hist h; lhist(0, 8, 1) l; u64 x; count seen; max m;
    before(): execution(__x64_sys_umask) && if(comm == "klasy-clear") {
        n++; s.add(3); a.add(2); h.add(5); l.add(cpu); x += 1; seen++; m.add(7);
        if (seen < 0) log("never");
    }
}"""


@pytest.fixture
def callers():
    """Two processes that make calls while the test clears; their pids, and what waits for their end."""
    pids = []
    for _ in range(2):
        if not (pid := os.fork()):
            with open("/proc/self/comm", "w") as file:
                file.write("klasy-clear")
            os.kill(os.getpid(), signal.SIGSTOP)
            for _ in range(CALLS):
                os.umask(0o022)
            os._exit(0)
        os.waitpid(pid, os.WUNTRACED)
        pids.append(pid)
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def ended(pid: int) -> bool:
    """Whether a child has ended; it is not waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_nothing_is_lost_between(callers) -> None:
    """Sums over all that was taken are what was done, of each kind of state that has no keys."""
    total: Counter[str] = Counter()
    greatest = set()
    times = 0

    def clear(aspect: WovenAspect) -> None:
        for content in read_states(aspect, take=True):
            ((_, words),) = content.elements
            if content.state.kind == "max":
                greatest.add(words)
            elif content.state.kind == "avg":
                total["a.count"] += words[0]
                total["a.total"] += words[1]
            else:
                total[content.state.name] += sum(words)

    with woven(TEXT) as made:
        for pid in callers:
            os.kill(pid, signal.SIGCONT)
        while not all(map(ended, callers)):
            clear(made.aspect)
            times += 1
        clear(made.aspect)
        (at_last,) = {content.elements for content in read_states(made.aspect) if content.state.name == "n"}
    calls = 2 * CALLS
    wanted = {"n": calls, "s": 3 * calls, "a.count": calls, "a.total": 2 * calls, "h": calls, "l": calls}
    assert total == wanted | {"x": calls, "seen": calls}
    assert len(greatest) == 2  # nothing, and 7
    assert times > 4
    assert at_last == ((b"", (0,)),)


def test_the_command(tmp_path) -> None:
    """klasy stat --clear shows what there was, and the next one nothing."""
    path = tmp_path / "cleared.asp"
    path.write_text(TEXT.replace("klasy-clear", "klasy-clear-me"))
    good("weave", str(path))
    child = os.fork()
    if not child:
        with open("/proc/self/comm", "w") as file:
            file.write("klasy-clear-me")
        for _ in range(5):
            os.umask(0o022)
        os._exit(0)
    os.waitpid(child, 0)
    told = [good("stat", "--clear", "--json").out for _ in range(2)]
    good("unweave")
    shown = [{s["name"]: s["values"][0] for s in json.loads(out)["aspects"][0]["states"]} for out in told]
    assert [each["n"]["value"] for each in shown] == [5, 0]
    assert [each["m"]["value"] for each in shown] == [7, None]
    assert [(each["a"]["count"], each["a"]["total"]) for each in shown] == [(5, 10), (0, 0)]
    assert [each["h"]["count"] for each in shown] == [5, 0]
    assert leftovers() == {}
