"""cflow and cflowbelow in the kernel: what runs in a control flow, counted against what the test's processes did."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import threading
import time

import pytest
from support.weaving import Account, woven

FSYNC = "execution(vfs_fsync_range)"
NUMBER = 100
PROCESSES = 4


def _sync(file: int, number: int) -> None:
    """So many calls of vfs_fsync_range by fsync, and half as many by msync; sleeping now and then."""
    with mmap.mmap(file, 4096) as memory:
        for step in range(number):
            os.fsync(file)
            if step % 2:
                memory.flush()
            if step % 20 == 0:
                time.sleep(0.001)


def _each_in_a_child(work, number=PROCESSES):
    children = []
    for _ in range(number):
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def test_flows_of_tasks(file):
    """Of several processes on two CPUs each hit is in the flow of its own system call, or in none; those that slept
    in a flow are in it still, and those that ended in one leave nothing behind, for whomever gets their memory."""
    os.ftruncate(file, 4096)
    reading, writing = os.pipe()
    text = f"""aspect f {{
        before(): cflow(execution(__x64_sys_fsync)) && {FSYNC} {{ log(1); }}
        before(): !cflow(execution(__x64_sys_fsync)) && {FSYNC} {{ log(2); }}
        before(): cflow(execution(__x64_sys_exit_group)) && execution(exit_files) {{ log(3); }}
        before(): cflow(execution(__x64_sys_exit_group)) && {FSYNC} {{ log(4); }}
        before(): cflow(execution(pipe_read)) && {FSYNC} {{ log(5); }}
        before(): cflow(execution(pipe_read)) && execution(schedule) {{ log(6); }}
        before(): cflow(execution(__x64_sys_fsync) || {FSYNC}) && execution(fput) {{ log(7); }}
    }}"""

    def read_and_sync():
        os.read(reading, 1)  # is under way when the aspect is woven
        os.fsync(file)

    early = threading.Thread(target=read_and_sync)
    early.start()
    with woven(text) as aspect, Account(["vfs_fsync_range", "exit_files"]) as account:
        os.write(writing, b".")
        early.join()
        idle = [threading.Thread(target=os.read, args=(reading, 1)) for _ in range(3)]
        for thread in idle:
            thread.start()
        time.sleep(0.1)
        _each_in_a_child(lambda: _sync(file, NUMBER))
        _each_in_a_child(lambda: _sync(file, NUMBER))  # in the memory of those that ended
        fputs = aspect.total(6)
        for _ in range(NUMBER):
            os.fsync(file)  # other threads have the same files: each takes a reference, and gives it back last
        fputs = aspect.total(6) - fputs
        os.write(writing, b"...")
        for thread in idle:
            thread.join()
        hits = [aspect.total(advice) for advice in range(7)]
        passed = account.passed()
        counts = aspect.aspect.counts()
        held = [key for flow in range(3) for key, _ in aspect.aspect.map(f"flow{flow}").items()]
    assert hits[0] == 2 * PROCESSES * NUMBER + NUMBER + 1
    assert hits[1] == PROCESSES * NUMBER
    assert passed["vfs_fsync_range"] == hits[0] + hits[1]
    assert 2 * PROCESSES <= hits[2] <= passed["exit_files"]
    assert hits[3] == hits[4] == 0
    assert hits[5] >= 3
    assert fputs == NUMBER
    assert held == []
    assert sum(count.missed + count.unmarked for count in counts) == 0
    os.close(reading)
    os.close(writing)


def test_interrupts():
    """A softirq is no part of the system call upon which it came, and has flows of its own."""
    text = """aspect i {
        before(): cflow(execution(__x64_sys_sendto)) && execution(udp_sendmsg) { log(1); }
        before(): cflow(execution(__x64_sys_sendto)) && execution(udp_rcv) { log(2); }
        before(): cflow(execution(process_backlog)) && execution(udp_rcv) { log(3); }
        before(): cflow(execution(process_backlog)) && execution(udp_sendmsg) { log(4); }
    }"""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        two.bind(("127.0.0.1", 0))
        with woven(text) as aspect:
            for _ in range(NUMBER):
                one.sendto(b"x", two.getsockname())
                two.recv(1)
            assert [aspect.total(advice) for advice in range(4)] == [NUMBER, 0, NUMBER, 0]


@pytest.mark.parametrize("force", [None, "sites"])
def test_calls(file, force):
    """A call is in its own flow, what it calls too; what it was called for is over behind it."""
    mine = f"if(pid == {os.getpid()})"
    text = f"""aspect c {{
        before(): cflow(call(vfs_fsync_range)) && execution(noop_fsync) && {mine} {{ log(1); }}
        before(): cflow(call(vfs_fsync_range)) && call(vfs_fsync_range) && {mine} {{ log(2); }}
        after(): cflow(call(vfs_fsync_range)) && call(vfs_fsync_range) && {mine} {{ log(3); }}
        before(): cflowbelow(call(vfs_fsync_range)) && call(vfs_fsync_range) && {mine} {{ log(4); }}
        before(): cflow(call(vfs_fsync_range)) && execution(vfs_read) && {mine} {{ log(5); }}
    }}"""
    with woven(text, force=force) as aspect:
        for _ in range(NUMBER):
            os.fsync(file)
            os.pread(file, 1, 0)
        assert [aspect.total(advice) for advice in range(5)] == [NUMBER, NUMBER, NUMBER, 0, 0]


def test_recursion_and_what_is_kept(tmp_path):
    """Of a function that calls itself, its innermost call's argument is bound, and the outer one's behind that."""
    subprocess.run(["mount", "-t", "tmpfs", "klasy", tmp_path], check=True)
    try:
        for name in ("lower", "upper", "work", "all"):
            (tmp_path / name).mkdir()
        options = ",".join(f"{n}dir={tmp_path / n}" for n in ("lower", "upper", "work"))
        mounted = subprocess.run(["mount", "-t", "overlay", "-o", options, "klasy", tmp_path / "all"], check=False)
        if mounted.returncode:
            pytest.skip("no overlay file system here")
        with (tmp_path / "all" / "f").open("wb") as file:
            _recurse(file.fileno())
    finally:
        subprocess.run(["umount", "-q", tmp_path / "all"], check=False)
        subprocess.run(["umount", tmp_path], check=True)


def _recurse(file: int) -> None:
    flow = "execution(vfs_fsync_range(struct file *f, ..))"
    here = f"execution(vfs_fsync_range(struct file *g, ..)) && if(pid == {os.getpid()})"
    both = "struct file *f, struct file *g"
    text = f"""aspect r {{
        before({both}): cflow({flow}) && {here} && if(f == g) {{ log(1); }}
        after({both}): cflow({flow}) && {here} && if(f == g) {{ log(2); }}
        after({both}): cflow({flow}) && {here} && if(f != g) {{ log(3); }}
        before({both}): cflowbelow({flow}) && {here} && if(f != g) {{ log(4); }}
        after({both}): cflowbelow({flow}) && {here} {{ log(5); }}
        before(): cflow(execution(vfs_fsync_range(struct file *, ..)) && if(pid == 1)) && {FSYNC} {{ log(6); }}
    }}"""
    with woven(text) as aspect:
        for _ in range(NUMBER):
            os.fsync(file)
        hits = [aspect.total(advice) for advice in range(6)]
        held = [key for name in ("flow0", "kept0", "flow1", "kept1") for key, _ in aspect.aspect.map(name).items()]
    assert hits == [2 * NUMBER, 2 * NUMBER, 0, NUMBER, NUMBER, 0]
    assert held == []
