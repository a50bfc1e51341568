// How long packets wait between the network stack and the driver, in the queueing discipline, by flow.
//
//     klasy weave queue_delay.asp; sleep 10; klasy stat queue_delay
//
// The clock starts when a packet is handed to a device (__dev_queue_xmit) and stops when the device's driver is called
// with it. A flow is what a local socket sends to one peer; packets without a socket (forwarded ones, many of the
// kernel's own), and those of sockets that are not connected, are of port 0 and peer 0.0.0.0.
//
//     queue_delay.waited_us, hist by ip4(sk->__sk_common.skc_daddr), ntohs(sk->__sk_common.skc_dport)
//       10.9.0.2  22
//         [8 Ki, 16 Ki)    |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|     120
//       10.9.0.2  5001
//         [8 Ki, 16 Ki)    |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|    9120
aspect queue_delay {
    u64 began[struct sk_buff *];
    hist waited_us[ip4(first->sk->__sk_common.skc_daddr), ntohs(first->sk->__sk_common.skc_dport)];
    avg average_us[str(first->dev->name)];
    max longest_us[str(first->dev->name)];

    before(struct sk_buff *skb): execution(__dev_queue_xmit(struct sk_buff *skb, ..)) { began[skb] = now; }

    // A queue may hand over several packets at once, as a list; of more than 16 the others are not timed.
    before(struct sk_buff *first): execution(dev_hard_start_xmit(struct sk_buff *first, ..)) {
        struct sk_buff *p = first;
        for (int i = 0; i < 16 && p; i++) {
            if (began[p]) {
                u64 us = (now - began[p]) / 1000;
                struct sock *sk = p->sk;
                u32 peer = 0;
                u16 port = 0;
                if (sk) { peer = sk->__sk_common.skc_daddr; port = ntohs(sk->__sk_common.skc_dport); }
                waited_us[ip4(peer), port].add(us);
                average_us[str(p->dev->name)].add(us);
                longest_us[str(p->dev->name)].add(us);
                delete began[p];
            }
            p = p->next;
        }
    }

    // What is dropped on the way never arrives.
    before(struct sk_buff *skb): execution(kfree_skbmem(struct sk_buff *skb)) { if (began[skb]) delete began[skb]; }
}
