"""Filters of a weave in the kernel: whose hits count, by the number of calls that processes are known to have made."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.livekernel import leftovers
from support.waiting import wait_for
from support.weaving import woven

from klasy.backend import Options
from klasy.backend.maps import Budget
from klasy.cli.filters import read_filter
from klasy.cli.main import main
from klasy.cli.options import Arguments
from klasy.match.filter import Filter
from klasy.weaver import objects
from klasy.weaver.states import read_states
from klasy.weaver.woven import read_registry

FUNCTION = "vfs_fsync_range"
ASPECT = f"aspect syncs {{ before(): execution({FUNCTION}) {{ log(pid); }} }}"
BOTH = f"aspect syncs {{ before(): execution({FUNCTION}) {{ log(pid); }} after(): execution({FUNCTION}) {{}} }}"


def sync(file: int, times: int) -> None:
    """So many calls, by this process."""
    for _ in range(times):
        os.fsync(file)


def in_child(act, *, name: str = "", uid: int = 0) -> int:
    """Have a child of another name or user do something; its process number."""
    child = os.fork()
    if not child:
        try:
            if name:
                Path("/proc/self/comm").write_text(name)
            if uid:
                os.setuid(uid)
            act()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return child


def wanted(**options: object) -> Options:
    """What the command line makes of some options."""
    arguments = Arguments()
    usual = dict.fromkeys(("pid", "comm", "cgroup", "uid", "command")) | {"children": False}
    arguments.__dict__.update(usual | options)
    return Options(filter=read_filter(arguments))


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_who_counts(file, force):
    """Each option lets its own through, and nobody else; the kprobes' runs that are filtered out are no misses."""
    cgroup = Path("/sys/fs/cgroup/klasy_test")
    (cgroup / "beneath").mkdir(parents=True)
    (cgroup / "beneath/cgroup.procs").write_text(str(os.getpid()))
    mine = str(os.getpid())
    try:
        cases = [
            (wanted(pid=[mine]), 5),
            (wanted(comm=["not me", "klasy says so"]), 7),
            (wanted(uid=["nobody"]), 11),
            (wanted(cgroup=["klasy_test"]), 23),
            (wanted(cgroup=["/sys/fs/cgroup/klasy_test/beneath"], uid=["0"]), 12),
            (wanted(pid=["1", mine], comm=["nobody else"]), 0),
        ]
        for limits, expected in cases if force == "fentry" else cases[1:3]:
            with woven(BOTH, force=force, limits=limits) as aspect:
                sync(file, 5)
                in_child(lambda: sync(file, 7), name="klasy says so")
                in_child(lambda: sync(file, 11), uid=65534)
                before, after = aspect.aspect.counts()
                assert (before.hits, after.hits) == (expected, expected), limits.filter
                assert (before.missed, after.missed) == (0, 0)
                assert not before.partly
                assert len(aspect.events()) == expected
    finally:
        Path("/sys/fs/cgroup/cgroup.procs").write_text(mine)
        (cgroup / "beneath").rmdir()
        cgroup.rmdir()


def test_children(file):
    """Children and theirs, threads of them, and who they become by exec; nobody else's, though as near."""
    program = f"""if True:
        import os, threading
        sync = lambda: [os.fsync({file}) for _ in range(3)]
        thread = threading.Thread(target=sync)
        thread.start()
        thread.join()
        if not os.fork():
            if not os.fork():
                sync()
                os._exit(0)
            os.wait()
            os.execv("/bin/sh", ["sh", "-c", "read go"])
        sync()
        os.wait()
    """
    reads, writes = os.pipe()
    os.set_inheritable(file, True)

    def run() -> None:
        os.write(writes, b"\n")
        subprocess.run([sys.executable, "-SIc", program], stdin=reads, pass_fds=[file], check=True)

    with woven(ASPECT, limits=Options(filter=Filter((os.getpid(),), children=True))) as aspect:
        sync(file, 2)
        run()
        (count,) = aspect.aspect.counts()
        assert count.hits == 2 + 3 * 3
        assert len({event.pid for event in aspect.events()}) == 3
    other = subprocess.Popen(["sleep", "60"])  # not followed, though a child of the same process
    try:
        with woven(ASPECT, limits=Options(filter=Filter((other.pid,), children=True))) as aspect:
            sync(file, 2)
            run()
            (count,) = aspect.aspect.counts()
            assert count.hits == 0
            keys = {int.from_bytes(key, "little") for key, _ in aspect.aspect.map("followed").items()}
            assert keys == {other.pid}
    finally:
        other.kill()
        other.wait()
        os.close(reads)
        os.close(writes)
    assert leftovers() == {}


def test_command(file, tmp_path, capfd):
    """klasy weave FILE -- COMMAND: exactly what it and its children do is shown; its status is the command's."""
    (tmp_path / "s.asp").write_text(
        'aspect made { before(struct dentry *dentry): execution("int vfs_mkdir(.., struct dentry *dentry, ..)")'
        ' { log("%s", str(dentry->d_name.name)); } }'
    )
    script = 'mkdir "$0/one" && sh -c \'mkdir "$0/two"\' "$0"; exit 7'
    assert main(["weave", "-f", str(tmp_path / "s.asp"), "--", "sh", "-c", script, str(tmp_path)]) == 7
    captured = capfd.readouterr()
    assert [line.rpartition(": ")[2] for line in captured.out.splitlines()] == ["one", "two"]
    assert re.search(r"woven: made, 1 join point by fentry; only pid \d+ \(sh\) and its children\n", captured.err)
    assert main(["weave", str(tmp_path / "s.asp"), "--", "sh", "-c", "kill -KILL $$"]) == 137
    assert "unwoven: made, 0 hits" in capfd.readouterr().err
    (tmp_path / "bad.asp").write_text("aspect bad { before(): execution(no_such_function) {} }")
    assert main(["weave", str(tmp_path / "bad.asp"), "--", "touch", str(tmp_path / "ran")]) == 1
    assert not (tmp_path / "ran").exists()
    assert read_registry() == []
    assert leftovers() == {}


def test_shown(file, tmp_path, capfd):
    """klasy status and klasy joinpoints say whose hits are counted."""
    (tmp_path / "s.asp").write_text(ASPECT)
    assert main(["weave", "--comm", "no such one", "--uid", "root", str(tmp_path / "s.asp")]) == 0
    sync(file, 3)
    capfd.readouterr()
    assert main(["status"]) == 0
    assert "syncs: only comm 'no such one', uid 0 (root)" in capfd.readouterr().out
    assert main(["joinpoints", "syncs"]) == 0
    assert "hits are only those of comm 'no such one', uid 0 (root)" in capfd.readouterr().out
    assert main(["unweave"]) == 0


def test_ended(file, tmp_path, capfd):
    """klasy status says that a process has ended, and that a service's cgroup is not the one any more."""
    (tmp_path / "s.asp").write_text(ASPECT)
    cgroup = Path("/sys/fs/cgroup/klasy_ends")
    cgroup.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            assert main(["weave", "--pid", f"{process.pid},1", "--cgroup", "klasy_ends", str(tmp_path / "s.asp")]) == 0
            assert main(["status"]) == 0
            assert "has ended" not in capfd.readouterr().out
        finally:
            process.kill()
    cgroup.rmdir()
    cgroup.mkdir()
    try:
        assert main(["status"]) == 0
        out = capfd.readouterr().out
        assert f"syncs: process {process.pid} has ended\n" in out
        assert "syncs: the cgroup /klasy_ends is another one now: the one that was asked for was removed\n" in out
    finally:
        cgroup.rmdir()
    assert main(["unweave"]) == 0


def test_watched_data(tmp_path):
    """Data is kept up to date at everybody's accesses: 'old' is what it was, whoever had changed it."""
    ttl = Path("/proc/sys/net/ipv4/ip_default_ttl")
    first = int(ttl.read_text())
    text = "aspect ttl { before(): set(init_net.ipv4.sysctl_ip_default_ttl) { log(old, new); } }"
    try:
        with woven(text, limits=Options(filter=Filter((os.getpid(),)))) as aspect:
            ttl.write_text("101")
            in_child(lambda: ttl.write_text("102"))
            ttl.write_text("103")
            assert [dict(event.values) for event in aspect.events()] == [
                {"old": first, "new": 101},
                {"old": 102, "new": 103},
            ]
            (count,) = aspect.aspect.counts()
            assert (count.hits, count.missed) == (2, 0)
    finally:
        ttl.write_text(str(first))


EVERY = """aspect every {
    count by_c[comm];
    before(struct file *f): set(struct file.f_pos) && within(*llseek*) && target(f) { log("member %d", new); }
    before(struct file *file): execution(shmem_file_llseek(struct file *file, ..)) { watch(file->f_pos); }
    before(struct file *file): set(watched file->f_pos) { log("object %d %d", old, new); }
    before(struct file *file): execution(noop_fsync(struct file *file, ..)) { unwatch(file->f_pos); }
    before(struct file *file, size_t count): execution("ssize_t vfs_write(struct file *file, .., size_t count, ..)") %{
        char who[16];
        bpf_get_current_comm(who, sizeof(who));
        by_c_add(who, 1);
        log("c %lu", count);
    %}
}"""


def worker(file: int, name: str = "klasy worker", cgroup: Path | None = None, uid: int = 0) -> socket.socket:
    """A child that does what one letter tells: seek, write, sync; at any other it ends."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return ours
    try:
        ours.close()
        Path("/proc/self/comm").write_text(name)
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        if uid:
            os.setuid(uid)
        does = {b"s": lambda: os.lseek(file, 7, 1), b"w": lambda: os.write(file, b"abc"), b"f": lambda: os.fsync(file)}
        theirs.send(b"!")
        while (letter := theirs.recv(1)) in does:
            does[letter]()
            theirs.send(letter)
    finally:
        os._exit(0)


def tell(letters: bytes, *workers: socket.socket) -> None:
    """Have each of them do what the letters say, one after the other; first of all: b"!", wait until it is there."""
    for each in workers:
        for letter in letters:
            if letter != ord("!"):
                each.send(bytes([letter]))
            assert each.recv(1) == bytes([letter])


@pytest.mark.only_on("6.1")  # compiling C takes ten seconds in the guest
def test_members_objects_and_c(file):
    """All options at once and a budget: of the five who do the same with one file, each in one way not meant but for
    the last, only that one's accesses to members and to the object, its wishes to watch and its runs of C count."""
    cgroup = Path("/sys/fs/cgroup/klasy_every")
    cgroup.mkdir()
    name = "klasy worker"
    workers = [worker(file, name, cgroup)]  # not followed: it is there already
    everything = wanted(pid=[str(os.getpid())], children=True, comm=[name], uid=["root"], cgroup=[str(cgroup)])
    limits = Options(filter=everything.filter, budget=Budget(100, os.cpu_count() or 1))

    def once(what: str) -> bool:
        return getattr(objects.watching(a.aspect).account.members[0], what) == 1

    try:
        with woven(EVERY, limits=limits) as a:
            workers += [worker(file), worker(file, "another", cgroup), worker(file, name, cgroup, 65534)]
            workers.append(worker(file, name, cgroup))
            *others, meant = workers
            tell(b"!", *workers)
            tell(b"s", *others)
            assert objects.watching(a.aspect).account.members[0].requests == 0
            tell(b"s", meant)
            wait_for(lambda: once("armed"))
            tell(b"w", *workers)
            tell(b"f", *others)
            tell(b"wf", meant)
            wait_for(lambda: once("by_unwatch"))
            said = [(event.pid, event.message) for event in a.events()]
            hits = [a.total(advice) for advice in range(5)]
            (state,) = (dict(s.elements) for s in read_states(a.aspect))
            assert a.aspect.over_budget() is None
    finally:
        for each in workers:
            each.send(b".")
            os.wait()
        cgroup.rmdir()
    assert len({pid for pid, _ in said}) == 1
    assert [text for _, text in said] == ["member 35", "c 3", "object 47 50", "c 3", "object 50 53"]
    assert hits == [1, 1, 2, 1, 2]
    assert [(key.rstrip(b"\0"), value) for key, value in state.items()] == [(name.encode(), (2,))]
    assert leftovers() == {}
