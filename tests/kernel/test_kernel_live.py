"""The model of the running kernel against the kernel's own files and an independent disassembler."""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
import time
from pathlib import Path

import capstone
import pytest
from support.waiting import wait_for

from klasy.errors import NotRoot
from klasy.kernel import arch_x86_64 as arch
from klasy.kernel import insn_x86_64 as insn
from klasy.kernel.bodies import jumped_to
from klasy.kernel.live import LiveKernel
from klasy.kernel.model import CallKind, Clone, Way
from klasy.kernel.patchsites import PatchSites

MODULES = ("tun", "br_netfilter")
JUMP = 0xE9  # what an optimised probe puts over five bytes


@pytest.fixture(scope="module")
def kernel():
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    return LiveKernel(use_cache=False)


def test_identity(kernel):
    """Release and build id are what uname and the kernel's notes say."""
    assert kernel.release == os.uname().release
    assert bytes.fromhex(kernel.build_id) in Path("/sys/kernel/notes").read_bytes()
    assert len(kernel.build_id) == 40


def test_functions_are_where_kallsyms_says(kernel):
    """Address and module of functions, in the kernel proper and in modules, are those of /proc/kallsyms."""
    lines = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines()]
    for name in ("kfree", "skb_dequeue", "tcp_sendmsg", "tun_net_xmit", "br_nf_pre_routing"):
        listed = {(int(f[0], 16), f[3][1:-1] if len(f) > 3 else None) for f in lines if f[2] == name and f[1] in "tT"}
        assert {(f.address, f.module) for f in kernel.functions(name) if f.name == name} == listed
        assert listed


@pytest.mark.only_on("6.1")
def test_calls_are_kept(kernel, tmp_path, monkeypatch):
    """Who asks again for the calls of a function is told the same without text being read, until a module comes."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path))
    expected = kernel.callers(kernel.functions("*_output"))
    assert len(expected) > 20

    def first() -> LiveKernel:
        return LiveKernel()

    def without_text() -> LiveKernel:
        found = LiveKernel()
        monkeypatch.setattr(found, "object_text", None)
        return found

    patterns = ("ip_output", "*_output", "ip_output", "kfree")
    for pattern, opened in zip(patterns, (first, first, without_text, first), strict=True):
        wanted = kernel.functions(pattern)
        sites = opened().callers(wanted)
        assert [(s.address, s.length, s.kind, s.caller.name, s.callee.name) for s in sites] == [
            (s.address, s.length, s.kind, s.caller.name, s.callee.name) for s in kernel.callers(wanted)
        ]
    subprocess.run(["modprobe", "dummy"], check=True)
    try:
        with pytest.raises(TypeError):
            without_text().callers(kernel.functions("ip_output"))
    finally:
        subprocess.run(["modprobe", "-r", "dummy"], check=True)


def test_a_module_loaded_later():
    """Its functions are no join points of a model that was made before, but stacks through them have names."""
    subprocess.run(["modprobe", "-rq", "dummy"], check=False)
    kernel = LiveKernel()
    assert "dummy" not in kernel.symbols
    subprocess.run(["modprobe", "dummy"], check=True)
    try:
        listing = Path("/proc/kallsyms").read_text()
        (address,) = re.findall(r"^([0-9a-f]+) \w dummy_xmit\t\[dummy\]$", listing, re.MULTILINE)
        inside = int(address, 16) + 4
        assert kernel.function_at(inside) is None
        found = kernel.generated.function_at(inside)
        assert found is not None
        assert (found.name, found.address, found.module) == ("dummy_xmit", int(address, 16), "dummy")
    finally:
        subprocess.run(["modprobe", "-r", "dummy"], check=True)


def test_where_bodies_are_jumped_to(kernel, tmp_path, monkeypatch):
    """What leads to places behind hooks is the same when it is kept of all of them as when it is sought of some."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path))
    keeping = LiveKernel()
    far = set(keeping.far_into_bodies())
    (kept,) = tmp_path.glob("bodies-*")
    again = LiveKernel()
    monkeypatch.setattr(again, "object_text", None)
    assert set(again.far_into_bodies()) == far
    rng = random.Random(7)
    functions = [f for f in kernel.functions("*") if f.clone is not Clone.COLD and kernel.has_hook(f)]
    sample = rng.sample(functions, 3000)
    places = far | {f.address + 5 + arch.entry_offset(kernel.text(f.address, 4)) for f in sample}
    branched = {target for *_, target in kernel.branches_to(places)}
    assert jumped_to(again, places) == branched
    assert far <= branched < places
    assert far
    kept.write_bytes(kept.read_bytes()[:-8] + b"damaged!")
    assert set(LiveKernel().far_into_bodies()) == far


def test_callers_in_live_text(kernel):
    """The sites that callers() finds in functions drawn at random are those capstone finds there, modules included."""
    rng = random.Random(1)
    (kfree,) = (f for f in kernel.functions("kfree") if f.clone is Clone.NONE)
    sites = kernel.callers([kfree])
    callers = sorted({site.caller for site in sites}, key=lambda f: f.address)
    others = [f for f in kernel.functions("tun_*") if f.module == "tun" and f.size]
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    drawn = {*rng.sample(callers, 60), *rng.sample(others, min(20, len(others)))}
    expected = set()
    for function in drawn:
        for address, _, mnemonic, operands in disassembler.disasm_lite(
            kernel.text(function.address, function.size), function.address
        ):
            word = mnemonic.split()[-1]
            if (word == "call" or word.startswith("j")) and operands == hex(kfree.address):
                expected.add((address, CallKind.DIRECT if word == "call" else CallKind.TAIL))
    assert {(site.address, site.kind) for site in sites if site.caller in drawn} == expected
    assert len(expected) >= 60
    assert any(site.caller.module == "tun" for site in sites)


@pytest.fixture
def probed(kernel):
    """Puts probes that are not klasy's over instructions, armed until the end of the test."""
    enable = Path("/sys/kernel/tracing/events/klasylive/enable")

    def arm(addresses):
        for number, address in enumerate(addresses):
            define(f"p:klasylive/p{number} _text+{address - kernel.symbols[None].base}")
        enable.write_text("1")
        return LiveKernel(use_cache=False)

    yield arm
    if enable.exists():
        enable.write_text("0")
        define("-:klasylive/")


@pytest.mark.parametrize("kind", [CallKind.DIRECT, CallKind.TAIL])
def test_text_under_a_probe(kernel, probed, kind):
    """Where breakpoints of other people's kprobes lie over calls and jumps, these are still found as what they are."""
    (callee,) = (f for f in kernel.functions("kfree") if f.clone is Clone.NONE)
    before = [s for s in kernel.callers([callee]) if s.caller.module is None]
    sites = [s for s in before if s.kind is kind and kernel.refusal(s.address, s.caller, Way.KPROBE) is None][:40]
    assert len(sites) == 40
    later = probed(site.address for site in sites)
    assert {later.read(site.address, 1) for site in sites} == {b"\xcc"}
    assert [later.text(site.address, site.length) for site in sites] == [
        kernel.text(site.address, site.length) for site in sites
    ]
    after = [s for s in later.callers([callee]) if s.caller.module is None]
    assert [(s.address, s.kind, s.length) for s in after] == [(s.address, s.kind, s.length) for s in before]


def optimisable(kernel):
    """A function, and instructions of it of which the kernel can make jumps."""
    (function,) = kernel.functions("vfs_getattr")
    code = kernel.text(function.address, function.size)
    instructions = insn.instructions(code, 0, len(code))
    # ftrace's call is no probe's; a jump is known from one of a probe's by its place only
    long = [function.address + at for at, size in instructions if at > 4 and size >= 5 and code[at] != JUMP]
    return function, [address for address in long if kernel.refusal(address, function, Way.KPROBE) is None]


def test_text_under_an_optimised_probe(kernel, probed):
    """Where an optimised kprobe's jump lies over five bytes, the text reads as it was."""
    function, places = optimisable(kernel)
    before = kernel.text(function.address, function.size)
    probed(places)
    listing = Path("/sys/kernel/debug/kprobes/list")
    optimised: list[int] = []

    def some_are() -> bool:  # listed as soon as it is to be, done when every task was scheduled once
        lines = [line.split() for line in listing.read_text().splitlines() if "[OPTIMIZED]" in line]
        listed = [address for line in lines if (address := int(line[0], 16)) in places]
        optimised[:] = [address for address in listed if kernel.read(address, 1) == b"\xe9"]
        return bool(optimised)

    wait_for(some_are, 180)
    later = LiveKernel(use_cache=False)
    assert later.read(function.address, function.size) != before
    assert later.text(function.address, function.size) == before


def test_text_while_probes_come_and_go(kernel, probed):
    """Who reads text while others put probes, and the kernel makes jumps of them, reads it as it was all the time."""
    function, places = optimisable(kernel)
    before = kernel.text(function.address, function.size)
    probed(places)
    enable = Path("/sys/kernel/tracing/events/klasylive/enable")
    reader = LiveKernel(use_cache=False)
    assert reader.text(function.address, len(before)) == before  # what is slow at first is read now
    stop = threading.Event()

    def first_bytes(code):
        return {code[place - function.address] for place in places}

    def come_and_go():
        while not stop.is_set():
            enable.write_text("1")
            until = time.monotonic() + 8  # as long as it may take until they are jumps
            while time.monotonic() < until and JUMP not in first_bytes(kernel.read(function.address, len(before))):
                stop.wait(0.05)
            enable.write_text("0")
            stop.wait(0.1)

    other = threading.Thread(target=come_and_go)
    other.start()
    seen, texts = set(), set()

    def read():
        seen.update(first_bytes(reader.read(function.address, len(before))))
        texts.add(reader.text(function.address, len(before)))
        return seen == {arch.BREAKPOINT, JUMP, *first_bytes(before)}

    try:
        wait_for(read)
        for _ in range(1000):
            read()
    finally:
        stop.set()
        other.join()
    assert texts == {before}


def test_text_where_the_kernels_record_is_not_to_be_had(kernel, probed, monkeypatch):
    """Without the kernel's table the list of probes tells where they are, and calls are known by where they lead."""
    (callee,) = (f for f in kernel.functions("skb_dequeue") if f.clone is Clone.NONE)
    before = kernel.callers([callee])
    site = next(
        s for s in before if s.kind is CallKind.DIRECT and kernel.refusal(s.address, s.caller, Way.KPROBE) is None
    )
    later = probed([site.address])
    monkeypatch.setattr(later, "place", lambda name: None)
    assert later.text(site.address, 1) == b"\xe8"
    assert [(s.address, s.kind) for s in later.callers([callee])] == [(s.address, s.kind) for s in before]


def define(line):
    """Define or delete a kprobe event. Not by open("a"): that seeks, which this file refuses."""
    fd = os.open("/sys/kernel/tracing/kprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, line.encode() + b"\n")
    finally:
        os.close(fd)


def test_kept_symbols_are_the_same(kernel, tmp_path, monkeypatch):
    """What a second start takes from the cache equals what the first worked out, without reading all symbols."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path))
    first = LiveKernel()
    first_functions = first.functions("skb_*")
    assert first.btf.find_func("kfree")
    second = LiveKernel()
    assert second.functions("skb_*") == first_functions == kernel.functions("skb_*")
    assert second.btf.find_func("kfree") == first.btf.find_func("kfree")
    assert "listing" in vars(first)
    assert "listing" not in vars(second)
    assert [s.listed for s in second.symbols.values()] == [s.listed for s in first.symbols.values()]


def test_tables_of_the_kernels_own(kernel):
    """The kernel and its modules tell where a BUG() is, an ud2, and where what reads users' memory may fault."""
    tables = {module: PatchSites(kernel, module) for module in (None, "overlay")}
    for table in tables.values():
        assert table.bugs
        assert {kernel.read(place, 2) for place in table.bugs} == {b"\x0f\x0b"}
    (faulting,) = kernel.functions("__get_user_nocheck_8")
    assert any(faulting.address <= place < faulting.end for place in tables[None].faulting)
    assert len(tables[None].jump_labels) > 1000 < len(tables[None].static_calls)


def test_variables(kernel):
    """A variable is found where it is: jiffies moves on there."""
    (jiffies,) = kernel.data_symbols("jiffies")
    before = int.from_bytes(kernel.read(jiffies.address, 8), "little")
    time.sleep(0.2)
    assert int.from_bytes(kernel.read(jiffies.address, 8), "little") > before
    (runqueues,) = kernel.data_symbols("runqueues")
    assert runqueues.percpu
    assert not jiffies.percpu


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("start_kernel", "boots"),
        ("jiffies", "variable"),
        ("sk_buff", "type"),
        ("sys_read", "__x64_sys_read"),
        ("trace_sched_switch", "event(CATEGORY:sched_switch)"),
        ("kmalloc", "event(CATEGORY:kmalloc)"),
        ("xfs_no_such_function", None),
    ],
)
def test_why_absent(kernel, name, words):
    """What is known of a name that is no function is said; nothing is made up."""
    known = kernel.why_absent(name)
    assert known is None if words is None else words in known


def test_not_root(kernel):
    """Who is not root gets an error that says so, not an empty kernel."""
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            LiveKernel(use_cache=False).functions("kfree")
        except NotRoot as error:
            os._exit(0 if "root" in str(error) else 3)
        except BaseException:
            os._exit(2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
