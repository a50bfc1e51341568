// What each server process does for its TCP clients: connections accepted, bytes in and out, the backlog that each accept
// found, and the service time: from the moment it has read a request to the moment it sends the next bytes back.
//
//     klasy weave server_load.asp; sleep 10; klasy stat -f server_load
//
// These are the figures by which a load balancer could choose: no agent in the server, no change to it. What goes by
// splice(2), and before Linux 6.5 by sendfile(2), is in neither bytes nor times.
//
//     server_load.accepted, count by comm
//       nginx     4120
//     server_load.service_us, hist by comm
//       nginx
//         [64, 128)     |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|    3801
//         [128, 256)    |@@                              |     299
aspect server_load {
    count accepted[comm];
    hist backlog[comm];
    sum received[comm];
    sum sent[comm];
    hist service_us[comm];
    u64 asked[struct sock *];

    before(struct sock *sk): execution(inet_csk_accept(struct sock *sk, ..)) { backlog[comm].add(sk->sk_ack_backlog); }
    after() returning (struct sock *child): execution(struct sock *inet_csk_accept(..)) { if (child) accepted[comm]++; }

    // Flag 2, MSG_PEEK: what is only looked at comes again.
    after(struct sock *sk, int flags) returning (int n): execution(int tcp_recvmsg(struct sock *sk, *, *, int flags, ..)) {
        if (n > 0 && !(flags & 2)) { received[comm] += n; asked[sk] = now; }
    }
    before(struct sock *sk): execution(tcp_sendmsg(struct sock *sk, ..)) {
        if (asked[sk]) { service_us[comm].add((now - asked[sk]) / 1000); delete asked[sk]; }
    }
    after(struct sock *sk) returning (int n): execution(int tcp_sendmsg(struct sock *sk, ..)) {
        if (n > 0) sent[comm] += n;
    }
    before(struct sock *sk): execution(tcp_close(struct sock *sk, ..)) { delete asked[sk]; }
}
