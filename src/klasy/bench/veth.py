"""A load for the network: one TCP connection over a pair of virtual Ethernet devices between two network namespaces.

Each end is a process in a namespace of its own, which goes when it does. A packet is one segment (no offload joins
several), so that what is done for each packet is done for each 1448 bytes, and the way from the sender's ``ip_output``
to the receiver's socket is one chain of calls on one processor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from klasy.errors import KernelRefused, SystemRefusal
from klasy.plain import Closing, NamedTuple

_DEVICE = "veth0"
_SENDER, _RECEIVER, _PORT = "10.213.7.1", "10.213.7.2", 5001  # in the namespaces alone
_TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}

_RECEIVE = """
import os, socket, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print("here", flush=True)
sys.stdin.readline()
listener = socket.create_server((sys.argv[2], int(sys.argv[3])))
print("listening", flush=True)
connection, _ = listener.accept()
room = bytearray(1 << 18)
while connection.recv_into(room):
    pass
"""

# Of each line of input, "seconds bytes-a-second", an answer: bytes that arrived in the seconds, packets either way
# until all had arrived, the seconds. What waits in the sender is kept small: on a slow way it takes long to arrive.
_SEND = """
import fcntl, os, socket, struct, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
print("here", flush=True)
sys.stdin.readline()
to = socket.create_connection((sys.argv[2], int(sys.argv[3])))
to.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
data = bytes(1 << 15)
def packets():
    with open("/proc/self/net/dev") as file:
        (line,) = [line for line in file if line.split(":")[0].strip() == sys.argv[4]]
    words = line.partition(":")[2].split()
    return int(words[1]) + int(words[9])
def waiting():
    return struct.unpack("i", fcntl.ioctl(to, 0x5411, bytes(4)))[0]  # SIOCOUTQ
for line in sys.stdin:
    seconds, rate = line.split()
    to.setsockopt(socket.SOL_SOCKET, 47, struct.pack("Q", int(rate)))  # SO_MAX_PACING_RATE
    sent, before, begin = 0, packets(), time.perf_counter()
    while time.perf_counter() < begin + float(seconds):
        sent += to.send(data)
    arrived, taken = sent - waiting(), time.perf_counter() - begin
    to.setsockopt(socket.SOL_SOCKET, 47, struct.pack("Q", (1 << 64) - 1))
    while waiting():
        time.sleep(0.01)
    print(arrived, packets() - before, taken, flush=True)
"""
_UNLIMITED = (1 << 64) - 1


class Transfer(NamedTuple):
    """What went over in a while: bits that the receiver has acknowledged, packets both ways, seconds."""

    bits: float
    packets: int
    seconds: float

    @property
    def mbit(self) -> float:
        """Megabits a second."""
        return self.bits / self.seconds / 1e6


class VethLoad(Closing):
    """The connection. Raises SystemRefusal where it cannot be made."""

    def __init__(self) -> None:
        for tool, package in _TOOLS.items():
            if shutil.which(tool) is None:
                raise SystemRefusal(f"{tool} is not installed", hint=f"Debian: apt-get install {package}")
        cpus = sorted(os.sched_getaffinity(0))
        self._ends: list[subprocess.Popen[str]] = []
        try:
            receiver = self._end(_RECEIVE, cpus[-1])
            sender = self._end(_SEND, cpus[0], _DEVICE)
            self._connect(sender, receiver)
            for end, address in ((sender, _SENDER), (receiver, _RECEIVER)):
                self._inside(end, "addr", "add", f"{address}/24", "dev", _DEVICE)
                self._inside(end, "link", "set", _DEVICE, "gso_max_segs", "1", "up")
            for end in (receiver, sender):  # the receiver listens before the sender calls
                _tell(end, "go")
                if end is receiver:
                    _hear(end)
        except BaseException:
            self.close()
            raise
        self._sender = sender
        self.over(0.3)

    def over(self, seconds: float, mbit: float | None = None) -> Transfer:
        """Send for so long, as fast as it goes or at most at some rate."""
        rate = _UNLIMITED if mbit is None else int(mbit * 1e6 / 8)
        _tell(self._sender, f"{seconds} {rate}")
        bits, packets, taken = _hear(self._sender).split()
        return Transfer(float(bits) * 8, int(packets), float(taken))

    def _end(self, program: str, cpu: int, *more: str) -> subprocess.Popen[str]:
        command = ["unshare", "-n", sys.executable, "-I", "-S", "-c", program, str(cpu), _RECEIVER, str(_PORT), *more]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ends.append(process)
        _hear(process)
        return process

    def _connect(self, sender: subprocess.Popen[str], receiver: subprocess.Popen[str]) -> None:
        words = ["link", "add", "name", _DEVICE, "netns", str(sender.pid), "type", "veth"]
        _run(["ip", *words, "peer", "name", _DEVICE, "netns", str(receiver.pid)])

    def _inside(self, end: subprocess.Popen[str], *words: str) -> None:
        _run(["nsenter", "-t", str(end.pid), "-n", "ip", *words])

    def close(self) -> None:
        """End both ends, and with them the namespaces and the devices."""
        for end in self._ends:
            end.kill()
            end.communicate()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemRefusal(f"cannot make the network of this benchmark: {done.stderr.strip() or command[0]}")


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    except OSError as error:
        raise KernelRefused("driving an end of the connection", error.errno or 0) from None


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemRefusal("an end of the benchmark's connection has ended before its time")
    return line
