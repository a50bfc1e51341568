"""Why the analysis misses what it misses, by function: judged by hand from what the function does and the instructions
before the access. What was not judged is "not looked into". Which instructions are missed, ``compare`` finds.
"""

from __future__ import annotations

import re

PRIVATE = "a void * that is given to nobody (private_data, seq->private, a callback's argument)"
PART = "container_of from a timer, a list, a tree, a struct device"
POINTER = "a pointer to the member itself"
TAGGED = "a pointer with flags in its low bits, handed on as a number"
VOID = "a result that is void * (maple tree, xarray, an array of such)"
HELPER = "a helper that is handed a part or the member (string, rb_next), or has no prototype"
CAST = "a cast to a larger struct (inet_sk) that nothing in the function confirms"
OTHER_CPU = "a per-CPU variable of another CPU, whose distance was kept on the stack"
BEHIND = "no question leads there: from a hash chain's node to a member a little behind it, or a sum of two constants"
LOOP = "a variable of a loop, which it passes on from register to register, and of which one way round gives no type"
BUG = "found on a live kernel: the snapshots of then did not tell that nothing follows the BUG() before it"
UNREAD = "not looked into"

_FUNCTIONS = {  # the first that fits counts
    PRIVATE: r"pipe_\w+|sanity|sock_poll|sock_show_fdinfo|tcp[46]_seq_show|seq_show|ep_show_fdinfo|timers_st\w+"
    r"|ip6_route_dev_notify|fsnotify|fsnotify_handle_inode_event|dev_seq_next|m_start",
    LOOP: r"skb_segment",
    BUG: r"skb_try_coalesce|tcp_write_xmit|vfs_write",
    CAST: r"do_ip_getsockopt",
    OTHER_CPU: r"task_mm_cid_work|sched_mm_cid_migrate_to",
    BEHIND: r"__inet6?_lookup_established|__d_lookup|mm_init|tcp_event_new_data_sent",
    POINTER: r"x64_setup_rt_frame|posix_acl_create|__schedule|__send_signal_locked|wait_consider_task|__tcp_read_sock"
    r"|sock_set_timeout",
    TAGGED: r"ip6_rcv_core|__fdget_pos|fdget_pos|fdget|ksys_lseek",
    VOID: r"proc_map_files_readdir|map_files_\w+|show_smaps_rollup|dup_fd|fget|fget_task|task_lookup_fdget_rcu",
    HELPER: r"ext4_getattr|string|sized_strscpy|rb_first|rb_next|rb_last|put_pid",
    PART: r"tcp_delack_timer|tcp_write_timer|tcp_pace_kick|i_callback|\w+_show|netdev_uevent|move_expired_inodes"
    r"|fsnotify_(?!handle)\w+|__dentry_kill|established_get_first|listening_get_first|udp_get_first|vma_interval_tree_\w+"
    r"|update_min_vruntime|min_vruntime_cb_rotate|vruntime_eligible|put_prev_entity|\w*(en|de)queue_entity|task_tick_fair"
    r"|get_pid_task|oom_badness|sock_alloc_inode|do_notify_parent_cldstop|getrusage|__task_pid_nr_ns",
}


def cause(function: str) -> str:
    """In a few words, why accesses in a function are missed."""
    name = function.partition(".")[0]
    return next((words for words, functions in _FUNCTIONS.items() if re.fullmatch(functions, name)), UNREAD)
