// Every segment that TCP sends again: between which ends, in which state, and what the connection thinks of its way.
//
//     klasy weave -f tcp_retransmits.asp
//
//     10.0.2.15:41532 -> 203.0.113.7:443   state 1, srtt 23112 us, cwnd 10, 3 in a row
aspect tcp_retransmits {
    count by_peer[ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport)];

    after(struct sock *sk) returning (int result): execution(int tcp_retransmit_skb(struct sock *sk, ..)) {
        if (result == 0) {
            struct tcp_sock *tp = (struct tcp_sock *)sk;
            by_peer[ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport)]++;
            if (sk->__sk_common.skc_family == 2)
                log("%s:%u -> %s:%u   state %u, srtt %u us, cwnd %u, %u in a row",
                    ip4(sk->__sk_common.skc_rcv_saddr), sk->__sk_common.skc_num,
                    ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport),
                    sk->__sk_common.skc_state, tp->srtt_us >> 3, tp->snd_cwnd, tp->inet_conn.icsk_retransmits);
            else
                log("[%s]:%u -> [%s]:%u   state %u, srtt %u us, cwnd %u, %u in a row",
                    ip6(&sk->__sk_common.skc_v6_rcv_saddr), sk->__sk_common.skc_num,
                    ip6(&sk->__sk_common.skc_v6_daddr), ntohs(sk->__sk_common.skc_dport),
                    sk->__sk_common.skc_state, tp->srtt_us >> 3, tp->snd_cwnd, tp->inet_conn.icsk_retransmits);
        }
    }
}
