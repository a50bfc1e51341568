"""Weaving from the text of an aspect, by the library; modules; what the documentation says to do by hand."""

from __future__ import annotations

import mmap
import os
import subprocess
import time
from pathlib import Path

import pytest
from support.handmade import artifact
from support.livekernel import HOME, entry, leftovers, run
from support.weaving import woven

import klasy
from klasy.bpf import maps
from klasy.errors import InputError
from klasy.kernel.live import LiveKernel
from klasy.kernel.model import CallKind, Way
from klasy.match.mechanism import Mechanism
from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.features import RunningFeatures
from klasy.weaver.session import Machine, weave
from klasy.weaver.woven import NotWoven, open_woven

READS = """
aspect reads {
    pointcut execution("ssize_t vfs_read(struct file *file, char *buf, size_t count, loff_t *pos)");
    before(size_t count) { log(count); }
}
"""


@pytest.fixture(autouse=True)
def _nothing_left():
    assert leftovers() == {}
    yield
    klasy.unweave()
    assert leftovers() == {}


def reads(count: int, size: int) -> None:
    """Call vfs_read so many times for so many bytes."""
    with open("/dev/zero", "rb", buffering=0) as file:
        for _ in range(count):
            file.read(size)


def test_the_library_weaves_logs_and_unweaves():
    """From text to log events and back, with the functions that klasy exports."""
    assert klasy.weave(READS) == ["reads"]
    reads(7, 4321)
    mine = [event for event in klasy.events("reads") if event.pid == os.getpid()]
    assert [dict(event.values)["count"] for event in mine].count(4321) == 7
    (place,) = {(event.aspect, event.advice, event.joinpoint.function) for event in mine}
    assert place == ("reads", "before#0", "vfs_read")
    assert 4321 not in [dict(event.values)["count"] for event in klasy.events() if event.pid == os.getpid()]
    (aspect,) = klasy.woven()
    with aspect:
        assert aspect.name == "reads"
        assert aspect.source_text == READS
        assert aspect.counts()[0].hits >= 7
    assert klasy.unweave("reads") == ["reads"]
    with pytest.raises(NotWoven):
        next(klasy.events("reads"))


def test_a_dry_run_weaves_nothing():
    """The plans of a text name its join points; the kernel is as before."""
    (plan,) = klasy.joinpoints(READS)
    assert [j.shadow.function.name for j in plan.joinpoints] == ["vfs_read"]
    assert leftovers() == {}
    with pytest.raises(InputError):
        klasy.joinpoints("aspect wrong { pointcut execution(no_such_function_anywhere); before() { } }")


def test_following_ends_when_the_aspect_is_unwoven():
    """A reader that follows gets what comes, and ends by itself when somebody unweaves."""
    klasy.weave(READS)
    events = klasy.events("reads", follow=True)
    reads(1, 4322)
    sizes = (dict(event.values)["count"] for event in events)
    assert any(size == 4322 for size in sizes)
    klasy.unweave("reads")
    start = time.monotonic()
    for _ in events:
        pass
    assert time.monotonic() - start < 60


def test_functions_of_modules_are_woven_into():
    """Trampolines and kprobes in a module count the calls of its functions; here that of the guest's file system."""
    name = "p9_client_walk"
    if f" {name}\t[9pnet]" not in Path("/proc/kallsyms").read_text():
        pytest.skip("the guest has no 9p file system")
    text = f"aspect walks {{ pointcut execution({name}); before() {{ }} after() {{ }} }}"
    for force in ("fentry", "kprobe"):
        with woven(text, force=force) as walks:
            before = walks.total(0), walks.total(1)
            for number in range(20):
                assert not Path(__file__).with_name(f"no-such-{force}-{number}").exists()
            after = walks.total(0), walks.total(1)
            assert after[0] - before[0] >= 20
            assert after[1] - before[1] >= 20
            assert {j.module for j in walks.aspect.joinpoints} == {"9pnet"}


def test_a_second_aspect_over_probed_tail_calls():
    """An aspect over tail calls that another one has probed gets the same join points, and both count the same hits."""
    kernel = LiveKernel()
    tails = [
        site
        for function in kernel.functions("__x64_sys_*")
        for site in kernel.calls_in([function])
        if site.kind is CallKind.TAIL and kernel.refusal(site.address, site.caller, Way.KPROBE) is None
    ][:100]
    callees = " || ".join(f"call({name})" for name in sorted({site.callee.base for site in tails}))
    text = f"aspect %s {{ pointcut ({callees}) && within(__x64_sys_*); before() {{}} }}"

    def planned():
        options = PlanOptions(RunningFeatures(), "sites")
        (artifact,) = build(SourceFile("second.asp", text % "second"), LiveKernel(), options)
        return [(j.shadow.address, j.shadow.call_kind, j.mechanism) for j in artifact.plan.joinpoints]

    alone = planned()
    assert {site.address for site in tails} <= {address for address, kind, _ in alone if kind is CallKind.TAIL}
    with woven(text % "first", force="sites") as first:
        assert kernel.read(tails[0].address, 1) == b"\xcc"
        assert planned() == alone
        with woven(text % "second", force="sites") as second:
            start = first.hits(), second.hits(), first.hits()
            for command in (["ls", "-l", "/"], ["id"], ["uname", "-a"]):
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            inner, middle, outer = first.hits(), second.hits(), first.hits()
            for place in middle:  # what was read in between passes system calls, too
                assert inner[place] - start[2][place] <= middle[place] - start[1][place], place
                assert middle[place] - start[1][place] <= outer[place] - start[0][place], place
            assert sum(inner.values()) - sum(start[2].values()) > 0


def test_missed_hits_of_advice_with_a_condition():
    """What a guarded probe missed is told exactly on every kernel, whether or not its condition ever held."""
    text = "aspect busy {{ pointcut execution(htab_map_update_elem) && if({condition}); before() {{}} }}"
    for condition, ran in (("pid == 0", 0), (f"pid == {os.getpid()}", 1)):
        with (
            woven(text.format(condition=condition), force="kprobe") as aspect,
            maps.create("hash", name="busy", key_size=4, value_size=4, max_entries=64) as busy,
        ):
            (before,) = aspect.aspect.counts()
            for n in range(60):
                busy.update(n.to_bytes(4, "little"), bytes(4))  # keeps all kprobe programs off that CPU
            (middle,) = aspect.aspect.counts()
            assert (middle.hits, middle.missed - before.missed, middle.partly) == (before.hits, 60, False)
        text_of_reads = text.replace("htab_map_update_elem", "vfs_read").format(condition=condition)
        with woven(text_of_reads, force="kprobe") as aspect:
            (before,) = aspect.aspect.counts()
            reads(500, 1)
            (after,) = aspect.aspect.counts()
            assert after.hits - before.hits >= 500 * ran
            assert (after.missed, after.partly) == (before.missed, False)


def test_one_link_for_many_functions():
    """Where the kernel has kprobe.multi, its probes at entry and return count every hit."""
    if not RunningFeatures().kprobe_multi:
        pytest.skip("this kernel has no kprobe.multi")
    points = [(Mechanism.KPROBE_MULTI, [entry("vfs_read")]), (Mechanism.KRETPROBE_MULTI, [entry("vfs_read")])]
    (aspect,) = weave([artifact("multi", points)], Machine("r", "b", "k"))
    with aspect:
        before = [count.hits for count in aspect.counts()]
        reads(30, 1)
        after = [count.hits for count in aspect.counts()]
    assert all(b - a >= 30 for a, b in zip(before, after, strict=True))


def test_taking_an_aspect_out_by_hand():
    """The commands of docs/weaving.md, as they stand there, switch an aspect off and take it out without klasy."""
    text = (Path(__file__).parents[2] / "docs" / "weaving.md").read_text()
    block = text.partition("## By hand, without klasy")[2].partition("\n\n    ")[2].partition("\n\n")[0]
    commands = [line.strip() for line in block.splitlines() if not line.strip().startswith("#")]
    assert [command.split()[0] for command in commands[:3]] == ["ls", "bpftool", "group=$(basename"]
    points = [(Mechanism.KPROBE, [entry("vfs_read"), entry("vfs_write")]), (Mechanism.FENTRY, [entry("vfs_read")])]
    weave([artifact("byhand", points)], Machine("r", "b", "k"))[0].close()

    run("bash", "-c", commands[1].replace("ASPECT", "byhand"))
    with open_woven("byhand") as aspect:
        assert not aspect.active
        before = aspect.counts()
        reads(20, 1)
        assert [c.hits for c in aspect.counts()] == [c.hits for c in before]

    run("timeout", "20", "bash", "-ec", "\n".join(commands[2:6]).replace("ASPECT", "byhand"))
    HOME.rmdir()
    assert leftovers() == {}


def test_more_than_six_arguments():
    """A trampoline reaches a function of eight or nine arguments where the kernel lets it, a kprobe elsewhere: both
    see all of them, and the trampoline also behind the function."""
    (function,) = LiveKernel().functions("do_mmap")
    prototype = function.btf.proto(function.proto)
    assert len(prototype.params) > 7
    wide = RunningFeatures().max_trampoline_arg_registers == 12
    advice = ["before", "after"] if wide else ["before"]
    parameters = "unsigned long len, unsigned long pgoff, struct list_head *uf"
    body = "".join(f"{kind}({parameters}) {{ log(len, pgoff, uf); }}" for kind in advice)
    signature = function.btf.c_prototype(function.proto)
    text = f'aspect maps {{ pointcut execution("{signature}") && if(pid == {os.getpid()}); {body} }}'
    by = {"fentry": ["fentry", "fexit"][: len(advice)] if wide else ["kprobe"], "kprobe": ["kprobe"]}
    size, page = 3 * mmap.PAGESIZE, 5
    with open("/bin/sh", "rb") as file:
        for force, mechanisms in by.items():
            source = text if force == "fentry" else text.replace("after(", "before(")
            with woven(source, force=force) as aspect:
                assert {j.mechanism for j in aspect.aspect.joinpoints} == set(mechanisms)
                with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ, offset=page * mmap.PAGESIZE):
                    pass
                logged = [dict(event.values) for event in aspect.mine()]
            mapped = [values for values in logged if (values["len"], values["pgoff"]) == (size, page)]
            assert len(mapped) == len(advice)
            assert len({values["uf"] for values in mapped}) == 1
            assert mapped[0]["uf"] != 0
