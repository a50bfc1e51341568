"""A process that works, forks, is signalled, scheduled, looked at and waited for."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from oracle.scenario import TRUE, Scenario, Subject, read

LOOKED_AT = [
    "stat",
    "status",
    "statm",
    "maps",
    "smaps",
    "smaps_rollup",
    "io",
    "cmdline",
    "comm",
    "limits",
    "sched",
    "schedstat",
    "stack",
    "wchan",
    "environ",
    "cgroup",
    "oom_score",
    "oom_score_adj",
    "mountinfo",
    "syscall",
    "auxv",
    "personality",
    "loginuid",
    "numa_maps",
    "timers",
    "timens_offsets",
]
"""Files of /proc/PID that are read."""


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
        for name in (*LOOKED_AT, f"task/{self.child}/stat", f"task/{self.child}/children"):
            read(f"/proc/{self.child}/{name}")
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
        read("/proc/loadavg")

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
        read("/sys/fs/cgroup/oracle/cgroup.procs")
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
