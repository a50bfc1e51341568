"""Links and perf events, each counted against calls that the test makes itself."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest
from support.bpf_kernel import btf_id, call_umask, counter, counting_program, no_leaks, value  # noqa: F401
from support.waiting import wait_for

from klasy.bpf import features, links, maps, program
from klasy.bpf import uapi as u
from klasy.bpf.asm import assemble
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R10,
    add,
    atomic_add,
    call,
    exit_,
    jump_if,
    load,
    load_map,
    load_map_value,
    mov,
    rsh,
    store,
)
from klasy.bpf.sys import Buffer
from klasy.errors import KernelRefused

UMASK = "__x64_sys_umask"
TRACEFS = Path("/sys/kernel/tracing")


def symbol_address(name: str) -> int:
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, _, symbol, *_ = line.split()
        if symbol == name:
            return int(address, 16)
    raise KeyError(name)


@pytest.mark.parametrize("by", ["symbol", "address"])
def test_kprobe_counts_calls(by):
    """A kprobe on a system call counts exactly the calls made, until its link is closed."""
    where = {"symbol": UMASK} if by == "symbol" else {"address": symbol_address(UMASK)}
    with counter() as hits, counting_program(hits) as loaded:
        with links.perf_kprobe(**where) as event:
            link = links.attach_perf_event(loaded, event)
        with link:  # the event's own descriptor is closed by now
            call_umask(1000)
            assert value(hits) == 1000
            assert link.info().program_id == loaded.info().id
            assert link.info().type == u.BPF_LINK_TYPE_PERF_EVENT
            assert link.info().missed in {0, None}
        call_umask(10)
        assert value(hits) == 1000


def test_kprobe_sees_registers_and_cookie():
    """The program gets the registers at the probed place, and the cookie of its link."""
    # the argument of __x64_sys_umask is the caller's registers: rdi (offset 112) -> its rdi -> the new mask
    code = assemble(
        [
            *(mov(R6, R1), load(R3, R1, 112), add(R3, 112), mov(R1, R10), add(R1, -8), mov(R2, 8)),
            *(call("probe_read_kernel"), load(R2, R10, -8), load_map_value(R1, "out"), store(R1, 0, R2)),
            *(mov(R1, R6), call("get_attach_cookie"), load_map_value(R1, "out"), store(R1, 8, R0)),
            *(load(R2, R6, 128), load_map_value(R1, "out"), store(R1, 16, R2), mov(R0, 0), exit_()),
        ]
    )
    with (
        maps.create("array", name="out", key_size=4, value_size=24, max_entries=1) as out,
        program.load(u.BPF_PROG_TYPE_KPROBE, code, name="regs", maps={"out": out}) as loaded,
        links.perf_kprobe(symbol=UMASK) as event,
        links.attach_perf_event(loaded, event, cookie=0x1122334455667788),
    ):
        os.umask(0o123)
        os.umask(0o022)
        os.umask(0o246)
        seen = out.lookup(bytes(4))
        os.umask(0o022)
    mask, cookie, ip = (int.from_bytes(seen[n : n + 8], "little") for n in (0, 8, 16))
    assert (mask, cookie) == (0o246, 0x1122334455667788)
    assert 0 <= ip - symbol_address(UMASK) <= 5  # the ip is behind the probed byte, or behind endbr64 and it


def test_kretprobe_sees_the_result():
    """At a function's return rax (offset 80) is its result: umask gives the mask before."""
    code = assemble([load(R2, R1, 80), load_map_value(R1, "hits"), store(R1, 0, R2), mov(R0, 0), exit_()])
    with (
        counter() as hits,
        program.load(u.BPF_PROG_TYPE_KPROBE, code, name="ret", maps={"hits": hits}) as loaded,
        links.perf_kprobe(symbol=UMASK, at_return=True) as event,
        links.attach_perf_event(loaded, event),
    ):
        os.umask(0o077)
        os.umask(0o022)
        assert value(hits) == 0o077


@pytest.mark.parametrize(
    ("where", "name", "hint"),
    [
        ({"symbol": "no_such_function_anywhere"}, "ENOENT", "no function of that name"),
        ({"symbol": "vfs_read", "offset": 6}, "EILSEQ", "start of an instruction"),
        ({"symbol": "do_int3"}, "EINVAL", "does not let"),
        ({"symbol": "vfs_read", "offset": 5, "at_return": True}, "EINVAL", ""),
        ({"address": 0x1000}, "ENOENT", "no kernel code"),
    ],
)
def test_kprobe_refusals(where, name, hint):
    """Places that cannot be probed are refused with a reason a person can use."""
    with pytest.raises(KernelRefused, match=f"probing .*{name}") as caught:
        links.perf_kprobe(**where)
    assert hint in (caught.value.hint or "")


def test_programs_on_kprobes_run_though_the_event_is_disabled():
    """A fact to know: the state of a kprobe's perf event does not concern the programs attached to it."""
    with (
        counter() as hits,
        counting_program(hits) as loaded,
        links.perf_kprobe(symbol=UMASK) as event,
        links.attach_perf_event(loaded, event),
    ):
        event.disable()
        call_umask(5)
        assert value(hits) == 5


def append(path: Path, line: str) -> None:
    """One line to a file of tracefs, which cannot be sought."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def test_one_trace_event_for_many_sites():
    """A kprobe event of tracefs with two sites is one perf event, one link; both sites hit its program."""
    definitions = TRACEFS / "kprobe_events"
    try:
        append(definitions, f"p:klasytest/two {UMASK}\n")
        append(definitions, "p:klasytest/two __x64_sys_getpgid\n")
        number = int((TRACEFS / "events/klasytest/two/id").read_text())
        with (
            counter() as hits,
            counting_program(hits) as loaded,
            links.perf_tracepoint(number) as event,
            links.attach_perf_event(loaded, event),
        ):
            call_umask(30)
            for _ in range(12):
                os.getpgid(0)
            assert value(hits) == 42
    finally:
        append(definitions, "-:klasytest/two\n")


def test_static_tracepoint():
    """A static trace event runs its program: one hit for each umask entered."""
    number = int((TRACEFS / "events/syscalls/sys_enter_umask/id").read_text())
    with (
        counter() as hits,
        counting_program(hits, u.BPF_PROG_TYPE_TRACEPOINT) as loaded,
        links.perf_tracepoint(number) as event,
        links.attach_perf_event(loaded, event),
    ):
        call_umask(7)
        assert value(hits) == 7


def test_raw_tracepoint():
    """A raw tracepoint runs its program for every system call; at least ours."""
    with counter() as hits, counting_program(hits, u.BPF_PROG_TYPE_RAW_TRACEPOINT) as loaded:
        with links.attach_raw_tracepoint(loaded, "sys_enter") as link:
            call_umask(100)
            assert value(hits) >= 100
            assert link.info().type == u.BPF_LINK_TYPE_RAW_TRACEPOINT
        with pytest.raises(KernelRefused, match="ENOENT"):
            links.attach_raw_tracepoint(loaded, "no_such_tracepoint")


@pytest.mark.parametrize("kind", [u.BPF_TRACE_FENTRY, u.BPF_TRACE_FEXIT])
def test_fentry_and_fexit_count_calls(kind):
    """A trampoline counts exactly the calls made; two on one function both count."""
    options = {"expected_attach_type": kind, "attach_btf_id": btf_id(UMASK)}
    with (
        counter() as hits,
        counting_program(hits, u.BPF_PROG_TYPE_TRACING, **options) as one,
        counting_program(hits, u.BPF_PROG_TYPE_TRACING, **options) as other,
        links.attach_tracing(one, kind) as link,
    ):
        call_umask(500)
        assert value(hits) == 500
        with links.attach_tracing(other, kind):
            call_umask(500)
            assert value(hits) == 1500
        call_umask(500)
        assert value(hits) == 2000
        info = link.info()
        assert (info.type, info.attach_type) == (u.BPF_LINK_TYPE_TRACING, kind)
        assert info.target_btf_id == btf_id(UMASK)
        assert one.info().attach_btf_id == btf_id(UMASK)


def test_fexit_sees_argument_result_and_cookie():
    """An fexit program gets arguments and result in its context, and the cookie of its link."""
    code = assemble(
        [
            *(mov(R6, R1), load(R2, R6, 8), load_map_value(R1, "out"), store(R1, 0, R2)),
            *(mov(R1, R6), call("get_attach_cookie"), load_map_value(R1, "out"), store(R1, 8, R0)),
            *(mov(R0, 0), exit_()),
        ]
    )
    with (
        maps.create("array", name="out", key_size=4, value_size=16, max_entries=1) as out,
        program.load(
            u.BPF_PROG_TYPE_TRACING,
            code,
            name="fexit",
            maps={"out": out},
            expected_attach_type=u.BPF_TRACE_FEXIT,
            attach_btf_id=btf_id(UMASK),
        ) as loaded,
        links.attach_tracing(loaded, u.BPF_TRACE_FEXIT, cookie=42),
    ):
        os.umask(0o135)
        os.umask(0o022)
        seen = out.lookup(bytes(4))
    assert [int.from_bytes(seen[n : n + 8], "little") for n in (0, 8)] == [0o135, 42]


def test_lsm_program_denies():
    """An LSM program's result is the operation's: opening fails for this process only, and only while attached."""
    code = assemble(
        [
            *(call("get_current_pid_tgid"), rsh(R0, 32), mov(R1, R0), mov(R0, 0)),
            *(jump_if(R1, "!=", os.getpid(), "out"), mov(R0, -1), exit_().labelled("out")),
        ]
    )
    hook = btf_id("bpf_lsm_file_open")
    with program.load(
        u.BPF_PROG_TYPE_LSM, code, name="deny", expected_attach_type=u.BPF_LSM_MAC, attach_btf_id=hook
    ) as loaded:
        with links.attach_tracing(loaded, u.BPF_LSM_MAC):
            with pytest.raises(PermissionError):
                os.open("/etc/hostname", os.O_RDONLY)
            assert subprocess.run(["cat", "/proc/version"], check=False, capture_output=True).returncode == 0
        os.close(os.open("/etc/hosts", os.O_RDONLY))


def test_kprobe_multi():
    """Many functions with one link, each with its cookie, at entry and return; where the kernel has FPROBE."""
    probed = features.kprobe_multi()
    if not probed:
        assert os.environ["KLASY_LAB"] == "6.1"
        pytest.skip(probed.detail)
    code = assemble(
        [
            *(call("get_attach_cookie"), load_map_value(R1, "hits"), atomic_add(R1, 0, R0)),
            *(mov(R0, 0), exit_()),
        ]
    )
    functions = [UMASK, "__x64_sys_getpgid"]
    for at_return in (False, True):
        with (
            counter() as hits,
            program.load(
                u.BPF_PROG_TYPE_KPROBE,
                code,
                name="multi",
                maps={"hits": hits},
                expected_attach_type=u.BPF_TRACE_KPROBE_MULTI,
            ) as loaded,
            links.attach_kprobe_multi(loaded, symbols=functions, cookies=[1, 1000], at_return=at_return) as link,
        ):
            call_umask(5)
            os.getpgid(0)
            assert value(hits) == 1005
            assert (link.info().functions, link.info().missed) == (2, 0)
            with links.attach_kprobe_multi(loaded, addresses=[symbol_address(UMASK)], cookies=[7]):
                os.umask(0o022)
            assert value(hits) == 1005 + 1 + 7


def test_debug_register_sees_each_write():
    """A debug register on a word of this process sees every value written to it alone, and can be silenced.

    The values are kept as a set: an emulated CPU under load may report one write twice, or an old one once more.
    """
    os.sched_setaffinity(0, {0})
    memory = (ctypes.c_uint64 * 2)()
    address = ctypes.addressof(memory)
    code = assemble(
        [
            *(load(R3, R1, 176), mov(R1, R10), add(R1, -8), mov(R2, 8), call("probe_read_user")),
            *(load_map(R1, "seen"), mov(R2, R10), add(R2, -8), mov(R3, R2), mov(R4, 0), call("map_update_elem")),
            *(mov(R0, 0), exit_()),
        ]
    )
    try:
        with (
            maps.create("hash", name="seen", key_size=8, value_size=8, max_entries=100) as seen,
            program.load(u.BPF_PROG_TYPE_PERF_EVENT, code, name="watch", maps={"seen": seen}) as loaded,
            links.perf_breakpoint(address, 8, u.HW_BREAKPOINT_W, cpu=0) as event,
            links.attach_perf_event(loaded, event),
        ):

            def values() -> list[int]:
                return sorted(int.from_bytes(key, "little") for key in seen.keys())  # noqa: SIM118  # no dictionary

            for n in range(1, 21):
                memory[0] = n
                memory[1] = 1000 * n
            assert values() == list(range(1, 21))
            event.disable()
            memory[0] = 500
            assert values() == list(range(1, 21))
            event.enable()
            memory[0] = 600
            assert set(values()) - {500} == {*range(1, 21), 600}
    finally:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def test_a_cpu_has_four_debug_registers():
    """The fifth is refused with a message that says who may hold them."""
    address = ctypes.addressof((ctypes.c_uint64 * 1)())
    held = [links.perf_breakpoint(address, 8, u.HW_BREAKPOINT_W, cpu=0, disabled=True) for _ in range(4)]
    with pytest.raises(KernelRefused, match="ENOSPC") as caught:
        links.perf_breakpoint(address, 8, u.HW_BREAKPOINT_W, cpu=0, disabled=True)
    assert "debug registers" in caught.value.hint
    for one in held:
        one.close()
    with pytest.raises(KernelRefused, match="EINVAL"):  # x86 has no register for reads alone
        links.perf_breakpoint(address, 8, u.HW_BREAKPOINT_R, cpu=0, disabled=True)


def test_debug_register_on_kernel_data():
    """A kernel variable can be watched: the clock's tick writes jiffies on one of the CPUs."""
    jiffies = symbol_address("jiffies_64")
    with counter() as hits, counting_program(hits, u.BPF_PROG_TYPE_PERF_EVENT) as loaded:
        events = [links.perf_breakpoint(jiffies, 8, u.HW_BREAKPOINT_W, cpu=cpu) for cpu in range(os.cpu_count() or 1)]
        attached = [links.attach_perf_event(loaded, event) for event in events]
        wait_for(lambda: value(hits))
        for one in (*attached, *events):
            one.close()
        assert value(hits) > 0


def test_links_can_be_neither_updated_nor_detached():
    """The two facts the module's docstring states: no update, no forced detach, for perf events and trampolines."""
    from klasy.bpf import sys

    tracing = {"expected_attach_type": u.BPF_TRACE_FENTRY, "attach_btf_id": btf_id(UMASK)}
    with (
        counter() as hits,
        counting_program(hits) as probe,
        counting_program(hits, u.BPF_PROG_TYPE_TRACING, **tracing) as trampoline,
        links.perf_kprobe(symbol=UMASK) as event,
        links.attach_perf_event(probe, event) as one,
        links.attach_tracing(trampoline, u.BPF_TRACE_FENTRY) as other,
    ):
        for link, loaded in ((one, probe), (other, trampoline)):
            update = Buffer(b"".join(n.to_bytes(4, "little") for n in (link.fileno(), loaded.fileno(), 0, 0)))
            assert sys.bpf_raw(u.BPF_LINK_UPDATE, update) == (-1, 22)
            assert sys.bpf_raw(u.BPF_LINK_DETACH, Buffer(link.fileno().to_bytes(4, "little"))) == (-1, 95)


def test_features_of_the_labs_kernels():
    """Both kernels can do all that klasy asks for; the exceptions are known by name."""
    old = os.environ["KLASY_LAB"] == "6.1"
    answers = features.probe_all(btf_id("bpf_fentry_test1"), None if old else btf_id(features.WIDE))
    found = {feature.name: feature for feature in answers}
    lacking = {name for name, feature in found.items() if not feature}
    assert lacking == ({"kprobe.multi", "fentry, 12 arguments"} if old else set())
    assert len(found) == 16
    assert features.helper("override_return").state == "no"
    assert features.fentry(None).state == "unknown"
