"""The ready aspects where one event does not say it all: waits in steps, ends of threads, parts of requests."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.aspects import ME, entries, messages, ready, values
from support.disks import file_system
from support.waiting import wait_for

from klasy.api import states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("nothing_left")


PIPERS = """
import fcntl, os, time
open('/proc/self/comm', 'w').write('klasypipe')
reading, writing = os.pipe()
fcntl.fcntl(writing, 1031, 1 << 20)  # F_SETPIPE_SZ
if not os.fork():
    os.close(writing)
    while os.read(reading, 1 << 20): pass
    os._exit(0)
for _ in range(3):
    if not os.fork():
        end = time.monotonic() + 2
        while time.monotonic() < end: os.write(writing, bytes(1 << 18))
        os._exit(0)
os.close(writing)
for _ in range(4): os.wait()
"""


def test_a_wait_for_a_mutex_is_one() -> None:
    """Who waits for a mutex by spinning and sleeping in turn waits once, from the first to the end."""
    tracing = Path("/sys/kernel/tracing/instances/klasy-mutex")
    tracing.mkdir()
    try:
        (tracing / "buffer_size_kb").write_text("8192")
        (tracing / "trace_clock").write_text("mono")
        with ready("lock_waits"):
            (tracing / "events/lock/enable").write_text("1")
            subprocess.run([sys.executable, "-c", PIPERS], check=True)
            (tracing / "events/lock/enable").write_text("0")
            waits = Counter(
                {lock: n for (comm, lock), n in values("lock_waits")["waits"].items() if comm == "klasypipe"}
            )
            (times,) = (slot for slot in states("lock_waits")["waited_us"] if slot.key == ("klasypipe",))
        lines = (tracing / "trace").read_text().splitlines()
    finally:
        tracing.rmdir()
    event = re.compile(r"\s*klasypipe-(\d+) .* ([\d.]+): contention_(begin|end): (\S+) .*")
    steps = [match.groups() for match in map(event.fullmatch, lines) if match]
    began: dict[tuple[str, str], float] = {}
    traced: list[float] = []
    for tid, at, what, lock in steps:
        if what == "begin":
            began.setdefault((tid, lock), float(at))
        elif (tid, lock) in began:
            traced.append((float(at) - began.pop((tid, lock))) * 1e6)
    mutex = max(waits.values())
    assert sum(what == "begin" for _, _, what, _ in steps) > len(traced)  # else nobody waited in steps
    assert mutex == pytest.approx(len(traced), abs=5)  # what the aspect's own maps are locked by is in the trace alone
    long = sum(bucket.count for bucket in times.buckets or () if (bucket.low or 0) >= 128)
    assert long == pytest.approx(sum(us >= 128 for us in traced), abs=2)


# Its main thread ends at once (60: exit of the thread alone), another one ends the process.
LEADER_FIRST = """
import ctypes, os, threading, time
open('/proc/self/comm', 'w').write('klasylead')
threading.Thread(target=lambda: (time.sleep(0.2), os._exit(3))).start()
ctypes.CDLL(None).syscall(60, 0)
"""
# Another thread than the main one has the process run another program.
EXEC_OF_A_THREAD = """
import os, threading, time
open('/proc/self/comm', 'w').write('klasyexec')
threading.Thread(target=lambda: os.execv('/bin/sh', ['sh', '-c', 'exit 5'])).start()
time.sleep(60)
"""


def test_a_process_ends_with_its_last_thread() -> None:
    """One end for each process, with the status that its parent is told, whatever its threads do."""
    with ready("execs") as made:
        ended = []
        for script in (LEADER_FIRST, EXEC_OF_A_THREAD):
            child = subprocess.Popen([sys.executable, "-c", script])
            ended.append((str(child.pid), child.wait(60)))
        forked = os.fork()
        if not forked:
            os.kill(os.getpid(), 9)
        os.waitpid(forked, 0)
        said = messages(made)
    assert [status for _, status in ended] == [3, 5]
    ends = [re.fullmatch(r"exit  \S+\[(\d+)\] uid 0: (\w+ \d+) after (\d+\.\d{3}) ms", m) for m in said]
    ours = [(m[1], m[2], float(m[3])) for m in ends if m and m[1] in {*dict(ended), str(forked)}]
    assert [end[:2] for end in ours] == [(ended[0][0], "code 3"), (ended[1][0], "code 5"), (str(forked), "signal 9")]
    assert all(0 < ms < 60_000 for _, _, ms in ours)
    assert ours[0][2] >= 200


def test_what_is_freed_after_a_grace_period_is_given_back() -> None:
    """Memory that kfree_rcu() frees, many pieces at a time, is no leak: memberships of multicast groups are such."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with ready("slab_leaks"):
        held = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(200)]
        for number, each in enumerate(held):
            group = socket.inet_aton(f"239.1.1.{number + 1}") + socket.inet_aton("127.0.0.1")
            each.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        taken = values("slab_leaks")["live_objects"]
        places = [place for place, n in taken.items() if int(str(n)) >= 200]
        for each in held:
            each.close()

        def given_back() -> bool:
            left = values("slab_leaks")["live_objects"]
            return all(int(str(left.get(place, 0))) < 20 for place in places)

        assert len(places) >= 2  # the socket's entry, the interface's
        wait_for(given_back)


@pytest.fixture
def lossy() -> Iterator[str]:
    """A network name space at 10.78.0.2, to which one packet of thirty is lost."""
    subprocess.run(
        "modprobe -a veth sch_netem; ip netns add klasy && ip link add klasyv type veth peer name far netns klasy"
        " && ip addr add 10.78.0.1/24 dev klasyv && ip link set klasyv up && ip -n klasy addr add 10.78.0.2/24 dev far"
        " && ip -n klasy link set far up && tc qdisc add dev klasyv root netem loss 3% delay 3ms",
        shell=True,
        check=True,
    )
    yield "klasy"
    subprocess.run("ip netns del klasy; ip link del klasyv 2>/dev/null; modprobe -r sch_netem", shell=True, check=False)


SERVER = """
import socket
with socket.create_server(('10.78.0.2', 4567)) as server:
    print('listens', flush=True)
    end, _ = server.accept()
    while end.recv(1 << 16): pass
    print('read', flush=True)
    input()
"""


def test_retransmits_are_counted_by_segment(lossy: str) -> None:
    """The segments that are sent again, SYN-ACKs among them, are as many as both ends' own counters have."""

    def of(text: str) -> int:
        head, row = (line.split() for line in text.splitlines() if line[:4] == "Tcp:")
        return int(row[head.index("RetransSegs")])

    inside = ["ip", "netns", "exec", lossy]

    def far() -> int:
        return of(subprocess.run([*inside, "cat", "/proc/net/snmp"], check=True, capture_output=True, text=True).stdout)

    def several(said: list[str]) -> bool:
        return any(int(m[1]) > 1 for m in (re.search(r"   (\d+) segments, ", each) for each in said) if m)

    def both() -> int:
        return of(Path("/proc/net/snmp").read_text()) + far()

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        ready("tcp_retransmits") as made,
        subprocess.Popen([*inside, sys.executable, "-c", SERVER], **pipes) as server,
    ):
        assert server.stdout.readline() == b"listens\n"
        before = both()
        with socket.create_connection(("10.78.0.2", 4567)) as client:
            said: list[str] = []
            for _ in range(60):
                client.sendall(bytes(1 << 20))
                said += messages(made)
                if several(said):
                    break
            client.shutdown(socket.SHUT_WR)
            assert server.stdout.readline() == b"read\n"
        subprocess.run([*inside, "tc", "qdisc", "add", "dev", "far", "root", "netem", "loss", "100%"], check=True)
        answered = far()
        with socket.socket() as unheard:
            unheard.setblocking(False)
            unheard.connect_ex(("10.78.0.2", 4567))  # its SYN arrives (or a later one does), no answer comes
            wait_for(lambda: far() > answered, 60)
        server.communicate(b"\n")
        counted, found = 0, -1
        while counted != both() - before:  # else the timer of a SYN-ACK ran between the two accounts
            counted = both() - before
            found = sum(int(str(n)) for n in values("tcp_retransmits")["by_peer"].values())
        said += messages(made)
    assert any(m.endswith("SYN-ACK") and "10.78.0.2:4567 -> 10.78.0.1:" in m for m in said)
    assert several(said)
    assert found == counted


@pytest.fixture
def failing_disk() -> Iterator[Path]:
    """A disk of 16 MiB of which the sectors from 4660 on cannot be read."""
    script = "modprobe sd_mod; modprobe scsi_debug dev_size_mb=16 opts=2 medium_error_start=4660 medium_error_count=8"
    subprocess.run(script, shell=True, check=True)

    def found() -> list[str]:
        return [
            name
            for name in os.listdir("/sys/block")
            if Path("/sys/block", name, "device/vendor").exists()
            and Path("/sys/block", name, "device/model").read_text().strip() == "scsi_debug"
        ]

    wait_for(found)
    wait_for(lambda: Path("/dev", found()[0]).exists())
    yield Path("/dev", found()[0])
    subprocess.run(["modprobe", "-r", "scsi_debug"], check=True)


def test_a_request_done_in_parts_or_not_at_all(failing_disk: Path) -> None:
    """What a device reads before it fails is no success: no time, no bytes; the failure is counted."""
    name = failing_disk.name
    with ready("block_latency"):
        before = values("block_latency")["read_bytes"].get((name,), 0)
        times = entries("block_latency")["read_us"].get((name,), 0)
        command = ["dd", f"if={failing_disk}", "of=/dev/null", "bs=4k", "skip=580", "count=5", "iflag=direct"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        after = values("block_latency")
        later = entries("block_latency")["read_us"][name,]
    assert "2+0 records out" in done.stderr
    assert int(str(after["read_bytes"][name,])) - int(str(before)) == 2 * 4096
    assert later - times == 2
    assert after["failed"] == {(name,): 1}


@pytest.fixture(params=["ext4", "xfs"])
def cached_files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system on a block device of its own: one that keeps single pages, one that keeps large folios."""
    with file_system(tmp_path, request.param, 320 << 20) as folder:
        yield folder


def test_bytes_of_the_page_cache(cached_files: Path) -> None:
    """What enters the cache for a file is what mincore() finds of it there, whatever the size of its pieces."""
    path = cached_files / "f"
    size = 201 * 4096
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    inode = os.fstat(descriptor).st_ino
    os.truncate(descriptor, size)
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    length, there = ctypes.c_size_t(size), ctypes.create_string_buffer(201)

    def cached() -> int:
        mapped = ctypes.c_void_p(libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0)))
        assert not libc.mincore(mapped, length, there)
        libc.munmap(mapped, length)
        return 4096 * sum(page & 1 for page in there.raw[:201])

    def forget() -> None:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(step: int) -> None:
        assert sum(len(os.pread(descriptor, step, at)) for at in range(0, size, step)) == size

    # what is done, what then is in the cache, what reads get
    steps: list[tuple[Callable[[], object], int, int]] = [
        (lambda: os.pwrite(descriptor, bytes(size), 0), 201 * 4096, 0),
        (lambda: read(4096), 201 * 4096, size),
        (forget, 0, 0),
        (lambda: read(1000), 201 * 4096, size),
        (lambda: read(100_000), 201 * 4096, size),
    ]
    with ready("page_cache"):
        values("page_cache")  # the first time reads modules, which counts too
        before = 0
        for act, full, given in steps:
            then = values("page_cache")
            act()
            after = values("page_cache")
            now = cached()
            assert now == full
            added = after["added_to"].get((inode,), 0) - then["added_to"].get((inode,), 0)
            assert added == max(0, now - before)
            assert after["wanted"].get((ME,), 0) - then["wanted"].get((ME,), 0) == given
            before = now
    os.close(descriptor)
