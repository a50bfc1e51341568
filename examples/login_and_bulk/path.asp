// The way of each TCP segment through one machine's network stack, from the socket that sends it to the socket that gets it:
// one record for each station. A segment is known by the address of its buffer, which stays the same all the way through a pair of
// veth devices (their module must be loaded: modprobe veth). Where IP gets it only the session (port 7022) and the bulk transfer
// (port 7001) are logged, with their port; at the other stations all buffers are, and the picture takes those that IP got.
aspect path {
    pointcut sent(struct sock *sk, struct sk_buff *skb):
        execution(__ip_queue_xmit(struct sock *sk, struct sk_buff *skb, ..)) && if(skb->len > 40)
        && if(ntohs(sk->__sk_common.skc_dport) == 7022 || ntohs(sk->__sk_common.skc_dport) == 7001);

    // TCP has made a segment and hands it to IP.
    before(struct sock *sk, struct sk_buff *skb): sent(sk, skb) {
        log("ip %p %u %u", skb, ntohs(sk->__sk_common.skc_dport), skb->len);
    }
    // It is given to the device: here it may have to queue.
    before(struct sk_buff *skb): execution(__dev_queue_xmit(struct sk_buff *skb, ..)) { log("queue %p", skb); }
    // The device's driver takes it out of the queue.
    before(struct sk_buff *skb): execution(veth_xmit(struct sk_buff *skb, ..)) { log("driver %p", skb); }
    // It arrives at the other end.
    before(struct sk_buff *skb): execution(ip_rcv(struct sk_buff *skb, ..)) { log("arrives %p", skb); }
    // The socket it is for.
    before(struct sk_buff *skb): execution(int tcp_v4_rcv(struct sk_buff *skb)) { log("socket %p", skb); }
}
