"""The weaver's transaction against a real kernel, with aspects made by hand."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from support.handmade import artifact, function
from support.livekernel import HOME, call_sites, define, definitions, entry, leftovers, symbols, traffic

from klasy.bpf import maps
from klasy.errors import KernelRefused, SystemRefusal
from klasy.kernel.live import LiveKernel
from klasy.match.mechanism import Mechanism
from klasy.match.plan import Point
from klasy.weaver import manifest, remove
from klasy.weaver.counts import sum_counters
from klasy.weaver.session import AlreadyWoven, Machine, _Weave, machine_of, weave
from klasy.weaver.unweave import unweave
from klasy.weaver.woven import NotWoven, foreign, open_woven, read_registry

MACHINE = Machine(os.uname().release, "0123", "test")


@cache
def machine() -> Machine:
    """What klasy itself says of the running kernel."""
    return machine_of(LiveKernel())


@pytest.fixture(autouse=True)
def _nothing_left():
    assert leftovers() == {}
    yield
    unweave()
    assert leftovers() == {}


def read_probe(name: str, mechanism: Mechanism = Mechanism.FENTRY, **options):
    """An aspect with one probe on vfs_read."""
    return artifact(name, [(mechanism, [entry("vfs_read")])], **options)


def reads(count: int) -> None:
    """Call vfs_read so many times."""
    with open("/dev/zero", "rb", buffering=0) as file:
        for _ in range(count):
            file.read(1)


def weave_one(made, **options) -> None:
    """Weave, and keep nothing open."""
    for aspect in weave([made], MACHINE, **options):
        aspect.close()


@pytest.mark.parametrize(
    "mechanism", [Mechanism.FENTRY, Mechanism.FEXIT, Mechanism.KPROBE, Mechanism.KRETPROBE], ids=lambda m: m.value
)
def test_each_mechanism_counts_every_hit(mechanism):
    """A probe of each kind on vfs_read counts the reads that the test makes, and maybe others', but not fewer."""
    weave_one(read_probe("one", mechanism))
    with open_woven("one") as woven:
        before = woven.counts()[0].hits
        reads(100)
        after = woven.counts()[0]
    assert after.hits - before >= 100
    assert after.lost == after.unmarked == 0


def test_hits_stop_with_unweave_and_nothing_is_left():
    """After unweave the kernel has no pin, link, program, event or kprobe of klasy's: the fixture looks."""
    weave_one(
        artifact(
            "all",
            [
                (Mechanism.FENTRY, [entry("vfs_read")]),
                (Mechanism.FEXIT, [entry("vfs_write")]),
                (Mechanism.KPROBE, list(call_sites("mutex_unlock", 40))),
                (Mechanism.KRETPROBE, [entry("vfs_read"), entry("vfs_write")]),
            ],
        )
    )
    assert sorted(p.name for p in (HOME / "all").iterdir()) == [
        "group",
        "link_0",
        "link_1",
        "link_2",
        "link_3",
        "map_base",
        "map_control",
        "map_counters",
        "map_events",
        "map_sites",
        "registry",
    ]
    assert (HOME.stat().st_mode & 0o777, (HOME / "all").stat().st_mode & 0o777) == (0o700, 0o700)
    assert unweave(["all"]) == ["all"]
    assert leftovers() == {}


def test_site_probes_agree_with_the_profile_of_the_kernel():
    """With 200 call sites under one event, hits by address add up to what kprobe_profile counts for each site."""
    sites = list(call_sites("mutex_unlock", 210, "vfs_read"))[:200]
    assert len(sites) == 200
    weave_one(artifact("sites", [(Mechanism.KPROBE, sites)]))
    with open_woven("sites") as woven:

        def profile() -> list[int]:
            return [site.hits for site in woven._profile()[0]]

        def counted() -> list[int]:
            return [count.hits for count in woven.counts()]

        outside, first, inside = profile(), counted(), profile()
        traffic()
        within, last, without = profile(), counted(), profile()
        hits = [now - then for now, then in zip(last, first, strict=True)]
        least = [now - then for now, then in zip(within, inside, strict=True)]
        most = [now - then for now, then in zip(without, outside, strict=True)]
        assert len(hits) == 200
        # What the kernel's profile has on top is refused by bpf_prog_active.
        assert all(of_klasy <= high for of_klasy, high in zip(hits, most, strict=True))
        assert sum(hits) > 100
        assert sum(least) - sum(hits) <= 0.05 * sum(least) + 5


def test_the_aspect_outlives_its_weaver():
    """Woven by a process that has gone, it goes on counting."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from support.handmade import artifact\n"
        "from support.livekernel import entry\n"
        "from klasy.match.mechanism import Mechanism\n"
        "from klasy.weaver.session import Machine, weave\n"
        "weave([artifact('orphan', [(Mechanism.KPROBE, [entry('vfs_read')])])], Machine('r', 'b', 'k'))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent.parent)], check=True)
    with open_woven("orphan") as woven:
        before = woven.counts()[0].hits
        reads(50)
        assert woven.counts()[0].hits - before >= 50


def test_second_weave_of_a_name_is_refused_and_harmless():
    """The error says since when; the woven aspect goes on."""
    weave_one(read_probe("one"))
    with pytest.raises(AlreadyWoven, match=r"'one' is already woven since \d{4}-\d\d-\d\d") as caught:
        weave_one(read_probe("one"))
    assert "--replace" in (caught.value.hint or "")
    reads(10)
    with open_woven("one") as woven:
        assert woven.counts()[0].hits >= 10
    assert [p.name for p in HOME.iterdir()] == ["one"]


def test_replace_swaps_without_a_gap():
    """While an aspect is replaced again and again, every read is seen by the old one or the new one."""
    weave_one(read_probe("swap", log=True, ring=1 << 20))
    maps = [open_woven("swap")]
    for woven in maps:
        woven.map("counters")
    stop = multiprocessing.Event()
    total = multiprocessing.Value("l", 0)

    def keep_reading() -> None:
        # A function nobody else calls would be better; the reads of this process are told by their number.
        with open("/dev/zero", "rb", buffering=0) as file:
            while not stop.is_set():
                for _ in range(50):
                    file.read(1)
                total.value += 50

    reader = multiprocessing.Process(target=keep_reading)
    reader.start()
    try:
        time.sleep(0.2)
        for _ in range(3):
            for woven in weave([read_probe("swap")], MACHINE, replace=True):
                woven.map("counters")
                maps.append(woven)
            time.sleep(0.2)
    finally:
        stop.set()
        reader.join()
    hits = sum(woven.counts()[0].hits if i == len(maps) - 1 else _hits(woven) for i, woven in enumerate(maps))
    for woven in maps:
        woven.close()
    assert total.value > 0
    assert hits >= total.value


def _hits(woven) -> int:
    """The hits of an aspect that has been replaced: by the map that is still open."""
    ((hits, *_),) = sum_counters(woven.map("counters").words(), 1)
    return hits


def test_a_refused_site_is_named_and_nothing_is_left():
    """One address in the middle of an instruction among good ones: the error says where, and all is undone."""
    good = list(call_sites("mutex_unlock", 10))
    bad = Point(good[4].address + 1, function("victim", good[4].address - 0x20))
    with pytest.raises(KernelRefused, match=r"kprobe at victim\+0x21, no instruction begins there") as caught:
        weave_one(
            artifact("bad", [(Mechanism.FENTRY, [entry("vfs_read")]), (Mechanism.KPROBE, [*good[:4], bad, *good[5:]])])
        )
    assert caught.value.errno == 84  # EILSEQ
    assert leftovers() == {}


def test_a_notrace_function_is_named_with_the_reason():
    """The kernel's bare EINVAL for a function closed to probes comes out as a sentence."""
    closed = next(
        name for name in ("ftrace_graph_caller", "trace_clock_local", "ring_buffer_lock_reserve") if name in symbols()
    )
    point = Point(symbols()[closed], function(closed, symbols()[closed]))
    with pytest.raises(KernelRefused, match=f"kprobe at {closed}, it lies in code closed to probes"):
        weave_one(artifact("bad", [(Mechanism.KPROBE, [point])]))


# The last four are within the commit, where SIGTERM waits for its end; then the aspect is taken out again.
STEPS = ["begin", "map counters", "load p1_site", "attach p1_site"]
STEPS += ["define 16 of 18", "registry", "pin control", "pin link 1", "activate", "rename"]


def both_probes(name: str):
    """An aspect with a trampoline and kernel probe events."""
    return artifact(
        name, [(Mechanism.FENTRY, [entry("vfs_read")]), (Mechanism.KPROBE, list(call_sites("mutex_unlock", 18)))]
    )


@pytest.mark.parametrize("step", STEPS)
def test_an_error_at_any_step_leaves_nothing(step):
    """An exception before each step is raised on, and all that was done before it is undone."""

    def fail(_: str, name: str) -> None:
        if name == step:
            raise RuntimeError(step)

    with pytest.raises(RuntimeError, match=step):
        weave([both_probes("doomed")], MACHINE, on_step=fail)
    assert leftovers() == {}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["KILL", "TERM"])
def test_a_kill_at_any_step_leaves_nothing_after_the_next_command(step, number):
    """A weaver killed before each step leaves no aspect, and what it does leave the next command clears."""

    def kill(_: str, name: str) -> None:
        if name == step:
            os.kill(os.getpid(), number)

    def run() -> None:
        weave([both_probes("doomed")], MACHINE, on_step=kill)

    made = both_probes("doomed")  # the sites are looked for here, once
    assert made
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    if number == signal.SIGKILL:
        assert child.exitcode == -signal.SIGKILL
        assert not (HOME / "doomed").exists()
        assert read_registry() == []
    else:
        assert child.exitcode == 128 + signal.SIGTERM
    assert leftovers() == {}


def test_a_kill_while_replacing_leaves_one_of_the_two():
    """Killed with the new aspect in place and the old one not yet removed: the next command removes the old one."""
    weave_one(read_probe("swap"))

    def kill(_: str, name: str) -> None:
        if name == "remove old":
            os.kill(os.getpid(), signal.SIGKILL)

    made = both_probes("swap")
    child = multiprocessing.get_context("fork").Process(
        target=lambda: weave([made], MACHINE, replace=True, on_step=kill)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    with open_woven("swap") as woven:
        assert len(woven.joinpoints) == 19
        assert woven.active
    weave_one(read_probe("other"))
    assert sorted(p.name for p in HOME.iterdir()) == ["other", "swap"]


def test_another_klasy_wove_it(monkeypatch):
    """What a registry entry of another version says cannot be read; the aspect is named, and can be taken out."""
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "VERSION", manifest.VERSION + 1)
        weave_one(read_probe("later"))
    assert read_registry() == []
    assert "another klasy wove it" in foreign()["later"]
    with pytest.raises(manifest.UnknownRegistry, match="the aspect 'later' cannot be read: another klasy") as caught:
        open_woven("later")
    assert caught.value.hint == "klasy unweave later takes it out all the same"
    assert unweave(["later"]) == ["later"]


def test_foreign_probes_and_entries_are_left_alone():
    """The sweep and unweave touch neither others' probe events nor what else lies in the directory."""
    define("p:klasy_like/foreign vfs_read")
    define("p:other/klasy vfs_write")
    HOME.mkdir(mode=0o700, exist_ok=True)
    (HOME / "not_ours").mkdir()
    try:
        weave_one(read_probe("one", Mechanism.KPROBE))
        assert list(foreign()) == ["not_ours"]
        assert [woven.name for woven in read_registry()] == ["one"]
        unweave(["one"])
        assert len(definitions("klasy_like/foreign")) == len(definitions("other/klasy")) == 1
        assert [p.name for p in HOME.iterdir()] == ["not_ours"]
    finally:
        define("-:klasy_like/foreign")
        define("-:other/klasy")
        (HOME / "not_ours").rmdir()


def test_unknown_names_are_an_error_before_anything_is_touched():
    """Of two names one is wrong: nothing is taken out, and the error says what was probably meant."""
    weave_one(read_probe("log_dequeue"))
    with pytest.raises(NotWoven) as caught:
        unweave(["log_dequeue", "log_dequeu"])
    assert caught.value.hint == "did you mean 'log_dequeue'?"
    assert (HOME / "log_dequeue").exists()


def test_two_aspects_come_all_or_none():
    """The second of two aspects cannot be woven: the first is not there either."""
    bad = Point(symbols()["vfs_write"] + 1, function("vfs_write", symbols()["vfs_write"]))
    with pytest.raises(KernelRefused):
        weave([read_probe("good"), artifact("bad", [(Mechanism.KPROBE, [bad])])], MACHINE)
    assert leftovers() == {}
    for woven in weave([read_probe("good"), read_probe("better", Mechanism.KPROBE)], MACHINE):
        woven.close()
    assert [woven.name for woven in read_registry()] == ["better", "good"]


@pytest.mark.only_on("6.12")
def test_twenty_processes_weave_at_once():
    """Twenty weaves of twenty names at the same time all succeed, and of twenty of one name exactly one does."""
    made = [read_probe(f"many{n}", Mechanism.KPROBE if n % 2 else Mechanism.FENTRY) for n in range(20)]
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=weave_one, args=(one,)) for one in made]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 20
    assert len(read_registry()) == 20
    unweave()
    assert leftovers() == {}

    same = read_probe("same", Mechanism.KPROBE)
    winners = fork.Value("i", 0)

    def attempt() -> None:
        try:
            weave_one(same)
        except AlreadyWoven:
            return
        with winners.get_lock():
            winners.value += 1

    children = [fork.Process(target=attempt) for _ in range(20)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 20
    assert winners.value == 1
    assert [woven.name for woven in read_registry()] == ["same"]


@pytest.mark.parametrize("first", ["woven", "replaced"])
def test_a_weaver_that_is_still_closing_is_in_nobodys_way(first, monkeypatch):
    """What is woven can be replaced and taken out from when the lock is free, whatever its weaver has yet to close."""
    close, met = _Weave.close, []

    def close_late(one):
        if not met:
            met.append(one)
            weave_one(read_probe("a"), replace=True)
            met.append(unweave(["a"]))
        close(one)

    if first == "replaced":
        weave_one(read_probe("a"))
    monkeypatch.setattr(_Weave, "close", close_late)
    for aspect in weave([read_probe("a")], MACHINE, replace=first == "replaced"):
        aspect.close()
    assert met[1:] == [["a"]]


def test_hits_refused_to_a_program_are_counted_as_missed():
    """A map's update by bpf(2) keeps all kprobe programs off that CPU: what they miss there shows, on every kernel."""
    (aspect,) = weave([artifact("refused", [(Mechanism.KPROBE, [entry("htab_map_update_elem")])])], machine())
    with aspect, maps.create("hash", name="busy", key_size=4, value_size=4, max_entries=64) as busy:
        before = aspect.counts()[0]
        for n in range(60):
            busy.update(n.to_bytes(4, "little"), bytes(4))
        after = aspect.counts()[0]
    assert after.hits == before.hits
    assert after.missed - before.missed == 60
    assert not after.partly


def test_a_kernel_says_whether_it_counts_refusals():
    """What the types of the kernel say agrees with what its programs do: see the test above."""
    with weave([artifact("refused", [(Mechanism.KPROBE, [entry("htab_map_update_elem")])])], machine())[0] as aspect:
        with maps.create("hash", name="busy", key_size=4, value_size=4, max_entries=64) as busy:
            busy.update(bytes(4), bytes(4))
        assert (aspect._refused()[0] > 0) == machine().counts_refused


def test_a_signal_while_replacing_brings_the_old_aspect_back():
    """SIGTERM with the new aspect in place and the old one not yet removed: the old one is woven and runs again."""
    weave_one(read_probe("swap"))

    def end(_: str, name: str) -> None:
        if name == "remove old":
            raise SystemExit(128 + signal.SIGTERM)

    with pytest.raises(SystemExit):
        weave([both_probes("swap")], MACHINE, replace=True, on_step=end)
    with open_woven("swap") as woven:
        assert len(woven.joinpoints) == 1
        assert woven.active
        before = woven.counts()[0].hits
        reads(10)
        assert woven.counts()[0].hits >= before + 10
    assert [p.name for p in HOME.iterdir()] == ["swap"]


@pytest.mark.parametrize(
    ("path", "remedy"),
    [("/sys/kernel/debug/kprobes/enabled", "echo 1 >"), ("/proc/sys/kernel/ftrace_enabled", "sysctl")],
    ids=["kprobes", "ftrace"],
)
def test_switches_that_would_make_probes_never_hit_are_named(path, remedy):
    """With kprobes or function tracing switched off a weave is refused, with the command that mends it."""
    switch = Path(path)
    switch.write_text("0")
    try:
        with pytest.raises(SystemRefusal, match="switched off") as caught:
            weave_one(read_probe("idle", Mechanism.KPROBE))
        assert remedy in (caught.value.hint or "")
    finally:
        switch.write_text("1")


def test_a_read_only_bpffs_is_named_with_the_remedy():
    """Nothing can be pinned there: the error says how to make it writable."""
    subprocess.run(["mount", "-o", "remount,ro", "/sys/fs/bpf"], check=True)
    try:
        with pytest.raises(SystemRefusal, match="mounted read-only") as caught:
            weave_one(read_probe("one"))
        assert caught.value.hint == "mount -o remount,rw /sys/fs/bpf"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", "/sys/fs/bpf"], check=True)


def test_missing_mounts_are_made():
    """Without bpffs and tracefs, as in a minimal system, a weave mounts them."""
    subprocess.run(["umount", "/sys/fs/bpf"], check=True)
    subprocess.run("umount /sys/kernel/tracing; umount /sys/kernel/debug/tracing; true", shell=True, check=True)
    debug = subprocess.run(["umount", "/sys/kernel/debug"], check=False).returncode == 0
    try:
        weave_one(read_probe("one", Mechanism.KPROBE))
        reads(5)
        with open_woven("one") as woven:
            assert woven.counts()[0].hits >= 5
        mounts = Path("/proc/self/mounts").read_text()
        assert " /sys/fs/bpf bpf " in mounts
        assert " /sys/kernel/tracing tracefs " in mounts
    finally:
        if debug:
            subprocess.run(["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], check=True)


def test_a_kill_while_unweaving_leaves_no_aspect():
    """Killed between the links and the probe events: the aspect is gone at once, the rest with the next command."""
    weave_one(both_probes("doomed"))

    def run() -> None:
        remove.delete_events = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        unweave(["doomed"])

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert Path("/sys/kernel/rcu_expedited").read_text().strip() == "1"
    assert definitions("doomed")
    assert read_registry() == []
    assert leftovers() == {}
