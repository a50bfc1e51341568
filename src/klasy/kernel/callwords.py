"""What numbers mean that programs give to system calls: the names of flags and choices, by call and argument.

From the headers of Linux for x86-64 (include/uapi, arch/x86/include/uapi); tests/unit/log/test_calls.py compares
each with the C headers of the machine and with Python's own. Arguments have the names that the kernel gives them.

A :class:`Words` is a row of names with their values. ``flags`` are or'ed together, those of several bits before the
single ones they hold; under ``mask`` stands a choice, the first of which is 0 and shown, too. Without ``flags`` all is
a choice. A value that has no name, or what is left of it, is shown as a number.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Words(NamedTuple):
    """See above. ``none``: the name of 0, where flags are meant and none is set."""

    choices: Mapping[str, int]
    flags: Mapping[str, int] = {}
    mask: int = 0
    none: str = "0"

    def text(self, value: int) -> str:
        """A value, by names."""
        if not self.flags:
            return next((name for name, number in self.choices.items() if number == value), str(value))
        names = [name for name, number in self.choices.items() if number == value & self.mask]
        left = value & ~self.mask if names or not self.mask else value
        for name, bits in self.flags.items():
            if bits and left & bits == bits:
                names.append(name)
                left &= ~bits
        if left:
            names.append(f"{left:#x}")
        return "|".join(names) or self.none


def row(names: str, first: int = 0) -> dict[str, int]:
    """Names of successive numbers; ``-`` leaves one out."""
    return {name: number for number, name in enumerate(names.split(), first) if name != "-"}


def bits(names: str) -> dict[str, int]:
    """Names of successive bits; ``-`` leaves one out."""
    return {name: 1 << number for number, name in enumerate(names.split()) if name != "-"}


AT_FDCWD = Words({"AT_FDCWD": -100})

_OPEN_BITS = {
    "O_SYNC": 0o4010000,
    "O_TMPFILE": 0o20200000,
    "O_CREAT": 0o100,
    "O_EXCL": 0o200,
    "O_NOCTTY": 0o400,
    "O_TRUNC": 0o1000,
    "O_APPEND": 0o2000,
    "O_NONBLOCK": 0o4000,
    "O_DSYNC": 0o10000,
    "O_ASYNC": 0o20000,
    "O_DIRECT": 0o40000,
    "O_LARGEFILE": 0o100000,  # 0 in the C library of x86-64
    "O_DIRECTORY": 0o200000,
    "O_NOFOLLOW": 0o400000,
    "O_NOATIME": 0o1000000,
    "O_CLOEXEC": 0o2000000,
    "O_PATH": 0o10000000,
}
OPEN = Words(row("O_RDONLY O_WRONLY O_RDWR"), _OPEN_BITS, 3)
RESOLVE = Words(
    {},
    bits("RESOLVE_NO_XDEV RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_BENEATH RESOLVE_IN_ROOT RESOLVE_CACHED"),
)  # include/uapi/linux/openat2.h
NEW_FILE = Words({}, {"O_NONBLOCK": 0o4000, "O_CLOEXEC": 0o2000000, "O_DIRECT": 0o40000})
ACCESS = Words({}, {"R_OK": 4, "W_OK": 2, "X_OK": 1}, none="F_OK")
AT = Words(
    {},
    {
        "AT_SYMLINK_NOFOLLOW": 0x100,
        "AT_SYMLINK_FOLLOW": 0x400,
        "AT_NO_AUTOMOUNT": 0x800,
        "AT_EMPTY_PATH": 0x1000,
        "AT_STATX_FORCE_SYNC": 0x2000,
        "AT_STATX_DONT_SYNC": 0x4000,
        "AT_RECURSIVE": 0x8000,
    },
)
AT_ACCESS = Words({}, {"AT_EACCESS": 0x200, **AT.flags})
AT_UNLINK = Words({}, {"AT_REMOVEDIR": 0x200})
STATX = Words(
    {},
    {
        "STATX_BASIC_STATS": 0x7FF,
        **bits(
            "STATX_TYPE STATX_MODE STATX_NLINK STATX_UID STATX_GID STATX_ATIME STATX_MTIME STATX_CTIME STATX_INO "
            "STATX_SIZE STATX_BLOCKS STATX_BTIME STATX_MNT_ID"
        ),
    },
)
RENAME = Words({}, bits("RENAME_NOREPLACE RENAME_EXCHANGE RENAME_WHITEOUT"))

PROT = Words(
    {},
    {"PROT_READ": 1, "PROT_WRITE": 2, "PROT_EXEC": 4, "PROT_GROWSDOWN": 0x1000000, "PROT_GROWSUP": 0x2000000},
    none="PROT_NONE",
)
MAP = Words(
    {"MAP_SHARED": 1, "MAP_PRIVATE": 2, "MAP_SHARED_VALIDATE": 3},
    {
        "MAP_FIXED": 0x10,
        "MAP_ANONYMOUS": 0x20,
        "MAP_32BIT": 0x40,
        "MAP_GROWSDOWN": 0x100,
        "MAP_DENYWRITE": 0x800,
        "MAP_EXECUTABLE": 0x1000,
        "MAP_LOCKED": 0x2000,
        "MAP_NORESERVE": 0x4000,
        "MAP_POPULATE": 0x8000,
        "MAP_NONBLOCK": 0x10000,
        "MAP_STACK": 0x20000,
        "MAP_HUGETLB": 0x40000,
        "MAP_SYNC": 0x80000,
        "MAP_FIXED_NOREPLACE": 0x100000,
    },
    0xF,
)
MREMAP = Words({}, bits("MREMAP_MAYMOVE MREMAP_FIXED MREMAP_DONTUNMAP"))
MSYNC = Words({}, bits("MS_ASYNC MS_INVALIDATE MS_SYNC"))
MLOCKALL = Words({}, bits("MCL_CURRENT MCL_FUTURE MCL_ONFAULT"))
MADVISE = Words(
    {
        **row("MADV_NORMAL MADV_RANDOM MADV_SEQUENTIAL MADV_WILLNEED MADV_DONTNEED"),
        **row("MADV_FREE MADV_REMOVE MADV_DONTFORK MADV_DOFORK MADV_MERGEABLE MADV_UNMERGEABLE MADV_HUGEPAGE", 8),
        **row("MADV_NOHUGEPAGE MADV_DONTDUMP MADV_DODUMP MADV_WIPEONFORK MADV_KEEPONFORK MADV_COLD MADV_PAGEOUT", 15),
        **row("MADV_POPULATE_READ MADV_POPULATE_WRITE", 22),
    }
)

FAMILY = Words(
    {
        "AF_UNSPEC": 0,
        "AF_UNIX": 1,
        "AF_INET": 2,
        "AF_INET6": 10,
        "AF_NETLINK": 16,
        "AF_PACKET": 17,
        "AF_ALG": 38,
        "AF_VSOCK": 40,
        "AF_XDP": 44,
    }
)
SOCKET = Words(
    {
        "SOCK_STREAM": 1,
        "SOCK_DGRAM": 2,
        "SOCK_RAW": 3,
        "SOCK_RDM": 4,
        "SOCK_SEQPACKET": 5,
        "SOCK_DCCP": 6,
        "SOCK_PACKET": 10,
    },
    {"SOCK_NONBLOCK": 0o4000, "SOCK_CLOEXEC": 0o2000000},
    0xF,
)
SOCKET_FLAGS = Words({}, SOCKET.flags)
SHUTDOWN = Words(row("SHUT_RD SHUT_WR SHUT_RDWR"))
MESSAGE = Words(
    {},
    {
        **bits(
            "MSG_OOB MSG_PEEK MSG_DONTROUTE MSG_CTRUNC - MSG_TRUNC MSG_DONTWAIT MSG_EOR MSG_WAITALL MSG_FIN MSG_SYN "
            "MSG_CONFIRM MSG_RST MSG_ERRQUEUE MSG_NOSIGNAL MSG_MORE MSG_WAITFORONE"
        ),
        "MSG_ZEROCOPY": 0x4000000,
        "MSG_FASTOPEN": 0x20000000,
        "MSG_CMSG_CLOEXEC": 0x40000000,
    },
)
LEVEL = Words(
    {"SOL_IP": 0, "SOL_SOCKET": 1, "SOL_TCP": 6, "SOL_UDP": 17, "SOL_IPV6": 41, "SOL_PACKET": 263, "SOL_NETLINK": 270}
)

SIGNAL = Words(
    row(
        "SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM "
        "SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF "
        "SIGWINCH SIGIO SIGPWR SIGSYS",
        1,
    )
)
MASK_HOW = Words(row("SIG_BLOCK SIG_UNBLOCK SIG_SETMASK"))

_CLONE_BITS = {
    "CLONE_NEWTIME": 0x80,
    "CLONE_VM": 0x100,
    "CLONE_FS": 0x200,
    "CLONE_FILES": 0x400,
    "CLONE_SIGHAND": 0x800,
    "CLONE_PIDFD": 0x1000,
    "CLONE_PTRACE": 0x2000,
    "CLONE_VFORK": 0x4000,
    "CLONE_PARENT": 0x8000,
    "CLONE_THREAD": 0x10000,
    "CLONE_NEWNS": 0x20000,
    "CLONE_SYSVSEM": 0x40000,
    "CLONE_SETTLS": 0x80000,
    "CLONE_PARENT_SETTID": 0x100000,
    "CLONE_CHILD_CLEARTID": 0x200000,
    "CLONE_DETACHED": 0x400000,
    "CLONE_UNTRACED": 0x800000,
    "CLONE_CHILD_SETTID": 0x1000000,
    "CLONE_NEWCGROUP": 0x2000000,
    "CLONE_NEWUTS": 0x4000000,
    "CLONE_NEWIPC": 0x8000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
    "CLONE_IO": 0x80000000,
}
UNSHARE = Words({}, _CLONE_BITS)
CLONE = Words(SIGNAL.choices, {name: bit for name, bit in _CLONE_BITS.items() if bit != 0x80}, 0xFF)
WAIT = Words(
    {},
    {
        "WNOHANG": 1,
        "WUNTRACED": 2,  # WSTOPPED of waitid
        "WEXITED": 4,
        "WCONTINUED": 8,
        "WNOWAIT": 0x1000000,
        "__WNOTHREAD": 0x20000000,
        "__WALL": 0x40000000,
        "__WCLONE": 0x80000000,
    },
)
WAIT_WHICH = Words(row("P_ALL P_PID P_PGID P_PIDFD"))

FCNTL = Words(
    {
        **row("F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_SETOWN F_GETOWN F_SETSIG F_GETSIG"),
        **row("F_SETOWN_EX F_GETOWN_EX", 15),
        **row("F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW", 36),
        **row("F_SETLEASE F_GETLEASE F_NOTIFY", 1024),
        "F_DUPFD_CLOEXEC": 1030,
        **row("F_SETPIPE_SZ F_GETPIPE_SZ F_ADD_SEALS F_GET_SEALS", 1031),
    }
)
FLOCK = Words({}, {"LOCK_SH": 1, "LOCK_EX": 2, "LOCK_NB": 4, "LOCK_UN": 8})
SEEK = Words(row("SEEK_SET SEEK_CUR SEEK_END SEEK_DATA SEEK_HOLE"))
EPOLL_OP = Words(row("EPOLL_CTL_ADD EPOLL_CTL_DEL EPOLL_CTL_MOD", 1))
EPOLL_FLAGS = Words({}, {"EPOLL_CLOEXEC": 0o2000000})
EVENTFD = Words({}, {"EFD_SEMAPHORE": 1, "EFD_NONBLOCK": 0o4000, "EFD_CLOEXEC": 0o2000000})
INOTIFY = Words({}, {"IN_NONBLOCK": 0o4000, "IN_CLOEXEC": 0o2000000})
_CHANGES = (  # the events that inotify and fanotify have in common, bit by bit
    "{0}_ACCESS {0}_MODIFY {0}_ATTRIB {0}_CLOSE_WRITE {0}_CLOSE_NOWRITE {0}_OPEN {0}_MOVED_FROM {0}_MOVED_TO "
    "{0}_CREATE {0}_DELETE {0}_DELETE_SELF {0}_MOVE_SELF "
)
_INOTIFY_HOW = "IN_ONLYDIR IN_DONT_FOLLOW IN_EXCL_UNLINK - IN_MASK_CREATE IN_MASK_ADD - IN_ONESHOT"
INOTIFY_EVENTS = Words({}, {"IN_ALL_EVENTS": 0xFFF, **bits(_CHANGES.format("IN") + 12 * "- " + _INOTIFY_HOW)})
_FANOTIFY_MORE = "FAN_OPEN_EXEC - - FAN_FS_ERROR FAN_OPEN_PERM FAN_ACCESS_PERM FAN_OPEN_EXEC_PERM "
_FANOTIFY_HOW = "FAN_EVENT_ON_CHILD FAN_RENAME - FAN_ONDIR"
FANOTIFY_EVENTS = Words({}, bits(_CHANGES.format("FAN") + _FANOTIFY_MORE + 8 * "- " + _FANOTIFY_HOW))
FANOTIFY = Words(
    {"FAN_CLASS_NOTIF": 0, "FAN_CLASS_CONTENT": 4, "FAN_CLASS_PRE_CONTENT": 8},
    bits(
        "FAN_CLOEXEC FAN_NONBLOCK - - FAN_UNLIMITED_QUEUE FAN_UNLIMITED_MARKS FAN_ENABLE_AUDIT FAN_REPORT_PIDFD "
        "FAN_REPORT_TID FAN_REPORT_FID FAN_REPORT_DIR_FID FAN_REPORT_NAME FAN_REPORT_TARGET_FID"
    ),
    0xC,
)
FANOTIFY_MARK = Words(
    {},
    bits(
        "FAN_MARK_ADD FAN_MARK_REMOVE FAN_MARK_DONT_FOLLOW FAN_MARK_ONLYDIR FAN_MARK_MOUNT FAN_MARK_IGNORED_MASK "
        "FAN_MARK_IGNORED_SURV_MODIFY FAN_MARK_FLUSH FAN_MARK_FILESYSTEM FAN_MARK_EVICTABLE FAN_MARK_IGNORE"
    ),
)
SIGNALFD = Words({}, {"SFD_NONBLOCK": 0o4000, "SFD_CLOEXEC": 0o2000000})
TIMERFD = Words({}, {"TFD_NONBLOCK": 0o4000, "TFD_CLOEXEC": 0o2000000})
TIMERFD_SET = Words({}, {"TFD_TIMER_ABSTIME": 1, "TFD_TIMER_CANCEL_ON_SET": 2})
MEMFD = Words({}, {"MFD_CLOEXEC": 1, "MFD_ALLOW_SEALING": 2, "MFD_HUGETLB": 4})
RANDOM = Words({}, {"GRND_NONBLOCK": 1, "GRND_RANDOM": 2})
SPLICE = Words({}, bits("SPLICE_F_MOVE SPLICE_F_NONBLOCK SPLICE_F_MORE SPLICE_F_GIFT"))
CLOSE_RANGE = Words({}, {"CLOSE_RANGE_UNSHARE": 2, "CLOSE_RANGE_CLOEXEC": 4})
FALLOCATE = Words(
    {},
    {
        "FALLOC_FL_KEEP_SIZE": 1,
        "FALLOC_FL_PUNCH_HOLE": 2,
        "FALLOC_FL_COLLAPSE_RANGE": 8,
        "FALLOC_FL_ZERO_RANGE": 0x10,
        "FALLOC_FL_INSERT_RANGE": 0x20,
        "FALLOC_FL_UNSHARE_RANGE": 0x40,
    },
)
FADVISE = Words(
    row(
        "POSIX_FADV_NORMAL POSIX_FADV_RANDOM POSIX_FADV_SEQUENTIAL POSIX_FADV_WILLNEED POSIX_FADV_DONTNEED "
        "POSIX_FADV_NOREUSE"
    )
)
MOUNT = Words(
    {},
    {
        "MS_RDONLY": 1,
        "MS_NOSUID": 2,
        "MS_NODEV": 4,
        "MS_NOEXEC": 8,
        "MS_SYNCHRONOUS": 16,
        "MS_REMOUNT": 32,
        "MS_MANDLOCK": 64,
        "MS_DIRSYNC": 128,
        "MS_NOATIME": 1024,
        "MS_NODIRATIME": 2048,
        "MS_BIND": 4096,
        "MS_MOVE": 8192,
        "MS_REC": 16384,
        "MS_SILENT": 32768,
        "MS_POSIXACL": 1 << 16,
        "MS_UNBINDABLE": 1 << 17,
        "MS_PRIVATE": 1 << 18,
        "MS_SLAVE": 1 << 19,
        "MS_SHARED": 1 << 20,
        "MS_RELATIME": 1 << 21,
        "MS_STRICTATIME": 1 << 24,
        "MS_LAZYTIME": 1 << 25,
    },
)
UMOUNT = Words({}, bits("MNT_FORCE MNT_DETACH MNT_EXPIRE UMOUNT_NOFOLLOW"))

CLOCK = Words(
    row(
        "CLOCK_REALTIME CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID CLOCK_THREAD_CPUTIME_ID CLOCK_MONOTONIC_RAW "
        "CLOCK_REALTIME_COARSE CLOCK_MONOTONIC_COARSE CLOCK_BOOTTIME CLOCK_REALTIME_ALARM CLOCK_BOOTTIME_ALARM - "
        "CLOCK_TAI"
    )
)
TIMER_FLAGS = Words({}, {"TIMER_ABSTIME": 1})
LIMIT = Words(
    row(
        "RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS RLIMIT_NPROC RLIMIT_NOFILE "
        "RLIMIT_MEMLOCK RLIMIT_AS RLIMIT_LOCKS RLIMIT_SIGPENDING RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO "
        "RLIMIT_RTTIME"
    )
)
USAGE = Words({"RUSAGE_CHILDREN": -1, "RUSAGE_SELF": 0, "RUSAGE_THREAD": 1})
FUTEX = Words(
    row(
        "FUTEX_WAIT FUTEX_WAKE - FUTEX_REQUEUE FUTEX_CMP_REQUEUE FUTEX_WAKE_OP FUTEX_LOCK_PI FUTEX_UNLOCK_PI "
        "FUTEX_TRYLOCK_PI FUTEX_WAIT_BITSET FUTEX_WAKE_BITSET FUTEX_WAIT_REQUEUE_PI FUTEX_CMP_REQUEUE_PI FUTEX_LOCK_PI2"
    ),
    {"FUTEX_PRIVATE_FLAG": 128, "FUTEX_CLOCK_REALTIME": 256},
    0x7F,
)
PTRACE = Words(
    {
        **row("PTRACE_TRACEME PTRACE_PEEKTEXT PTRACE_PEEKDATA PTRACE_PEEKUSER PTRACE_POKETEXT PTRACE_POKEDATA"),
        **row("PTRACE_POKEUSER PTRACE_CONT PTRACE_KILL PTRACE_SINGLESTEP", 6),
        **row("PTRACE_GETREGS PTRACE_SETREGS PTRACE_GETFPREGS PTRACE_SETFPREGS PTRACE_ATTACH PTRACE_DETACH", 12),
        "PTRACE_SYSCALL": 24,
        **row("PTRACE_SETOPTIONS PTRACE_GETEVENTMSG PTRACE_GETSIGINFO PTRACE_SETSIGINFO PTRACE_GETREGSET", 0x4200),
        **row("PTRACE_SETREGSET PTRACE_SEIZE PTRACE_INTERRUPT PTRACE_LISTEN PTRACE_PEEKSIGINFO", 0x4205),
    }
)
PRCTL = Words(
    {
        **row("PR_SET_PDEATHSIG PR_GET_PDEATHSIG PR_GET_DUMPABLE PR_SET_DUMPABLE", 1),
        **row("PR_GET_KEEPCAPS PR_SET_KEEPCAPS", 7),
        **row("PR_SET_NAME PR_GET_NAME", 15),
        **row("PR_GET_SECCOMP PR_SET_SECCOMP PR_CAPBSET_READ PR_CAPBSET_DROP", 21),
        **row("PR_SET_SECUREBITS PR_SET_TIMERSLACK PR_GET_TIMERSLACK", 28),
        **row("PR_SET_MM PR_SET_CHILD_SUBREAPER PR_GET_CHILD_SUBREAPER PR_SET_NO_NEW_PRIVS", 35),
        "PR_GET_NO_NEW_PRIVS": 39,
        "PR_CAP_AMBIENT": 47,
        "PR_SET_VMA": 0x53564D41,
    }
)
ARCH_PRCTL = Words(row("ARCH_SET_GS ARCH_SET_FS ARCH_GET_FS ARCH_GET_GS", 0x1001))
BPF = Words(
    {
        **row("BPF_MAP_CREATE BPF_MAP_LOOKUP_ELEM BPF_MAP_UPDATE_ELEM BPF_MAP_DELETE_ELEM BPF_MAP_GET_NEXT_KEY"),
        **row("BPF_PROG_LOAD BPF_OBJ_PIN BPF_OBJ_GET BPF_PROG_ATTACH BPF_PROG_DETACH BPF_PROG_TEST_RUN", 5),
        **row("BPF_PROG_GET_NEXT_ID BPF_MAP_GET_NEXT_ID BPF_PROG_GET_FD_BY_ID BPF_MAP_GET_FD_BY_ID", 11),
        **row("BPF_OBJ_GET_INFO_BY_FD BPF_PROG_QUERY BPF_RAW_TRACEPOINT_OPEN BPF_BTF_LOAD BPF_BTF_GET_FD_BY_ID", 15),
        **row("BPF_TASK_FD_QUERY BPF_MAP_LOOKUP_AND_DELETE_ELEM BPF_MAP_FREEZE BPF_BTF_GET_NEXT_ID", 20),
        **row("BPF_MAP_LOOKUP_BATCH BPF_MAP_LOOKUP_AND_DELETE_BATCH BPF_MAP_UPDATE_BATCH BPF_MAP_DELETE_BATCH", 24),
        **row("BPF_LINK_CREATE BPF_LINK_UPDATE BPF_LINK_GET_FD_BY_ID BPF_LINK_GET_NEXT_ID BPF_ENABLE_STATS", 28),
        **row("BPF_ITER_CREATE BPF_LINK_DETACH BPF_PROG_BIND_MAP BPF_TOKEN_CREATE", 33),
    }
)

# By the call and the argument, as the kernel names it.
WORDS: dict[tuple[str, str], Words] = {
    ("open", "flags"): OPEN,
    ("openat", "flags"): OPEN,
    ("open_by_handle_at", "flags"): OPEN,
    ("mq_open", "oflag"): OPEN,
    ("pipe2", "flags"): NEW_FILE,
    ("dup3", "flags"): NEW_FILE,
    ("access", "mode"): ACCESS,
    ("faccessat", "mode"): ACCESS,
    ("faccessat2", "mode"): ACCESS,
    ("faccessat2", "flags"): AT_ACCESS,
    ("newfstatat", "flag"): AT,
    ("statx", "flags"): AT,
    ("statx", "mask"): STATX,
    ("unlinkat", "flag"): AT_UNLINK,
    ("linkat", "flags"): AT,
    ("fchownat", "flag"): AT,
    ("fchmodat2", "flags"): AT,
    ("utimensat", "flags"): AT,
    ("execveat", "flags"): AT,
    ("renameat2", "flags"): RENAME,
    ("mmap", "prot"): PROT,
    ("mmap", "flags"): MAP,
    ("mprotect", "prot"): PROT,
    ("pkey_mprotect", "prot"): PROT,
    ("mremap", "flags"): MREMAP,
    ("madvise", "behavior"): MADVISE,
    ("process_madvise", "behavior"): MADVISE,
    ("msync", "flags"): MSYNC,
    ("mlockall", "flags"): MLOCKALL,
    ("socket", "family"): FAMILY,
    ("socket", "type"): SOCKET,
    ("socketpair", "family"): FAMILY,
    ("socketpair", "type"): SOCKET,
    ("shutdown", "how"): SHUTDOWN,
    ("accept4", "flags"): SOCKET_FLAGS,
    **{(call, "flags"): MESSAGE for call in ["sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg"]},
    ("setsockopt", "level"): LEVEL,
    ("getsockopt", "level"): LEVEL,
    **{
        (call, "sig"): SIGNAL
        for call in ["kill", "tkill", "tgkill", "rt_sigaction", "rt_sigqueueinfo", "rt_tgsigqueueinfo"]
    },
    ("pidfd_send_signal", "sig"): SIGNAL,
    ("rt_sigprocmask", "how"): MASK_HOW,
    ("clone", "clone_flags"): CLONE,
    ("unshare", "unshare_flags"): UNSHARE,
    ("setns", "flags"): UNSHARE,
    ("wait4", "options"): WAIT,
    ("waitid", "options"): WAIT,
    ("waitid", "which"): WAIT_WHICH,
    ("fcntl", "cmd"): FCNTL,
    ("flock", "cmd"): FLOCK,
    ("lseek", "whence"): SEEK,
    ("epoll_ctl", "op"): EPOLL_OP,
    ("epoll_create1", "flags"): EPOLL_FLAGS,
    ("eventfd2", "flags"): EVENTFD,
    ("inotify_init1", "flags"): INOTIFY,
    ("inotify_add_watch", "mask"): INOTIFY_EVENTS,
    ("fanotify_init", "flags"): FANOTIFY,
    ("fanotify_init", "event_f_flags"): OPEN,
    ("fanotify_mark", "flags"): FANOTIFY_MARK,
    ("fanotify_mark", "mask"): FANOTIFY_EVENTS,
    ("signalfd4", "flags"): SIGNALFD,
    ("timerfd_create", "flags"): TIMERFD,
    ("timerfd_create", "clockid"): CLOCK,
    ("timerfd_settime", "flags"): TIMERFD_SET,
    ("memfd_create", "flags"): MEMFD,
    ("getrandom", "flags"): RANDOM,
    ("splice", "flags"): SPLICE,
    ("tee", "flags"): SPLICE,
    ("vmsplice", "flags"): SPLICE,
    ("close_range", "flags"): CLOSE_RANGE,
    ("fallocate", "mode"): FALLOCATE,
    ("fadvise64", "advice"): FADVISE,
    ("mount", "flags"): MOUNT,
    ("umount2", "flags"): UMOUNT,
    **{(f"clock_{call}", "which_clock"): CLOCK for call in ["gettime", "settime", "getres", "nanosleep", "adjtime"]},
    ("timer_create", "which_clock"): CLOCK,
    ("clock_nanosleep", "flags"): TIMER_FLAGS,
    ("timer_settime", "flags"): TIMER_FLAGS,
    **{(call, "resource"): LIMIT for call in ["getrlimit", "setrlimit", "prlimit64"]},
    ("getrusage", "who"): USAGE,
    ("futex", "op"): FUTEX,
    ("ptrace", "request"): PTRACE,
    ("prctl", "option"): PRCTL,
    ("arch_prctl", "option"): ARCH_PRCTL,
    ("bpf", "cmd"): BPF,
}

_CREATES = 0o100 | 0o20000000  # O_CREAT, O_TMPFILE's own bit: then a mode is given
_MOVES_TO = 2 | 4  # MREMAP_FIXED, MREMAP_DONTUNMAP: then an address is
# F_GETFD, F_GETFL, F_GETOWN, F_GETSIG, F_GETLEASE, F_GETPIPE_SZ, F_GET_SEALS
_FCNTL = dict.fromkeys((1, 3, 9, 11, 1025, 1032, 1034), 2)
# FUTEX_WAIT, _WAKE, _REQUEUE, _LOCK_PI, _UNLOCK_PI, _TRYLOCK_PI, _LOCK_PI2
_FUTEX = {0: 4, 1: 3, 3: 5, 6: 4, 7: 2, 8: 2, 13: 4}
# PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, _DUMPABLE, _KEEPCAPS, _NAME, PR_GET_SECCOMP, PR_CAPBSET_READ, _DROP, _TIMERSLACK
_PRCTL = {1: 2, 2: 2, 3: 1, 4: 2, 7: 1, 8: 2, 15: 2, 16: 2, 21: 1, 23: 2, 24: 2, 29: 2, 30: 1}

# How many arguments a call takes where one of them decides that: which one, and what its value says (None: all).
# Programs leave anything in the registers of the others.
TAKEN: Mapping[str, tuple[int, Callable[[int], int | None]]] = {
    "open": (1, lambda flags: None if flags & _CREATES else 2),
    "openat": (2, lambda flags: None if flags & _CREATES else 3),
    "mremap": (3, lambda flags: None if flags & _MOVES_TO else 4),
    "fcntl": (1, _FCNTL.get),
    "futex": (1, lambda op: _FUTEX.get(op & FUTEX.mask)),
    "prctl": (0, _PRCTL.get),
}

DIRECTORIES = frozenset({"dfd", "olddfd", "newdfd"})  # arguments that may be AT_FDCWD, of whatever call
ADDRESSES = frozenset({"addr", "start", "brk", "new_addr", "newsp", "tls"})  # though they are given as numbers
MAYBE_ADDRESSES = frozenset({"arg", "arg2", "arg3", "arg4", "arg5", "data"})  # what they are another argument decides
CODES = frozenset({("ioctl", "cmd")})  # numbers that are made of bit-fields
ADDRESS_RESULTS = frozenset({"mmap", "mremap", "brk", "shmat"})

# What the kernel gives itself, and never a program: why a call is made again (include/linux/errno.h).
INTERNAL_ERRORS = {
    512: ("ERESTARTSYS", "it is made again if the signal's handler lets it"),
    513: ("ERESTARTNOINTR", "it is made again"),
    514: ("ERESTARTNOHAND", "it is made again if the signal has no handler"),
    515: ("ENOIOCTLCMD", "no such ioctl"),
    516: ("ERESTART_RESTARTBLOCK", "it goes on as restart_syscall"),
}


def words(call: str, argument: str) -> Words | None:
    """What an argument's numbers mean."""
    return AT_FDCWD if argument in DIRECTORIES else WORDS.get((call, argument))
