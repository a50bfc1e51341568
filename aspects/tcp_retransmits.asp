// Every time that TCP sends something again: between which ends, in which state, and what the connection thinks of its way.
//
//     klasy weave -f tcp_retransmits.asp
//
// What is sent again at once may be several segments; `by_peer` counts segments, as the kernel does (TcpRetransSegs of nstat). The SYN
// of the end that was asked to connect (the SYN-ACK) belongs to no connection yet, and is shown by the listening port.
//
//     10.0.2.15:41532 -> 203.0.113.7:443   2 segments, state 1, srtt 23112 us, cwnd 10, 3 in a row
//     10.0.2.15:443 -> 203.0.113.7:41532   SYN-ACK
aspect tcp_retransmits {
    sum by_peer[ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport)];

    before(const struct sock *sk, const struct sk_buff *skb): event(tcp:tcp_retransmit_skb) {
        struct tcp_sock *tp = (struct tcp_sock *)sk;
        u32 segments = ((struct tcp_skb_cb *)skb->cb)->tcp_gso_segs;
        by_peer[ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport)] += segments;
        if (sk->__sk_common.skc_family == 2)
            log("%s:%u -> %s:%u   %u segments, state %u, srtt %u us, cwnd %u, %u in a row",
                ip4(sk->__sk_common.skc_rcv_saddr), sk->__sk_common.skc_num,
                ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport), segments,
                sk->__sk_common.skc_state, tp->srtt_us >> 3, tp->snd_cwnd, tp->inet_conn.icsk_retransmits);
        else
            log("[%s]:%u -> [%s]:%u   %u segments, state %u, srtt %u us, cwnd %u, %u in a row",
                ip6(&sk->__sk_common.skc_v6_rcv_saddr), sk->__sk_common.skc_num,
                ip6(&sk->__sk_common.skc_v6_daddr), ntohs(sk->__sk_common.skc_dport), segments,
                sk->__sk_common.skc_state, tp->srtt_us >> 3, tp->snd_cwnd, tp->inet_conn.icsk_retransmits);
    }
    before(const struct request_sock *req): event(tcp:tcp_retransmit_synack) {
        by_peer[ip4(req->__req_common.skc_daddr), ntohs(req->__req_common.skc_dport)] += 1;
        if (req->__req_common.skc_family == 2)
            log("%s:%u -> %s:%u   SYN-ACK", ip4(req->__req_common.skc_rcv_saddr), req->__req_common.skc_num,
                ip4(req->__req_common.skc_daddr), ntohs(req->__req_common.skc_dport));
        else
            log("[%s]:%u -> [%s]:%u   SYN-ACK", ip6(&req->__req_common.skc_v6_rcv_saddr), req->__req_common.skc_num,
                ip6(&req->__req_common.skc_v6_daddr), ntohs(req->__req_common.skc_dport));
    }
}
