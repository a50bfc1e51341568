"""Where woven aspects live in bpffs, who may touch them, and what is left there by a process that died.

    /sys/fs/bpf/klasy/                      mode 0700; locked (flock) around every change
        log_dequeue/                        a woven aspect: the directory's appearance is the commit
            registry                        map: what is woven, for later processes (manifest.py)
            map_events  map_counters  ..    maps
            link_0  ..                      links, which hold the programs; unlinking its last pin detaches one
            group -> ../events/klasy_..     the group of its kprobe events in tracefs, where it has any
            unfinished/                     it has its name, and is not switched on yet (aspects that can deny)
        ~log_dequeue-1c_4711_1a2b3c_0/      being woven or taken out: of a live process as long as it is locked (flock),
                                            else what a killed one left
        ~rcu_expedited/                     while klasy has the kernel hurry its grace periods (tracefs.py)

Names with a dot are reserved by bpffs (lookup refuses them), hence the tilde. No aspect can have such a name. The lock
of a staging directory goes with the process that holds it, so nobody needs to guess from a pid whether it still runs.

This module knows names, directories and locks; what is pinned there is not its business.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from klasy.bpf.sys import rename_exchange
from klasy.errors import KernelLacks, KernelRefused, NotRoot, SystemRefusal
from klasy.plain import TYPE_CHECKING, contextmanager, dataclass, suppress

if TYPE_CHECKING:
    from collections.abc import Iterator

BPFFS = "/sys/fs/bpf"
HOME = "klasy"
REGISTRY = "registry"
BASE = "base"  # map: the kernel's hits at each point of the kernel probe events when the aspect was switched on
GROUP = "group"
UNFINISHED = "unfinished"
STAGING = "~"
LOCK_SECONDS = 60.0
_LOCK_LOOK = 1.0  # seconds between looks at who holds it
DENIED = "a security module, or an aspect with around advice, denies it to root, too"


class LockRefused(KernelRefused):
    """The kernel does not let klasy's directory be locked: an aspect that denies may be behind it."""


@dataclass(frozen=True, slots=True)
class Token:
    """What names one weave on this machine: the bpffs it is for, the process that does it, and a number.

    ``fs`` is the device number of the bpffs: tracefs is the machine's, but a container may have a bpffs of its own,
    and what belongs to that is none of ours to clear. ``start`` is the process's, in clock ticks since boot.
    """

    fs: int
    pid: int
    start: int
    number: int

    def __str__(self) -> str:
        return f"{self.fs:x}_{self.pid}_{self.start:x}_{self.number}"

    @staticmethod
    def parse(text: str) -> Token | None:
        """The inverse of ``str``; None where the text is no token."""
        parts = text.split("_")
        try:
            fs, pid, start, number = parts
            token = Token(int(fs, 16), int(pid), int(start, 16), int(number))
        except ValueError:
            return None
        return token if str(token) == text else None


def start_time() -> int:
    """When this process started, in clock ticks since boot (field 22 of /proc/self/stat)."""
    with open("/proc/self/stat", "rb") as file:
        stat = file.read()
    # The command's name, in parentheses, may hold anything, parentheses included.
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


class Staging:
    """A directory that is not yet, or no longer, an aspect. Held by its lock until closed."""

    def __init__(self, home: str, name: str, descriptor: int) -> None:
        self.home = home
        self.name = name
        self._descriptor = descriptor

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{self.home}/{self.name}"

    def entry(self, name: str) -> str:
        """The path of something in it."""
        return f"{self.home}/{self.name}/{name}"

    def take(self, descriptor: int) -> None:
        """Hold another directory that has come under this name, by its locked descriptor."""
        self.close()
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go of the lock. Harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class PinFS:
    """The directory of klasy in a mounted bpffs."""

    _number = 0  # tokens given out by this process

    def __init__(self, mount: str = BPFFS) -> None:
        self.mount = mount
        self.home = f"{mount}/{HOME}"
        self.hurry = f"{self.home}/{STAGING}rcu_expedited"

    def prepare(self) -> None:
        """Make sure that there is a writable bpffs and klasy's directory in it.

        Raises SystemRefusal that says what is in the way and how to mend it.
        """
        while True:
            try:
                found = os.stat(self.home)
                break
            except FileNotFoundError:
                self._mount()
            except OSError as error:
                raise self._refused(error) from None
            try:
                os.mkdir(self.home, 0o700)  # and look again: the last aspect of another klasy may take it away
            except FileExistsError:
                pass  # another klasy was quicker
            except OSError as error:
                raise self._refused(error) from None
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise SystemRefusal(
                f"{self.home} is not root's alone, so what is pinned there cannot be trusted",
                hint=f"find out who made it, then remove it: rm -r {self.home}",
            )

    def token(self) -> Token:
        """A token no other weave has had since boot. The file system must be prepared."""
        PinFS._number += 1
        return Token(os.stat(self.mount).st_dev, os.getpid(), start_time(), PinFS._number)

    def _mount(self) -> None:
        """Mount a bpffs where none is. Containers and minimal systems come without."""
        if is_mounted(self.mount, "bpf"):
            return
        if not os.path.isdir(self.mount):
            raise KernelLacks(f"there is no {self.mount}: this kernel has no BPF file system, or sysfs is not mounted")
        remedy = f"mount -t bpf bpffs {self.mount}"
        mode = "rw,nosuid,nodev,noexec,relatime,mode=700"
        status = run_quietly("mount", "-t", "bpf", "-o", mode, "bpffs", self.mount)
        if status != 0 and not is_mounted(self.mount, "bpf"):
            raise SystemRefusal(f"no BPF file system is mounted at {self.mount}, and mounting one failed", hint=remedy)

    def _refused(self, error: OSError) -> SystemRefusal:
        what = error.filename or self.home
        if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
            return NotRoot(f"{what} is only for root", hint="run klasy as root, e.g. with sudo")
        if error.errno == errno.EROFS:
            remedy = f"mount -o remount,rw {self.mount}"
            return SystemRefusal(f"the BPF file system at {self.mount} is mounted read-only", hint=remedy)
        return KernelRefused(f"cannot use {what}", error.errno or errno.EIO, hint=DENIED)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock that every change of the directory needs. Not reentrant.

        Raises SystemRefusal if one other process keeps it for a minute, LockRefused where the kernel refuses it.
        However many there are, each has its turn.
        """
        holder, deadline, look = 0, time.monotonic() + LOCK_SECONDS, 0.0
        while True:
            self.prepare()
            try:
                descriptor = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # the last aspect has just gone, and the directory with it
            except OSError as error:
                raise self._unlockable(error) from None
            try:
                while not self._try_lock(descriptor):
                    now = time.monotonic()
                    if now >= look:
                        look, before, holder = now + _LOCK_LOOK, holder, _lock_holder(descriptor)
                        if holder != before:
                            deadline = now + LOCK_SECONDS
                    if now > deadline:
                        raise SystemRefusal(
                            f"another klasy process has held the lock of {self.home} for {LOCK_SECONDS:.0f} s",
                            hint=f"see which: fuser -v {self.home}",
                        )
                    time.sleep(0.005)
                if not self._is_current(descriptor):
                    continue
                yield
                return
            finally:
                os.close(descriptor)

    def _try_lock(self, descriptor: int) -> bool:
        try:
            return _try_lock(descriptor)
        except OSError as error:
            raise self._unlockable(error) from None

    def _unlockable(self, error: OSError) -> SystemRefusal:
        refusal = self._refused(error)
        if not isinstance(refusal, KernelRefused):
            return refusal
        return LockRefused(f"cannot lock {self.home}", refusal.errno, hint=refusal.hint)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the directory locked is the one that is there: it may have been removed while we waited."""
        try:
            return os.path.samestat(os.stat(self.home), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def aspects(self) -> list[str]:
        """Names of the woven aspects. Raises NotRoot."""
        return sorted(name for name in self._entries() if not name.startswith(STAGING))

    def stagings(self) -> list[str]:
        """Names of the directories that are being woven or taken out, or were left over."""
        hurry = os.path.basename(self.hurry)
        return sorted(name for name in self._entries() if name.startswith(STAGING) and name != hurry)

    def unfinished(self) -> list[str]:
        """Names of the aspects that have yet to be switched on. With the lock held: that never will be."""
        return [name for name in self.aspects() if os.path.isdir(self.path(name, UNFINISHED))]

    def finish(self, aspect: str) -> None:
        """Say that an aspect that was unfinished is switched on. Raises KernelRefused."""
        path = self.path(aspect, UNFINISHED)
        try:
            os.rmdir(path)
        except OSError as error:
            hint = "if it denies that itself: leave klasy out, as by && if(uid != 0)"
            what = f"removing {path} once {aspect} was switched on"
            raise KernelRefused(what, error.errno or errno.EIO, hint=hint) from None

    def _entries(self) -> list[str]:
        try:
            return os.listdir(self.home)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._refused(error) from None

    def path(self, name: str, entry: str = "") -> str:
        """The path of a directory or of something in it."""
        return f"{self.home}/{name}/{entry}" if entry else f"{self.home}/{name}"

    def is_woven(self, aspect: str) -> bool:
        """Whether an aspect of that name is there."""
        return os.path.exists(f"{self.home}/{aspect}/{REGISTRY}")

    def stage(self, aspect: str, token: Token) -> Staging:
        """Make the directory in which an aspect is put together. The lock must be held."""
        name = f"{STAGING}{aspect}-{token}"
        try:
            os.mkdir(f"{self.home}/{name}", 0o700)
        except OSError as error:
            raise self._refused(error) from None
        claimed = self.claim(name)
        assert claimed is not None
        return claimed

    def claim(self, name: str) -> Staging | None:
        """Take a staging directory whose process is gone; None if it is held. The lock must be held."""
        descriptor = os.open(f"{self.home}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not _try_lock(descriptor):
            os.close(descriptor)
            return None
        return Staging(self.home, name, descriptor)

    def commit(self, staging: Staging, aspect: str) -> None:
        """Make a staging directory the woven aspect, in one step. The lock must be held."""
        os.rename(staging.path, f"{self.home}/{aspect}")

    def exchange(self, staging: Staging, aspect: str) -> None:
        """Make a staging directory the woven aspect and the one that was it a staging directory, in one step.

        The lock must be held. What ``staging`` names is afterwards the old aspect, under the lock of this process.
        """
        old = os.open(f"{self.home}/{aspect}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not _try_lock(old):
            os.close(old)
            raise SystemRefusal(f"the aspect '{aspect}' is held by another process")
        rename_exchange(staging.path, f"{self.home}/{aspect}")
        staging.take(old)

    def withdraw(self, aspect: str, token: Token) -> Staging:
        """Make a woven aspect a staging directory again, at once and as a whole. The lock must be held."""
        name = f"{STAGING}{aspect}-{token}"
        try:
            os.rename(f"{self.home}/{aspect}", f"{self.home}/{name}")
        except OSError as error:
            raise self._refused(error) from None
        claimed = self.claim(name)
        if claimed is None:  # woven by a process that kept its descriptor: nothing in klasy does
            raise SystemRefusal(f"the aspect {aspect} is held by another process")
        return claimed

    def group(self, name: str) -> str | None:
        """The group of kprobe events that belongs to a directory."""
        try:
            return os.path.basename(os.readlink(f"{self.home}/{name}/{GROUP}"))
        except OSError:
            return None

    def claimed_groups(self) -> set[str]:
        """All groups of kprobe events that belong to a directory here."""
        return {group for name in self._entries() if (group := self.group(name))}

    def is_empty(self) -> bool:
        """Whether klasy's directory is there with nothing in it."""
        return os.path.isdir(self.home) and not self._entries()

    def tidy(self) -> None:
        """Remove klasy's directory if nothing is in it. The lock must be held."""
        with suppress(OSError):
            os.rmdir(self.home)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_holder(descriptor: int) -> int:
    """The process that holds the lock (flock) of a directory; 0 where nobody does, or it cannot be told."""
    inode = f":{os.fstat(descriptor).st_ino}"
    with suppress(OSError), open("/proc/locks", encoding="utf-8") as file:
        for line in file:
            words = line.split()  # 1: FLOCK ADVISORY WRITE 4711 00:1a:12345 0 EOF; with "->" it waits
            if words[1] == "FLOCK" and words[5].endswith(inode):
                return int(words[4])
    return 0


def is_mounted(path: str, kind: str) -> bool:
    """Whether a file system of a kind is mounted at a path."""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        return any(line.split(" ")[1:3] == [path, kind] for line in file)


def run_quietly(*argv: str) -> int:
    """Run a command without output; its exit status."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    try:
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=null)
    except OSError:
        return 127
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
