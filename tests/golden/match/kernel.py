"""The kernel that the golden cases of matching are woven into: a few functions under the names of Linux's own."""

from __future__ import annotations

from support.fakekernel import FakeKernel

from klasy.kernel.inlined import Copy, Inlined, Parameter, Whereabouts
from klasy.kernel.model import Refusal

# As the kernel's 6.1 and 6.12 have them, cut down.
SCHED_SWITCH = """name: sched_switch
ID: 319
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:char prev_comm[16];	offset:8;	size:16;	signed:1;
	field:pid_t prev_pid;	offset:24;	size:4;	signed:1;
	field:long prev_state;	offset:32;	size:8;	signed:1;
	field:pid_t next_pid;	offset:56;	size:4;	signed:1;

print fmt: "prev_comm=%s", REC->prev_comm
"""
SCHED_EXEC = """name: sched_process_exec
ID: 312
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:__data_loc char[] filename;	offset:8;	size:4;	signed:1;
	field:pid_t pid;	offset:12;	size:4;	signed:1;
"""
SYS_OPENAT = """name: sys_enter_openat
ID: 659
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:int __syscall_nr;	offset:8;	size:4;	signed:1;
	field:int dfd;	offset:16;	size:8;	signed:0;
	field:const char * filename;	offset:24;	size:8;	signed:0;
	field:int flags;	offset:32;	size:8;	signed:0;
	field:umode_t mode;	offset:40;	size:8;	signed:0;
"""
SYS_EXECVE = """name: sys_enter_execve
ID: 739
format:
	field:int __syscall_nr;	offset:8;	size:4;	signed:1;
	field:const char * filename;	offset:16;	size:8;	signed:0;
"""
KFREE_SKB = """name: kfree_skb
ID: 1500
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:void * skbaddr;	offset:8;	size:8;	signed:0;
	field:enum skb_drop_reason reason;	offset:28;	size:4;	signed:0;
"""

DECLARATIONS = """
typedef unsigned int u32;
typedef unsigned long size_t;
typedef int pid_t;
typedef unsigned int gfp_t;
struct net_device { char name[16]; };
struct sk_buff { struct sk_buff *next; struct net_device *dev; u32 len; };
struct sk_buff_head { struct sk_buff *next; struct sk_buff *prev; u32 qlen; };
struct sock { unsigned short family; struct sk_buff_head queue; };
struct tcp_sock { struct sock sk; u32 snd_cwnd; };
struct msghdr { int flags; };
struct file { long pos; };
struct inode { unsigned long i_ino; };
struct flags { u32 low : 3; u32 high : 5; };
struct registry {
    struct net_device *device; struct inode *none; char name[16]; struct flags flags; u32 counts[4];
    char odd; char rest[7];
};
struct entry { int a; };
typedef unsigned long entry;
union sockaddr_any { int a; };

struct sk_buff *skb_dequeue(struct sk_buff_head *list);
struct sk_buff *skb_dequeue_tail(struct sk_buff_head *list);
void skb_queue_tail(struct sk_buff_head *list, struct sk_buff *newsk);
void kfree(const void *objp);
void *kmalloc_large(size_t size, gfp_t flags);
int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size);
int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags, int *addr_len);
void tcp_ack(struct sock *sk, const struct sk_buff *skb, int flag);
int tcp_merge(struct sock *to, struct sock *from);
int ip_rcv(struct sk_buff *skb, struct net_device *dev);
int ip_output(struct sock *sk, struct sk_buff *skb);
int ip6_output(struct sock *sk, struct sk_buff *skb);
int unix_stream_read(struct sock *sk, struct msghdr *msg);
int printk(const char *fmt, ...);
void notrace_helper(struct sock *sk);
int do_int3(void *regs);
void schedule(void);
void do_exit(long code);
struct task_struct { pid_t pid; };
enum skb_drop_reason { SKB_CONSUMED, SKB_DROP };
typedef unsigned short umode_t;
struct pt_regs { unsigned long r15; };
long __x64_sys_openat(const struct pt_regs *regs);
long __x64_sys_execve(const struct pt_regs *regs);
long __x64_sys_exit_group(const struct pt_regs *regs);
long __x64_sys_close(const struct pt_regs *regs);
int __traceiter_sched_switch(void *data, _Bool preempt, struct task_struct *prev, struct task_struct *next);
int __traceiter_kfree_skb(void *data, struct sk_buff *skb, enum skb_drop_reason reason);
struct inode *file_inode_slow(struct file *f, entry e);
int security_file_open(struct file *file);
void security_file_free(struct file *file);
unsigned long security_mmap_addr(unsigned long addr);
"""

CALLS = """
unix_stream_read: skb_dequeue kfree *
tcp_recvmsg: skb_dequeue tcp_ack
tcp_recvmsg.cold: printk
tcp_sendmsg: skb_queue_tail kmalloc_large kmalloc_large
tcp_ack: kfree jmp:kfree
ip_output: notrace_helper notrace_helper
ip_rcv: kfree
notrace_helper: kfree
tcp_mark_skb.isra.0: kfree
tcp_ack: tcp_mark_skb.isra.0
asm_entry: schedule
ext_free[ext4]: kfree
do_task_dead: *
"""

KERNEL = FakeKernel(
    DECLARATIONS,
    CALLS,
    modules={"ext4": "int ext_free(struct inode *inode);"},
    refuse={
        "notrace_helper": Refusal("notrace", "notrace_helper is marked notrace: the kernel refuses probes in it"),
        "do_int3": Refusal("blacklist", "do_int3 is on the kernel's blacklist: probes themselves rely on it"),
        "do_exit/fexit": Refusal("noreturn", "do_exit never returns"),
    },
    data={
        "jiffies": (0xFFFF_FFFF_8200_0000, 64),
        "avenrun": (0xFFFF_FFFF_8200_0040, 24),
        "registry": (0xFFFF_FFFF_8200_0100, 128),
        "nameless": (0xFFFF_FFFF_8200_0203, 5),
        "nr_threads": (0xFFFF_FFFF_8200_0300, 2),  # too small for the type that it has elsewhere
        "skb_queue_limit": (0xFFFF_FFFF_8200_0400, 8),
        "__per_cpu_offset": (0xFFFF_FFFF_8200_0500, 64),
        "__preempt_count": (0x1FB40, 4),
    },
    memory={
        0xFFFF_FFFF_8200_0100: (0xFFFF_8880_0000_1000).to_bytes(8, "little") + bytes(120),
    },
    events={
        ("sched", "sched_switch"): SCHED_SWITCH,
        ("sched", "sched_process_exec"): SCHED_EXEC,
        ("skb", "kfree_skb"): KFREE_SKB,
        ("syscalls", "sys_enter_openat"): SYS_OPENAT,
        ("syscalls", "sys_enter_execve"): SYS_EXECVE,
    },
    files={
        "tcp_ack": "net/ipv4/tcp_input.c",
        "tcp_recvmsg": "net/ipv4/tcp.c",
        "tcp_sendmsg": "net/ipv4/tcp.c",
        "unix_stream_read": "net/unix/af_unix.c",
        "ip_rcv": "net/ipv4/ip_input.c",
        "ext_free": "fs/ext4/super.c",
        "notrace_helper": "lib/helper.c",
    },
    lines={
        "net/ipv4/tcp_input.c:120": "tcp_ack",
        "net/ipv4/tcp_input.c:123": "tcp_ack+0x10 tcp_recvmsg+0x20",
        "net/ipv4/tcp_input.c:130": "gone",
        "lib/helper.c:3": "notrace_helper+0x10",
    },
    absent={
        "skb_peek": "it was inlined everywhere: BTF describes it, but the kernel has no code of that name",
        "nf_conntrack_in": "it is in the module nf_conntrack, which is not loaded",
    },
)


def _copy(place: str, *places: Whereabouts | str) -> Copy:
    name, _, offset = place.partition("+")
    return Copy(KERNEL.function(name).address + int(offset, 16), places)


_SKB = ("sk_buff", "struct", 1)
_HEAD = Parameter("list", ("sk_buff_head", "struct", 1))
KERNEL.inlined_functions = {
    # inlined everywhere, in two units
    "skb_first": (
        Inlined(
            "skb_first",
            (_HEAD, Parameter("flags", ("u32", "", 0))),
            _SKB,
            False,
            (
                _copy("tcp_ack+0x30", Whereabouts("bx", (0,)), Whereabouts(None, (7,))),
                _copy("tcp_recvmsg+0x80", Whereabouts("r12", (216,)), "the compiler kept it nowhere there"),
            ),
        ),
        Inlined(
            "skb_first",
            (_HEAD, Parameter("flags", ("u32", "", 0))),
            _SKB,
            False,
            (
                _copy("unix_stream_read+0x44", Whereabouts("sp", (8, 16), 8), Whereabouts("cx", (0,))),
                _copy("notrace_helper+0x20", Whereabouts("di", (0,)), Whereabouts("si", (0,))),
            ),
        ),
    ),
    # has an entry, too
    "skb_dequeue": (Inlined("skb_dequeue", (_HEAD,), _SKB, False, (_copy("tcp_ack+0x50", Whereabouts("di", (0,))),)),),
}
