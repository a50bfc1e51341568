// bpftrace's tcpconnect.bt: TCP connections that are begun here: by whom, and both ends.
//
// Does not differ.
aspect tcpconnect {
    before(struct sock *sk): execution(tcp_connect(struct sock *sk)) {
        if (sk->__sk_common.skc_family == 2)
            log("%-8d %-16s %-39s %-6d %-39s %-6d", pid, comm, ip4(sk->__sk_common.skc_rcv_saddr), sk->__sk_common.skc_num,
                ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport));
        else if (sk->__sk_common.skc_family == 10)
            log("%-8d %-16s %-39s %-6d %-39s %-6d", pid, comm, ip6(&sk->__sk_common.skc_v6_rcv_saddr), sk->__sk_common.skc_num,
                ip6(&sk->__sk_common.skc_v6_daddr), ntohs(sk->__sk_common.skc_dport));
    }
}
