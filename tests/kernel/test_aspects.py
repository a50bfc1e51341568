"""The ready aspects against real work: what they log and count is what the work's own account says."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.aspects import ME, entries, messages, read_all, ready, tcp_pair, values
from support.disks import file_system
from support.waiting import wait_for

from klasy.api import states

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.usefixtures("nothing_left", "loopback")


def test_file_io(tmp_path: Path) -> None:
    """Bytes by process and file are those that the calls returned; a failed call is counted as one."""
    with ready("file_io"):
        path = tmp_path / "klasy-file-io"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        for size in (1, 1000, 70_000):
            os.write(descriptor, bytes(size))
        os.lseek(descriptor, 0, os.SEEK_SET)
        got = sum(len(os.read(descriptor, 4096)) for _ in range(20))
        assert ctypes.CDLL(None).write(descriptor, ctypes.c_void_p(-4096), 8) == -1
        os.close(descriptor)
        found, times = values("file_io"), entries("file_io")
    assert got == 71_001
    assert found["write_bytes"][ME, path.name] == 71_001
    assert found["read_bytes"][ME, path.name] == 71_001
    assert found["failed"][ME, path.name] == 1
    assert times["write_ns"][ME,] >= 4
    assert times["read_ns"][ME,] >= 20


def test_tcp_life() -> None:
    """Each end of a connection is logged when it closes, with its addresses and the bytes that went each way."""
    with ready("tcp_life") as made:
        with tcp_pair() as (client, server):
            port, peer = client.getsockname()[1], server.getsockname()[1]
            client.sendall(bytes(1234))
            read_all(server, 1234)
            server.sendall(bytes(77))
            read_all(client, 77)
        said: list[str] = []

        def all_said() -> bool:  # the last FIN's acknowledgement may take its time
            said.extend(m for m in messages(made) if f":{port}" in m)
            return len(said) >= 2

        wait_for(all_said)
    ours = [m for m in said if f"127.0.0.1:{port} -> 127.0.0.1:{peer} " in m]
    theirs = [m for m in said if f"127.0.0.1:{peer} -> 127.0.0.1:{port} " in m]
    assert len(ours) == len(theirs) == 1
    assert ours[0].startswith(f"pid {os.getpid()} ")
    sent, received = map(int, re.findall(r"(?:sent|received) (\d+)", ours[0]))
    assert (sent, received) == (1234, 77)
    assert theirs[0].startswith(f"pid {os.getpid()} ")
    assert re.findall(r"(?:sent|received) (\d+)", theirs[0]) == ["77", "1234"]


@pytest.fixture
def link() -> Iterator[str]:
    """A network device behind which 10.77.0.2 is said to be, and nothing is."""
    subprocess.run(["ip", "link", "add", "klasy0", "type", "dummy"], check=True)
    # Else the system sends when it likes, for seconds, to ask who else is there.
    Path("/proc/sys/net/ipv6/conf/klasy0/disable_ipv6").write_text("1")
    subprocess.run("ip addr add 10.77.0.1/24 dev klasy0; ip link set klasy0 up", shell=True, check=True)
    subprocess.run("ip neigh add 10.77.0.2 lladdr 02:00:00:00:00:02 dev klasy0", shell=True, check=True)
    yield "klasy0"
    subprocess.run(["ip", "link", "del", "klasy0"], check=True)
    subprocess.run(["modprobe", "-r", "dummy"], check=True)


def test_tcp_retransmits(link: str) -> None:
    """A connection to where nothing answers sends its SYN again; the count is the kernel's own of the segments."""

    def retransmitted() -> int:
        head, row = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Tcp:")
        return int(row[head.index("RetransSegs")])

    with ready("tcp_retransmits") as made, socket.socket() as client:
        before = retransmitted()
        client.setblocking(False)
        client.connect_ex(("10.77.0.2", 4567))
        wait_for(lambda: retransmitted() > before)  # the first time-out is one second
        client.close()
        counted, found = retransmitted() - before, values("tcp_retransmits")["by_peer"]
        said = messages(made)
    assert counted >= 1
    assert sum(found.values()) == len(said) == counted
    assert {key[1] for key in found} == {4567}
    assert all("10.77.0.1:" in m and "-> 10.77.0.2:4567" in m for m in said)


def test_queue_delay(link: str) -> None:
    """Every packet of a device is in a histogram: as many as the device counts."""

    def sent() -> int:
        return int(Path(f"/sys/class/net/{link}/statistics/tx_packets").read_text())

    with ready("queue_delay"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.connect(("10.77.0.2", 4567))
        before = sent()
        for _ in range(50):
            end.send(b"x")
        counted, found = sent() - before, entries("queue_delay")["waited_us"]
        waiting = values("queue_delay")["began"]
    to_us = {key: n for key, n in found.items() if key[1] == 4567}
    assert sum(to_us.values()) == 50
    assert 50 <= counted <= sum(found.values())
    assert waiting == {}


SERVER = """
import socket, time
open('/proc/self/comm', 'w').write('klasyd')
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
for _ in range(3):
    connection, _ = server.accept()
    while connection.recv(100):
        time.sleep(0.02)
        connection.send(b'y' * 10)
    connection.close()
"""


def test_server_load() -> None:
    """Accepts, bytes and service times of a server are those of its clients' requests."""
    with ready("server_load"), subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as client:
                for _ in range(4):
                    client.sendall(b"x" * 30)
                    read_all(client, 10)
        server.wait(30)
        found = values("server_load")
        (times,) = (s for s in states("server_load")["service_us"] if s.key == ("klasyd",))
    assert found["accepted"]["klasyd",] == 3
    assert found["received"]["klasyd",] == 3 * 4 * 30
    assert found["sent"]["klasyd",] == 3 * 4 * 10
    counts = {b.low: b.count for b in times.buckets if b.count}
    assert sum(counts.values()) == 12
    assert min(counts) >= 16384  # the bucket of 20 ms


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system on a block device of its own."""
    with file_system(tmp_path) as folder:
        yield folder


def test_sysctl_writers() -> None:
    """A write under /proc/sys is logged with the file's place and the result, a refused one too; reading is not."""
    file = Path("/proc/sys/net/ipv4/ip_default_ttl")
    was = file.read_text()
    descriptor = os.open(file, os.O_RDWR)
    with ready("sysctl_writers") as made:
        os.write(descriptor, b"33\n")
        file.read_text()
        with pytest.raises(OSError, match="Invalid argument"):
            os.pwrite(descriptor, b"333\n", 0)
        os.pwrite(descriptor, was.encode(), 0)
        said = messages(made)
    os.close(descriptor)
    place = f"{ME}[{os.getpid()}] uid 0: net/ipv4/ip_default_ttl, result "
    assert said == [place + "3", place + "-22", f"{place}{len(was)}"]


def test_ttl_writers() -> None:
    """A change of the variable is logged with both values and the writing function; writing the same is none."""
    file = Path("/proc/sys/net/ipv4/ip_default_ttl")
    was = int(file.read_text())
    with ready("ttl_writers") as made:
        for value in (33, 33, was):
            file.write_text(f"{value}\n")
        said = messages(made)
    place = f"{ME}[{os.getpid()}] set the TTL from"
    assert said == [f"{place} {was} to 33, in proc_dou8vec_minmax", f"{place} 33 to {was}, in proc_dou8vec_minmax"]


def test_execs() -> None:
    """A program that is started and its end are logged, with its status or the signal that ended it."""
    with ready("execs") as made:
        ended = [
            subprocess.run(["/bin/sh", "-c", script], check=False).returncode
            for script in ("exit 7", "exec /bin/true", "kill -9 $$")
        ]
        said = messages(made)
    assert ended == [7, 0, -9]
    me = f"{ME}[{os.getpid()}]"
    begun = [re.fullmatch(r"exec  (\S+)\[(\d+)\] uid 0 runs (\S+)", m) for m in said]
    started = [(m[1], m[2], m[3]) for m in begun if m and m[1] in (ME, "sh")]  # the kernel starts programs, too
    assert [(name, path) for name, _, path in started] == [
        (ME, "/bin/sh"),
        (ME, "/bin/sh"),
        ("sh", "/bin/true"),
        (ME, "/bin/sh"),
    ], me
    ends = [re.fullmatch(r"exit  (\S+)\[(\d+)\] uid 0: (\w+ \d+) after (\d+)\.\d{3} ms", m) for m in said]
    pids = list(dict.fromkeys(pid for _, pid, _ in started))
    assert [(m[1], m[2], m[3]) for m in ends if m and m[2] in pids] == [
        ("sh", pids[0], "code 7"),
        ("true", pids[1], "code 0"),
        ("sh", pids[2], "signal 9"),
    ]
    assert all(0 < int(m[4]) < 60_000 for m in ends if m and m[2] in pids)


def test_cwnd_writers() -> None:
    """Every change of a sending connection's window is logged, without a gap between one and the next."""
    with ready("cwnd_writers") as made:
        with tcp_pair() as (client, server):
            port, peer = client.getsockname()[1], server.getsockname()[1]
            reader = threading.Thread(target=read_all, args=(server, 1 << 20))
            reader.start()
            client.sendall(bytes(1 << 20))
            reader.join()

            def tcp_info(at: int) -> int:
                info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
                return int.from_bytes(info[at : at + 4], "little")

            wait_for(lambda: tcp_info(24) == 0)  # tcpi_unacked: the last acknowledgement changes it, too
            window = tcp_info(80)  # tcpi_snd_cwnd
        said = [m for m in messages(made) if f"127.0.0.1:{port} -> " in m]
        counted = values("cwnd_writers")["changes"]
        missed = made.missed()  # where an interrupt came upon a probe of the aspect's
    windows = [tuple(map(int, re.findall(r"cwnd (\d+) -> (\d+)", m)[0])) for m in said]
    assert windows
    chain = [(0, 10), *windows, (window, 0)]  # from the initial window of RFC 6928 to what TCP says at the end
    gaps = [(before, after) for before, after in itertools.pairwise(chain) if before[1] != after[0]]
    assert len(gaps) <= missed, (gaps, missed, windows)
    assert {key[1]: n for key, n in counted.items()}[peer] == len(windows)


def test_drops() -> None:
    """Datagrams to a port that nobody listens at are dropped for that reason, as often as the kernel counts them."""

    def no_ports() -> int:
        head, row = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Udp:")
        return int(row[head.index("NoPorts")])

    with ready("drops") as made, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        before = no_ports()
        for _ in range(20):
            end.sendto(b"x" * 10, ("127.0.0.1", 9))

        def ours() -> list[object]:
            dropped = values("drops")["dropped"]
            return [n for key, n in dropped.items() if key[0].name == "SKB_DROP_REASON_NO_SOCKET"]

        wait_for(lambda: ours() == [20] or no_ports() - before > 20)  # a busy machine leaves some to ksoftirqd
        counted, found = no_ports() - before, ours()
        said = [line for line in messages(made) if line.startswith("SKB_DROP_REASON_NO_SOCKET at __udp4_lib_rcv+0x")]
    assert counted == 20
    assert found == [20]
    assert [line.partition(": ")[2] for line in said] == ["18 bytes, lo"] * 20


def test_drops_of_what_waited() -> None:
    """Datagrams that nobody has read when their socket is closed are drops of no device: none is made up."""
    with ready("drops") as made, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            for size in range(100, 105):
                sender.sendto(b"x" * size, receiver.getsockname())
        said: list[str] = []

        def is_over() -> bool:
            said.extend(line for line in messages(made) if " at udp_destruct_common+0x" in line)
            return len(said) >= 5

        wait_for(is_over)
    assert [line.partition(": ")[2] for line in said] == [f"{size} bytes" for size in range(100, 105)]


SLEEPER = """
import time
def switched_in(): return int(open('/proc/self/schedstat').read().split()[2])
unnamed = switched_in()
open('/proc/self/comm', 'w').write('klasyrun')
named = switched_in()
for _ in range(100):
    time.sleep(0.001)
print(unnamed, named, switched_in(), flush=True)
"""


def test_run_queue() -> None:
    """A task waited as often as the scheduler says that it was switched in."""
    with ready("run_queue"), subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout is not None
        unnamed, named, slept = map(int, sleeper.stdout.read().split())
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        ended = int(Path(f"/proc/{sleeper.pid}/schedstat").read_text().split()[2])  # of a zombie: all there was
        times, longest = entries("run_queue")["waited_us"], values("run_queue")["longest_us"]
    assert slept - named >= 50  # not always 100: a busy machine's clock can outrun a sleep before it begins
    assert slept - named <= times["klasyrun",] <= ended - unnamed
    assert longest["klasyrun",] > 0


WRITER = """
import os, sys, time
open('/proc/self/comm', 'w').write('klasylock')
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
print('named', flush=True)
sys.stdin.readline()
end = time.monotonic() + 2
while time.monotonic() < end:
    os.pwrite(file, bytes(1 << 20), 0)
"""


def test_lock_waits(tmp_path: Path) -> None:
    """As many waits for locks of two writers to one file as the kernel's own trace of contention has."""
    tracing = Path("/sys/kernel/tracing/instances/klasy-locks")
    tracing.mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    try:
        (tracing / "buffer_size_kb").write_text("4096")
        with ready("lock_waits"):
            both = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "f"], **pipes) for _ in range(2)]
            assert [each.stdout.readline() for each in both] == [b"named\n"] * 2
            (tracing / "events/lock/contention_begin/enable").write_text("1")
            before = values("lock_waits")["waits"]
            for each in both:
                each.stdin.close()
            assert [each.wait(60) for each in both] == [0, 0]
            after = values("lock_waits")["waits"]
            (tracing / "events/lock/contention_begin/enable").write_text("0")
        traced = [line for line in (tracing / "trace").read_text().splitlines() if " klasylock-" in line]
    finally:
        tracing.rmdir()
    waits = sum(n - before.get(key, 0) for key, n in after.items() if key[0] == "klasylock")
    writes = sum("flags=WRITE" in line for line in traced)  # for the file's lock; the rest is of the aspect's own maps
    assert 0 < writes <= waits <= len(traced)


def test_block_latency(disk: Path) -> None:
    """The bytes that a device was given to write are those of its own statistics; each request has its time."""
    device = os.stat(disk).st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")

    name = os.path.basename(os.readlink(stat.parent))

    def device_has() -> tuple[int, int]:
        fields = stat.read_text().split()
        return int(fields[6]) * 512, int(fields[8])  # sectors written, requests under way

    def both() -> tuple[int, int]:
        """Bytes written, by the device's account and by the aspect's, at a moment when none are under way."""
        read: list[tuple[int, int]] = []

        def quiet() -> bool:
            os.sync()
            before = device_has()
            read.append((before[0], int(str(values("block_latency")["write_bytes"].get((name,), 0)))))
            return before == device_has() == (before[0], 0)

        wait_for(quiet)
        return read[-1]

    with ready("block_latency"):
        before = both()
        with open(disk / "f", "wb") as file:
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
        after = both()
        times = entries("block_latency")["write_us"]
    assert after[1] - before[1] == after[0] - before[0] >= 1 << 20
    assert times[name,] > 0


def test_slab_leaks() -> None:
    """Objects that are taken and kept are counted at the code that took them until they are given back."""
    with ready("slab_leaks"):
        held = [os.eventfd(0) for _ in range(100)]
        kept = values("slab_leaks")["live_objects"]
        for descriptor in held[:60]:
            os.close(descriptor)

        def places() -> list[tuple]:
            left = values("slab_leaks")["live_objects"]
            return [place for place, n in kept.items() if n == 100 and left.get(place) == 40]

        wait_for(places)
        (place,) = places()
        size = values("slab_leaks")["live_bytes"]
        for descriptor in held[60:]:
            os.close(descriptor)
    assert size[place] % 40 == 0
    assert size[place] >= 40 * 32
