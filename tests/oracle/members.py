"""What is watched: members by struct, and where objects of that struct are to be found.

``GROUPS`` is the plan; a group is watched on each of its subjects in turn, four members at a time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Members of one struct, and the (scenario, subject) pairs whose objects are of that struct.

    ``reused``: subjects whose slab cache holds this type alone, so that the slot may be watched through many lives.
    ``again``: how often an object is looked for anew in one turn: for those that live briefly.
    ``caches``: the slab caches that objects of the struct lie in, the outer object's (verify.py checks by these).
    """

    struct: str
    members: tuple[str, ...]
    subjects: tuple[tuple[str, str], ...]
    caches: tuple[str, ...] = ()
    reused: frozenset[str] = frozenset()
    again: int = 1


TCP = (("tcp", "client"), ("tcp6", "server"), ("tcp", "listener"))
SKB_CACHES = ("skbuff_head_cache", "skbuff_fclone_cache", "skbuff_small_head")
# protocols without a cache of their own (netlink) have their sockets from kmalloc
SOCK_CACHES = ("TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "UNIX", "UNIX-STREAM", "RAW", "RAWv6", "PING",
               "MPTCP", "MPTCPv6", "PACKET", "kmalloc-1k", "kmalloc-2k")  # fmt: skip
INODE_CACHES = ("inode_cache", "shmem_inode_cache", "ext4_inode_cache", "sock_inode_cache", "proc_inode_cache",
                "ovl_inode", "v9fs_inode_cache", "bdev_cache", "hugetlbfs_inode_cache", "mqueue_inode_cache",
                "tracefs_inode_cache", "fat_inode_cache")  # fmt: skip

GROUPS = (
    Group(
        "sk_buff",
        ("len", "data_len", "data", "tail", "end", "head", "users", "protocol", "truesize", "dev", "sk", "next", "prev",
         "cb", "csum", "hash", "mac_header", "network_header", "transport_header", "priority", "mark", "_skb_refdst"),
        (("datagrams", "udp_skb"), ("tcp", "received_skb"), ("tcp", "sent_skb"), ("datagrams", "unix_skb")),
        SKB_CACHES,
        frozenset({"udp_skb", "received_skb", "sent_skb", "unix_skb"}),
        again=2,
    ),
    Group(
        "sock",
        ("__sk_common.skc_state", "sk_rcvbuf", "sk_sndbuf", "sk_wmem_queued", "sk_wmem_alloc", "sk_backlog.rmem_alloc",
         "__sk_common.skc_flags", "sk_err", "sk_socket", "sk_shutdown", "sk_forward_alloc", "sk_receive_queue.qlen",
         "sk_lock.owned", "sk_backlog.len", "sk_rcvlowat", "sk_priority", "__sk_common.skc_family",
         "__sk_common.skc_refcnt", "__sk_common.skc_prot", "__sk_common.skc_bound_dev_if", "sk_dst_cache",
         "sk_rcvtimeo", "sk_drops", "sk_max_ack_backlog"),
        (*TCP, ("datagrams", "udp"), ("datagrams", "unix")),
        SOCK_CACHES,
        frozenset({"client", "server", "listener"}),
    ),
    Group(
        "tcp_sock",
        ("snd_cwnd", "snd_nxt", "snd_una", "rcv_nxt", "copied_seq", "write_seq", "srtt_us", "packets_out",
         "snd_ssthresh", "rcv_wnd", "snd_wnd", "mss_cache", "pushed_seq", "retrans_out", "lost_out", "rcv_wup",
         "delivered", "total_retrans", "bytes_acked", "urg_data"),
        TCP[:2],
        ("TCP", "TCPv6"),
        frozenset({"client", "server"}),
    ),
    Group(
        "inet_connection_sock",
        ("icsk_rto", "icsk_pending", "icsk_retransmits", "icsk_ca_ops"),
        TCP[:2],
        ("TCP", "TCPv6"),
        frozenset({"client", "server"}),
    ),
    Group("inet_sock", ("inet_sport", "inet_saddr", "tos", "inet_id"), (("tcp", "client"), ("datagrams", "udp_sender")),
          SOCK_CACHES, frozenset({"client"})),
    Group("unix_sock", ("peer", "inflight"), (("datagrams", "unix"),), ("UNIX", "UNIX-STREAM")),
    Group("socket", ("state", "type", "flags", "file", "sk", "ops"),
          (("tcp", "socket"), ("datagrams", "unix_socket")), ("sock_inode_cache",),
          frozenset({"socket", "unix_socket"})),
    Group(
        "net_device",
        ("mtu", "flags", "features", "ifindex", "netdev_ops", "state", "operstate", "tx_queue_len"),
        (("device", "lo"),),
        ("kmalloc-4k", "kmalloc-cg-4k"),
    ),
    Group(
        "task_struct",
        ("flags", "__state", "mm", "prio", "signal", "sighand", "files", "nvcsw", "utime", "se.vruntime",
         "se.sum_exec_runtime", "on_cpu", "on_rq", "comm", "pid", "tgid", "exit_state", "exit_code", "real_parent",
         "cred", "static_prio", "normal_prio", "nsproxy", "fs", "pending.signal", "blocked", "usage", "policy",
         "group_leader", "thread_info.flags"),
        (("tasks", "task"),),
        ("task_struct",),
        frozenset({"task"}),
    ),
    Group("mm_struct", ("total_vm", "mm_users", "mm_count", "map_count", "pgd", "start_brk", "data_vm", "flags",
                        "mmap_lock.count", "hiwater_rss", "mmap_base", "brk"),
          (("tasks", "mm"),), ("mm_struct",), frozenset({"mm"})),
    Group("vm_area_struct", ("vm_start", "vm_end", "vm_flags", "vm_mm", "vm_file", "vm_pgoff"),
          (("tasks", "vma"),), ("vm_area_struct",)),
    Group("signal_struct", ("live", "sigcnt", "flags", "nr_threads", "oom_score_adj", "shared_pending.signal"),
          (("tasks", "signal"),), ("signal_cache",)),
    Group("cred", ("usage", "euid", "fsuid", "cap_effective"), (("tasks", "cred"),), ("cred_jar", "cred")),
    Group("files_struct", ("count", "fdt", "next_fd"), (("tasks", "files"),), ("files_cache",)),
    Group("pid", ("count", "level"), (("tasks", "thread_pid"),), ("pid",)),
    Group(
        "file",
        ("f_pos", "f_count", "f_flags", "f_mode", "f_inode", "f_op", "private_data", "f_mapping", "f_path.dentry",
         "f_cred"),
        (("files", "file"), ("ext4", "file"), ("pipes", "pipe_file"), ("files", "directory_file")),
        ("filp", "kmalloc-256"),  # overlayfs has its struct backing_file from kmalloc
    ),
    Group(
        "inode",
        ("i_size", "i_state", "i_count", "i_nlink", "i_mtime.tv_sec|__i_mtime.tv_sec|i_mtime_sec", "i_rwsem.count",
         "i_mode", "i_uid", "i_blocks", "i_sb", "i_op", "i_mapping", "i_flags", "i_writecount", "i_fop", "i_blkbits",
         "i_ino", "i_ctime.tv_sec|__i_ctime.tv_sec|i_ctime_sec"),
        (("files", "inode"), ("ext4", "inode"), ("ext4", "directory_inode"), ("pipes", "pipe_inode")),
        INODE_CACHES,
        frozenset({"inode", "directory_inode", "pipe_inode"}),
    ),
    Group(
        "dentry",
        ("d_lockref.count", "d_flags", "d_inode", "d_parent", "d_name.name", "d_sb", "d_seq", "d_op"),
        (("files", "dentry"), ("ext4", "directory_dentry")),
        ("dentry",),
        frozenset({"dentry", "directory_dentry"}),
    ),
    Group("address_space", ("nrpages", "host", "a_ops", "flags"),
          (("files", "address_space"), ("ext4", "address_space")),
          INODE_CACHES, frozenset({"address_space"})),
    Group("super_block", ("s_flags", "s_op", "s_time_gran", "s_maxbytes"),
          (("files", "super_block"), ("ext4", "super_block")), ("kmalloc-2k", "kmalloc-cg-2k")),
    Group("pipe_inode_info", ("head", "tail", "readers", "writers", "max_usage", "ring_size", "bufs", "mutex.owner"),
          (("pipes", "pipe"),), ("kmalloc-cg-192", "kmalloc-192", "kmalloc-cg-256", "kmalloc-256")),
    Group("eventpoll", ("ovflist", "rdllist.next", "mtx.owner"), (("pipes", "eventpoll"),),
          ("kmalloc-192", "kmalloc-cg-192", "kmalloc-256")),
)  # fmt: skip


def names(group: Group) -> list[tuple[str, tuple[str, ...]]]:
    """Each member as users name it, with the paths to try (kernels differ)."""
    found = []
    for member in group.members:
        paths = tuple(member.split("|"))
        found.append((f"{group.struct}.{paths[0]}", paths))
    return found
