"""What klasy says can be probed, against what the running kernel answers when it is tried.

Places are drawn by a seed, some hundred of each kind; KLASY_SEED sets another.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest

from klasy.bpf import links, program
from klasy.bpf.asm import assemble
from klasy.bpf.insn import R0, exit_, mov
from klasy.bpf.uapi import BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, BPF_TRACE_FEXIT
from klasy.errors import KernelRefused
from klasy.kernel.live import LiveKernel
from klasy.kernel.model import Clone, Way
from klasy.kernel.patchsites import PatchSites

EVENTS = Path("/sys/kernel/tracing/kprobe_events")
EXPEDITED = Path("/sys/kernel/rcu_expedited")
MODULES = ("tun", "br_netfilter", "xfs")
SEED = int(os.environ.get("KLASY_SEED", "1"))

# Refusals that are klasy's own: the kernel would take these and do harm, or nothing would ever come of them
OURS = {"end-of-module", "no-entry", "noreturn", "run-by-programs", "trace-internal"}


@pytest.fixture(scope="module")
def kernel():
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    return LiveKernel(use_cache=False)


class Tried:
    """Predictions and answers: one line for each disagreement."""

    def __init__(self) -> None:
        self.counts = Counter()
        self.wrong = []

    def add(self, what, function, address, refusal, answer) -> None:
        agreed = (refusal is None) == (answer == 0)
        self.counts[what, refusal.code if refusal else "can be probed", agreed] += 1
        if not agreed:
            told = refusal.code if refusal else "none"
            self.wrong.append(
                f"{what} {function}+{address - function.address:#x}: "
                f"klasy's refusal: {told}, the kernel's: {errno.errorcode.get(answer, answer)}"
            )

    def report(self) -> str:
        lines = [
            f"seed {SEED}",
            *(f"{n:5} {what}: {code}{'' if ok else ' (WRONG)'}" for (what, code, ok), n in sorted(self.counts.items())),
        ]
        return "\n".join(lines + self.wrong)


@contextmanager
def probe_definitions(base):
    """A function that tries to define a probe at an address and gives the kernel's errno, 0 for success."""
    before = EXPEDITED.read_text()
    EXPEDITED.write_text("1")
    fd = os.open(EVENTS, os.O_WRONLY | os.O_APPEND)
    count = 0

    def attempt(address, kind):
        nonlocal count
        count += 1
        try:
            os.write(fd, f"{kind}:klasytest/e{count} _text+{address - base}\n".encode())
        except OSError as error:
            return error.errno
        os.write(fd, f"-:klasytest/e{count}\n".encode())
        return 0

    try:
        yield attempt
    finally:
        os.close(fd)
        EXPEDITED.write_text(before)


def draw(kernel, rng, count, module=None):
    """Functions drawn at random, made as they are asked for."""
    symbols = kernel.symbols[module]
    indexes = [i for i in range(len(symbols)) if symbols.sizes[i]]
    return (kernel._function(module, i) for i in rng.sample(indexes, min(count, len(indexes))))


def places(kernel, rng):
    """What to try: (kind, address, function, way)."""
    for function in draw(kernel, rng, 300):
        yield "entry", function.address, function, Way.KPROBE
    for function in draw(kernel, rng, 60):
        yield "return", function.address, function, Way.KRETPROBE
    suffixed = [f for f in kernel.functions("*") if f.clone is not Clone.NONE and f.module is None]
    for function in rng.sample(suffixed, 150):
        yield f"entry of .{function.clone.value}", function.address, function, Way.KPROBE
    for function in draw(kernel, rng, 400):
        sites = kernel.calls_in([function])
        if sites:
            site = rng.choice(sites)
            yield f"{site.kind.value} call", site.address, function, Way.KPROBE
    for function in draw(kernel, rng, 150):
        yield "any byte", function.address + rng.randrange(function.size), function, Way.KPROBE
    for module in MODULES:
        for function in draw(kernel, rng, 40, module):
            yield "entry in a module", function.address, function, Way.KPROBE
            for site in rng.sample(sites, 2) if len(sites := kernel.calls_in([function])) > 1 else ():
                yield f"{site.kind.value} call in a module", site.address, function, Way.KPROBE
    patched = PatchSites(kernel, None)
    for address in rng.sample(sorted(patched.static_calls), 40) + rng.sample(sorted(patched.jump_labels), 40):
        function = kernel.function_at(address)
        if function is not None:
            yield "rewritten place", address, function, Way.KPROBE


def test_system_calls(kernel):
    """Each is one function, also where 6.1 has types of what stands for it where it is left out."""
    calls = [f for f in kernel.functions("__x64_sys_*") if kernel.has_ftrace_site(f.address)]
    assert len(calls) > 300
    refused = {f.name: kernel.refusal(f.address, f, Way.FENTRY) for f in calls}
    assert [name for name, refusal in refused.items() if refusal and refusal.code == "duplicate-name"] == []


def test_kprobes_are_refused_where_klasy_says_so(kernel):
    """The kernel takes what klasy believes can be probed, and refuses what klasy refuses: at most 1 in 200 differs.

    The disagreements allowed for are duplicates among the base names of split-off pieces, which only the kernel's own
    order of symbols decides.
    """
    tried = Tried()
    rng = random.Random(SEED)
    with probe_definitions(kernel.symbols[None].base) as attempt:
        for what, address, function, way in places(kernel, rng):
            refusal = kernel.refusal(address, function, way)
            if refusal is None or refusal.code not in OURS:
                tried.add(what, function, address, refusal, attempt(address, "p" if way is Way.KPROBE else "r"))
    print(tried.report())
    total = sum(tried.counts.values())
    refused = sum(n for (_, code, _), n in tried.counts.items() if code != "can be probed")
    assert total > 900, tried.report()
    assert refused > 100, tried.report()
    assert len(tried.wrong) <= total / 200, tried.report()


def test_entries_of_all_functions_at_once(kernel):
    """Of all entries at once, in live text, the same is said as of each by itself; also while some are traced."""
    functions = [function for function in kernel.functions("*") if function.clone is not Clone.COLD]
    alone = random.Random(SEED).sample(functions, 3000)
    traced = 0
    events = os.open(EVENTS, os.O_WRONLY | os.O_APPEND)
    enable = Path("/sys/kernel/tracing/events/klasytest/enable")
    try:
        for function in alone[:60]:
            with suppress(OSError):  # it cannot be probed
                os.write(events, f"p:klasytest/many{traced} {function.address:#x}\n".encode())
                traced += 1
        enable.write_text("1")
        now = LiveKernel(use_cache=False)
        found = now.entry_refusals(functions)
        for function in alone:
            assert found[function.address] == now.refusal(function.address, function, Way.KPROBE), function
            assert found[function.address] == kernel.refusal(function.address, function, Way.KPROBE), function
    finally:
        enable.write_text("0")
        os.write(events, b"-:klasytest/\n")
        os.close(events)
    assert traced > 20
    refused = sum(refusal is not None for refusal in found.values())
    assert 0 < refused < len(found) / 2


def attach(function, attach_type):
    """Try to put a trampoline on a function; the kernel's errno, 0 for success."""
    code = assemble([mov(R0, 0), exit_()])
    try:
        with (
            program.load(
                BPF_PROG_TYPE_TRACING, code, name="t", expected_attach_type=attach_type, attach_btf_id=function.proto
            ) as loaded,
            links.attach_tracing(loaded, attach_type),
        ):
            return 0
    except KernelRefused as error:
        return error.errno


def most_registers(kernel):
    """How many argument registers trampolines save here, 6 or 12: tried with a function of seven parameters."""
    for function in kernel.functions("__traceiter_*"):
        if function.module is None and function.proto is not None:
            params = len(kernel.btf.proto(function.proto).params)
            refusal = kernel.refusal(function.address, function, Way.FENTRY)
            if params == 7 and refusal is not None and refusal.code == "too-many-args":
                return 12 if attach(function, BPF_TRACE_FENTRY) == 0 else 6
    raise AssertionError("no function of seven parameters to try with")


def test_trampolines_are_refused_where_klasy_says_so(kernel):
    """BPF trampolines: what klasy believes can be done, can, and what it refuses, the kernel refuses too.

    Functions without a prototype cannot even be named to the kernel. A duplicate's refusal is klasy's own: the kernel
    takes the first of the name, whichever was meant.
    """
    tried = Tried()
    rng = random.Random(SEED)
    kernel.trampoline_registers = most_registers(kernel)
    drawn = list(draw(kernel, rng, 60))
    special = [
        f
        for name in ("_printk", "seq_printf", "tcp_sendmsg", "do_exit", "migrate_disable")
        for f in kernel.functions(name)
    ]
    wide = (
        f
        for f in draw(kernel, rng, len(kernel.symbols[None]))
        if f.proto is not None and len(kernel.btf.proto(f.proto).params) > 6
    )
    drawn += special + list(islice(wide, 12))
    for function in drawn:
        way, attach_type = rng.choice([(Way.FENTRY, BPF_TRACE_FENTRY), (Way.FEXIT, BPF_TRACE_FEXIT)])
        refusal = kernel.refusal(function.address, function, way)
        if function.proto is None:
            assert refusal is not None
            continue
        if refusal is None or refusal.code not in {*OURS, "duplicate-name"}:
            tried.add(way.value, function, function.address, refusal, attach(function, attach_type))
    print(tried.report())
    assert sum(tried.counts.values()) > 40, tried.report()
    assert tried.counts["fentry", "can be probed", True] > 10, tried.report()
    assert not tried.wrong, tried.report()


def test_ftrace_agrees_on_what_can_be_traced(kernel):
    """Of each name, as many functions are held for traceable as ftrace lists (of an address it gives one name only).

    Told from their first bytes alone, without ftrace's list, at most a few functions more are.
    """
    listed = Counter(
        line.split()[0]
        for line in Path("/sys/kernel/tracing/available_filter_functions").read_text().splitlines()
        if "[" not in line and not line.startswith("__ftrace_invalid_address__")
    )
    symbols = kernel.symbols[None]
    own, by_bytes = Counter(), Counter()
    noted = symbols.listed
    for index in range(len(symbols)):
        address = symbols.address(index)
        if symbols.at(address) == index:
            own[symbols.name(index)] += kernel.has_ftrace_site(address)
            symbols.listed = None
            by_bytes[symbols.name(index)] += kernel.has_ftrace_site(address)
            symbols.listed = noted
    assert +own == listed
    assert not listed - by_bytes
    assert (by_bytes - listed).total() < 20


def test_a_probe_in_the_last_function_of_a_module(kernel):
    """Instructions of a module's last function are refused where the kernel would read behind the module's text.

    The kernel dies of it (Linux 6.4 and later), so only klasy's answer is checked: it depends on nothing but the
    number of bytes that fill up the page, and on whether the module's data follow.
    """
    answers = set()
    for module in kernel.modules():
        symbols = kernel.symbols[module]
        last = kernel.function_at(symbols.end - 1)
        sites = kernel.calls_in([last])
        behind = any(symbols.end <= s < symbols.end + 0x1000 for s in kernel.module_sections(module).values())
        for site in sites[:1]:
            refusal = kernel.refusal(site.address, last, Way.KPROBE)
            holds = refusal is not None and refusal.code == "end-of-module"
            answers.add(holds)
            assert not (holds and behind)
        entry = kernel.refusal(last.address, last, Way.KPROBE)
        if kernel.has_ftrace_site(last.address):
            assert entry is None or entry.code != "end-of-module"
    assert answers
