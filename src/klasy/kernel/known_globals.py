"""The types of common global variables, which the kernel's type information does not have.

BTF describes functions, types and per-CPU variables, but no other variable. So that ``get(jiffies)`` need not say what
``jiffies`` is, this table does, for variables that the headers of 6.1 and 6.12 declare alike (compared with both; the
lengths of ``avenrun`` and ``console_printk`` are those of their definitions). Nothing here is believed unseen: whoever
uses an entry compares its size, as this kernel's BTF has the type, with the room that the symbol has (``fits``).
"""

from __future__ import annotations

# Name: (type as C writes it, elements of an array or 0).
KNOWN: dict[str, tuple[str, int]] = {
    # include/linux/jiffies.h
    "jiffies": ("unsigned long", 0),
    "jiffies_64": ("u64", 0),
    # include/linux/sched/loadavg.h
    "avenrun": ("unsigned long", 3),
    # include/linux/sched/stat.h
    "nr_threads": ("int", 0),
    "total_forks": ("unsigned long", 0),
    # include/linux/init_task.h, include/linux/nsproxy.h, include/linux/cred.h, include/linux/pid_namespace.h
    "init_task": ("struct task_struct", 0),
    "init_mm": ("struct mm_struct", 0),
    "init_nsproxy": ("struct nsproxy", 0),
    "init_cred": ("struct cred", 0),
    "init_pid_ns": ("struct pid_namespace", 0),
    "init_user_ns": ("struct user_namespace", 0),
    "init_uts_ns": ("struct uts_namespace", 0),
    "init_ipc_ns": ("struct ipc_namespace", 0),
    # include/net/net_namespace.h, include/net/tcp.h, include/net/sock.h
    "init_net": ("struct net", 0),
    "tcp_prot": ("struct proto", 0),
    "udp_prot": ("struct proto", 0),
    "sysctl_tcp_mem": ("long", 3),
    "sysctl_wmem_max": ("u32", 0),
    "sysctl_rmem_max": ("u32", 0),
    # include/linux/panic.h, include/linux/printk.h
    "panic_timeout": ("int", 0),
    "panic_on_oops": ("int", 0),
    "console_printk": ("int", 4),
    # include/linux/mm.h, include/linux/swap.h, include/linux/mman.h, include/linux/writeback.h
    "high_memory": ("void *", 0),
    "vm_swappiness": ("int", 0),
    "sysctl_overcommit_memory": ("int", 0),
    "sysctl_overcommit_ratio": ("int", 0),
    "dirty_writeback_interval": ("unsigned int", 0),
    "dirty_expire_interval": ("unsigned int", 0),
    # include/linux/cpu.h, include/linux/cpumask.h, arch/x86/include/asm/tsc.h
    "nr_cpu_ids": ("unsigned int", 0),
    "tsc_khz": ("unsigned int", 0),
    "cpu_khz": ("unsigned int", 0),
    # include/linux/kernel.h, include/linux/pid.h, include/linux/file.h
    "system_state": ("enum system_states", 0),
    "pid_max": ("int", 0),
    "sysctl_nr_open": ("unsigned int", 0),
}

# A variable may be followed by room that its successor's alignment leaves: up to a cache line's worth, or a page's
# for what is page-aligned itself. More than that beside a small type speaks against the type.
_MOST_ROOM_BEHIND = 64


def fits(size: int, room: int) -> bool:
    """Whether an object of ``size`` bytes can be what lies in the ``room`` up to the next symbol."""
    return 0 < size <= room and (room - size < _MOST_ROOM_BEHIND or room < 2 * size)
