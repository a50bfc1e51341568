// bpftrace's tcpaccept.bt: TCP connections that are accepted: by whom, both ends, and the backlog.
//
// Does not differ.
aspect tcpaccept {
    after() returning (struct sock *sk): execution(struct sock *inet_csk_accept(..)) && if(sk) {
        if (sk->__sk_common.skc_family == 2)
            log("%-6d %-14s %-39s %-5d %-39s %-5d %d/%d", pid, comm, ip4(sk->__sk_common.skc_daddr),
                ntohs(sk->__sk_common.skc_dport), ip4(sk->__sk_common.skc_rcv_saddr), sk->__sk_common.skc_num,
                sk->sk_ack_backlog, sk->sk_max_ack_backlog);
        else if (sk->__sk_common.skc_family == 10)
            log("%-6d %-14s %-39s %-5d %-39s %-5d %d/%d", pid, comm, ip6(&sk->__sk_common.skc_v6_daddr),
                ntohs(sk->__sk_common.skc_dport), ip6(&sk->__sk_common.skc_v6_rcv_saddr), sk->__sk_common.skc_num,
                sk->sk_ack_backlog, sk->sk_max_ack_backlog);
    }
}
