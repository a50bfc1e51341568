// The life of each TCP connection: who, between which ends, how long, how many bytes; logged when it closes.
//
//     klasy weave -f tcp_life.asp
//
// A connection counts from the moment it is established. A process's name is that of the task that opened it, where it
// was opened here; the other end of a connection from outside is established by the network itself, in whatever task
// the interrupt came upon, and is shown without a name until a process accepts it.
//
//     curl[812]  10.0.2.15:41532 -> 10.0.2.2:80   sent 78, received 1256 bytes in 12.3 ms
aspect tcp_life {
    pointcut change(struct sock *sk, int state): execution(tcp_set_state(struct sock *sk, int state));
    pointcut opened(struct sock *sk): execution(tcp_connect(struct sock *sk));

    u64 since[struct sock *];
    u32 owner[struct sock *];

    before(struct sock *sk): opened(sk) { owner[sk] = pid; }
    before(struct sock *sk, int state): change(sk, state) && if(state == TCP_ESTABLISHED) { since[sk] = now; }
    before(struct sock *sk, int state): change(sk, state) && if(state == TCP_CLOSE) {
        if (since[sk]) {
            struct tcp_sock *tp = (struct tcp_sock *)sk;
            u64 us = (now - since[sk]) / 1000;
            if (sk->__sk_common.skc_family == 2)
                log("pid %u  %s:%u -> %s:%u   sent %llu, received %llu bytes in %llu.%03llu ms", owner[sk],
                    ip4(sk->__sk_common.skc_rcv_saddr), sk->__sk_common.skc_num,
                    ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport),
                    tp->bytes_acked, tp->bytes_received, us / 1000, us % 1000);
            else
                log("pid %u  [%s]:%u -> [%s]:%u   sent %llu, received %llu bytes in %llu.%03llu ms", owner[sk],
                    ip6(&sk->__sk_common.skc_v6_rcv_saddr), sk->__sk_common.skc_num,
                    ip6(&sk->__sk_common.skc_v6_daddr), ntohs(sk->__sk_common.skc_dport),
                    tp->bytes_acked, tp->bytes_received, us / 1000, us % 1000);
        }
        delete since[sk];
        delete owner[sk];
    }
}
