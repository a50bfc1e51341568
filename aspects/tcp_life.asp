// The life of each TCP connection: who, between which ends, how long, how many bytes; logged when it closes.
//
//     klasy weave -f tcp_life.asp
//
// A connection counts from the moment it is established. The process is the one that opened the connection or accepted it;
// pid 0: nobody has, or it did so before the weave. (What the log line itself names is the task that closed it, or the one that
// the last packet came upon.) Bytes are those of the programs: what was sent again counts once, SYN and FIN not at all. What the
// other end never acknowledged is in `sent`.
//
//     pid 812  10.0.2.15:41532 -> 10.0.2.2:80   sent 78, received 1256 bytes in 12.345 ms
aspect tcp_life {
    pointcut change(struct sock *sk, int state): execution(tcp_set_state(struct sock *sk, int state));
    pointcut opened(struct sock *sk): execution(tcp_connect(struct sock *sk));

    u64 since[struct sock *];
    u32 owner[struct sock *];

    before(struct sock *sk): opened(sk) { owner[sk] = pid; }
    after() returning (struct sock *child): execution(struct sock *inet_csk_accept(..)) {
        if (child && since[child]) owner[child] = pid;
    }
    before(struct sock *sk, int state): change(sk, state) && if(state == TCP_ESTABLISHED) { since[sk] = now; }
    before(struct sock *sk, int state): change(sk, state) && if(state == TCP_CLOSE) {
        if (since[sk]) {
            struct tcp_sock *tp = (struct tcp_sock *)sk;
            u64 us = (now - since[sk]) / 1000;
            u64 sent = tp->bytes_sent - tp->bytes_retrans;
            u64 received = tp->bytes_received - (sk->__sk_common.skc_flags >> SOCK_DONE & 1);    // a FIN that came is one of them
            if (sk->__sk_common.skc_family == 2)
                log("pid %u  %s:%u -> %s:%u   sent %llu, received %llu bytes in %llu.%03llu ms", owner[sk],
                    ip4(sk->__sk_common.skc_rcv_saddr), sk->__sk_common.skc_num,
                    ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport),
                    sent, received, us / 1000, us % 1000);
            else
                log("pid %u  [%s]:%u -> [%s]:%u   sent %llu, received %llu bytes in %llu.%03llu ms", owner[sk],
                    ip6(&sk->__sk_common.skc_v6_rcv_saddr), sk->__sk_common.skc_num,
                    ip6(&sk->__sk_common.skc_v6_daddr), ntohs(sk->__sk_common.skc_dport),
                    sent, received, us / 1000, us % 1000);
        }
        delete since[sk];
        delete owner[sk];
    }
}
