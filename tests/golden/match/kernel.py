"""The kernel that the golden cases of matching are woven into: a few functions under the names of Linux's own."""

from __future__ import annotations

from support.fakekernel import FakeKernel

from klasy.kernel.model import Refusal

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
    },
    memory={
        0xFFFF_FFFF_8200_0100: (0xFFFF_8880_0000_1000).to_bytes(8, "little") + bytes(120),
    },
    absent={
        "skb_peek": "it was inlined everywhere: BTF describes it, but the kernel has no code of that name",
        "nf_conntrack_in": "it is in the module nf_conntrack, which is not loaded",
    },
)
