"""A file, its inode and its names, on tmpfs and on ext4."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import termios
from collections.abc import Callable
from pathlib import Path

from oracle.scenario import TRUE, Scenario, Subject, read, run


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
        read("/proc/locks")

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
        read(f"/proc/self/fdinfo/{self.fd}")
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
        read("/proc/self/mountinfo")
        read("/proc/self/maps")
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
            run("modprobe", "ext4")
            run("modprobe", "loop")
            run("mkfs.ext4", "-q", "-F", image)
            run("mount", "-o", "loop", image, path)
            if not os.path.ismount(path):
                raise OSError("no ext4 to be had")
        return path
