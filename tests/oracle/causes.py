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
UNREAD = "not looked into"

_FUNCTIONS = {
    PRIVATE: r"pipe_\w+|sanity|sock_poll|sock_show_fdinfo|tcp[46]_seq_show|seq_show|ep_show_fdinfo|timers_st\w+"
    r"|ip6_route_dev_notify|fsnotify|fsnotify_handle_inode_event|dev_seq_next|m_start",
    PART: r"tcp_delack_timer|tcp_write_timer|tcp_pace_kick|i_callback|\w+_show|netdev_uevent|move_expired_inodes"
    r"|fsnotify_(?!handle)\w+|__dentry_kill|established_get_first|listening_get_first|udp_get_first|vma_interval_tree_\w+"
    r"|update_min_vruntime|min_vruntime_cb_rotate|vruntime_eligible|put_prev_entity|\w*(en|de)queue_entity|task_tick_fair"
    r"|get_pid_task|oom_badness|sock_alloc_inode|do_notify_parent_cldstop|getrusage|__task_pid_nr_ns",
    POINTER: r"__schedule|__send_signal_locked|wait_consider_task|__tcp_read_sock|sock_set_timeout",
    TAGGED: r"__fdget_pos|fdget_pos|fdget|ksys_lseek",
    VOID: r"proc_map_files_readdir|map_files_\w+|show_smaps_rollup|dup_fd|fget|fget_task|task_lookup_fdget_rcu",
    HELPER: r"string|sized_strscpy|rb_first|rb_next|rb_last|put_pid",
}


def cause(function: str) -> str:
    """In a few words, why accesses in a function are missed."""
    name = function.partition(".")[0]
    for words in (PRIVATE, POINTER, TAGGED, VOID, HELPER, PART):
        if re.fullmatch(_FUNCTIONS[words], name):
            return words
    return UNREAD
