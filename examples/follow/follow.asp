// Follows one packet: a TCP segment that waits in its socket until the program reads it, by all that looks at its
// length or changes it. What was done before it came there is not seen: `watch` takes effect a latency later.
aspect follow {
    struct sk_buff *followed;

    before(struct sock *sk, struct sk_buff *skb): execution(tcp_queue_rcv(struct sock *sk, struct sk_buff *skb, ..))
            && if(sk->sk_num == 7777 && !followed) {
        followed = skb;
        watch(skb->len, 10*s);
        log("%p comes into the queue: %u bytes", skb, skb->len);
    }
    before(struct sk_buff *skb): get(watched skb->len) { log("%p: %u bytes, says %s", skb, value, comm); }
    before(struct sk_buff *skb): set(watched skb->len) { log("%p: %u bytes become %u", skb, old, new); }

    // TCP is done with it. Were it watched on, the next packet in its memory would be taken for it.
    before(struct sk_buff *skb): execution(skb_attempt_defer_free(struct sk_buff *skb)) && if(skb == followed) {
        unwatch(skb->len);
        log("%p goes", skb);
        followed = 0;
    }
}
