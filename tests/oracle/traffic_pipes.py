"""A pipe, and an epoll instance that waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import tempfile
import termios
import threading
from collections.abc import Callable

from oracle.scenario import Scenario, Subject, read


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
            read(f"/proc/self/fdinfo/{fd}")

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
        read(f"/proc/self/fdinfo/{self.epoll.fileno()}")
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
