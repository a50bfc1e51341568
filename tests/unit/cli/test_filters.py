"""What the filter options of a command line stand for, over a /proc of the tests' own."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from klasy.cli import filters
from klasy.cli.command import Command
from klasy.cli.filters import ended, read_filter
from klasy.errors import InputError, SystemRefusal, UsageError
from klasy.match.filter import Cgroup, Filter, User


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A /proc with the processes 12 and 34, a thread 35 of the latter, and one mount of cgroups."""
    for pid, tgid in ((12, 12), (34, 34), (35, 34)):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/status").write_text(f"Name:\tx\nTgid:\t{tgid}\nPid:\t{pid}\n")
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    for kind in ("pid", "cgroup"):
        (tmp_path / f"proc/self/ns/{kind}").touch()
        inode = (tmp_path / f"proc/self/ns/{kind}").stat().st_ino
        monkeypatch.setitem(filters._INITIAL, kind, inode)
    top = tmp_path / "cgroup"
    (top / "a/b").mkdir(parents=True)
    (top / "file").touch()
    device = top.stat().st_dev
    (tmp_path / "proc/self/mountinfo").write_text(
        "21 1 0:5 / /dev rw - devtmpfs udev rw\n"
        f"30 24 {os.major(device)}:{os.minor(device)} / {top} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    )
    return tmp_path / "proc"


def read(proc, **options) -> Filter:
    """The filter for some options."""
    usual = {"pid": None, "comm": None, "cgroup": None, "uid": None, "children": False, "command": None}
    return read_filter(SimpleNamespace(**{**usual, **options}), proc=str(proc))


def test_all_options(proc):
    """Values of one kind are alternatives, written with commas or again."""
    found = read(proc, pid=["12, 34", "12"], children=True, comm=["a,b", "c"], cgroup=["a/b", "/"], uid=["0,7", "root"])
    top = proc.parent / "cgroup"
    assert found == Filter(
        (12, 34),
        (b"a,b", b"c"),
        (Cgroup("/a/b", (top / "a/b").stat().st_ino, 2), Cgroup("/", top.stat().st_ino, 0)),
        (User(0, "0"), User(7, "7"), User(0, "0 (root)")),
        children=True,
    )
    assert found.text() == (
        "pid 12 or 34 and their children, comm 'a,b' or 'c', cgroup /a/b or /, uid 0 or 7 or 0 (root)"
    )


def test_cgroups_by_path(proc):
    """By the path in the file system as well; beneath a mount that shows a part of the tree, its depth counts."""
    top = proc.parent / "cgroup"
    (cgroup,) = read(proc, cgroup=[f"{top}/a/"]).cgroups
    assert cgroup == ("/a", (top / "a").stat().st_ino, 1)
    mounts = (proc / "self/mountinfo").read_text().replace(f" / {top}", f" /x/y {top}")
    (proc / "self/mountinfo").write_text(mounts)
    (cgroup,) = read(proc, cgroup=["a"]).cgroups
    assert cgroup[::2] == ("/x/y/a", 3)


def test_what_has_ended(proc):
    """A process that is gone, or whose number is a thread's now; a cgroup that was removed, or made anew."""
    top = proc.parent / "cgroup"
    (top / "c").mkdir()
    woven = read(proc, pid=["12,34"], cgroup=["a", "a/b", "c"]).to_json()
    assert ended(woven, proc=str(proc)) == []
    (proc / "12/status").unlink()
    (top / "a/b").rmdir()
    (top / "c").rename(top / "kept")  # so that the new one cannot have its inode
    (top / "c").mkdir()
    assert ended(woven, proc=str(proc)) == [
        "process 12 has ended",
        "the cgroup /a/b was removed",
        "the cgroup /c is another one now: the one that was asked for was removed",
    ]
    assert ended({**woven, "children": True, "cgroups": []}, proc=str(proc)) == []  # the children may go on
    (proc / "self/mountinfo").write_text("")
    assert ended({**woven, "pids": []}, proc=str(proc)) == []  # not to be seen from here


@pytest.mark.parametrize("path", ["nowhere", "../proc", "file", "/etc", "", "a\0b"])
def test_no_cgroup(proc, path):
    """A directory elsewhere, a file, and what is not there are no cgroups; the empty path is the root."""
    if path == "":
        assert read(proc, cgroup=[path]).cgroups[0].path == "/"
        return
    with pytest.raises((InputError, UsageError), match="no cgroup"):
        read(proc, cgroup=[path])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pid": ["13"]}, InputError, "no process 13"),
        ({"pid": ["35"]}, InputError, "35 is a thread of process 34"),
        ({"pid": ["0"]}, UsageError, "'0' is no process number"),
        ({"pid": ["12,"]}, UsageError, "'' is no process number"),
        ({"pid": ["²"]}, UsageError, "no process number"),
        ({"pid": [",".join(map(str, range(1, 99)))]}, UsageError, "takes up to 64 values"),
        ({"comm": ["sixteen bytes 16"]}, UsageError, "longer than the 15 bytes"),
        ({"comm": [""]}, UsageError, "no name of a thread"),
        ({"uid": ["nosuch\x1b[2J"]}, InputError, "no user 'nosuch\ufffd"),
        ({"uid": ["4294967295"]}, UsageError, "no user's number"),
        ({"children": True}, UsageError, "--children goes with --pid"),
        ({"command": ["true"], "pid": ["12"]}, UsageError, "do not go together"),
    ],
)
def test_wrong(proc, options, error, message):
    """Each is told in its own words."""
    with pytest.raises(error, match=message.replace("[", r"\[")):
        read(proc, **options)


def test_in_a_container(proc, monkeypatch):
    """Where other numbers hold than in the kernel, no filter is made of them."""
    monkeypatch.setitem(filters._INITIAL, "pid", 1)
    monkeypatch.setitem(filters._INITIAL, "cgroup", 1)
    with pytest.raises(SystemRefusal, match="processes have other numbers"):
        read(proc, pid=["12"])
    with pytest.raises(SystemRefusal, match="cgroups have other paths"):
        read(proc, cgroup=["a"])
    assert read(proc, comm=["sh"]).comms == (b"sh",)


def test_no_cgroups_mounted(proc):
    """The remedy is said."""
    (proc / "self/mountinfo").write_text("21 1 0:5 / /dev rw - devtmpfs udev rw\n")
    with pytest.raises(SystemRefusal, match="no cgroup2 file system is mounted") as caught:
        read(proc, cgroup=["a"])
    assert "mount -t cgroup2" in caught.value.hint


def test_command(tmp_path):
    """It runs when it is let go, not before, and its exit status is told as a shell does."""
    made = tmp_path / "made"
    with Command(["sh", "-c", f"echo $$ > {made}; exit 7"]) as command:
        assert command.running()
        assert not made.exists()
        command.start()
        assert command.wait() == 7
        assert int(made.read_text()) == command.pid
    with Command(["sh", "-c", "kill -KILL $$"]) as command:
        command.start()
        assert command.wait() == 137
        assert not command.running()


def test_command_that_never_began(tmp_path):
    """Closed before it was let go it ends without having run."""
    made = tmp_path / "made"
    with Command(["touch", str(made)]) as command:
        pass
    assert not command.running()
    assert command.wait() == 126
    assert not made.exists()


def test_command_gets_the_usual_signals():
    """SIGPIPE ends it: Python ignores it, and what it runs does not expect that."""
    with Command(["sh", "-c", "kill -PIPE $$; exit 3"]) as command:
        command.start()
        assert command.wait() == 128 + 13


def test_no_command(tmp_path):
    """What cannot be run is told before anything is woven."""
    (tmp_path / "text").touch()
    for words, message in (
        (["no-such-program"], "cannot run 'no-such-program': there is no such program"),
        ([str(tmp_path / "text")], "it is not executable"),
        ([str(tmp_path)], "there is no such program"),
        ([""], "cannot run ''"),
    ):
        with pytest.raises(InputError, match=message):
            Command(words)
    with pytest.raises(UsageError, match="no command behind"):
        Command([])
