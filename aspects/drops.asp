// Packets that the kernel drops: why, and which code threw them away.
//
//     klasy weave -f drops.asp
//
// The reason is the kernel's own (enum skb_drop_reason); a driver or protocol that gives none is shown as NOT_SPECIFIED. `klasy
// stat drops` has the table by reason and place, the worst first.
//
//     SKB_DROP_REASON_NO_SOCKET  udp_queue_rcv_skb+0x5c  28 bytes from lo
//
//     drops.dropped, count by enum skb_drop_reason and void *
//       SKB_DROP_REASON_NO_SOCKET      __udp4_lib_rcv+0x1a5    120
aspect drops {
    count dropped[enum skb_drop_reason, void *];

    before(struct sk_buff *skb, void *location, enum skb_drop_reason reason): event(skb:kfree_skb) {
        dropped[reason, location]++;
        log(reason, location, skb->len, str(skb->dev->name));
    }
}
