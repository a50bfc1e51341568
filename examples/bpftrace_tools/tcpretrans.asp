// bpftrace's tcpretrans.bt: TCP segments that are sent again: by whom, both ends, and the connection's state.
//
// Differs: the state is a number here. It is one of an enumeration, so log(state) would show its name; a format does not.
aspect tcpretrans {
    before(struct sock *sk): execution(tcp_retransmit_skb(struct sock *sk, ..)) {
        if (sk->__sk_common.skc_family == 2)
            log("%-8d %14s:%-6d %14s:%-6d %d", pid, ip4(sk->__sk_common.skc_rcv_saddr), sk->__sk_common.skc_num,
                ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport), sk->__sk_common.skc_state);
        else if (sk->__sk_common.skc_family == 10)
            log("%-8d %14s:%-6d %14s:%-6d %d", pid, ip6(&sk->__sk_common.skc_v6_rcv_saddr), sk->__sk_common.skc_num,
                ip6(&sk->__sk_common.skc_v6_daddr), ntohs(sk->__sk_common.skc_dport), sk->__sk_common.skc_state);
    }
}
