"""The life of an aspect by the command line: weave, look, read, unweave, and what may come in between."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from support.commands import Done, klasy_command, start
from support.livekernel import leftovers

# What the test itself does; klasy makes and removes directories, too: in bpffs.
MAKE = f"""aspect make {{
    pointcut execution("int vfs_mkdir(.., struct dentry *dentry, ..)") && if(pid == {os.getpid()});
    before(struct dentry *dentry) {{ log(dentry->d_name.len, comm); }}
}}
"""
REMOVE = f"""aspect remove {{
    pointcut execution(vfs_rmdir) && if(pid == {os.getpid()});
    before() {{ log("%s removes a directory", comm); }}
}}
"""

COUNTS = {
    *("hits", "lost", "missed", "missed_partly", "unmarked", "missed_shared", "undecided", "left_out", "cut", "denied"),
    *("runs", "run_time_ns"),
}
JOINPOINT = {
    *("aspect", "advice", "kind", "function", "offset", "address", "module", "callee", "callee_module", "call"),
    *("file", "line", "data", "access", "mechanism", "why", *COUNTS),
}
UNREACHED = {
    *("aspect", "advice", "kind", "function", "offset", "address", "module", "callee", "callee_module", "call"),
    *("file", "line", "data", "access", "code", "reason"),
}
EVENT = {"time_ns", "aspect", "advice", "joinpoint", "cpu", "pid", "tid", "comm"}
STATUS = {
    *("aspect", "source", "since_ns", "active", "states", "joinpoints", "unreached", "hits", "lost"),
    *("unmarked", "missed", "missed_partly", "runs", "run_time_ns"),
    *("state_lost", "undecided", "left_out", "cut", "denied", "stillborn", "coverage", "filter", "unfollowed", "gone"),
    "filter_ended",
    *("budget", "stopped", "objects"),
}


@pytest.fixture
def folder(tmp_path):
    """A folder on a file system of its own, with two aspects beside it."""
    (tmp_path / "make.asp").write_text(MAKE)
    (tmp_path / "remove.asp").write_text(REMOVE)
    inside = tmp_path / "inside"
    inside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", inside], check=True)
    yield tmp_path
    klasy_command("unweave")
    subprocess.run(["umount", inside], check=True)
    assert leftovers() == {}


def directories(folder: Path, *names: str) -> None:
    """Make and remove directories: nothing else here does meanwhile."""
    for name in names:
        (folder / "inside" / name).mkdir()
        (folder / "inside" / name).rmdir()


def good(done: Done) -> Done:
    """A command that succeeded."""
    assert done.status == 0, done
    return done


def events(text: str) -> list[dict]:
    """Events of ``klasy log --json``."""
    return [json.loads(line) for line in text.splitlines()]


def lengths(text: str) -> list[int]:
    """What the aspect ``make`` logged."""
    return [event["values"]["dentry->d_name.len"] for event in events(text) if event["aspect"] == "make"]


def test_the_whole_life(folder):
    """Each command does what it says, prints what is so, and ends with 0."""
    done = good(klasy_command("weave", str(folder / "make.asp"), str(folder / "remove.asp")))
    assert done.out == ""
    assert done.err == "woven: make, 1 join point by fentry\nwoven: remove, 1 join point by fentry\n"
    directories(folder, "a", "bb", "ccc")

    (make, remove) = json.loads(good(klasy_command("status", "--json")).out)["aspects"]
    assert set(make) == STATUS
    assert (make["aspect"], make["hits"], make["joinpoints"], make["lost"], make["active"]) == ("make", 3, 1, 0, True)
    assert make["source"] == str(folder / "make.asp")
    assert (remove["aspect"], remove["hits"]) == ("remove", 3)
    table = good(klasy_command("status")).out.splitlines()
    assert table[0].split() == ["ASPECT", "WOVEN", "FOR", "JOIN", "POINTS", "HITS", "LOST", "MISSED", "COST", "SOURCE"]
    assert re.match(r"make    +\d+ s +1 +3 +0 +0\+? +not measured +/", table[1])

    document = json.loads(good(klasy_command("joinpoints", "make", "--json")).out)
    assert set(document) == {"joinpoints", "unreached", "unknown_callers"}
    (point,) = document["joinpoints"]
    assert set(point) == JOINPOINT
    assert (point["kind"], point["function"], point["offset"], point["hits"]) == ("execution", "vfs_mkdir", 0, 3)
    assert document["unreached"] == []
    lines = good(klasy_command("joinpoints")).out.splitlines()
    assert lines[0] == "aspect make: 1 join point, 1 of them hit, 3 hits"
    assert re.match(r"before#0  execution  vfs_mkdir +3 +0 +0\+? +fentry", lines[2])

    kept = good(klasy_command("log", "--keep", "--json"))
    logged = good(klasy_command("log", "--json"))
    assert kept == logged
    assert logged.err == ""
    found = events(logged.out)
    assert [event["aspect"] for event in found] == ["make", "remove"] * 3
    assert all(set(event) == EVENT | {"values" if event["aspect"] == "make" else "message"} for event in found)
    assert lengths(logged.out) == [1, 2, 3]
    times = [event["time_ns"] for event in found]
    assert times == sorted(times)
    comm = Path("/proc/self/comm").read_text().strip()
    assert found[0]["values"] == {"dentry->d_name.len": 1, "comm": comm}
    assert found[1]["message"] == f"{comm} removes a directory"
    assert (found[0]["pid"], found[0]["comm"]) == (os.getpid(), comm)
    assert found[0]["joinpoint"] == {"kind": "execution", "function": "vfs_mkdir", "offset": 0, "callee": None}
    assert good(klasy_command("log")) == (0, "", "")

    directories(folder, "dddd")
    (line,) = good(klasy_command("log", "make")).out.splitlines()
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d\.\d{{6}} +\d+ {comm}\[{os.getpid()}\] make: execution vfs_mkdir: "
        rf'dentry->d_name.len = 4, comm = "{comm}"',
        line,
    )
    assert good(klasy_command("unweave", "make")).out == "unwoven: make\n"
    assert good(klasy_command("unweave")).out == "unwoven: remove\n"
    assert good(klasy_command("unweave")).out == "no aspect is woven\n"
    assert good(klasy_command("status")).out == "no aspect is woven\n"
    assert good(klasy_command("joinpoints")).out == "no aspect is woven\n"
    assert good(klasy_command("log")).err == "no aspect is woven\n"


def test_weaving_twice(folder):
    """A second weave of a name is an error that says what to do; --replace does it; --quiet says nothing."""
    good(klasy_command("weave", str(folder / "make.asp")))
    directories(folder, "a")
    for options in ([], ["-f"], ["--for", "1s"]):
        done = klasy_command("weave", *options, str(folder / "make.asp"))
        assert done.status == 1
        assert re.fullmatch(
            r"klasy: the aspect 'make' is already woven since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n"
            r"  hint: take it out first \(klasy unweave make\), or weave with --replace\n",
            done.err,
        )
    assert lengths(good(klasy_command("log", "--json")).out) == [1]  # none of them took it out
    assert good(klasy_command("weave", "-q", "--replace", str(folder / "make.asp"))) == (0, "", "")
    directories(folder, "bb")
    assert lengths(good(klasy_command("log", "--json")).out) == [2]


def test_records_that_nobody_has_read(folder):
    """What goes with an aspect, unread, is said by who takes it out or puts another in its place."""
    unread = "klasy: aspect 'make' went with {} that nobody had read\n"
    good(klasy_command("weave", str(folder / "make.asp")))
    directories(folder, "a", "bb", "ccc")
    assert good(klasy_command("weave", "-q", "--replace", str(folder / "make.asp"))).err == unread.format("3 records")
    directories(folder, "dddd")
    done = good(klasy_command("unweave"))
    assert (done.out, done.err) == ("unwoven: make\n", unread.format("1 record"))

    good(klasy_command("weave", "-q", str(folder / "make.asp")))
    following = start("log", "-f", "--json", "make")
    directories(folder, "eeeee")
    following.until(lambda: lengths(following.out) == [5])
    following.signal(signal.SIGSTOP)
    directories(folder, "ffffff")
    assert good(klasy_command("unweave")).err == ""  # somebody does read it
    following.signal(signal.SIGCONT)
    assert lengths(good(following.wait()).out) == [5, 6]


def test_all_or_nothing(folder):
    """Of several files none is woven where one is wrong."""
    (folder / "wrong.asp").write_text("aspect wrong { pointcut execution(vfs_mkdirr); before() { log(pid); } }")
    done = klasy_command("weave", str(folder / "make.asp"), str(folder / "wrong.asp"))
    assert done.status == 1
    assert "wrong.asp:1:35: error: this kernel has no function 'vfs_mkdirr' [unknown-function]" in done.err
    assert "did you mean 'vfs_mkdir'" in done.err
    (folder / "again.asp").write_text(MAKE)
    done = klasy_command("weave", str(folder / "make.asp"), str(folder / "again.asp"))
    assert done.status == 1
    assert "again.asp:1:8: error: two aspects are named 'make' [duplicate-aspect]" in done.err
    assert leftovers() == {}


def test_wrong_names(folder):
    """Names that no woven aspect has are errors of the input, with the one that was meant; nothing is done then."""
    good(klasy_command("weave", "-", stdin=MAKE))
    for argv in (["unweave", "make", "mak"], ["log", "mak"], ["joinpoints", "mak"]):
        assert klasy_command(*argv) == (1, "", "klasy: no aspect 'mak' is woven\n  hint: did you mean 'make'?\n")
    assert json.loads(good(klasy_command("status", "--json")).out)["aspects"][0]["source"] == "<stdin>"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_following_a_weave(folder, number):
    """weave -f shows what is logged, all of it, and takes the aspect out when it is told to end."""
    running = start("weave", "-f", "--json", str(folder / "make.asp"))
    running.until(lambda: "woven: make" in running.err)
    directories(folder, "a", "bb")
    running.until(lambda: lengths(running.out) == [1, 2])
    directories(folder, "ccc", "dddd")
    running.signal(number)
    done = running.wait()
    assert done.status == 0, done
    assert lengths(done.out) == [1, 2, 3, 4]
    assert leftovers() == {}


def test_a_weave_for_a_time(folder):
    """--for ends it, with -f and without; without, it says how often it was hit and that nobody read."""
    done = good(klasy_command("weave", "-f", "--for", "500ms", str(folder / "make.asp")))
    assert done.out == ""
    done = good(klasy_command("weave", "--for", "500ms", str(folder / "make.asp")))
    assert done.err.splitlines()[1:] == ["unwoven: make, 0 hits"]
    running = start("weave", "--for", "1h", str(folder / "make.asp"))  # however slow the machine is
    running.until(lambda: "woven: make" in running.err)
    directories(folder, "a", "bb")
    assert lengths(good(klasy_command("log", "--json")).out) == [1, 2]
    directories(folder, "ccc")
    running.signal(signal.SIGTERM)
    done = good(running.wait())
    assert done.err.splitlines()[1:] == ["unwoven: make, 3 hits, with 1 record that nobody had read"]
    assert leftovers() == {}


def test_another_takes_out_what_is_followed(folder):
    """Who follows an aspect ends when another takes it out, having shown it to the end."""
    weaving = start("weave", "-f", "--json", str(folder / "make.asp"))
    weaving.until(lambda: "woven: make" in weaving.err)
    directories(folder, "a")
    weaving.until(lambda: lengths(weaving.out) == [1])
    assert good(klasy_command("unweave", "--quiet", "make")).out == ""
    assert good(weaving.wait()).err == "woven: make, 1 join point by fentry\nklasy: aspect 'make' was unwoven\n"

    weaving = start("weave", "-f", str(folder / "make.asp"))
    weaving.until(lambda: "woven: make" in weaving.err)
    good(klasy_command("weave", "--replace", str(folder / "make.asp")))
    said = "klasy: aspect 'make' was replaced\n  hint: klasy log -f make follows the one that is woven now\n"
    assert good(weaving.wait()).err.endswith(said)
    assert [a["aspect"] for a in json.loads(good(klasy_command("status", "--json")).out)["aspects"]] == ["make"]


def test_following_logs(folder):
    """log -f shows records as they come, refuses a second reader, and ends by a signal or with the last aspect."""
    good(klasy_command("weave", str(folder / "make.asp"), str(folder / "remove.asp")))
    directories(folder, "a")
    following = start("log", "-f", "--json")
    following.until(lambda: lengths(following.out) == [1])
    directories(folder, "bb")
    following.until(lambda: lengths(following.out) == [1, 2])
    second = klasy_command("log", "make")
    assert second.status == 3
    assert second.err.startswith(
        "klasy: the log of aspect 'make' is being read by another process\n"
        "  hint: each record is read once; end the other reader first (fuser /run/klasy-log-make.lock names it)\n"
    )
    following.signal(signal.SIGTERM)
    assert lengths(good(following.wait()).out) == [1, 2]
    assert list(Path("/run").glob("klasy-log*")) == []

    following = start("log", "-f", "--json", "make")
    directories(folder, "ccc")
    following.until(lambda: lengths(following.out) == [3])
    good(klasy_command("unweave", "make"))
    good(following.wait())


def test_a_full_disk(folder):
    """What cannot be written is not lost, and what was written does not come again."""
    small = folder / "small"
    small.mkdir()
    good(klasy_command("weave", str(folder / "make.asp")))
    directories(folder, *("n" * (n % 200 + 1) for n in range(300)))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", small], check=True)
    with open(small / "log", "w+") as file:
        full = klasy_command("log", "--json", "make", stdout=file.fileno())
        file.seek(0)
        written = file.read()
    subprocess.run(["umount", small], check=True)
    assert full.status == 3
    assert full.err == (
        "klasy: cannot write the log: No space left on device\n"
        "  hint: the events that were not written stay in the kernel's buffer; make room and run klasy log again\n"
    )
    rest = good(klasy_command("log", "--json", "make")).out
    first = lengths(written)
    assert 10 < len(first) < 300
    assert first + lengths(rest) == [n % 200 + 1 for n in range(300)]


def test_a_full_disk_under_a_weave(folder):
    """A weave that is followed ends where its log cannot be written, with everything taken out."""
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", small], check=True)
    with open(small / "log", "w") as file:
        running = start("weave", "-f", "--json", str(folder / "make.asp"), stdout=file.fileno())
        running.until(lambda: "woven: make" in running.err)
        directories(folder, *"abcdefghijklmnopqrstuvwxyz")
        done = running.wait()
    subprocess.run(["umount", small], check=True)
    assert done.status == 3
    assert done.err.splitlines()[1:] == [
        "klasy: cannot write the log: No space left on device",
        "  hint: the aspect was taken out again, and the events that were not written are lost with it",
    ]
    assert leftovers() == {}


def test_nobody_reads(folder):
    """klasy log | head: no error; what was not handed on stays."""
    good(klasy_command("weave", str(folder / "make.asp")))
    number = 600  # more than a pipe holds
    directories(folder, *("n" * (n % 200 + 1) for n in range(number)))
    reading, writing = os.pipe()
    running = start("log", "--json", "make", stdout=writing, close=[reading])
    os.close(writing)
    with os.fdopen(reading) as file:
        first = file.readline()
    done = running.wait()
    assert (done.status, done.err) == (128 + signal.SIGPIPE, "")
    rest = good(klasy_command("log", "--json", "make")).out
    assert lengths(first) == [1]
    seen = lengths(rest)
    assert seen == [n % 200 + 1 for n in range(number)][-len(seen) :]
    assert len(seen) > number // 2


def test_hostile_names(folder):
    """Whatever a task is called and logs, its log is harmless on a terminal and sound as JSON."""
    good(klasy_command("weave", str(folder / "make.asp")))
    before = Path("/proc/self/comm").read_bytes()
    hostile = b'\x1b[31m\x07\n\xff"{'
    for form in ("text", "json"):
        Path("/proc/self/comm").write_bytes(hostile)
        directories(folder, "a")
        Path("/proc/self/comm").write_bytes(before.strip())
        done = good(klasy_command("log", *(["--json"] * (form == "json"))))
        (line,) = done.out.splitlines()
        assert line.isprintable()
        if form == "json":
            assert json.loads(line)["comm"] == '\x1b[31m\x07\n\\xff"{'
            assert json.loads(line)["values"]["comm"] == '\x1b[31m\x07\n\\xff"{'
        else:
            assert ' \\x1b[31m\\x07\\n\\xff"{[' in line
            assert 'comm = "\\x1b[31m\\x07\\n\\xff\\"{"' in line


def test_lost_records_are_said(folder):
    """Where the buffer overflows the log says how much is missing and where that is told; a larger one holds more."""
    logged = {}
    for buffer in ("4K", "64K"):
        good(klasy_command("weave", "--buffer", buffer, "--replace", str(folder / "make.asp")))
        directories(folder, *("n" * (n % 100 + 1) for n in range(200)))
        done = good(klasy_command("log", "--json"))
        logged[buffer] = len(done.out.splitlines())
        lost = re.fullmatch(
            r"klasy: make: (\d+) records lost because the buffer was full\n"
            r"  hint: klasy joinpoints make tells where; weave it with a larger --buffer\n"
            r"|",
            done.err,
        )
        assert lost, done.err
        assert logged[buffer] + int(lost[1] or 0) == 200
        (point,) = json.loads(good(klasy_command("joinpoints", "make", "--json")).out)["joinpoints"]
        assert (point["hits"], point["lost"]) == (200, 200 - logged[buffer])
    assert 20 < logged["4K"] < logged["64K"] == 200


def test_a_dry_run(folder):
    """joinpoints of a file weaves nothing, shows the same places as the weave, and the code."""
    (folder / "calls.asp").write_text("aspect calls { before(): call(dput) && within(path_put) || call(vfs_mkdir) {} }")
    document = json.loads(good(klasy_command("joinpoints", "--json", str(folder / "calls.asp"))).out)
    assert set(document) == {"shadows", "unreached"}
    shadow = JOINPOINT - COUNTS
    assert document["shadows"]
    assert all(set(each) == shadow for each in document["shadows"])
    assert all(set(each) == UNREACHED for each in document["unreached"])
    text = good(klasy_command("joinpoints", "--show-code", "--why", str(folder / "calls.asp"))).out
    assert "dput <- path_put+0x" in text
    assert "call bpf_" in text
    assert re.search(r"\n +\d+: exit\n", text)
    assert leftovers() == {}
    good(klasy_command("weave", str(folder / "calls.asp")))
    woven = json.loads(good(klasy_command("joinpoints", "--json", "calls")).out)["joinpoints"]
    assert [{k: v for k, v in each.items() if k in shadow} for each in woven] == document["shadows"]
