// How long the kernel takes over each segment that arrives on an established TCP connection, in nanoseconds.
aspect rtt {
    pointcut rcv(struct sock *sk): execution(tcp_rcv_established(struct sock *sk, ..));
    // One slot for each connection that is at it now. Not start[tid]: this runs in interrupts too, in the name of the task
    // they came upon, which may be here for another connection.
    u64 start[struct sock *];
    hist spent[comm];                                   // a power-of-two histogram for each
    count segments[sk->__sk_common.skc_num];            // by local port
    before(struct sock *sk): rcv(sk) && if(sk->sk_family == 2) {
        start[sk] = now;
        segments[sk->__sk_common.skc_num]++;
    }
    after(struct sock *sk):  rcv(sk) { if (start[sk]) { spent[comm].add(now - start[sk]); delete start[sk]; } }
}
