// bpftrace's tcpdrop.bt: packets of a socket that the kernel drops for a reason, with the stack that did it.
//
// Does not differ. (The kernel's event has the reason, too: add `reason` to log() to have its name.)
aspect tcpdrop {
    before(struct sk_buff *skb, enum skb_drop_reason reason): event(skb:kfree_skb)
            && if(reason > SKB_DROP_REASON_NOT_SPECIFIED && skb->sk) {
        struct sock *sk = skb->sk;
        if (sk->__sk_common.skc_family == 2)
            log("%-8d %-16s %39s:%-6d %39s:%-6d %d %s", pid, comm, ip4(sk->__sk_common.skc_rcv_saddr),
                sk->__sk_common.skc_num, ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport),
                sk->__sk_common.skc_state, stack());
        else if (sk->__sk_common.skc_family == 10)
            log("%-8d %-16s %39s:%-6d %39s:%-6d %d %s", pid, comm, ip6(&sk->__sk_common.skc_v6_rcv_saddr),
                sk->__sk_common.skc_num, ip6(&sk->__sk_common.skc_v6_daddr), ntohs(sk->__sk_common.skc_dport),
                sk->__sk_common.skc_state, stack());
    }
}
