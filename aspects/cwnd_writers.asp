// Who changes TCP's congestion window: every instruction of the kernel that writes one, with the window before and after.
//
//     klasy weave -f cwnd_writers.asp
//
// `klasy joinpoints cwnd_writers` lists the instructions, with the function each is in and how often it has run; `klasy stat`
// counts the changes by the connection's other end.
//
//     tcp_slow_start+0x3e  10.0.2.15:41532 -> 203.0.113.7:443  cwnd 10 -> 14, ssthresh 2147483647, srtt 23112 us
aspect cwnd_writers {
    count changes[ip4(tp->inet_conn.icsk_inet.sk.__sk_common.skc_daddr), ntohs(tp->inet_conn.icsk_inet.sk.__sk_common.skc_dport)];

    before(struct tcp_sock *tp): set(struct tcp_sock.snd_cwnd) && target(tp) && if(old != new) {
        struct sock *sk = (struct sock *)tp;
        changes[ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport)]++;
        log("%s:%u -> %s:%u  cwnd %u -> %u, ssthresh %u, srtt %u us",
            ip4(sk->__sk_common.skc_rcv_saddr), sk->__sk_common.skc_num,
            ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport),
            old, new, tp->snd_ssthresh, tp->srtt_us >> 3);
    }
}
