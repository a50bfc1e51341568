"""A TCP connection, its listener, and a connection that is full."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import struct
import tempfile
import termios
import threading
import time
from collections.abc import Callable

from oracle.scenario import Scenario, Subject, drain, patient, read, run

SO_RCVBUFFORCE, SO_MARK, SO_BUSY_POLL, SO_INCOMING_CPU, SO_MAX_PACING_RATE, SO_RXQ_OVFL = 33, 36, 46, 49, 47, 40
SIOCOUTQ, SIOCINQ, SIOCATMARK = 0x5411, 0x541B, 0x8905


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

    def churn(self) -> None:
        """New connections in the old one's place, each used a little."""
        for _ in range(3):
            self.close()
            self.open()
            self.small()
            self.options()

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        client = patient(socket.create_connection(self.where[:2], timeout=2))
        server, _ = self.listener.accept()
        return client, patient(server)

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
            drain(sink)
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
        drain(self.server)

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
            patient(sock)
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
            read(f"/proc/self/fdinfo/{sock.fileno()}")

    def urgent(self) -> None:
        self.client.send(b"!", socket.MSG_OOB)
        with contextlib.suppress(OSError):
            self.server.recv(1, socket.MSG_OOB)
        self.client.sendall(b"after")
        drain(self.server)

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
            drain(self.server)

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
            read(f"/proc/net/{name}")
        # NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, dump of all TCP states with every extension
        body = struct.pack("<BBBBI48x", self.family, socket.IPPROTO_TCP, 0xFF, 0, 0xFFFFFFFF)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:
            patient(netlink)
            netlink.send(struct.pack("<IHHII", 16 + len(body), 20, 0x301, 1, 0) + body)
            netlink.recv(65536)

    def idle(self) -> None:
        """Time for delayed acknowledgements."""
        self.client.sendall(b"late")
        time.sleep(0.06)
        self.server.recv(10)

    def loss(self) -> None:
        """Drops, duplicates and reordering on loopback for most of a second."""
        run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "loss", "12%", "delay", "2ms", "1ms", "duplicate", "5%")
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
            run("tc", "qdisc", "del", "dev", "lo", "root")
        self.client.settimeout(None)
        self.server.settimeout(None)
        drain(self.server)
        drain(self.client)


class Tcp6(Tcp):
    """The same over IPv6."""

    family, host = socket.AF_INET6, "::1"
