"""The work of compare.py: for each kind of tool something that it sees, in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pty
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PEER = "10.77.0.2"  # behind a device that drops everything
NOBODY = 65534

libc = ctypes.CDLL(None, use_errno=True)
STAT, LSTAT, STATFS, STATX, SETFSUID, GETPRIORITY = 4, 6, 137, 332, 122, 140


def call(number: int, *arguments: object) -> int:
    """A system call by its number."""
    return int(libc.syscall(number, *arguments))


def typing(_: Path) -> None:
    """Type into a shell."""
    pid, terminal = pty.fork()
    if not pid:
        os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
    for line in (b"echo one\n", b"echo 'two three'\n", b"exit\n"):
        time.sleep(0.7)
        os.write(terminal, line)
    with contextlib.suppress(OSError):
        while os.read(terminal, 1000):
            pass
    os.waitpid(pid, 0)


def block_device(disk: Path) -> None:
    """Read from the device, past the page cache, in three sizes."""
    device = next(
        line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if str(disk / "mnt") in line
    )
    for size in (4096, 16384, 65536):
        descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, size)  # aligned, as direct reading needs it
        for _ in range(16):
            os.readv(descriptor, [buffer])
        os.close(descriptor)


def capabilities(_: Path) -> None:
    """Need some."""
    socket.sethostname(os.uname().nodename)
    os.nice(-1)
    os.chroot("/")


def lookups(disk: Path) -> None:
    """Look for files that are there, and for some that are not."""
    for name in ("here", "nowhere-1", "nowhere-2", "here"):
        with contextlib.suppress(OSError):
            os.stat(disk / "mnt" / name)


def programs(_: Path) -> None:
    """Start two."""
    for argv in (["true", "one", "two words"], ["sh", "-c", "exit 0", "last"]):
        subprocess.run(argv, check=True)


def hosts(_: Path) -> None:
    """Ask for two, of which one is known."""
    for name in ("localhost", "127.0.0.1"):
        socket.getaddrinfo(name, 80)


def kills(_: Path) -> None:
    """Send signals: to oneself, and to nobody."""
    os.kill(os.getpid(), 0)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGUSR1)
    for number in (signal.SIGHUP, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(4_000_000, number)


def opens(disk: Path) -> None:
    """Open files, some of which are not there."""
    for name in ("here", "nowhere", "here"):
        with contextlib.suppress(OSError):
            os.close(os.open(disk / "mnt" / name, os.O_RDONLY))


def forks(_: Path) -> None:
    """Forty children."""
    for _ in range(40):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)


def crowd(_: Path) -> None:
    """Have a task wait for its processor while one of the real-time class computes, forty times."""
    os.sched_setaffinity(0, {0})
    asked, begun = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        for _ in range(40):
            os.read(asked[0], 1)
            os.write(begun[1], b"x")
        os._exit(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    for _ in range(40):
        time.sleep(0.01)  # the other one goes to sleep
        os.write(asked[1], b"x")  # it could run now
        end = time.monotonic() + 0.045
        while time.monotonic() < end:
            pass
        os.read(begun[0], 1)
    os.waitpid(pid, 0)


def users(_: Path) -> None:
    """Become somebody else."""
    call(SETFSUID, NOBODY)
    call(SETFSUID, 0)
    os.setresuid(0, NOBODY, 0)
    os.setresuid(0, 0, 0)
    os.setuid(NOBODY)
    with contextlib.suppress(PermissionError):
        os.setuid(0)


def stats(disk: Path) -> None:
    """Each call, of files that are there and not."""
    buffer = ctypes.create_string_buffer(512)
    for name in ("here", "nowhere"):
        path = os.fsencode(disk / "mnt" / name)
        call(STAT, path, buffer)
        call(LSTAT, path, buffer)
        call(STATX, -100, path, 0, 0xFFF, buffer)
        call(STATFS, path, buffer)


def syncs(disk: Path) -> None:
    """Each of them."""
    descriptor = os.open(disk / "mnt" / "here", os.O_RDWR)
    os.fsync(descriptor)
    os.fdatasync(descriptor)
    libc.syncfs(descriptor)
    libc.sync_file_range(descriptor, 0, 0, 2)
    os.sync()
    os.close(descriptor)


def calls(_: Path) -> None:
    """So many that both show them among the ten largest."""
    for _ in range(20_000):
        call(GETPRIORITY, 0, 0)


def connections(_: Path) -> None:
    """Four over the loopback, two of them of IPv6; some bytes each way."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        for size in (3_000, 200_000):
            with socket.create_server((address, 0), family=family) as server:
                client = socket.create_connection(server.getsockname()[:2])
                accepted, _ = server.accept()
            for end, other in ((client, accepted), (accepted, client)):
                pid = os.fork()  # a reader: the other end's buffers are small
                if not pid:
                    left = size
                    while left:
                        left -= len(other.recv(left))
                    os._exit(0)
                end.sendall(bytes(size))
                os.waitpid(pid, 0)
            client.close()
            accepted.close()
    time.sleep(0.5)  # the last acknowledgements


def refused(_: Path) -> None:
    """Begin a connection to where nothing arrives; its SYN is sent, and dropped, again and again."""
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex((PEER, 4567))
        time.sleep(3.6)  # sent again after one second and after three


def messages(_: Path) -> None:
    """Over a UNIX socket; read in one piece and in two."""
    one, other = socket.socketpair()
    one.send(b"hello, world\n")
    other.recv(100)
    one.send(b"\x00\x01binary\xff")
    other.recv(4)
    other.recv(100)


def files(disk: Path) -> None:
    """What nobody else does meanwhile."""
    top = disk / "mnt" / "files"
    top.mkdir()
    for number in range(7):
        path = top / str(number)
        path.write_text("x")
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        path.rename(top / f"{number}-renamed")
        (top / f"{number}-link").symlink_to(path)
        os.link(top / f"{number}-renamed", top / f"{number}-hard")
        os.mknod(top / f"{number}-made")  # open() with O_CREAT is none of vfs_create's
    shutil.rmtree(top)


def writing(disk: Path) -> None:
    """Have the kernel write what is dirty, twice."""
    for number in range(2):
        (disk / "mnt" / "dirty").write_bytes(bytes(300_000 * (number + 1)))
        os.sync()
