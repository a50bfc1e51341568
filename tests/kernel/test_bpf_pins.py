"""Pins: what outlives its process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.bpf_kernel import ZERO, btf_id, call_umask, counter, counting_program, no_leaks, value  # noqa: F401

from klasy.bpf import links, maps, pins, program
from klasy.bpf import uapi as u
from klasy.bpf.sys import wait_gone
from klasy.errors import KernelRefused

ROOT = f"{pins.BPFFS}/klasytest"

WEAVE = """
import sys
from klasy.bpf import links, maps, pins, program
from klasy.bpf import uapi as u
from klasy.bpf.asm import assemble
from klasy.bpf.insn import R0, R1, R2, atomic_add, exit_, load_map_value, mov

root, function = sys.argv[1], int(sys.argv[2])
count = assemble([load_map_value(R1, "hits"), mov(R2, 1), atomic_add(R1, 0, R2), mov(R0, 0), exit_()])
with maps.create("array", name="hits", key_size=4, value_size=8, max_entries=1) as hits:
    pins.pin(hits, root + "/maps/hits")
    if function:
        options = dict(expected_attach_type=u.BPF_TRACE_FENTRY, attach_btf_id=function)
        with program.load(u.BPF_PROG_TYPE_TRACING, count, name="count", maps={"hits": hits}, **options) as loaded:
            with links.attach_tracing(loaded, u.BPF_TRACE_FENTRY) as link:
                pins.pin(link, root + "/links/one")
    else:
        with program.load(u.BPF_PROG_TYPE_KPROBE, count, name="count", maps={"hits": hits}) as loaded:
            with links.perf_kprobe(symbol="__x64_sys_umask") as event, links.attach_perf_event(loaded, event) as link:
                pins.pin(link, root + "/links/one")
"""


@pytest.fixture(autouse=True)
def _clean(no_leaks):  # noqa: F811  # pins go before leaks are looked for
    pins.unpin_tree(ROOT)
    yield
    pins.unpin_tree(ROOT)


@pytest.mark.parametrize("how", ["kprobe", "fentry"])
def test_a_pinned_probe_fires_after_its_process_has_gone(how):
    """Another process attaches, pins and ends; the probe counts our calls until the pins are removed."""
    function = btf_id("__x64_sys_umask") if how == "fentry" else 0
    subprocess.run([sys.executable, "-c", WEAVE, ROOT, str(function)], check=True)
    assert list(pins.walk(ROOT)) == [f"{ROOT}/links/one", f"{ROOT}/maps/hits"]
    with pins.open_map(f"{ROOT}/maps/hits") as hits:
        assert hits.name == "hits"
        before = value(hits)
        call_umask(100)
        assert value(hits) - before == 100
        with pins.open_link(f"{ROOT}/links/one") as link:
            kind = u.BPF_LINK_TYPE_PERF_EVENT if how == "kprobe" else u.BPF_LINK_TYPE_TRACING
            assert link.info().type == kind
            number = link.info().program_id
            with program.open_id(number) as loaded:
                assert loaded.name == "count"
        assert pins.unpin_tree(ROOT) == 2
        assert wait_gone(u.BPF_PROG_GET_NEXT_ID, [number], 60)
        seen = value(hits)
        call_umask(100)
        assert value(hits) == seen == before + 100
    assert not os.path.exists(ROOT)


def test_each_kind_comes_back_as_what_it_is():
    """A map, a program and a link, pinned and opened: the same objects, of the right classes."""
    with (
        counter() as hits,
        counting_program(hits) as loaded,
        links.perf_kprobe(symbol="__x64_sys_umask") as event,
        links.attach_perf_event(loaded, event) as link,
    ):
        for name, obj in (("m", hits), ("p", loaded), ("l", link)):
            pins.pin(obj, f"{ROOT}/{name}")
            with pins.open_pin(f"{ROOT}/{name}") as again:
                assert type(again) is type(obj)
                assert again.info().id == obj.info().id
        with pins.open_program(f"{ROOT}/p") as again:
            assert again.name == "count"
        for opening in (pins.open_link, pins.open_program):
            with pytest.raises(TypeError, match="is no"):
                opening(f"{ROOT}/m")
        with pytest.raises(TypeError, match="is no map"):
            pins.open_map(f"{ROOT}/l")
        assert pins.unpin_tree(ROOT) == 3


def test_a_map_keeps_its_content():
    """What was written before is there when the pin is opened later."""
    with maps.create("hash", name="m", key_size=4, value_size=4, max_entries=8) as m:
        m.update(ZERO, b"kept")
        pins.pin(m, f"{ROOT}/deep/er/m")
    with pins.open_map(f"{ROOT}/deep/er/m") as m:
        assert m.lookup(ZERO) == b"kept"
        assert (m.key_size, m.value_size, m.max_entries) == (4, 4, 8)


def test_directories_are_for_root_only():
    """What klasy makes on the way to a pin nobody else can look into."""
    with counter() as hits:
        pins.pin(hits, f"{ROOT}/a/m")
    assert [os.stat(p).st_mode & 0o777 for p in (ROOT, f"{ROOT}/a")] == [0o700, 0o700]


def test_refusals(tmp_path):
    """A taken name, a dot, a place outside bpffs, a pin that is not there."""
    with counter() as hits:
        pins.pin(hits, f"{ROOT}/m")
        with pytest.raises(KernelRefused, match="EEXIST"):
            pins.pin(hits, f"{ROOT}/m")
        with pytest.raises(ValueError, match="dot"):
            pins.pin(hits, f"{ROOT}/a.b")
        with pytest.raises(KernelRefused, match=f"pinning at {tmp_path}/m") as caught:
            pins.pin(hits, f"{tmp_path}/m")
        assert "mount -t bpf" in caught.value.hint
    with pytest.raises(KernelRefused, match="ENOENT"):
        pins.open_pin(f"{ROOT}/other")
    assert (pins.unpin(f"{ROOT}/m"), pins.unpin(f"{ROOT}/m")) == (True, False)
    assert list(pins.walk(f"{ROOT}/nowhere")) == []
    assert pins.unpin_tree(f"{ROOT}/nowhere") == 0


def test_is_bpffs():
    """Only what lies in the BPF file system is called so."""
    assert pins.is_bpffs(pins.BPFFS)
    assert pins.is_bpffs(f"{pins.BPFFS}/not/yet/there")
    assert not pins.is_bpffs("/sys/fs")
    assert not pins.is_bpffs("/tmp")


def test_btf_ids_agree_with_what_the_kernel_says_of_a_pinned_link():
    """A link opened from its pin still tells what function it is on."""
    function = btf_id("__x64_sys_umask")
    options = {"expected_attach_type": u.BPF_TRACE_FEXIT, "attach_btf_id": function}
    with counter() as hits, counting_program(hits, u.BPF_PROG_TYPE_TRACING, **options) as loaded:
        with links.attach_tracing(loaded, u.BPF_TRACE_FEXIT) as link:
            pins.pin(link, f"{ROOT}/one")
        with pins.open_link(f"{ROOT}/one") as link:
            assert link.info().target_btf_id == function
            assert link.info().attach_type == u.BPF_TRACE_FEXIT
