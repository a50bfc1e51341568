"""A weave for a while that is ended, in whatever way and at whatever moment: what is woven then, and what is said."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from support.commands import klasy_command, start
from support.livekernel import leftovers

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
