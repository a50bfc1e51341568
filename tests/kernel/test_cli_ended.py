"""A weave for a while that is ended, in whatever way and at whatever moment: what is woven then, and what is said."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from support.commands import klasy_command, start
from support.livekernel import leftovers

from klasy.bpf import maps
from klasy.source import SourceFile
from klasy.weaver import session, unweave
from klasy.weaver.build import build

ASPECT = f"""aspect made {{
    pointcut execution(vfs_mkdir) && if(pid == {os.getpid()}) || call(vfs_mkdir) && within(do_mkdirat);
    before() {{ log(comm); }}
}}
"""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module", autouse=True)
def _known_kernel():
    """The kernel is read once, here, and not by each command that is forked off."""
    build(SourceFile("made.asp", ASPECT))


@pytest.fixture
def aspect(tmp_path):
    """An aspect whose weave has every kind of step; afterwards nothing may be left."""
    path = tmp_path / "made.asp"
    path.write_text(ASPECT)
    yield str(path)
    if leftovers():
        klasy_command("unweave")
    assert leftovers() == {}


@pytest.fixture
def folder(tmp_path):
    """Makes directories."""

    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).mkdir()

    return make


def signal_at(step: str, number: int):
    """What makes a command send itself a signal before the first step of a weave that begins so."""

    def prepare() -> None:
        really = session._Weave._step
        sent = []

        def one(weave, name: str) -> None:
            if name.startswith(step) and not sent:
                sent.append(name)
                os.kill(os.getpid(), number)
            really(weave, name)

        session._Weave._step = one

    return prepare


@pytest.mark.parametrize(
    ("way", "number", "steps"),
    [
        ([], signal.SIGTERM, ("begin", "attach", "registry")),
        (["-f"], signal.SIGINT, ("attach",)),
        (["-f"], signal.SIGHUP, ("load",)),
        (["--for", "1h"], signal.SIGTERM, ("registry",)),
    ],
)
def test_ended_while_weaving(aspect, way, number, steps):
    """A signal before the aspect is woven ends the command as signals do, 128 and its number, and leaves nothing."""
    for step in steps:
        done = klasy_command("weave", *way, aspect, prepare=signal_at(step, number))
        assert (done.status, done.out, done.err) == (128 + number, "", ""), step
        assert leftovers() == {}, step


@pytest.mark.parametrize(
    ("way", "step", "status"), [([], "pin", 128 + signal.SIGTERM), (["-f"], "rename", 0), (["--for", "1h"], "pin", 0)]
)
def test_ended_in_the_commit(aspect, way, step, status):
    """In the commit a signal waits: a plain weave is then taken back, one for a while is over as soon as it begins."""
    done = klasy_command("weave", *way, aspect, prepare=signal_at(step, signal.SIGTERM))
    assert done.status == status, done
    assert "Traceback" not in done.err
    assert leftovers() == {}


@pytest.mark.parametrize(
    ("way", "number"), [(["-f"], number) for number in ENDING] + [(["--for", "1h"], signal.SIGTERM)]
)
def test_ended_when_woven(aspect, folder, way, number):
    """A signal is how a weave for a while is told to end: the aspect is taken out, everything shown, all is well."""
    running = start("weave", *way, aspect)
    running.until(lambda: "woven: made" in running.err)
    folder("a", "b")
    running.signal(number)
    done = running.wait()
    assert done.status == 0, done
    assert "Traceback" not in done.err
    if "-f" in way:
        assert len(done.out.splitlines()) >= 2
    else:
        assert "unwoven: made, " in done.err
    assert leftovers() == {}


def test_killed_when_woven(aspect, folder):
    """Killed outright, the weaver leaves the aspect woven as a whole: it logs on, and is taken out as any other."""
    running = start("weave", "-f", aspect)
    running.until(lambda: "woven: made" in running.err)
    running.signal(signal.SIGKILL)
    assert running.wait().status == 128 + signal.SIGKILL
    (found,) = json.loads(klasy_command("status", "--json").out)["aspects"]
    assert (found["aspect"], found["active"], found["joinpoints"]) == ("made", True, 2)
    folder("a", "b")
    assert len(klasy_command("log", "made").out.splitlines()) >= 2
    assert klasy_command("unweave").out == "unwoven: made\n"
    assert leftovers() == {}


def test_killed_while_weaving(aspect):
    """Killed before the aspect is woven there is none, and what is left over any next command clears."""
    for step, command in (("load", "status"), ("attach", "log"), ("activate", "joinpoints"), ("rename", "unweave")):
        done = klasy_command("weave", "-f", aspect, prepare=signal_at(step, signal.SIGKILL))
        assert done.status == 128 + signal.SIGKILL
        following = klasy_command(command)
        assert following.status == 0
        assert "no aspect is woven" in following.out + following.err
        assert leftovers() == {}, step


@pytest.mark.parametrize(("way", "events"), [(["-f"], 0), (["-f", "--for", "1h"], 3)])
def test_nobody_reads_any_more(aspect, folder, way, events):
    """When the reader of its output goes away a weave that is followed ends, with or without something to say."""
    reading, writing = os.pipe()
    running = start("weave", *way, aspect, stdout=writing, close=[reading])
    os.close(writing)
    running.until(lambda: "woven: made" in running.err)
    with os.fdopen(reading) as file:
        folder("first")
        assert "made" in file.readline()
    folder(*(f"d{n}" for n in range(events)))
    done = running.wait()
    assert done.status == 128 + signal.SIGPIPE
    assert done.err.startswith("woven: made, 2 join points")
    assert "Traceback" not in done.err
    assert leftovers() == {}


def test_no_output_at_all(aspect):
    """Without -f nothing is written, so nobody need read."""
    reading, writing = os.pipe()
    os.close(reading)
    done = klasy_command("weave", "--for", "300ms", aspect, stdout=writing)
    os.close(writing)
    assert done.status == 0
    assert done.err.splitlines()[-1].startswith("unwoven: made, 0 hits")
    assert leftovers() == {}


def test_a_second_signal(aspect):
    """Who cannot wait and sends another signal has the aspect taken out all the same."""
    running = start("weave", "-f", aspect)
    running.until(lambda: "woven: made" in running.err)
    for _ in range(20):
        if Path(f"/proc/{running.pid}").exists():
            running.signal(signal.SIGINT)
    assert running.wait().status in (0, 128 + signal.SIGINT)
    assert leftovers() == {}


def signals_in_the_end():
    """A command gets more signals whenever it begins to take an aspect out, and has just done so."""
    really = unweave.unweave

    def one(names: list[str]) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        really(names)
        os.kill(os.getpid(), signal.SIGINT)

    unweave.unweave = one


@pytest.mark.parametrize("way", [["-f"], ["--for", "1h"]])
def test_signals_while_it_ends(aspect, way):
    """However many signals come while the aspect is taken out, it is."""
    running = start("weave", *way, aspect, prepare=signals_in_the_end)
    running.until(lambda: "woven: made" in running.err)
    running.signal(signal.SIGTERM)
    assert running.wait().status in (0, 128 + signal.SIGINT)
    assert leftovers() == {}


@pytest.fixture
def busy():
    """Processes that call umask as fast as they can, one for each processor; their pids."""
    pids = []
    for _ in range(os.cpu_count() or 1):
        if not (pid := os.fork()):
            while True:
                os.umask(0o022)
        pids.append(pid)
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("way", [["--for", "1s"], ["-f", "--for", "1s", "--json"]])
@pytest.mark.parametrize("how", ["execution(__x64_sys_umask)", "at(__x64_sys_umask)"])
def test_the_last_counts(tmp_path, busy, way, how):
    """What is told at the end is of the very end: hits are what advice has counted, and what has been logged."""
    path = tmp_path / "last.asp"
    path.write_text(f"aspect last {{ count n; before(): {how} {{ n++; log(pid); }} }}")
    done = klasy_command("weave", *way, "--buffer", "64K", str(path))
    assert done.status == 0
    lost = int(found[1]) if (found := re.search(r"(\d+) records? lost", done.err)) else 0
    if "-f" in way:
        *records, state = done.out.splitlines()
        (counted,) = json.loads(state)["aspects"][0]["states"][0]["values"]
        assert counted["value"] == len(records) + lost
    else:
        (counted,) = re.findall(r"last.n, count: (\d+)", done.out)
        hits, unread = map(int, re.search(r"unwoven: last, (\d+) hits, with (\d+) records", done.err).groups())
        assert int(counted) == hits == unread + lost
        assert hits > 1000
        assert lost > 0
    assert leftovers() == {}


@pytest.mark.parametrize("way", [[], ["-f"]])
def test_what_was_missed_is_told_in_the_end(tmp_path, way):
    """The kernel forgets with the probes what they missed; the command that takes them out tells it none the less."""
    path = tmp_path / "missing.asp"
    path.write_text("aspect missing { before(): at(htab_map_update_elem) {} }")
    running = start("weave", *(way or ["--for", "1min"]), str(path))
    running.until(lambda: "woven: missing" in running.err)
    with maps.create("hash", name="busy", key_size=4, value_size=4, max_entries=64) as busy:
        for n in range(60):
            busy.update(n.to_bytes(4, "little"), bytes(4))  # keeps all kprobe programs off that CPU
    running.signal(signal.SIGINT)
    done = running.wait()
    assert done.status == 0
    found = re.search(r"missing: (\d+) hits missed because", done.err)
    assert found is not None, done.err
    assert 60 <= int(found[1]) < 70
    assert leftovers() == {}
