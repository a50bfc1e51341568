// The kernel that the golden tests of the compiler see: tests/support/fakekernel.py reads this subset of C.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;
typedef _Bool bool;
typedef int pid_t;
enum tcp_state { TCP_ESTABLISHED = 1, TCP_SYN_SENT = 2, TCP_CLOSE = 7 };
enum sign { MINUS = -1, PLUS = 1 };
struct hidden;
struct list_head { struct list_head *next; struct list_head *prev; };
struct net_device { char name[16]; int ifindex; unsigned int flags; struct list_head dev_list; u8 dev_addr[6]; };
struct sk_buff {
    union {
        struct { struct sk_buff *next; struct sk_buff *prev; struct net_device *dev; };
        struct list_head list;
    };
    struct sock *sk;
    char cb[48];
    unsigned int len;
    unsigned int data_len;
    u8 pkt_type : 3;
    u8 ignore_df : 1;
    u8 nf_trace : 1;
    u32 priority : 20;
    bool fast;
    unsigned char *head;
    unsigned char *data;
    u32 mark;
    void *private;
    struct hidden *secret;
    u32 frags[4];
};
struct sk_buff_head { struct sk_buff *next; struct sk_buff *prev; u32 qlen; int lock; };
struct sock_common { unsigned short skc_family; unsigned char skc_state; int skc_bound_dev_if; };
struct proto { char name[32]; int (*connect)(struct sock *sk); };
struct sock {
    struct sock_common __sk_common;
    int sk_rcvbuf;
    s64 sk_stamp;
    struct proto *sk_prot;
    void (*sk_state_change)(struct sock *sk);
    char *sk_label;
    enum tcp_state state;
    struct sock **children;
    unsigned long sk_flags;
};
struct task_struct { int pid; int tgid; struct task_struct *real_parent; char comm[16]; };
struct huge { char bytes[20000]; int last; };
struct sk_buff *skb_dequeue(struct sk_buff_head *list);
void skb_queue_tail(struct sk_buff_head *list, struct sk_buff *newsk);
int tcp_connect(struct sock *sk);
void tcp_set_state(struct sock *sk, int state);
void kfree(const void *objp);
int vfs_open(const char *path, u16 mode, bool create);
void use_huge(struct huge *h);
int security_path(const char *path);
void set_enum(enum tcp_state state, enum sign sign, long long wide);

struct console {
    int flags;
};
void console_start(struct console *console);
