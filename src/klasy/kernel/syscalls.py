"""The system calls of x86-64: their names, the kernel's functions behind them, and their arguments.

A call's body is the function ``__x64_sys_NAME(const struct pt_regs *regs)``: it finds the arguments in the registers
that the program had when it made the call. Their names and types are those of the kernel's own record of the call
(``events/syscalls/sys_enter_NAME/format`` of tracefs), which some calls lack.

Calls of 32-bit programs have other functions (``__ia32_sys_NAME``, ``__ia32_compat_sys_NAME``): they are not here.
"""

from __future__ import annotations

from klasy.errors import SystemRefusal
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.kernel.model import Function, Kernel
    from klasy.kernel.tracepoints import Field, Tracepoints

# In the order of their numbers: arch/x86/entry/syscalls/syscall_64.tbl up to Linux 6.12.
_TABLE = """
    read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask
    rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield mremap msync mincore madvise
    shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer getpid sendfile socket connect accept
    sendto recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername socketpair setsockopt getsockopt
    clone fork vfork execve exit wait4 kill uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock
    fsync fdatasync truncate ftruncate getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink
    readlink chmod fchmod chown fchown lchown umask gettimeofday getrlimit getrusage sysinfo times ptrace getuid
    syslog getgid setuid setgid geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups setgroups
    setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset rt_sigpending
    rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod uselib personality ustat statfs fstatfs
    sysfs getpriority setpriority sched_setparam sched_getparam sched_setscheduler sched_getscheduler
    sched_get_priority_max sched_get_priority_min sched_rr_get_interval mlock munlock mlockall munlockall vhangup
    modify_ldt pivot_root _sysctl prctl arch_prctl adjtimex setrlimit chroot sync acct settimeofday mount umount2
    swapon swapoff reboot sethostname setdomainname iopl ioperm create_module init_module delete_module
    get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security gettid readahead
    setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr
    lremovexattr fremovexattr tkill time futex sched_setaffinity sched_getaffinity set_thread_area io_setup
    io_destroy io_getevents io_submit io_cancel get_thread_area lookup_dcookie epoll_create epoll_ctl_old
    epoll_wait_old remap_file_pages getdents64 set_tid_address restart_syscall semtimedop fadvise64 timer_create
    timer_settime timer_gettime timer_getoverrun timer_delete clock_settime clock_gettime clock_getres
    clock_nanosleep exit_group epoll_wait epoll_ctl tgkill utimes vserver mbind set_mempolicy get_mempolicy mq_open
    mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr kexec_load waitid add_key request_key keyctl
    ioprio_set ioprio_get inotify_init inotify_add_watch inotify_rm_watch migrate_pages openat mkdirat mknodat
    fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat fchmodat faccessat pselect6 ppoll
    unshare set_robust_list get_robust_list splice tee sync_file_range vmsplice move_pages utimensat epoll_pwait
    signalfd timerfd_create eventfd fallocate timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2
    epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init
    fanotify_mark prlimit64 name_to_handle_at open_by_handle_at clock_adjtime syncfs sendmmsg setns getcpu
    process_vm_readv process_vm_writev kcmp finit_module sched_setattr sched_getattr renameat2 seccomp getrandom
    memfd_create kexec_file_load bpf execveat userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2
    pkey_mprotect pkey_alloc pkey_free statx io_pgetevents rseq pidfd_send_signal io_uring_setup io_uring_enter
    io_uring_register open_tree move_mount fsopen fsconfig fsmount fspick pidfd_open clone3 close_range openat2
    pidfd_getfd faccessat2 process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset
    landlock_add_rule landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node
    cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount lsm_get_self_attr
    lsm_set_self_attr lsm_list_modules mseal
"""
NAMES = tuple(_TABLE.split())

# Where the function is called otherwise than the call.
_FUNCTIONS = {
    "stat": "newstat",
    "fstat": "newfstat",
    "lstat": "newlstat",
    "uname": "newuname",
    "umount2": "umount",
    "sendfile": "sendfile64",
}
PREFIX = "__x64_sys_"

# The arguments' registers (the fourth is in r10, for the instruction syscall destroys rcx), in struct pt_regs.
ARGUMENT_OFFSETS = tuple(PT_REGS[name] for name in ("di", "si", "dx", "r10", "r8", "r9"))

# They never return to the program that made them, or with other registers than it had.
NEVER_RETURN = frozenset({"exit", "exit_group"})
REPLACE_REGISTERS = frozenset({"execve", "execveat", "rt_sigreturn"})


_GAP = NAMES.index("pidfd_send_signal")  # the last numbers are those of all architectures
_BEHIND_GAP = 424


def number(name: str) -> int:
    """The number of a call of :data:`NAMES`."""
    place = NAMES.index(name)
    return place if place < _GAP else place - _GAP + _BEHIND_GAP


class Syscall(NamedTuple):
    """A system call of a kernel: as programs call it, and the kernel's function."""

    name: str
    function: Function


def find(kernel: Kernel, names: Sequence[str]) -> list[Syscall]:
    """Those of the named calls that a kernel has, in their order. Raises SystemRefusal where symbols are hidden."""
    if len(names) == 1:
        functions = kernel.functions(PREFIX + _FUNCTIONS.get(names[0], names[0]))
    else:
        functions = kernel.functions(f"{PREFIX}*")  # one look through all symbols
    by_name = {function.name: function for function in functions if function.module is None}
    found = []
    for name in names:
        inner = _FUNCTIONS.get(name, name)
        function = by_name.get(PREFIX + inner)
        if function is not None:
            found.append(Syscall(name, function))
    return found


def arguments(kernel: Kernel, name: str) -> tuple[Field, ...] | None:
    """The arguments of a call in order; None where the kernel has no record of them."""
    return recorded(kernel.tracepoints, name)


def event_name(name: str) -> str:
    """What the kernel's record of a call's entry is called, in the category ``syscalls``."""
    return f"sys_enter_{_FUNCTIONS.get(name, name)}"


def recorded(tracepoints: Tracepoints, name: str) -> tuple[Field, ...] | None:
    """The same where only the kernel's trace events are at hand."""
    try:
        made = tracepoints.format("syscalls", event_name(name))
    except (SystemRefusal, KeyError):
        return None
    return tuple(made.fields[1 : 1 + len(ARGUMENT_OFFSETS)])  # the first is the call's number
