"""Data join points of globals, by debug registers, each held against an account that is not klasy's."""

from __future__ import annotations

import itertools
import os
import signal
import struct
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.bpf_kernel import call_umask
from support.livekernel import leftovers, raw_counters
from support.waiting import wait_for
from support.weaving import woven

from klasy.bpf import links, program
from klasy.bpf import uapi as u
from klasy.bpf.asm import assemble
from klasy.bpf.insn import R0, R1, R2, R3, R10, add, call, exit_, load_imm, mov
from klasy.errors import InputError, KernelRefused
from klasy.kernel.live import LiveKernel
from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver import watch
from klasy.weaver.accounts import accounts
from klasy.weaver.build import build
from klasy.weaver.features import RunningFeatures
from klasy.weaver.pinfs import PinFS
from klasy.weaver.session import machine_of, weave
from klasy.weaver.unweave import unweave
from klasy.weaver.woven import open_woven, registry_entries

TTL = Path("/proc/sys/net/ipv4/ip_default_ttl")
CPU1 = Path("/sys/devices/system/cpu/cpu1/online")
DATUM = "init_net.ipv4.sysctl_ip_default_ttl"
WRITTEN = [10, 20, 20, 77, 200, 1, 64]


@pytest.fixture(autouse=True)
def _nothing_left():
    assert leftovers() == {}
    yield
    assert leftovers() == {}
    assert TTL.read_text() == "64\n"
    harmless = address("vfs_read", function=True) & ~7
    wait_for(lambda: watch.free_registers(harmless, 0) == watch.REGISTERS)


def address(name: str, *, function: bool = False) -> int:
    """Where a symbol lies."""
    kernel = LiveKernel()
    return (kernel.functions(name) if function else kernel.data_symbols(name))[0].address


def write(values: list[int]) -> None:
    """Set the default TTL, one write each."""
    for value in values:
        TTL.write_text(f"{value}\n")


def processes() -> int:
    """How many forks there have been: the kernel's total_forks."""
    return next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "processes" in line)


def fork(count: int) -> None:
    """Make processes that end at once."""
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)


@contextmanager
def on_cpu(cpu: int):
    """Run on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def open_quietly(name: str):
    """A woven aspect as it stands, without what opening it does for its CPUs."""
    return next(aspect for aspect in registry_entries(PinFS()) if aspect.name == name)


def test_every_write_is_a_set_with_its_values():
    """N writes to a sysctl are N sets; each with the value written, the one before, and the function that wrote."""
    with woven(f"aspect a {{ before(): set({DATUM}) {{ log(old, new, value); }} }}") as a:
        write(WRITTEN)
        events = a.mine()
        seen = [dict(event.values) for event in events]
        assert [value["new"] for value in seen] == WRITTEN
        assert [value["value"] for value in seen] == WRITTEN
        assert [value["old"] for value in seen] == [64, *WRITTEN[:-1]]
        assert a.total() == len(WRITTEN)
        assert {event.joinpoint.function for event in events} == {"proc_dou8vec_minmax"}
        assert {(event.joinpoint.data, event.joinpoint.access) for event in events} == {(DATUM, "write")}
        document = a.as_json(events[0])["joinpoint"]
        assert (document["kind"], document["data"], document["access"]) == ("set", DATUM, "write")
        assert a.aspect.counts()[0].missed == 0


def test_reads_and_writes_are_told_apart_and_add_up_to_a_raw_counter():
    """The gets and sets of one traffic are together what a breakpoint of our own counts for the same traffic."""

    def traffic() -> None:
        for value in WRITTEN:
            TTL.write_text(f"{value}\n")
            TTL.read_text()

    kernel = LiveKernel()
    from klasy.diag import DiagnosticBag
    from klasy.lang import ast
    from klasy.match.globals import find_data
    from klasy.source import SourceFile, Span

    pattern = ast.DataPattern(Span(SourceFile("x", " "), 0, 1), None, tuple(DATUM.split(".")))
    (datum,) = find_data(pattern, kernel, DiagnosticBag())
    with raw_counters(datum.address, 1, u.HW_BREAKPOINT_RW) as counted:
        traffic()
        both = counted()
    with raw_counters(datum.address, 1, u.HW_BREAKPOINT_W) as counted:
        traffic()
        writes = counted()
    assert writes == len(WRITTEN)
    text = f"""aspect a {{ before(): get({DATUM}) {{ log(value); }} before(): set({DATUM}) {{ log(new); }}
                          before(): access({DATUM}) {{ log(value); }} }}"""
    with woven(text) as a:
        traffic()
        assert a.total(1) == writes
        assert a.total(0) == both - writes
        assert a.total(2) == both
        assert [event.joinpoint.kind for event in a.mine()].count("set") == writes  # what were reads is left out
        assert all(count.undecided == 0 for count in a.aspect.counts())
        known = {(account.function, account.does) for account in accounts(a.aspect)}
        assert known == {("proc_dou8vec_minmax", 1), ("proc_dou8vec_minmax", 2)}
        traffic()  # by now the programs know the instructions
        assert (a.total(0), a.total(1), a.total(2)) == (2 * (both - writes), 2 * writes, 2 * both)


def test_one_instruction_can_read_and_write():
    """total_forks is counted by instructions that do both: they are sets and gets; /proc/stat counts the forks."""
    text = """aspect a { before(): set(total_forks) { log(old, new); } before(): get(total_forks) { log(value); }
                         before(): access(total_forks) { log(value); } }"""
    with woven(text) as a:
        before = processes()
        fork(25)
        after = processes()
        least = a.total(0), a.total(1), a.total(2)
        kinds = [(event.joinpoint.kind, dict(event.values)) for event in a.events()]
        most = a.total(0), a.total(1), a.total(2)
    # The kernel makes threads of its own when it likes, before, between and behind the two readings.
    sets, gets, accesses = ([v for kind, v in kinds if kind == wanted] for wanted in ("set", "get", "access"))
    assert [(v["old"], v["new"]) for v in sets if before <= v["old"] < after] == [
        (n, n + 1) for n in range(before, after)
    ]
    assert len(gets) == len(sets) + 2  # and one read of /proc/stat each
    assert [v["value"] for v in accesses] == [v["value"] for v in gets]
    assert all(low <= len(seen) <= high for low, seen, high in zip(least, (sets, gets, accesses), most, strict=True))


def test_jiffies_go_on_without_a_gap():
    """The old value of each set of jiffies is the new one of the set before, over the whole time."""
    with woven("aspect a { before(): set(jiffies) { log(old, new, now); } }") as a:
        time.sleep(0.5)
        values = [dict(event.values) for event in a.events()]
        (count,) = a.aspect.counts()
        assert len(values) > 3
        # A tick that comes upon a map's reading by bpf(2) finds no program allowed to run, and is counted as missed.
        gaps = [(one["new"], next_["old"]) for one, next_ in itertools.pairwise(values) if one["new"] != next_["old"]]
        assert len(gaps) <= count.missed, (gaps, count)
        ticks, spent = values[-1]["new"] - values[0]["new"], values[-1]["now"] - values[0]["now"]
        assert ticks / 250 == pytest.approx(spent / 1e9, rel=0.3, abs=0.02)  # CONFIG_HZ=250


def test_conditions_and_code():
    """``if`` over what is bound, and ``within`` at run time, keep what they say."""
    text = f"""aspect a {{
        before(): set({DATUM}) && if(new > 50 && old != new) {{ log(new); }}
        before(): set({DATUM}) && within(proc_dou8vec_minmax) {{ log(new); }}
        before(): set({DATUM}) && !within(proc_dou8vec_minmax) {{ log(new); }}
        before(): set({DATUM}) && withinmodule(vmlinux) {{ log("%d by %s", new, joinpoint.function); }} }}"""
    with woven(text) as a:
        write(WRITTEN)
        assert [a.total(n) for n in range(4)] == [3, 7, 0, 7]  # 77, 200 and 64
        said = [event.message for event in a.mine() if event.message]
        assert said == [f"{value} by proc_dou8vec_minmax" for value in WRITTEN]


def test_data_behind_a_pointer():
    """A path through a pointer is followed when weaving: the MTU of the loopback device."""
    mtu = Path("/sys/class/net/lo/mtu")
    with woven("aspect a { before(): set(init_net.loopback_dev->mtu) { log(old, new); } }") as a:
        for value in (2000, 3000, 65536):
            mtu.write_text(str(value))
        seen = [dict(event.values) for event in a.mine()]
        assert [(value["old"], value["new"]) for value in seen] == [(65536, 2000), (2000, 3000), (3000, 65536)]
        assert a.total() == 3


def test_several_registers_for_one_array():
    """An array of four ints takes two registers, each with a join point of its own."""
    file = Path("/proc/sys/kernel/printk")
    before = file.read_text()
    with woven("aspect a { before(): set(console_printk) { log(value); } }") as a:
        assert [point.data for point in a.aspect.joinpoints] == [
            "console_printk, bytes 0 to 7",
            "console_printk, bytes 8 to 15",
        ]
        file.write_text(before)
        assert [count.hits for count in a.aspect.counts()] == [2, 2]
        last = dict(a.mine()[-1].values)["value"]
        assert [str(number) for number in struct.unpack("<4i", last)] == before.split()


def test_a_cpus_copy_of_a_variable():
    """What the timer interrupt counts for a CPU in its irq_stat is what /proc/interrupts shows."""

    def local(cpu: int) -> int:
        line = next(line for line in Path("/proc/interrupts").read_text().splitlines() if "LOC:" in line)
        return int(line.split()[1 + cpu])

    with woven("aspect a { before(): set(per_cpu(irq_stat, 1).apic_timer_irqs) { log(old, new); } }") as a:
        with on_cpu(1):
            first = local(1)
            wait_for(lambda: local(1) > first + 10)
            last = local(1)
        events = a.events()
        pairs = [(v["old"], v["new"]) for v in (dict(event.values) for event in events)]
        # At the ends there are ticks that come upon the reading of maps by bpf(2): they are missed, as the kernel runs
        # no program then. Here there was none.
        inside = [(old, new) for old, new in pairs if first < new <= last]
        assert [new for _, new in inside] == list(range(first + 1, last + 1))
        assert all(new == old + 1 for old, new in inside[1:])
        assert {event.cpu for event in events} == {1}


def test_hits_while_another_program_runs_are_counted_as_missed():
    """A kprobe's program reads the data N times: the kernel runs no second program then, and klasy says N missed."""
    place = address("panic_timeout")  # the kernel itself looks at it when it dies
    read = [mov(R1, R10), add(R1, -8), mov(R2, 8), load_imm(R3, place), call("probe_read_kernel")]
    code = assemble([*read, mov(R0, 0), exit_()])
    with woven("aspect a { before(): get(panic_timeout) { log(value); } }") as a:
        before = a.aspect.counts()[0]
        assert before.missed == 0
        assert not before.partly
        with (
            program.load(u.BPF_PROG_TYPE_KPROBE, code, name="reads") as loaded,
            links.perf_kprobe(symbol="__x64_sys_umask") as event,
            links.attach_perf_event(loaded, event),
        ):
            call_umask(40)
        after = a.aspect.counts()[0]
        assert after.missed == 40
        assert after.hits == before.hits


def test_a_cpu_that_goes_and_comes():
    """A CPU that was off is watched again from the next command on, and it is said that it was not."""
    with woven(f"aspect a {{ before(): set({DATUM}) {{ log(new, cpu); }} }}") as a:
        with on_cpu(1):
            write([10, 64])
        CPU1.write_text("0")
        try:
            assert watch.uncovered(a.aspect) == []
            write([20, 64])
        finally:
            CPU1.write_text("1")
        with on_cpu(1):
            write([30, 64])  # in the gap
        assert watch.uncovered(a.aspect) == [1]
        with open_woven("a") as again:  # what every command does
            assert watch.uncovered(again) == []
            assert watch.gaps_in(again) == {1: 1}
            with on_cpu(1):
                write([40, 64])
            assert "came up after the weaving" in (watch.coverage(again) or "")
            read = subprocess.run(["klasy", "log", "--keep", "a"], capture_output=True, text=True, check=True)
            assert "klasy: a: CPU 1 came up after the weaving, and was not watched until" in read.stderr
            (count,) = again.counts()
            assert count.hits == 6
            assert count.partly
            assert count.missed == 0
        assert [dict(event.values)["new"] for event in a.mine()] == [10, 64, 20, 64, 40, 64]


def test_who_follows_a_log_sees_cpus_come_up():
    """While a log is followed, a CPU that comes up is armed within a second or so, and it is said."""
    source = f"aspect left {{ before(): set({DATUM}) {{ log(new); }} }}"
    with subprocess.Popen(
        ["klasy", "weave", "-f", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        running.stdin.write(source)
        running.stdin.close()
        running.stdin = None
        wait_for(lambda: PinFS().is_woven("left"))
        CPU1.write_text("0")
        CPU1.write_text("1")
        with open_quietly("left") as aspect:
            wait_for(lambda: not watch.uncovered(aspect))
            assert watch.gaps_in(aspect) == {1: 1}
        with on_cpu(1):
            write([30, 64])
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)
    assert [line.rsplit(" = ", 1)[1] for line in out.splitlines() if " = " in line] == ["30", "64"]
    assert "CPU 1 came up" in err


def test_registers_are_had_again_at_once():
    """The kernel lets go of them a moment after an aspect was taken out; who weaves meanwhile waits for that."""
    four = "set(jiffies) || set(total_forks) || set(panic_timeout) || set(nr_threads)"
    text = f"aspect four {{ before(): {four} {{ log(1); }} }}"
    kernel = LiveKernel()
    artifacts = build(SourceFile("test.asp", text), kernel, PlanOptions(RunningFeatures()))
    for _ in range(3):
        (aspect,) = weave(artifacts, machine_of(kernel))
        aspect.close()
        unweave(["four"])


def test_no_register_left():
    """A fifth register is refused; the message names the aspects that hold them, and nothing is left of the weave."""
    with (
        woven("aspect first { before(): set(jiffies) || set(total_forks) { log(cpu); } }"),
        woven("aspect second { before(): set(panic_timeout) || set(nr_threads) { log(cpu); } }"),
    ):
        with pytest.raises(KernelRefused) as caught, woven("aspect third { before(): set(avenrun[0]) { log(cpu); } }"):
            pass
        text = caught.value.message
        assert "no debug register left" in text
        assert "'first' holds jiffies, total_forks" in text
        assert "'second' holds " in text
        held = {name: sorted(data) for name, data in watch.holders(PinFS()).items()}
        assert held == {"first": ["jiffies", "total_forks"], "second": ["nr_threads", "panic_timeout"]}
    with (
        pytest.raises(InputError) as too_many,
        woven("aspect a { before(): set(avenrun) || set(jiffies_64) || set(total_forks) { log(cpu); } }"),
    ):
        pass
    assert {d.code for d in too_many.value.diagnostics} == {"too-many-watched"}


def test_it_stays_without_a_process():
    """Woven by a command that ends: the next command finds what was hit meanwhile, and takes it out."""
    source = f"aspect left {{ before(): set({DATUM}) {{ log(new); }} }}"
    subprocess.run(["klasy", "weave", "-"], input=source, text=True, check=True, capture_output=True)
    write([11, 12, 64])
    log = subprocess.run(["klasy", "log", "left"], text=True, check=True, capture_output=True).stdout
    assert [line.rsplit(" = ", 1)[1] for line in log.splitlines()] == ["11", "12", "64"]
    shown = subprocess.run(["klasy", "joinpoints", "left"], text=True, check=True, capture_output=True).stdout
    assert "proc_dou8vec_minmax+" in shown
    subprocess.run(["klasy", "unweave", "left"], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["jiffies", "total_forks", "nr_threads"])
def test_what_instructions_do_is_what_they_are_seen_to_do(name):
    """Instructions that name a variable, by decoding, against the writes that a write-only register sees."""
    kernel = LiveKernel()
    symbol = kernel.data_symbols(name)[0]
    size = {"nr_threads": 4}.get(name, 8)
    known = {reference.end: reference.kind for reference in kernel.references(symbol.address, size)}
    with woven(f"aspect a {{ before(): set({name}) {{ log(new); }} }}") as a:
        fork(5)
        time.sleep(0.1)
        writers = {account.ip for account in accounts(a.aspect)}
        assert writers
        assert all(known[ip] & 2 for ip in writers if ip in known)
        assert writers & known.keys()


def test_the_table_of_known_globals_fits_this_kernel():
    """Each type of the reviewed table fits the room of its symbol, where this kernel has it."""
    from klasy.diag import DiagnosticBag
    from klasy.kernel.known_globals import KNOWN
    from klasy.lang import ast
    from klasy.match.globals import find_data
    from klasy.source import SourceFile, Span

    kernel = LiveKernel()
    span = Span(SourceFile("x", " "), 0, 1)
    wrong = []
    for name in KNOWN:
        if kernel.data_symbols(name):
            bag = DiagnosticBag()
            if not find_data(ast.DataPattern(span, None, (name,)), kernel, bag):
                wrong.append((name, [d.message for d in bag.errors]))
    assert wrong == []
