"""UDP and UNIX sockets with datagrams that wait, and the loopback device they go through."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

from oracle.scenario import Scenario, Subject, drain, patient, read, run
from oracle.traffic_tcp import Tcp

SO_RCVBUFFORCE, SO_MARK, SO_BUSY_POLL, SO_INCOMING_CPU, SO_MAX_PACING_RATE, SO_RXQ_OVFL = 33, 36, 46, 49, 47, 40
SIOCOUTQ, SIOCINQ, SIOCATMARK = 0x5411, 0x541B, 0x8905


class Datagrams(Scenario):
    """UDP and UNIX sockets, with datagrams that wait to be read."""

    def open(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        patient(self.udp)
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.connect(self.udp.getsockname())
        patient(self.sender)
        self.waiting = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.waiting.bind(("127.0.0.1", 0))
        self.waiting.setblocking(False)
        self.refill()
        self.left, self.right = map(patient, socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
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
            patient(sock).connect(("127.0.0.1", 9))
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
        drain(self.udp)

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
        other, another = map(patient, socket.socketpair())
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
            patient(sock).connect(self.path)
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
            read(f"/proc/net/{name}")


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
        run("ip", "-s", "-d", "link", "show")
        run("ip", "addr")
        for path in Path("/sys/class/net/lo").iterdir():
            if path.is_file():
                read(str(path))
        read("/proc/net/dev")
        socket.if_nameindex()
        socket.if_nametoindex("lo")

    def changes(self) -> None:
        for words in ("mtu 60000", "mtu 65536", "promisc on", "promisc off", "txqueuelen 900", "multicast on"):
            run("ip", "link", "set", "dev", "lo", *words.split())
