// bpftrace's tcplife.bt: each TCP connection when it closes: by whom, both ends, kilobytes each way, milliseconds.
//
// Does not differ: the same moments, and the same best effort at whose connection it is.
aspect tcplife {
    u64 birth[struct sock *];
    u32 skpid[struct sock *];

    before(struct sock *sk, int state): execution(tcp_set_state(struct sock *sk, int state)) {
        if (state < TCP_FIN_WAIT1 && !birth[sk]) birth[sk] = now;
        if (state == TCP_SYN_SENT || state == TCP_LAST_ACK) skpid[sk] = pid;
        if (state == TCP_CLOSE && birth[sk]) {
            struct tcp_sock *tp = (struct tcp_sock *)sk;
            u32 owner = skpid[sk] ? skpid[sk] : pid;
            u64 ms = (now - birth[sk]) / NSEC_PER_MSEC;
            if (sk->__sk_common.skc_family == 2)
                log("%-5d %-15s %-5d %-15s %-6d %5d %5d %d", owner, ip4(sk->__sk_common.skc_rcv_saddr), sk->__sk_common.skc_num,
                    ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport), tp->bytes_acked / 1024,
                    tp->bytes_received / 1024, ms);
            else
                log("%-5d %-15s %-5d %-15s %-6d %5d %5d %d", owner, ip6(&sk->__sk_common.skc_v6_rcv_saddr),
                    sk->__sk_common.skc_num, ip6(&sk->__sk_common.skc_v6_daddr), ntohs(sk->__sk_common.skc_dport),
                    tp->bytes_acked / 1024, tp->bytes_received / 1024, ms);
            delete birth[sk];
            delete skpid[sk];
        }
    }
}
