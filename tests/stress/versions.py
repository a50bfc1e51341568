"""Aspects of every kind of join point, with what makes their advice run and how often it does then."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

TTL = Path("/proc/sys/net/ipv4/ip_default_ttl")
_SETFSUID = 122
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Version:
    """An aspect, and how often its advice runs for one call of setfsuid(2) and one write of the default TTL.

    ``others``: it runs for what else the kernel does too, so that often at least.
    """

    text: str
    calls: int
    writes: int = 0
    others: bool = False

    def hits(self, times: int) -> int:
        """How often it runs for :func:`work` of so many times."""
        return times * (self.calls + self.writes)

    def fits(self, hits: int, times: int) -> bool:
        """Whether that is how often it may have run."""
        return hits == self.hits(times) or (self.others and hits > self.hits(times))


def work(times: int) -> None:
    """What the advice is about. Nothing else in a guest calls setfsuid(2) or writes the default TTL."""
    with open("/proc/self/cmdline", "rb", buffering=0) as file:
        for _ in range(times):
            _LIBC.syscall(_SETFSUID, -1)
            TTL.write_text("64\n")
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            os.read(file.fileno(), 1)


VERSIONS = {
    "sites": Version(
        """aspect doomed {
    pointcut execution(__x64_sys_setfsuid) || call(__sys_setfsuid) && within(__x64_sys_setfsuid);
    before() { log(pid); }
}""",
        2,
    ),
    "state": Version(
        """aspect doomed {
    u64 last[tid]; count calls; hist times;
    before(): execution(__x64_sys_setfsuid) { last[tid] = now; calls++; }
    after(): execution(__sys_setfsuid) { times.add(now - last[tid]); }
    after(): call(__sys_setfsuid) { log(pid, comm); }
}""",
        3,
    ),
    "data": Version(
        """aspect doomed {
    after(): execution(__x64_sys_setfsuid) { log(pid); }
    before(): set(init_net.ipv4.sysctl_ip_default_ttl) { log(value); }
}""",
        1,
        1,
    ),
    "event": Version(
        """aspect doomed {
    before(): syscall(setfsuid) { log(pid); }
    before(long id): event(raw_syscalls:sys_enter) && if(id == 122) { log(pid); }
}""",
        2,
    ),
    "around": Version(
        """aspect doomed {
    around(): execution(security_path_mkdir) && if(pid == 1) { deny(EPERM); }
    before(): execution(__x64_sys_setfsuid) { log(pid); }
}""",
        1,
    ),
}

# Those that other work of the kernel makes run too.
MORE = {
    "calls": Version(
        """aspect doomed {
    before(): call(kfree) && (within(vfs_*) || within(seq_*) || within(do_*)) { log(joinpoint.function); }
    before(): execution(__x64_sys_setfsuid) { log(pid, stack()); }
}""",
        1,
        others=True,
    ),
    "members": Version(
        """aspect doomed {
    u64 seen[tid];
    before(struct file *f): set(struct file.f_pos) && within(vfs_setpos*) && target(f) { log(old, new); }
    before(): execution(__x64_sys_setfsuid) { seen[tid] = now; }
}""",
        1,
        others=True,
    ),
    "returns": Version(
        """aspect doomed {
    after(): call(vfs_read) && within(ksys_read) { log(comm, now); }
    after() returning (long r): execution(__x64_sys_setfsuid) { log(r); }
}""",
        1,
        others=True,
    ),
}
