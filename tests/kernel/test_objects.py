"""Objects that advice has watched by a helper process, held against the traffic's own account and raw breakpoints."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import termios
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.livekernel import leftovers, raw_counters
from support.waiting import wait_for
from support.weaving import ROOT, woven

from klasy.bpf import uapi as u
from klasy.kernel.live import LiveKernel
from klasy.weaver import objects, watch
from klasy.weaver.accounts import accounts
from klasy.weaver.woven import open_woven

CPU1 = Path("/sys/devices/system/cpu/cpu1/online")
ASPECT = """
aspect follow {
    before(struct file *file): execution(shmem_file_llseek(struct file *file, ..)) { watch(file->f_pos%s); }
    before(struct file *file): set(watched file->f_pos) { log(file, old, new); }
    before(): get(watched struct file.f_pos) { log(value); }
    before(struct file *file): execution(noop_fsync(struct file *file, ..)) { unwatch(file->f_pos); }
}
"""


@pytest.fixture(autouse=True)
def _nothing_left():
    assert leftovers() == {}
    yield
    assert leftovers() == {}
    harmless = LiveKernel().functions("vfs_read")[0].address & ~7
    wait_for(lambda: watch.free_registers(harmless, 0) == watch.REGISTERS)
    wait_for(lambda: not helpers())


def helpers() -> list[int]:
    """The helper processes that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            name, state = (entry / "stat").read_text().split()[1:3] if entry.name.isdecimal() else ("", "")
        except OSError:
            continue
        if name == "(klasy-watch)" and state not in "ZX":
            found.append(int(entry.name))
    return found


def at_rest(pid: int) -> bool:
    """Whether a helper has done all that it was asked for: it waits for more."""
    return "poll" in Path(f"/proc/{pid}/wchan").read_text()


def member(aspect) -> objects.objects.Member:
    """What became of the requests so far."""
    return objects.watching(aspect).account.members[0]


def test_every_access_to_one_object_and_to_no_other(file, tmp_path):
    """Each write(2) reads the file's position once and sets it once; so many were seen, with the positions written."""
    with woven(ASPECT % "") as a:
        other = os.open(tmp_path / "g", os.O_RDWR | os.O_CREAT)
        os.lseek(file, 7, os.SEEK_SET)
        wait_for(lambda: member(a.aspect).armed == 1)
        for length in (1, 2, 30):
            os.write(file, b"x" * length)
            os.write(other, b"other")
        os.read(file, 10)  # nothing is left to read: the position is set to what it was
        os.close(other)
        sets = [dict(e.values) for e in a.mine() if e.joinpoint.kind == "set"]
        assert [(s["old"], s["new"]) for s in sets] == [(7, 8), (8, 10), (10, 40), (40, 40)]
        found = objects.watching(a.aspect)
        (counts,) = found.account.members
        assert (counts.requests, counts.armed, counts.missed) == (1, 1, 0)
        assert (a.total(1), a.total(2)) == (4, 4)
        assert {account.function for account in accounts(a.aspect)} >= {"ksys_write", "ksys_read"}
        assert 0 < counts.least == counts.most == counts.sum
        os.fsync(file)


def test_what_is_counted_is_what_a_raw_breakpoint_counts(file):
    """The accesses of the same traffic, counted by breakpoints of our own on the address that the aspect logged."""

    def traffic() -> None:
        for _ in range(20):
            os.write(file, b"abc")
            os.lseek(file, 0, os.SEEK_CUR)

    with woven(ASPECT % "") as a:
        os.lseek(file, 0, os.SEEK_SET)
        wait_for(lambda: member(a.aspect).armed == 1)
        (address,) = armed_addresses(a.aspect)
        traffic()
        gets, sets = a.total(2), a.total(1)
        os.fsync(file)
        wait_for(lambda: member(a.aspect).by_unwatch == 1)
        (request,) = objects.watching(a.aspect).account.recent
        assert (request.address, request.accesses, request.missed) == (address, gets + sets, 0)
        assert request.outcome == objects.objects.BY_UNWATCH
        # QEMU reports an access to one of two registers on an address: ours come when the aspect's are gone.
        with raw_counters(address, 8, u.HW_BREAKPOINT_RW) as counted, without(a.aspect):
            traffic()
            assert counted() == gets + sets
        with raw_counters(address, 8, u.HW_BREAKPOINT_W) as counted, without(a.aspect):
            traffic()
            assert counted() == sets


def armed_addresses(aspect) -> list[int]:
    """Where the objects lie that are watched now."""
    layout = objects.objects
    rows = dict(aspect.map(layout.MAP_OBJECTS).items())
    slots = [rows[n.to_bytes(4, "little")] for n in range(layout.FIRST_SLOT, layout.FIRST_MEMBER)]
    words = [memoryview(slot).cast("Q") for slot in slots]
    return [word[layout.SLOT["address"]] for word in words if word[layout.SLOT["armed"]]]


@contextmanager
def without(aspect):
    """Meanwhile the aspect is switched off: it asks for nothing."""
    from klasy.weaver.remove import switch

    switch(aspect.path, on=False)
    yield
    switch(aspect.path, on=True)


def test_bounds(file):
    """After so many accesses it ends, as it does after its time; the object can be watched again."""
    with woven(ASPECT % ", 5") as a:
        os.lseek(file, 0, os.SEEK_SET)
        wait_for(lambda: member(a.aspect).armed == 1)
        for _ in range(4):
            os.write(file, b"x")
        assert (a.total(1), a.total(2)) == (2, 3)
        wait_for(lambda: member(a.aspect).by_hits == 1)
        os.lseek(file, 0, os.SEEK_SET)
        wait_for(lambda: member(a.aspect).armed == 2)
        assert [r.outcome for r in objects.watching(a.aspect).account.recent] == [objects.objects.BY_HITS]
    with woven(ASPECT % ", 300*ms") as a:
        os.lseek(file, 0, os.SEEK_SET)
        wait_for(lambda: member(a.aspect).by_time == 1)
        (request,) = objects.watching(a.aspect).account.recent
        assert 300_000_000 <= request.ended - request.requested < 20_000_000_000


def test_a_fifth_object_is_refused_and_counted(file, tmp_path):
    """Four registers, four objects; the fifth is refused, said, and can be watched when one is free again."""
    with woven(ASPECT % "") as a:
        files = [file, *(os.open(tmp_path / f"o{n}", os.O_RDWR | os.O_CREAT) for n in range(4))]
        for descriptor in files:
            os.lseek(descriptor, 0, os.SEEK_SET)
        os.lseek(file, 0, os.SEEK_SET)  # asked for once more
        wait_for(lambda: member(a.aspect).served == 6)
        counts = member(a.aspect)
        assert (counts.armed, counts.refused, counts.again) == (4, 1, 1)
        for descriptor in files:
            os.write(descriptor, b"x")
        assert a.total(1) == 4
        assert "1 refused: no debug register free" in " ".join(objects.notes(objects.watching(a.aspect)))
        os.fsync(files[0])
        wait_for(lambda: member(a.aspect).by_unwatch == 1)
        os.lseek(files[4], 0, os.SEEK_SET)
        wait_for(lambda: member(a.aspect).armed == 5)
        for descriptor in files[1:]:
            os.close(descriptor)


def test_a_helper_that_is_killed_is_missed(file):
    """kill -9: its registers are free at once, nothing is watched, and requests that come then are counted."""
    with woven(ASPECT % "") as a:
        os.lseek(file, 0, os.SEEK_SET)
        wait_for(lambda: member(a.aspect).armed == 1)
        (pid,) = helpers()
        assert objects.watching(a.aspect).alive
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not objects.watching(a.aspect).alive)
        os.write(file, b"x")
        assert a.total(1) == 0
        harmless = LiveKernel().functions("vfs_read")[0].address & ~7
        wait_for(lambda: watch.free_registers(harmless, 0) == watch.REGISTERS)
        with open("/dev/shm/klasy-test", "w+b", buffering=0) as second:
            second.seek(0)
            found = objects.watching(a.aspect)
            assert found.unserved == 1
            (first, *_) = objects.notes(found)
            assert f"(pid {pid}) is gone" in first
            assert "1 request to watch was not served" in first
            os.unlink(second.name)


def test_a_cpu_that_goes_and_one_that_comes(file):
    """A CPU that comes up while an object is watched is watched, too; one that has gone is no error."""
    with woven(ASPECT % "") as a:
        CPU1.write_text("0")
        try:
            os.lseek(file, 0, os.SEEK_SET)
            wait_for(lambda: member(a.aspect).armed == 1)
        finally:
            CPU1.write_text("1")
        (pid,) = helpers()
        wait_for(lambda: len(perf_events()) == 2 and at_rest(pid))
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {1})
        try:
            os.write(file, b"x")
            assert a.total(1) == 1
            os.sched_setaffinity(0, {0})
            CPU1.write_text("0")
            os.write(file, b"y")
            assert a.total(1) == 2
        finally:
            CPU1.write_text("1")
            os.sched_setaffinity(0, before)
        os.fsync(file)
        wait_for(lambda: member(a.aspect).by_unwatch == 1)
        assert member(a.aspect).missed == 0


def test_taken_out_while_it_watches_and_from_the_command_line(file, tmp_path):
    """The helper outlives the shell that wove, is named, idles while nothing is asked, and goes with the aspect."""
    source = tmp_path / "follow.asp"
    source.write_text(ASPECT % "")
    subprocess.run(["setsid", "sh", "-c", f"klasy weave {source}; kill -HUP 0"], check=False, capture_output=True)
    (pid,) = helpers()
    os.lseek(file, 0, os.SEEK_SET)
    with open_woven("follow") as aspect:
        wait_for(lambda: member(aspect).armed == 1)
        wait_for(lambda: at_rest(pid))
        spent = cpu_ticks(pid)
        time.sleep(1)
        assert cpu_ticks(pid) - spent <= 1
        status = subprocess.run(["klasy", "status"], check=True, capture_output=True, text=True).stdout
        assert f"watches 1 object now; its helper is process {pid}" in status
        points = subprocess.run(["klasy", "joinpoints", "follow"], check=True, capture_output=True, text=True).stdout
        assert "struct file.f_pos: 1 request, 1 armed" in points
        again = subprocess.run(["klasy", "weave", "--replace", source], check=False, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        wait_for(lambda: len(helpers()) == 1)
        assert helpers() != [pid]
    os.lseek(file, 0, os.SEEK_SET)
    subprocess.run(["klasy", "unweave", "follow"], check=True, capture_output=True)
    wait_for(lambda: not helpers())


def perf_events() -> list[str]:
    """What the helper holds open that are perf events."""
    (pid,) = helpers()
    found = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return [target for target in found if target == "anon_inode:[perf_event]"]


@pytest.mark.parametrize("how", ["error", "kill -9"])
def test_a_weave_that_fails_leaves_no_helper(how):
    """Neither where it is undone, nor where it is killed, before the pins or behind them."""
    from klasy.source import SourceFile
    from klasy.weaver.build import build
    from klasy.weaver.pinfs import PinFS
    from klasy.weaver.session import machine_of, weave
    from klasy.weaver.sweep import clear_leftovers

    kernel = LiveKernel()
    artifacts = build(SourceFile("test.asp", ASPECT % ""), kernel)

    class FailedError(Exception):
        """What the test has happen."""

    for step in ("registry", "activate"):

        def on_step(_: str, name: str, step: str = step) -> None:
            if name == step:
                assert len(helpers()) == 1
                if how == "error":
                    raise FailedError
                os.kill(os.getpid(), signal.SIGKILL)

        if how == "error":
            with pytest.raises(FailedError):
                weave(artifacts, machine_of(kernel), on_step=on_step)
        else:
            pid = os.fork()
            if not pid:
                try:
                    weave(artifacts, machine_of(kernel), on_step=on_step)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
            clear_leftovers(PinFS())
        wait_for(lambda: not helpers())


def cpu_ticks(pid: int) -> int:
    """What a process has run so far: ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


class Segment:
    """A TCP segment of 100 bytes that waits in its socket until it is read, on one CPU."""

    def __enter__(self) -> Segment:
        self.cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {0})
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 7777))
            listener.listen()
            self.sender = socket.create_connection(("127.0.0.1", 7777))
            self.receiver, _ = listener.accept()
        self.sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sender.sendall(bytes(100))
        wait_for(lambda: self.waiting() == 100)
        return self

    def waiting(self) -> int:
        """How many bytes there are to be read: the kernel tells without a look at any packet."""
        return int.from_bytes(fcntl.ioctl(self.receiver, termios.FIONREAD, bytes(4)), "little")

    def append(self) -> None:
        """Another comes, and is appended to it."""
        self.sender.sendall(bytes(50))
        wait_for(lambda: self.waiting() == 150)

    def read(self) -> None:
        """Most of it is read."""
        for size in (60, 60):
            assert len(self.receiver.recv(size)) == size

    def __exit__(self, *_: object) -> None:
        self.receiver.recv(100)
        self.sender.close()
        self.receiver.close()
        os.sched_setaffinity(0, self.cpus)


def test_one_packet_as_in_the_example():
    """examples/follow: one segment is appended to an sk_buff, once; its reads are counted as by raw breakpoints."""
    subprocess.run("ip link set lo up 2>/dev/null || ifconfig lo up", shell=True, check=True)
    with woven((ROOT / "examples/follow/follow.asp").read_text()) as a, Segment() as segment:
        wait_for(lambda: member(a.aspect).armed == 1)
        segment.append()
        before = a.total(1), a.total(2)
        segment.read()
        gets, sets = a.total(1) - before[0], a.total(2) - before[1]
        messages = [event.message or "" for event in a.events()]
        assert sum("100 bytes become 150" in message for message in messages) == 1
        assert {account.function for account in accounts(a.aspect)} >= {"skb_try_coalesce", "tcp_recvmsg_locked"}
    raw = []
    for access in (u.HW_BREAKPOINT_RW, u.HW_BREAKPOINT_W):
        text = """aspect w { before(struct sock *sk, struct sk_buff *skb): if(sk->sk_num == 7777)
                   && execution(tcp_queue_rcv(struct sock *sk, struct sk_buff *skb, ..)) { log((u64)&skb->len); } }"""
        with woven(text) as a, Segment() as segment:
            (event,) = a.events()
            (address,) = dict(event.values).values()
            segment.append()
            with raw_counters(address, 4, access) as counted:
                segment.read()
                raw.append(counted())
    assert gets > 0
    assert (gets + sets, sets) == tuple(raw)


@pytest.mark.only_on("6.12")
def test_the_example_s_demonstration():
    """examples/follow/demo.sh runs, follows the segment to its end, and leaves nothing."""
    done = subprocess.run(["sh", ROOT / "examples/follow/demo.sh"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "100 bytes become 150" in done.stdout
    assert "goes" in done.stdout
    assert "armed_after_ns" in done.stdout
