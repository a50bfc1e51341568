"""Join points are passed as often as another account of the same run says: trace events, and the traffic itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from support.weaving import Account, disagreements, place, woven

from klasy.backend import Options
from klasy.kernel.live import LiveKernel
from klasy.kernel.model import CallKind, Way

TIMES = 23


@pytest.fixture(scope="module")
def kernel() -> LiveKernel:
    return LiveKernel()


pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def folder(tmp_path):
    """A folder on a file system of its own: on an overlay each vfs function runs twice."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def make_directories(folder, times: int = TIMES) -> None:
    """Make and remove directories: nothing else on this machine does."""
    for number in range(times):
        os.mkdir(folder / f"d{number}")
        os.rmdir(folder / f"d{number}")


def rename_and_link(folder) -> None:
    """Rename and link files, with success and without: so that different paths are taken."""
    source = folder / "source"
    source.write_text("x")
    os.link(source, folder / "hard")
    os.symlink("source", folder / "soft")
    os.rename(source, folder / "target")
    for act in (
        lambda: os.link(folder / "none", folder / "new"),
        lambda: os.link(folder / "hard", folder / "target"),
        lambda: os.symlink("x", folder / "soft"),
        lambda: os.rename(folder / "none", folder / "new"),
        lambda: os.rename(folder / "target", "/dev/klasy"),
        lambda: os.mkdir(folder / "target"),
        lambda: os.rmdir(folder / "target"),
        lambda: os.rmdir(folder / "none"),
    ):
        with pytest.raises(OSError, match=r"\[Errno"):
            act()


@pytest.mark.parametrize("force", ["fentry", "kprobe", "body"])
def test_execution_before(folder, force):
    """execution(f) is hit as often as f is entered, by either mechanism."""
    text = "aspect mk { pointcut execution(vfs_mkdir); before() { log(pid); } }"
    with woven(text, force=force) as aspect, Account(["vfs_mkdir"]) as account:
        make_directories(folder)
        assert aspect.total() == account.passed()["vfs_mkdir"] == TIMES
        assert [event.values for event in aspect.mine()] == [(("pid", os.getpid()),)] * TIMES


def test_executions_behind_hooks(folder):
    """Where a kprobe stands behind the hook at a function's entry, hits are the entries, and arguments are right."""
    names = ["vfs_mkdir", "vfs_rmdir", "vfs_link", "vfs_symlink", "vfs_rename", "vfs_unlink", "vfs_fsync_range"]
    text = f"""aspect behind {{
        before(): {" || ".join(f"execution({name})" for name in names)} {{ }}
        before(struct file *file, loff_t end, int datasync): execution("int vfs_fsync_range(struct file *file, loff_t, \
loff_t end, int datasync)") && if(pid == {os.getpid()}) {{ log(file->f_inode->i_size, end, datasync); }} }}"""
    with woven(text, force="body") as aspect, Account(names) as account, (folder / "f").open("wb") as file:
        first = aspect.hits()
        (probe,) = aspect.aspect.document["probes"]
        assert (probe["context"], {offset for _, _, offset, _ in probe["points"]} <= {5, 9}) == ("body", True)
        make_directories(folder)
        rename_and_link(folder)
        for _ in range(2):
            file.write(b"123")
            file.flush()
            os.fsync(file)
        passed = account.passed()
        assert {place[0]: hits - first[place] for place, hits in aspect.hits().items()} == passed
        assert passed["vfs_mkdir"] >= TIMES
        assert passed["vfs_rename"] > 0
        assert sum(count.missed for count in aspect.aspect.counts()) == 0
        assert [[v for _, v in event.values] for event in aspect.mine()] == [[3, 2**63 - 1, 0], [6, 2**63 - 1, 0]]


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_execution_after_returning(folder, force):
    """After advice runs at every return and sees what the function returned and its arguments."""
    text = """aspect mk {
        pointcut execution("int vfs_rmdir(.., struct dentry *dentry)");
        after(struct dentry *dentry) returning (int result) { log(result, dentry->d_name.len); }
    }"""
    with woven(text, force=force) as aspect, Account(["vfs_rmdir"]) as account:
        (folder / "full" / "inner").mkdir(parents=True)
        with pytest.raises(OSError, match="not empty"):
            os.rmdir(folder / "full")
        os.rmdir(folder / "full" / "inner")
        assert aspect.total() == account.passed()["vfs_rmdir"] == 2
        assert [[value for _, value in event.values] for event in aspect.mine()] == [[-39, 4], [0, 5]]


@pytest.mark.parametrize("force", ["sites", "dispatch"])
def test_call_within(folder, kernel, force):
    """call(f) && within(g) is hit as often as the call instructions in g are passed, by either mechanism."""
    sites = [s for s in kernel.callers(kernel.functions("vfs_mkdir")) if s.caller.base == "do_mkdirat"]
    assert sites
    places = [place(kernel, site.address) for site in sites]
    text = "aspect mk { pointcut call(vfs_mkdir) && within(do_mkdirat); before() { log(pid); } }"
    with woven(text, force=force) as aspect, Account(places) as account:
        make_directories(folder)
        passed = {s.offset: account.passed()[p] for s, p in zip(sites, places, strict=True)}
        assert {offset: hits for (_, offset), hits in aspect.hits().items()} == passed
        assert sum(passed.values()) == TIMES


def test_both_mechanisms_agree_on_a_busy_callee():
    """Entry dispatch and site probes on the same calls of a busy function count alike, site by site."""
    text = "aspect %s { pointcut call(dput) && (within(path_put) || within(do_unlinkat)); before() {} }"
    with woven(text % "by_site", force="sites") as sites, woven(text % "by_entry", force="dispatch") as entries:
        # They are not read in one moment, and reading them opens files: path_put runs meanwhile.
        outside, first, inside = sites.hits(), entries.hits(), sites.hits()
        missed = sites.missed() + entries.missed()
        for number in range(200):
            name = f"/tmp/klasy-agree-{number}"
            with open(name, "w"):
                pass
            os.unlink(name)
        within, last, without = sites.hits(), entries.hits(), sites.hits()
        missed = sites.missed() + entries.missed() - missed
        by_entry = {key: last[key] - first[key] for key in within}
        least = {key: hits - inside[key] for key, hits in within.items()}
        most = {key: hits - outside[key] for key, hits in without.items()}
        differing = {
            key: (least[key], hits, most[key], missed)
            for key, hits in by_entry.items()
            if not least[key] - missed <= hits <= most[key] + missed
        }
        assert not differing
        assert sum(least.values()) >= 400


def test_after_at_a_call_runs_once_for_each_call_that_returned(folder, kernel):
    """After advice at call sites runs once for each call, also where other paths reach the instruction behind it."""
    names = ("do_mkdirat", "vfs_mkdir", "vfs_rmdir", "do_rmdir", "do_renameat2", "vfs_rename", "do_symlinkat")
    functions = [f for name in (*names, "vfs_symlink", "do_linkat", "vfs_link") for f in kernel.functions(name)]
    sites = [
        site
        for site in kernel.calls_in(functions)
        if site.kind is CallKind.DIRECT
        and site.callee is not None
        and all(
            kernel.refusal(address, site.caller, Way.KPROBE) is None and kernel.instruction_length(address) is not None
            for address in (site.address, site.return_address)
        )
    ]
    within = " || ".join(f"within({f.base})" for f in functions)
    text = f"aspect once {{ pointcut call(*) && ({within}); before() {{}} after() {{}} }}"
    before_places = {site: place(kernel, site.address) for site in sites}
    behind_places = {site: place(kernel, site.return_address) for site in sites}
    every = [*before_places.values(), *behind_places.values()]
    with woven(text, force="sites") as aspect, Account(list(dict.fromkeys(every))) as account:
        start = aspect.hits(0), aspect.hits(1)  # weaving itself may have renamed a file
        make_directories(folder)
        rename_and_link(folder)
        passed = account.passed()
        before, after = (
            {key: hits - start[number][key] for key, hits in aspect.hits(number).items()} for number in (0, 1)
        )
        elsewhere = 0
        for site in sites:
            key = (site.caller.name, site.offset)
            assert before[key] == passed[before_places[site]], site
            if key in after:
                assert after[key] == before[key], site
                elsewhere += passed[behind_places[site]] - after[key]
        assert sum(before.values()) > TIMES
        assert len(after) > len(sites) // 2
        assert elsewhere > 0, "no path but the call led behind a call: the test proves too little"


def test_tail_calls(kernel):
    """A jump to another function's entry is a call, hit as often as the jump is passed."""
    sites = kernel.callers(kernel.functions("__x64_sys_*")) or []
    candidates = [
        site
        for function in kernel.functions("__x64_sys_*")
        for site in kernel.calls_in([function])
        if site.kind is CallKind.TAIL and kernel.refusal(site.address, site.caller, Way.KPROBE) is None
    ]
    assert candidates, f"no system call ends in a tail call (of {len(sites)})"
    wanted = {"__x64_sys_read": lambda: os.read(reading, 1), "__x64_sys_write": lambda: os.write(writing, b"x")}
    reading, writing = os.pipe()
    tested = 0
    for site in candidates:
        act = wanted.get(site.caller.name)
        if act is None or site.callee is None:
            continue
        pointcut = f"call({site.callee.base}) && within({site.caller.base})"
        text = f"aspect tail {{ pointcut {pointcut}; before() {{ log(pid); }} }}"
        with woven(text) as aspect:
            for _ in range(TIMES):
                os.write(writing, b"x")
                os.read(reading, 1)
            tested += 1
            assert len(aspect.mine()) >= TIMES
    if not tested:
        _any_tail_call(candidates)


def _any_tail_call(candidates) -> None:
    """Where read and write do not end in tail calls: see that one of the many that do is hit as often as passed."""
    kernel = LiveKernel()
    sites = candidates[:200]
    places = {site: place(kernel, site.address) for site in sites}
    callees = " || ".join(f"call({name})" for name in sorted({site.callee.base for site in sites}))
    text = f"aspect tail {{ pointcut ({callees}) && within(__x64_sys_*); before() {{}} }}"

    def work() -> None:
        for command in (["ls", "-l", "/"], ["ps"], ["df"], ["id"], ["uname", "-a"]):
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    with woven(text, force="sites") as aspect, Account(list(places.values())) as account:
        before = aspect.hits()
        keys = {(site.caller.name, site.offset): places[site] for site in sites}
        assert disagreements(aspect, account, keys, work) == {}
        assert sum(aspect.hits().values()) > sum(before.values())


def test_indirect_calls_are_seen_by_dispatch():
    """A function that is called through a pointer alone is seen by dispatch, and the place of the call is told."""
    text = "aspect through { pointcut call(unix_dgram_sendmsg); before() { log(pid); } }"
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with woven(text, force="dispatch") as aspect, Account(["unix_dgram_sendmsg"]) as account:
        before, first_passed, after = aspect.total(), account.passed()["unix_dgram_sendmsg"], aspect.total()
        for _ in range(TIMES):
            first.send(b"x")
            second.recv(1)
        within, passed, without = aspect.total(), account.passed()["unix_dgram_sendmsg"], aspect.total()
        assert TIMES <= within - after <= passed - first_passed <= without - before  # others send datagrams, too
        unknown = aspect.aspect.unknown_callers()
        kernel = LiveKernel()
        names = {kernel.function_at(address - 1).base for address in unknown}
        assert names & {"sock_sendmsg", "__sock_sendmsg", "sock_write_iter", "____sys_sendmsg", "__sys_sendto"}, names


def test_calls_inside_modules(kernel):
    """Calls in a module's text are join points, counted as at their addresses."""
    module = next(name for name in ("9p", "overlay", "virtio_console") if name in kernel.modules())
    sites = [
        s
        for s in kernel.callers(kernel.functions("kfree"))
        if s.caller.module == module and kernel.refusal(s.address, s.caller, Way.KPROBE) is None
    ]
    assert sites
    places = {site: place(kernel, site.address) for site in sites}
    text = f"aspect inside {{ pointcut call(kfree) && withinmodule({module}); before() {{}} }}"

    def work() -> None:
        subprocess.run(["find", "/etc", "-name", "x*"], stdout=subprocess.DEVNULL, check=False)

    with woven(text, force="sites") as aspect, Account(list(places.values())) as account:
        assert disagreements(aspect, account, {(s.caller.name, s.offset): places[s] for s in sites}, work) == {}
        assert sum(aspect.hits().values()) > 0


def test_compiler_clones_are_matched_under_their_own_names(kernel):
    """A function of which only clones exist is matched by its name in the source; the clone's own name is shown."""
    clones = [
        f
        for f in kernel.functions("*.constprop.0")
        if f.module is None and f.duplicates == 1 and kernel.refusal(f.address, f, Way.KPROBE) is None
    ]
    assert clones
    # Of those that the work does not come by the accounts agree, too: they have nothing to count.
    busy = [f for f in clones if f.base == "link_path_walk"]
    assert busy
    chosen = list(dict.fromkeys([*busy, *clones[:: max(1, len(clones) // 40)]]))
    pointcut = " || ".join(f"execution({f.base})" for f in chosen)
    text = f"aspect clones {{ pointcut {pointcut}; before() {{}} }}"
    places = {(f.name, 0): place(kernel, f.address) for f in chosen}

    def work() -> None:
        for command in (["ls", "-lR", "/etc"], [sys.executable, "-c", "import socket; socket.socket()"]):
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    with woven(text) as aspect, Account(list(places.values())) as account:
        assert disagreements(aspect, account, places, work) == {}
        assert sum(aspect.hits()[f.name, 0] for f in busy) > 0


def test_condition_and_hits(folder):
    """if(..) decides at run time; hits count only where it held."""
    text = f"""aspect some {{
        pointcut made(struct dentry *dentry): execution("int vfs_mkdir(.., struct dentry *dentry, ..)");
        before(struct dentry *dentry): made(dentry) && if(dentry->d_name.len == 2 && pid == {os.getpid()}) {{
            log(dentry->d_name.len);
        }}
    }}"""
    with woven(text) as aspect:
        make_directories(folder)  # d0 .. d9 have two letters
        assert aspect.total() == 10
        assert len(aspect.events()) == 10


def test_nothing_is_lost_without_being_counted(folder):
    """With a full buffer every hit is either logged or counted as lost, per join point."""
    text = "aspect full { pointcut execution(vfs_mkdir); before() { log(pid, tid, cpu); } }"
    with woven(text, limits=Options(ring_bytes=4096)) as aspect:
        make_directories(folder, 200)
        (count,) = aspect.aspect.counts()
        logged = len(aspect.events())
        assert count.hits == 200
        assert count.lost > 0
        assert logged + count.lost == 200
