"""Varied work for the kernel: each scenario keeps some objects open for the collector to watch and does much with them.

A scenario's ``step`` uses the objects it has shown, from many sides, and leaves them open; ``churn`` does away with them
and makes new ones, which the kernel mostly puts in the same slots of its slabs. Every action may fail: a kernel without
a feature only sees less traffic.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

Subject = tuple[str, int, int]  # kind of object (see kmem.Objects.find), process, descriptor or -1
TRUE = "/bin/true"
SO_RCVBUFFORCE, SO_MARK, SO_BUSY_POLL, SO_INCOMING_CPU, SO_MAX_PACING_RATE, SO_RXQ_OVFL = 33, 36, 46, 49, 47, 40
SIOCOUTQ, SIOCINQ, SIOCATMARK = 0x5411, 0x541B, 0x8905


def _read(path: str) -> None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.read()


def _patient(sock: socket.socket, seconds: float = 1.0) -> socket.socket:
    """Let the kernel do the waiting: Python's own timeouts make a socket non-blocking."""
    sock.settimeout(None)
    whole = int(seconds)
    timeout = struct.pack("ll", whole, int((seconds - whole) * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    return sock


def _drain(sock: socket.socket) -> None:
    """Read what there is and what comes at once."""
    while select.select([sock], [], [], 0.02)[0] and sock.recv(1 << 18, socket.MSG_DONTWAIT):
        pass


def _run(*command: str) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)


class Scenario:
    """What all share: the actions in order, each on its own, none fatal."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(dir="/dev/shm")
        self.open()

    def open(self) -> None:
        """Make the objects."""

    def close(self) -> None:
        """Do away with them."""

    def subjects(self) -> dict[str, Subject]:
        """The objects now open, by name."""
        return {}

    def actions(self) -> list[Callable[[], object]]:
        """What a step does, in this order."""
        return []

    def step(self, limit: float) -> list[str]:
        """All actions once, and again while there is time; says which failed and which were never begun."""
        failed = []
        started = now = time.monotonic()
        passes = 0
        while not passes or now - started < limit / 8:
            for action in self.actions():
                if (now := time.monotonic()) > started + limit:
                    if not passes:
                        failed.append(f"{action.__name__}: no time")
                    continue
                try:
                    action()
                except OSError as error:
                    failed.append(f"{action.__name__}: {error}")
            passes += 1
        return sorted(set(failed))

    def churn(self) -> None:
        """The objects' end and the birth of others, several times."""
        for _ in range(3):
            self.close()
            self.open()


class Tcp(Scenario):
    """A connection over loopback, its two ends and the listener."""

    family, host = socket.AF_INET, "127.0.0.1"

    def open(self) -> None:
        self.listener = socket.socket(self.family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((self.host, 0))
        self.listener.listen(8)
        self.where = self.listener.getsockname()
        self.client, self.server = self._pair()
        # data that nobody reads, and data that nobody can take
        self.full, self.unread = self._pair()
        self.full.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                self.full.send(b"x" * 16384)

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        client = _patient(socket.create_connection(self.where[:2], timeout=2))
        server, _ = self.listener.accept()
        return client, _patient(server)

    def close(self) -> None:
        for sock in (self.client, self.server, self.full, self.unread, self.listener):
            sock.close()

    def subjects(self) -> dict[str, Subject]:
        pid = os.getpid()
        return {
            "client": ("sock", pid, self.client.fileno()),
            "server": ("sock", pid, self.server.fileno()),
            "listener": ("sock", pid, self.listener.fileno()),
            "full": ("sock", pid, self.full.fileno()),
            "received_skb": ("received_skb", pid, self.unread.fileno()),
            "sent_skb": ("sent_skb", pid, self.full.fileno()),
            "socket": ("socket", pid, self.client.fileno()),
        }

    def actions(self) -> list[Callable[[], object]]:
        return [
            self.small, self.bulk, self.flags, self.options, self.polling, self.asking, self.urgent, self.files,
            self.unread_data, self.others, self.half_close, self.reset, self.refused, self.reports, self.idle,
        ]  # fmt: skip

    def small(self) -> None:
        for size in (1, 100, 1400, 3000):
            for _ in range(4):
                self.client.sendall(b"a" * size)
                self.server.recv(4096)
                self.server.sendall(b"b" * size)
                self.client.recv(4096)

    def bulk(self) -> None:
        for source, sink in ((self.client, self.server), (self.server, self.client)):
            source.setblocking(False)
            sink.setblocking(False)
            sent = 0
            for _ in range(12):
                with contextlib.suppress(BlockingIOError):
                    while sent < 600_000:
                        sent += source.send(b"z" * 65536)
                with contextlib.suppress(BlockingIOError):
                    while sink.recv(50_000):
                        pass
            _drain(sink)
            source.settimeout(None)
            sink.settimeout(None)

    def flags(self) -> None:
        self.client.sendall(b"0123456789" * 10)
        self.server.recv(10, socket.MSG_PEEK)
        self.server.recv(10, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        self.server.recv(20, socket.MSG_TRUNC)
        self.server.recv(80, socket.MSG_WAITALL)
        with contextlib.suppress(BlockingIOError):
            self.server.recv(1, socket.MSG_DONTWAIT)
        self.client.send(b"part", socket.MSG_MORE)
        self.client.sendmsg([b"of ", b"a whole"], [], socket.MSG_EOR)
        self.server.recvmsg(100, 256)
        _drain(self.server)

    def options(self) -> None:
        number = socket.SOL_SOCKET
        for sock in (self.client, self.server, self.listener):
            for option, value in (
                (socket.SO_SNDBUF, 200_000), (socket.SO_RCVBUF, 200_000), (SO_RCVBUFFORCE, 300_000),
                (socket.SO_KEEPALIVE, 1), (socket.SO_PRIORITY, 3), (SO_MARK, 7), (socket.SO_RCVLOWAT, 1),
                (socket.SO_OOBINLINE, 0), (socket.SO_REUSEPORT, 0), (SO_MAX_PACING_RATE, 1 << 30),
                (socket.SO_TIMESTAMP if hasattr(socket, "SO_TIMESTAMP") else 29, 1), (SO_RXQ_OVFL, 1),
                (SO_BUSY_POLL, 0),
            ):  # fmt: skip
                with contextlib.suppress(OSError):
                    sock.setsockopt(number, option, value)
                    sock.getsockopt(number, option)
            for option in (socket.SO_ERROR, socket.SO_TYPE, socket.SO_ACCEPTCONN, socket.SO_PROTOCOL, SO_INCOMING_CPU,
                           socket.SO_DOMAIN, socket.SO_REUSEADDR, socket.SO_BROADCAST, 76, 55):  # fmt: skip
                with contextlib.suppress(OSError):
                    sock.getsockopt(number, option, 64)
            sock.setsockopt(number, socket.SO_LINGER, struct.pack("ii", 0, 0))
            sock.getsockopt(number, socket.SO_LINGER, 8)
            _patient(sock)
            sock.getsockopt(number, socket.SO_RCVTIMEO, 16)
            for option, value in (
                (socket.TCP_NODELAY, 1), (socket.TCP_CORK, 0), (socket.TCP_QUICKACK, 1), (socket.TCP_KEEPIDLE, 60),
                (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 4), (socket.TCP_SYNCNT, 3),
                (socket.TCP_LINGER2, 5), (socket.TCP_WINDOW_CLAMP, 1 << 20), (socket.TCP_USER_TIMEOUT, 0),
                (socket.TCP_NOTSENT_LOWAT, 1 << 20), (socket.TCP_NODELAY, 0), (socket.TCP_MAXSEG, 1400),
                (socket.TCP_DEFER_ACCEPT, 0),
            ):  # fmt: skip
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
                with contextlib.suppress(OSError):
                    sock.getsockopt(socket.IPPROTO_TCP, option)
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            with contextlib.suppress(OSError):
                name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.rstrip(b"\0"))
            if self.family == socket.AF_INET:
                for option in (socket.IP_TOS, socket.IP_TTL, 14, 10):
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.IPPROTO_IP, option, sock.getsockopt(socket.IPPROTO_IP, option))
            else:
                for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_TCLASS, socket.IPV6_RECVTCLASS):
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.IPPROTO_IPV6, option, sock.getsockopt(socket.IPPROTO_IPV6, option))
            sock.getsockname()
            with contextlib.suppress(OSError):
                sock.getpeername()

    def polling(self) -> None:
        socks = [self.client, self.server, self.listener, self.full, self.unread]
        select.select(socks, socks, socks, 0)
        poll = select.poll()
        epoll = select.epoll()
        for sock in socks:
            poll.register(sock, select.POLLIN | select.POLLOUT)
            epoll.register(sock, select.EPOLLIN | select.EPOLLET)
        poll.poll(0)
        epoll.poll(0)
        self.client.sendall(b"wake")
        epoll.poll(0.1)
        self.server.recv(10)
        sleeper = threading.Thread(target=lambda: self.server.recv(10))
        sleeper.start()
        time.sleep(0.01)
        self.client.sendall(b"up")
        sleeper.join()
        epoll.close()

    def asking(self) -> None:
        answer = array.array("i", [0])
        for sock in (self.client, self.server, self.full, self.unread):
            for request in (termios.FIONREAD, SIOCOUTQ, SIOCATMARK, 0x8904):
                with contextlib.suppress(OSError):
                    fcntl.ioctl(sock, request, answer)
            os.fstat(sock.fileno())
            fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
            _read(f"/proc/self/fdinfo/{sock.fileno()}")

    def urgent(self) -> None:
        self.client.send(b"!", socket.MSG_OOB)
        with contextlib.suppress(OSError):
            self.server.recv(1, socket.MSG_OOB)
        self.client.sendall(b"after")
        _drain(self.server)

    def files(self) -> None:
        with tempfile.TemporaryFile(dir=self.directory) as file:
            file.write(b"s" * 40_000)
            file.flush()
            os.sendfile(self.client.fileno(), file.fileno(), 0, 40_000)
            left, right = os.pipe()
            with contextlib.suppress(BlockingIOError):
                os.splice(self.server.fileno(), right, 10_000)
                os.read(left, 10_000)
            os.close(left)
            os.close(right)
            _drain(self.server)

    def unread_data(self) -> None:
        """Read and refill the connection that is full."""
        for size in (1, 100, 40_000):
            self.unread.recv(size, socket.MSG_PEEK)
            self.unread.recv(size)
        for _ in range(6):
            with contextlib.suppress(BlockingIOError):
                self.unread.recv(200_000, socket.MSG_DONTWAIT)
            with contextlib.suppress(BlockingIOError):
                for _ in range(6):
                    self.full.send(b"y" * 16384)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.full.send(b"x" * 16384)

    def others(self) -> None:
        """More connections to the same listener, ended in both orders."""
        for first in (0, 1):
            pair = self._pair()
            pair[0].sendall(b"hello")
            pair[1].recv(10)
            pair[first].close()
            with contextlib.suppress(OSError):
                pair[1 - first].recv(10)
            pair[1 - first].close()

    def half_close(self) -> None:
        client, server = self._pair()
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        while server.recv(100):
            pass
        server.sendall(b"answer")
        client.recv(100)
        client.shutdown(socket.SHUT_RD)
        server.close()
        client.close()

    def reset(self) -> None:
        client, server = self._pair()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"lost")
        client.close()
        with contextlib.suppress(OSError):
            server.send(b"x")
            server.send(b"x")
        server.close()
        client, server = self._pair()
        server.sendall(b"unread")
        client.close()  # unread data: a reset
        with contextlib.suppress(OSError):
            server.recv(10)
        server.close()

    def refused(self) -> None:
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        with contextlib.suppress(OSError):
            sock.connect((self.host, 1))
        sock.close()
        with contextlib.suppress(OSError):
            sock = socket.socket(self.family, socket.SOCK_STREAM)
            sock.bind((self.host, 0))
            sock.connect(self.where[:2])
            sock.connect(self.where[:2])
        sock.close()

    def reports(self) -> None:
        for name in ("tcp", "tcp6", "sockstat", "netstat", "snmp"):
            _read(f"/proc/net/{name}")
        # NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, dump of all TCP states with every extension
        body = struct.pack("<BBBBI48x", self.family, socket.IPPROTO_TCP, 0xFF, 0, 0xFFFFFFFF)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:
            _patient(netlink)
            netlink.send(struct.pack("<IHHII", 16 + len(body), 20, 0x301, 1, 0) + body)
            netlink.recv(65536)

    def idle(self) -> None:
        """Time for delayed acknowledgements."""
        self.client.sendall(b"late")
        time.sleep(0.06)
        self.server.recv(10)

    def loss(self) -> None:
        """Drops, duplicates and reordering on loopback for most of a second."""
        _run(
            "tc", "qdisc", "add", "dev", "lo", "root", "netem", "loss", "12%", "delay", "2ms", "1ms", "duplicate", "5%"
        )
        try:
            end = time.monotonic() + 0.7
            while time.monotonic() < end:
                self.client.setblocking(False)
                self.server.setblocking(False)
                for _ in range(8):
                    with contextlib.suppress(BlockingIOError):
                        self.client.send(b"z" * 30_000)
                    time.sleep(0.01)
                    with contextlib.suppress(BlockingIOError):
                        self.server.recv(1 << 18)
                    with contextlib.suppress(BlockingIOError):
                        self.server.send(b"w" * 2000)
        finally:
            _run("tc", "qdisc", "del", "dev", "lo", "root")
        self.client.settimeout(None)
        self.server.settimeout(None)
        _drain(self.server)
        _drain(self.client)


class Tcp6(Tcp):
    """The same over IPv6."""

    family, host = socket.AF_INET6, "::1"


class Datagrams(Scenario):
    """UDP and UNIX sockets, with datagrams that wait to be read."""

    def open(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        _patient(self.udp)
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.connect(self.udp.getsockname())
        _patient(self.sender)
        self.waiting = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.waiting.bind(("127.0.0.1", 0))
        self.waiting.setblocking(False)
        self.refill()
        self.left, self.right = map(_patient, socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
        self.path = f"{self.directory}/socket"
        self.name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.name.bind(self.path)
        self.name.listen(4)
        self.queue_in, self.queue_out = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.queue_out.setblocking(False)
        for _ in range(3):
            self.queue_in.send(b"d" * 300)

    def refill(self) -> None:
        for size in (10, 500, 9000, 60):
            self.sender.sendto(b"u" * size, self.waiting.getsockname())

    def close(self) -> None:
        for sock in (self.udp, self.sender, self.waiting, self.left, self.right, self.name, self.queue_in,
                     self.queue_out):  # fmt: skip
            sock.close()
        os.unlink(self.path)

    def subjects(self) -> dict[str, Subject]:
        pid = os.getpid()
        return {
            "udp": ("sock", pid, self.udp.fileno()),
            "udp_sender": ("sock", pid, self.sender.fileno()),
            "unix": ("sock", pid, self.left.fileno()),
            "unix_listener": ("sock", pid, self.name.fileno()),
            "unix_socket": ("socket", pid, self.left.fileno()),
            "udp_skb": ("udp_skb", pid, self.waiting.fileno()),
            "unix_skb": ("received_skb", pid, self.queue_out.fileno()),
        }

    def actions(self) -> list[Callable[[], object]]:
        return [self.ping, self.peeking, self.options, self.polling, self.errors, self.corked, self.waiting_data,
                self.unix_stream, self.unix_datagrams, self.unix_names, self.descriptors, self.reports]  # fmt: skip

    def ping(self) -> None:
        for size in (1, 200, 1472, 20_000):
            for _ in range(4):
                self.sender.send(b"p" * size)
                _, back = self.udp.recvfrom(65536)
                self.udp.sendto(b"q" * size, back)
                self.sender.recv(65536)

    def peeking(self) -> None:
        self.sender.send(b"0123456789")
        self.udp.recv(5, socket.MSG_PEEK)
        self.udp.recvmsg(5, 200, socket.MSG_TRUNC)
        with contextlib.suppress(BlockingIOError):
            self.udp.recv(1, socket.MSG_DONTWAIT)

    def options(self) -> None:
        for sock in (self.udp, self.sender, self.left, self.name):
            for option, value in ((socket.SO_SNDBUF, 100_000), (socket.SO_RCVBUF, 100_000), (socket.SO_PRIORITY, 2),
                                  (SO_MARK, 3), (socket.SO_RCVLOWAT, 1), (29, 1), (SO_RXQ_OVFL, 1),
                                  (socket.SO_BROADCAST, 1), (42, 0), (socket.SO_PASSCRED, 0)):  # fmt: skip
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, option, value)
                    sock.getsockopt(socket.SOL_SOCKET, option)
            for option in (socket.SO_ERROR, socket.SO_TYPE, socket.SO_DOMAIN, socket.SO_PEERCRED, 55):
                with contextlib.suppress(OSError):
                    sock.getsockopt(socket.SOL_SOCKET, option, 64)
            answer = array.array("i", [0])
            for request in (termios.FIONREAD, SIOCOUTQ):
                with contextlib.suppress(OSError):
                    fcntl.ioctl(sock, request, answer)
            os.fstat(sock.fileno())

    def polling(self) -> None:
        socks = [self.udp, self.sender, self.waiting, self.left, self.right, self.name, self.queue_out]
        select.select(socks, socks, socks, 0)
        epoll = select.epoll()
        for sock in socks:
            epoll.register(sock, select.EPOLLIN | select.EPOLLET)
        epoll.poll(0)
        self.sender.send(b"wake")
        self.left.send(b"wake")
        epoll.poll(0.1)
        self.udp.recv(10)
        self.right.recv(10)
        epoll.close()
        sleeper = threading.Thread(target=lambda: self.udp.recv(10))
        sleeper.start()
        time.sleep(0.01)
        self.sender.send(b"up")
        sleeper.join()

    def errors(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
            _patient(sock).connect(("127.0.0.1", 9))
            for _ in range(2):
                with contextlib.suppress(OSError):
                    sock.send(b"unreachable")
                    sock.recv(10, socket.MSG_DONTWAIT)
            with contextlib.suppress(OSError):
                sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)

    def corked(self) -> None:
        self.sender.send(b"one", socket.MSG_MORE)
        self.sender.send(b"two")
        self.udp.recv(100)
        with contextlib.suppress(OSError):
            self.sender.setsockopt(17, 103, 500)  # UDP_SEGMENT
            self.sender.send(b"g" * 1800)
            self.sender.setsockopt(17, 103, 0)
        _drain(self.udp)

    def waiting_data(self) -> None:
        """Look at, read and queue again what waits."""
        for _ in range(3):
            self.waiting.recv(10, socket.MSG_PEEK)
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.waiting.recvmsg(20_000, 200)
            self.refill()

    def unix_stream(self) -> None:
        for size in (1, 3000, 300_000):
            sender = threading.Thread(target=self.left.sendall, args=(b"s" * size,))
            sender.start()
            self.right.recv(10, socket.MSG_PEEK)
            got = 0
            while got < size:
                got += len(self.right.recv(65536))
            sender.join()
            self.right.sendall(b"t" * (size % 4999))
            self.left.recv(5000)
        other, another = map(_patient, socket.socketpair())
        other.shutdown(socket.SHUT_WR)
        another.recv(10)
        another.close()
        with contextlib.suppress(OSError):
            other.send(b"x")
        other.close()

    def unix_datagrams(self) -> None:
        for _ in range(3):
            self.queue_out.recv(50, socket.MSG_PEEK)
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.queue_out.recv(1000)
            for size in (20, 2000, 5):
                self.queue_in.send(b"d" * size)

    def unix_names(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            _patient(sock).connect(self.path)
            server, _ = self.name.accept()
            sock.send(b"hello")
            server.recv(10)
            server.close()
            with contextlib.suppress(OSError):
                sock.recv(10)

    def descriptors(self) -> None:
        left, right = os.pipe()
        socket.send_fds(self.left, [b"fd"], [left, right])
        _, fds, _, _ = socket.recv_fds(self.right, 10, 4)
        for fd in (left, right, *fds):
            os.close(fd)

    def reports(self) -> None:
        for name in ("udp", "udp6", "unix", "sockstat", "raw"):
            _read(f"/proc/net/{name}")


class Device(Datagrams):
    """The loopback device under traffic, questions and changes."""

    def subjects(self) -> dict[str, Subject]:
        return {"lo": ("net_device", os.getpid(), -1)}

    def actions(self) -> list[Callable[[], object]]:
        return [self.ping, self.streams, self.questions, self.changes, self.corked]

    def streams(self) -> None:
        tcp = Tcp()
        tcp.small()
        tcp.bulk()
        tcp.close()

    def questions(self) -> None:
        _run("ip", "-s", "-d", "link", "show")
        _run("ip", "addr")
        for path in Path("/sys/class/net/lo").iterdir():
            if path.is_file():
                _read(str(path))
        _read("/proc/net/dev")
        socket.if_nameindex()
        socket.if_nametoindex("lo")

    def changes(self) -> None:
        for words in ("mtu 60000", "mtu 65536", "promisc on", "promisc off", "txqueuelen 900", "multicast on"):
            _run("ip", "link", "set", "dev", "lo", *words.split())


class Tasks(Scenario):
    """A child that is watched: it works, forks, is signalled, reniced, looked at and waited for."""

    def open(self) -> None:
        self.commands, child_end = socket.socketpair()
        parent = os.getpid()
        self.child = os.fork()
        if not self.child:
            try:
                self.commands.close()
                signal.signal(signal.SIGUSR1, lambda *_: None)
                while command := child_end.recv(1):
                    self.work() if command == b"w" else None
                    child_end.send(b".")
            finally:
                os._exit(0 if parent else 1)
        child_end.close()

    def close(self) -> None:
        self.commands.close()
        with contextlib.suppress(OSError):
            os.waitpid(self.child, 0)

    def churn(self) -> None:
        for _ in range(3):
            super().close()
            self.close()
            self.open()
            self.families()
            self.threads()

    def subjects(self) -> dict[str, Subject]:
        kinds = ("task", "mm", "signal", "sighand", "cred", "files", "fs", "nsproxy", "thread_pid", "vma")
        return {kind: (kind, self.child, -1) for kind in kinds}

    def actions(self) -> list[Callable[[], object]]:
        return [self.child_works, self.signals, self.stops, self.scheduling, self.reading, self.families, self.limits,
                self.groups, self.traced]  # fmt: skip

    def child_works(self) -> None:
        self.commands.send(b"w")
        self.commands.recv(1)

    def work(self) -> None:
        """What the watched child itself does."""
        for action in (self.families, self.executing, self.threads, self.memory, self.sleeping, self.identity,
                       self.pipes, self.scheduling_self):  # fmt: skip
            with contextlib.suppress(OSError):
                action()

    @staticmethod
    def families() -> None:
        for way in range(3):
            pid = os.fork()
            if not pid:
                if way == 1:
                    time.sleep(0.005)
                elif way == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(way)
            if way == 0:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            os.waitpid(pid, 0)

    @staticmethod
    def executing() -> None:
        os.waitpid(os.posix_spawn(TRUE, [TRUE], {}), 0)

    @staticmethod
    def threads() -> None:
        threads = [threading.Thread(target=time.sleep, args=(0.002,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @staticmethod
    def memory() -> None:
        area = mmap.mmap(-1, 1 << 20)
        for at in range(0, 1 << 20, 1 << 16):
            area[at] = 1
        area.madvise(mmap.MADV_DONTNEED)
        area[5] = 1
        area.resize(1 << 21) if hasattr(area, "resize") else None
        area.close()
        private = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        private[1:5] = b"abcd"
        private.close()
        block = bytearray(3 << 20)
        block[::4096] = b"x" * len(block[::4096])
        with open(TRUE, "rb") as file:
            view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            sum(view[::4096])
            view.close()
        resource.getrusage(resource.RUSAGE_SELF)

    @staticmethod
    def sleeping() -> None:
        for _ in range(3):
            time.sleep(0.001)
            os.sched_yield()
        signal.setitimer(signal.ITIMER_REAL, 0)
        old = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        time.sleep(0.01)
        signal.signal(signal.SIGALRM, old)
        signal.sigtimedwait([signal.SIGUSR2], 0.001)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        os.kill(os.getpid(), signal.SIGUSR2)
        signal.sigpending()
        signal.sigtimedwait([signal.SIGUSR2], 0.001)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])

    @staticmethod
    def identity() -> None:
        for question in (os.getpid, os.getppid, os.getuid, os.geteuid, os.getgid, os.getgroups, os.getpgrp, os.times,
                         os.getcwd, os.uname, os.getresuid, os.getlogin):  # fmt: skip
            with contextlib.suppress(OSError):
                question()
        with open("/proc/self/comm", "w") as file:
            file.write("oracle")
        os.umask(os.umask(0o22))
        os.chdir("/")
        os.setresuid(0, 0, 0)
        os.setgroups(os.getgroups())
        os.dup2(0, 60)
        os.close(60)
        os.access("/etc/passwd", os.R_OK)

    @staticmethod
    def pipes() -> None:
        left, right = os.pipe()
        pid = os.fork()
        if not pid:
            os.read(left, 1)
            os._exit(0)
        time.sleep(0.002)
        os.write(right, b"x")
        os.waitpid(pid, 0)
        os.close(left)
        os.close(right)

    @staticmethod
    def scheduling_self() -> None:
        os.nice(0)
        os.sched_setaffinity(0, {0})
        os.sched_setaffinity(0, {1})
        os.sched_setaffinity(0, {0, 1})
        os.sched_getscheduler(0)
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass

    def signals(self) -> None:
        for number in (0, signal.SIGUSR1, signal.SIGUSR1, signal.SIGCHLD):
            os.kill(self.child, number)
        time.sleep(0.002)

    def stops(self) -> None:
        os.kill(self.child, signal.SIGSTOP)
        os.waitid(os.P_PID, self.child, os.WSTOPPED)
        os.kill(self.child, signal.SIGCONT)
        os.waitid(os.P_PID, self.child, os.WCONTINUED)

    def scheduling(self) -> None:
        for nice in (5, 0, -5, 0):
            os.setpriority(os.PRIO_PROCESS, self.child, nice)
            os.getpriority(os.PRIO_PROCESS, self.child)
        for policy, priority in ((os.SCHED_BATCH, 0), (os.SCHED_IDLE, 0), (os.SCHED_FIFO, 2), (os.SCHED_RR, 2),
                                 (os.SCHED_OTHER, 0)):  # fmt: skip
            os.sched_setscheduler(self.child, policy, os.sched_param(priority))
            os.sched_getscheduler(self.child)
            os.sched_getparam(self.child)
            self.signals()
        with contextlib.suppress(OSError):
            os.sched_rr_get_interval(self.child)
        for cpus in ({0}, {1}, {0, 1}):
            os.sched_setaffinity(self.child, cpus)
            os.sched_getaffinity(self.child)

    def reading(self) -> None:
        for name in ("stat", "status", "statm", "maps", "smaps", "smaps_rollup", "io", "cmdline", "comm", "limits", "sched",
                     "schedstat", "stack", "wchan", "environ", "cgroup", "oom_score", "oom_score_adj", "mountinfo",
                     "syscall", "auxv", "personality", "loginuid", "numa_maps", "timers", "timens_offsets",
                     f"task/{self.child}/stat", f"task/{self.child}/children"):  # fmt: skip
            _read(f"/proc/{self.child}/{name}")
        for name in ("fd", "task", "map_files", "ns"):
            with contextlib.suppress(OSError):
                for entry in os.listdir(f"/proc/{self.child}/{name}"):
                    with contextlib.suppress(OSError):
                        os.readlink(f"/proc/{self.child}/{name}/{entry}")
        for name in ("exe", "cwd", "root"):
            os.readlink(f"/proc/{self.child}/{name}")
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.child}/oom_score_adj").write_text("1")
        with open(f"/proc/{self.child}/mem", "rb") as file, contextlib.suppress(OSError):
            file.seek(0x400000)
            file.read(8)
        _read("/proc/loadavg")

    def limits(self) -> None:
        for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_STACK):
            resource.prlimit(self.child, which, resource.prlimit(self.child, which))
        os.getpgid(self.child)
        os.getsid(self.child)

    def groups(self) -> None:
        os.setpgid(self.child, self.child)
        os.killpg(self.child, signal.SIGUSR1)
        os.setpgid(self.child, os.getpgrp())
        with contextlib.suppress(OSError):
            os.close(os.pidfd_open(self.child))
        Path("/sys/fs/cgroup/oracle").mkdir(exist_ok=True)
        Path("/sys/fs/cgroup/oracle/cgroup.procs").write_text(str(self.child))
        _read("/sys/fs/cgroup/oracle/cgroup.procs")
        Path("/sys/fs/cgroup/cgroup.procs").write_text(str(self.child))

    def traced(self) -> None:
        """ptrace: attach, look at a word, detach."""
        import ctypes

        ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        if ptrace(16, self.child, None, None) == 0:
            os.waitpid(self.child, 0)
            ptrace(3, self.child, 0, None)
            ptrace(17, self.child, None, None)


class Files(Scenario):
    """A file, its inode and names, on tmpfs."""

    def open(self) -> None:
        self.where = self.place()
        self.path = f"{self.where}/watched"
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        os.write(self.fd, b"f" * 20_000)
        self.dir_fd = os.open(self.where, os.O_RDONLY | os.O_DIRECTORY)

    def place(self) -> str:
        """The directory to work in."""
        path = f"{self.directory}/files"
        os.makedirs(path, exist_ok=True)
        return path

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.dir_fd)
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def subjects(self) -> dict[str, Subject]:
        pid = os.getpid()
        kinds = ("file", "inode", "dentry", "super_block", "address_space")
        found = {kind: (kind, pid, self.fd) for kind in kinds}
        found |= {f"directory_{kind}": (kind, pid, self.dir_fd) for kind in kinds[:3]}
        return found

    def actions(self) -> list[Callable[[], object]]:
        return [self.reading, self.writing, self.sizes, self.attributes, self.names, self.mapping, self.locks,
                self.copies, self.control, self.opened, self.watched, self.listed, self.kept]  # fmt: skip

    def reading(self) -> None:
        os.lseek(self.fd, 0, os.SEEK_SET)
        for size in (1, 100, 5000, 40_000):
            os.read(self.fd, size)
        os.pread(self.fd, 100, 50)
        os.readv(self.fd, [bytearray(10), bytearray(20)])
        os.lseek(self.fd, -10, os.SEEK_END)
        os.lseek(self.fd, 5, os.SEEK_CUR)
        with contextlib.suppress(OSError):
            os.lseek(self.fd, 0, os.SEEK_HOLE)
            os.lseek(self.fd, 0, os.SEEK_DATA)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def writing(self) -> None:
        os.lseek(self.fd, 0, os.SEEK_SET)
        for size in (1, 100, 5000, 30_000):
            os.write(self.fd, b"w" * size)
        os.pwrite(self.fd, b"p" * 10, 20)
        os.writev(self.fd, [b"v" * 10, b"w" * 10])
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"more")
        os.fsync(fd)
        os.close(fd)
        os.fdatasync(self.fd)

    def sizes(self) -> None:
        os.ftruncate(self.fd, 100)
        os.truncate(self.path, 50_000)
        with contextlib.suppress(OSError):
            os.posix_fallocate(self.fd, 0, 60_000)
        os.ftruncate(self.fd, 20_000)
        os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
        os.pwrite(self.fd, b"t" * 20_000, 0)

    def attributes(self) -> None:
        os.fstat(self.fd)
        os.stat(self.path)
        os.fchmod(self.fd, 0o600)
        os.chmod(self.path, 0o644)
        os.chown(self.path, 1, 1)
        os.chown(self.path, 0, 0)
        os.utime(self.path)
        os.utime(self.path, (1, 2))
        os.access(self.path, os.W_OK)
        os.statvfs(self.path)
        os.fstatvfs(self.fd)
        for namespace in ("user.a", "trusted.a"):
            with contextlib.suppress(OSError):
                os.setxattr(self.path, namespace, b"1")
                os.getxattr(self.path, namespace)
                os.listxattr(self.path)
                os.removexattr(self.path, namespace)

    def names(self) -> None:
        other = f"{self.where}/other"
        os.link(self.path, other)
        os.rename(other, f"{self.where}/third")
        os.symlink(self.path, f"{self.where}/symbol")
        os.readlink(f"{self.where}/symbol")
        os.stat(f"{self.where}/symbol")
        os.unlink(f"{self.where}/third")
        os.unlink(f"{self.where}/symbol")
        os.rename(self.path, other)
        os.rename(other, self.path)
        os.mkdir(f"{self.where}/sub")
        os.rename(f"{self.where}/sub", f"{self.where}/sub2")
        os.rmdir(f"{self.where}/sub2")
        for at in range(3):
            fd = os.open(f"{self.where}/n{at}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.write(fd, b"n")
            os.unlink(f"{self.where}/n{at}")
            os.close(fd)
        with contextlib.suppress(OSError):
            os.stat(f"{self.where}/absent")

    def mapping(self) -> None:
        shared = mmap.mmap(self.fd, 20_000)
        shared[0], shared[9000] = 1, 2
        shared.flush()
        shared.close()
        private = mmap.mmap(self.fd, 20_000, flags=mmap.MAP_PRIVATE)
        private[5000] = 3
        private.close()

    def locks(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 10)
        _read("/proc/locks")

    def copies(self) -> None:
        with open(f"{self.where}/copy", "wb+") as file:
            with contextlib.suppress(OSError):
                os.copy_file_range(self.fd, file.fileno(), 5000, 0)
            with contextlib.suppress(OSError):
                os.sendfile(file.fileno(), self.fd, 0, 5000)
            left, right = os.pipe()
            with contextlib.suppress(OSError):
                os.splice(self.fd, right, 3000, 0)
                os.splice(left, file.fileno(), 3000)
            os.close(left)
            os.close(right)
        os.unlink(f"{self.where}/copy")

    def control(self) -> None:
        flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
        fcntl.fcntl(self.fd, fcntl.F_SETFL, flags | os.O_APPEND | os.O_NONBLOCK)
        fcntl.fcntl(self.fd, fcntl.F_SETFL, flags)
        fcntl.fcntl(self.fd, fcntl.F_GETOWN)
        os.close(fcntl.fcntl(self.fd, fcntl.F_DUPFD, 50))
        os.dup2(self.fd, 61)
        os.close(61)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.fd, 0x80086601, bytes(8))  # FS_IOC_GETFLAGS
            fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4))
        pid = os.fork()
        if not pid:
            os.read(self.fd, 10)
            os._exit(0)
        os.waitpid(pid, 0)
        _read(f"/proc/self/fdinfo/{self.fd}")
        os.readlink(f"/proc/self/fd/{self.fd}")

    def opened(self) -> None:
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_PATH):
            for _ in range(2):
                os.close(os.open(self.path, flags))
        os.close(os.open("watched", os.O_RDONLY, dir_fd=self.dir_fd))
        with contextlib.suppress(OSError):
            os.close(os.open(self.where, os.O_TMPFILE | os.O_RDWR))
        os.waitpid(os.posix_spawn(TRUE, [TRUE], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 5, self.path, 0, 0)]), 0)

    def watched(self) -> None:
        import ctypes

        libc = ctypes.CDLL(None)
        notify = libc.inotify_init1(0o4000)
        libc.inotify_add_watch(notify, self.path.encode(), 0xFFF)
        os.pwrite(self.fd, b"seen", 0)
        os.read(notify, 1000)
        os.close(notify)
        with contextlib.suppress(OSError):
            epoll = select.epoll()
            select.select([self.fd], [self.fd], [], 0)
            epoll.close()

    def listed(self) -> None:
        os.listdir(self.where)
        with os.scandir(self.where) as entries:
            for entry in entries:
                entry.stat()
        os.lseek(self.dir_fd, 0, os.SEEK_SET)
        os.fsync(self.dir_fd)
        _read("/proc/self/mountinfo")
        _read("/proc/self/maps")
        here = os.getcwd()
        os.chdir(self.where)
        os.getcwd()
        os.chdir(here)

    def kept(self) -> None:
        os.sync()
        with contextlib.suppress(OSError):
            Path("/proc/sys/vm/drop_caches").write_text("2")


class Ext4(Files):
    """The same on ext4, on a loop device over tmpfs."""

    def place(self) -> str:
        path = f"{self.directory}/ext4"
        if not os.path.isdir(path):
            os.makedirs(path)
            image = f"{self.directory}/image"
            with open(image, "wb") as file:
                file.truncate(48 << 20)
            _run("modprobe", "ext4")
            _run("modprobe", "loop")
            _run("mkfs.ext4", "-q", "-F", image)
            _run("mount", "-o", "loop", image, path)
            if not os.path.ismount(path):
                raise OSError("no ext4 to be had")
        return path


class Pipes(Scenario):
    """A pipe, an epoll instance and what they wait for."""

    def open(self) -> None:
        self.left, self.right = os.pipe()
        os.set_blocking(self.left, False)
        os.set_blocking(self.right, False)
        os.write(self.right, b"waits")
        self.epoll = select.epoll()
        self.epoll.register(self.left, select.EPOLLIN)

    def close(self) -> None:
        os.close(self.left)
        os.close(self.right)
        self.epoll.close()

    def subjects(self) -> dict[str, Subject]:
        pid = os.getpid()
        return {
            "pipe": ("pipe", pid, self.left),
            "pipe_file": ("file", pid, self.right),
            "pipe_inode": ("inode", pid, self.left),
            "eventpoll": ("eventpoll", pid, self.epoll.fileno()),
        }

    def actions(self) -> list[Callable[[], object]]:
        return [self.passing, self.full, self.blocking, self.controlled, self.spliced, self.epolled, self.shared]

    def passing(self) -> None:
        for size in (1, 100, 4096, 9000):
            os.write(self.right, b"p" * size)
            os.read(self.left, size // 2)
            os.read(self.left, 20_000)
        os.write(self.right, b"w")
        os.writev(self.right, [b"a", b"b"])

    def full(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.right, b"f" * 8192)
        with contextlib.suppress(BlockingIOError):
            while os.read(self.left, 1 << 17):
                pass

    def blocking(self) -> None:
        os.set_blocking(self.left, True)
        for _ in range(3):
            timer = threading.Timer(0.005, os.write, (self.right, b"late"))
            timer.start()
            os.read(self.left, 10)
            timer.join()
        os.set_blocking(self.left, False)

    def controlled(self) -> None:
        fcntl.fcntl(self.right, 1031, 1 << 17)
        fcntl.fcntl(self.right, 1032)
        fcntl.fcntl(self.right, 1031, 1 << 16)
        fcntl.ioctl(self.left, termios.FIONREAD, bytes(4))
        os.fstat(self.left)
        for fd in (self.left, self.right):
            os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK))
            _read(f"/proc/self/fdinfo/{fd}")

    def spliced(self) -> None:
        with tempfile.TemporaryFile(dir=self.directory) as file:
            file.write(b"s" * 10_000)
            file.flush()
            os.splice(file.fileno(), self.right, 8000, 0)
            os.splice(self.left, file.fileno(), 8000)
        left, right = os.pipe()
        os.write(self.right, b"tee me")
        import ctypes

        ctypes.CDLL(None).tee(self.left, right, 6, 0)
        os.splice(self.left, right, 6)
        os.close(left)
        os.close(right)

    def epolled(self) -> None:
        with socket.socketpair()[0] as sock:
            self.epoll.register(sock, select.EPOLLIN | select.EPOLLET)
            self.epoll.modify(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLONESHOT)
            os.write(self.right, b"e")
            self.epoll.poll(0.01)
            self.epoll.poll(0)
            self.epoll.unregister(sock)
        outer = select.epoll()
        outer.register(self.epoll.fileno(), select.EPOLLIN)
        outer.poll(0)
        outer.close()
        with contextlib.suppress(BlockingIOError):
            os.read(self.left, 100)
        timer = threading.Timer(0.005, os.write, (self.right, b"late"))
        timer.start()
        self.epoll.poll(0.5)
        timer.join()
        _read(f"/proc/self/fdinfo/{self.epoll.fileno()}")
        select.select([self.left], [self.right], [], 0)

    def shared(self) -> None:
        pid = os.fork()
        if not pid:
            os.write(self.right, b"child")
            os._exit(0)
        os.waitpid(pid, 0)
        with contextlib.suppress(BlockingIOError):
            os.read(self.left, 100)
        left, right = os.pipe()
        os.close(left)
        old = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            os.write(right, b"x")
        signal.signal(signal.SIGPIPE, old)
        os.close(right)


SCENARIOS: dict[str, type[Scenario]] = {
    "tcp": Tcp, "tcp6": Tcp6, "datagrams": Datagrams, "device": Device, "tasks": Tasks, "files": Files, "ext4": Ext4,
    "pipes": Pipes,
}  # fmt: skip
